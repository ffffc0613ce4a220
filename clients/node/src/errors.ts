import { type Metadata, type ServiceError, status } from "@grpc/grpc-js";

import { BadRequest, ErrorInfo, RetryInfo } from "./gen/google/rpc/error_details.js";
import { Status } from "./gen/google/rpc/status.js";
import type { Failure } from "./gen/latchkey/v1/auth.js";
import { type Rejection, RejectionReason } from "./gen/latchkey/v1/reason.js";
import { dateOf, millisecondsOf } from "./time.js";

/** The domain of every ErrorInfo of Latchkey. */
export const DOMAIN = "latchkey";

/** The base class of all errors of this package. */
export class LatchkeyError extends Error {
  /** The reason of the protocol, such as `REPLACED` or `THROTTLED`; empty if Latchkey did not answer. */
  readonly reason: string;
  /** The gRPC status code, or undefined for a verdict. */
  readonly code: status | undefined;

  constructor(message: string, reason: string, code?: status, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.reason = reason;
    this.code = code;
  }
}

/** Unknown user or wrong password. */
export class InvalidCredentials extends LatchkeyError {}

/** The account is disabled. Only with the right password. */
export class AccountDisabled extends LatchkeyError {}

/** There were too many failed logins, or clients displace each other from the slot too often. */
export class Throttled extends LatchkeyError {
  /** How long to wait before another attempt, in milliseconds. */
  readonly retryAfter: number;

  constructor(message: string, retryAfter: number, options?: ErrorOptions) {
    super(message, "THROTTLED", status.RESOURCE_EXHAUSTED, options);
    this.retryAfter = retryAfter;
  }
}

/** The session that a login with `takeover` would displace. */
export interface Holder {
  readonly slot: string;
  /** Empty if it has no name. */
  readonly device: string;
  readonly issuedAt: Date | undefined;
  /** How long it has been idle, in milliseconds. */
  readonly idle: number | undefined;
}

/** The slot is full, and the server has `session.on_limit = "deny"`. A login with `takeover` succeeds. */
export class SessionLimit extends LatchkeyError {
  readonly holder: Holder;

  constructor(message: string, holder: Holder, options?: ErrorOptions) {
    super(message, "SESSION_LIMIT", status.FAILED_PRECONDITION, options);
    this.holder = holder;
  }
}

/** The token is missing, not good, or no longer good. The message can be shown to the user. */
export class Rejected extends LatchkeyError {
  /** When the session ended, if a session is known. */
  readonly at: Date | undefined;
  /** The device of the login that displaced the session. Empty if there is none or it has no name. */
  readonly byDevice: string;
  /** Whether a client must not log in again automatically. */
  readonly terminal: boolean;

  constructor(
    reason: string,
    message: string,
    about: { terminal?: boolean; at?: Date | undefined; byDevice?: string } = {},
    options?: ErrorOptions,
  ) {
    super(message, reason, undefined, options);
    this.at = about.at;
    this.byDevice = about.byDevice ?? "";
    this.terminal = about.terminal ?? false;
  }
}

/** Latchkey did not answer, or not in time. It says nothing about the token or the password. */
export class Unavailable extends LatchkeyError {
  /** How long to wait before another attempt, in milliseconds. */
  readonly retryAfter: number;

  constructor(message: string, reason: string, code: status, retryAfter: number, options?: ErrorOptions) {
    super(message, reason, code, options);
    this.retryAfter = retryAfter;
  }
}

/** A field of the request is missing, too long or malformed. */
export class InvalidRequest extends LatchkeyError {
  /** The first of the wrong fields, as the protocol spells it. Empty if none is named. */
  readonly field: string;
  readonly violations: readonly { readonly field: string; readonly description: string }[];

  constructor(message: string, violations: InvalidRequest["violations"], options?: ErrorOptions) {
    super(message, "INVALID_REQUEST", status.INVALID_ARGUMENT, options);
    this.violations = violations;
    this.field = violations[0]?.field ?? "";
  }
}

/** Latchkey does not serve this caller: its key is missing or unknown, or lacks the role. */
export class NotAllowed extends LatchkeyError {
  /** The role that the caller needs, if its key is known. */
  readonly role: string | undefined;

  constructor(message: string, reason: string, code: status, role?: string, options?: ErrorOptions) {
    super(message, reason, code, options);
    this.role = role;
  }
}

/** Returns the name of a reason. One that this version does not know is an unknown session. */
export function reasonOf({ reason }: Rejection): string {
  const known = reason > 0 ? RejectionReason[reason] : undefined;
  return known?.replace("REJECTION_REASON_", "") ?? "UNKNOWN_SESSION";
}

export function rejectedBy(rejection: Rejection): Rejected {
  const { message, terminal, byDevice } = rejection;
  return new Rejected(reasonOf(rejection), message, { terminal, byDevice, at: dateOf(rejection.at) });
}

/** The rejection of a missing token. Latchkey itself would treat it as an invalid request. */
export function tokenRequired(): Rejected {
  return new Rejected("TOKEN_REQUIRED", NO_TOKEN);
}

export const NO_TOKEN = "Please log in: there is no access token.";

const DEFAULT_RETRY_AFTER = 1000;

/** Returns the typed error for a status of Latchkey. */
export function errorOf(cause: ServiceError): LatchkeyError {
  const { code, details: message, metadata } = cause;
  return typed(code, message, detailsOf(metadata), { cause });
}

/** Returns the typed error for an answer without a verdict in a stream. */
export function failureOf({ code, reason, message, retryAfter }: Failure): LatchkeyError {
  const info = { reason, domain: DOMAIN, metadata: {} };
  return typed(code, message, { info, retryAfter: millisecondsOf(retryAfter), violations: [] }, {});
}

interface Details {
  info?: ErrorInfo;
  retryAfter?: number | undefined;
  violations: BadRequest["fieldViolations"];
}

function typed(code: status, message: string, details: Details, options: ErrorOptions): LatchkeyError {
  const { info, retryAfter = DEFAULT_RETRY_AFTER, violations } = details;
  const reason = info?.reason ?? "";
  const about = info?.metadata ?? {};
  // Only rejections say whether they are terminal.
  if (about["terminal"] !== undefined) {
    return new Rejected(
      reason,
      message,
      {
        terminal: about["terminal"] === "true",
        at: secondsOf(about["at_unix"]),
        byDevice: about["by_device"] ?? "",
      },
      options,
    );
  }
  switch (reason) {
    case "INVALID_CREDENTIALS":
      return new InvalidCredentials(message, reason, code, options);
    case "ACCOUNT_DISABLED":
      return new AccountDisabled(message, reason, code, options);
    case "THROTTLED":
      return new Throttled(message, retryAfter, options);
    case "SESSION_LIMIT":
      return new SessionLimit(message, holderOf(about), options);
    case "INVALID_REQUEST":
      return new InvalidRequest(message, violations, options);
    case "CALLER_UNAUTHENTICATED":
    case "CALLER_NOT_ALLOWED":
      return new NotAllowed(message, reason, code, about["role"], options);
    case "OVERLOADED":
    case "TOO_SLOW":
      return new Unavailable(message, reason, code, retryAfter, options);
  }
  if (code === status.UNAVAILABLE || code === status.DEADLINE_EXCEEDED) {
    return new Unavailable(message, reason, code, retryAfter, options);
  }
  return new LatchkeyError(message, reason, code, options);
}

function holderOf(about: Record<string, string>): Holder {
  const idle = about["idle_seconds"];
  return {
    slot: about["slot"] ?? "",
    device: about["device"] ?? "",
    issuedAt: secondsOf(about["issued_at_unix"]),
    idle: idle === undefined ? undefined : Number(idle) * 1000,
  };
}

function secondsOf(unix: string | undefined): Date | undefined {
  return unix === undefined ? undefined : new Date(Number(unix) * 1000);
}

function detailsOf(metadata: Metadata | undefined): Details {
  const found: Details = { violations: [] };
  const [encoded] = metadata?.get("grpc-status-details-bin") ?? [];
  if (!(encoded instanceof Uint8Array)) {
    return found;
  }
  for (const { typeUrl, value } of Status.decode(encoded).details) {
    switch (typeUrl) {
      case "type.googleapis.com/google.rpc.ErrorInfo": {
        const info = ErrorInfo.decode(value);
        if (info.domain === DOMAIN) {
          found.info = info;
        }
        break;
      }
      case "type.googleapis.com/google.rpc.RetryInfo":
        found.retryAfter = millisecondsOf(RetryInfo.decode(value).retryDelay);
        break;
      case "type.googleapis.com/google.rpc.BadRequest":
        found.violations = BadRequest.decode(value).fieldViolations;
        break;
    }
  }
  return found;
}
