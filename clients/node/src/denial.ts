import type { ServerResponse } from "node:http";

import { Metadata, status, type StatusObject } from "@grpc/grpc-js";

import { DOMAIN, NO_TOKEN, reasonOf } from "./errors.js";
import { ErrorInfo, RetryInfo } from "./gen/google/rpc/error_details.js";
import { Status } from "./gen/google/rpc/status.js";
import type { Timestamp } from "./gen/google/protobuf/timestamp.js";
import type { Rejection } from "./gen/latchkey/v1/reason.js";
import { rfc3339 } from "./time.js";

/** The retry delay after an outage in seconds, as in Latchkey. */
const RETRY_AFTER = 1;

const REALM = 'Bearer realm="latchkey"';

/** The kinds of answers, as in Latchkey: the gRPC status code, the HTTP status and the `error` of the challenge. */
const KINDS = {
  noToken: { code: status.UNAUTHENTICATED, http: 401, error: "" },
  malformed: { code: status.UNAUTHENTICATED, http: 401, error: "invalid_request" },
  rejected: { code: status.UNAUTHENTICATED, http: 401, error: "invalid_token" },
  // No token would help, so there is no challenge.
  disabled: { code: status.PERMISSION_DENIED, http: 403, error: undefined },
  insufficient: { code: status.PERMISSION_DENIED, http: 403, error: "insufficient_scope" },
  outage: { code: status.UNAVAILABLE, http: 503, error: undefined },
};

interface About {
  readonly terminal?: boolean;
  readonly at?: Timestamp | undefined;
  readonly byDevice?: string;
  readonly slot?: string;
  readonly role?: string;
}

/** The details of a status, as in `google.rpc.Status`. */
export interface Detail {
  readonly type: string;
  readonly value: Uint8Array;
}

/** An answer over HTTP. */
export interface HttpAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** The answer of a guard instead of the handler's: a denial, or an error if there is no verdict. */
export class Denial extends Error {
  constructor(
    private readonly kind: keyof typeof KINDS,
    readonly reason: string,
    message: string,
    private readonly about: About = {},
    options?: ErrorOptions,
  ) {
    super(message, options);
  }

  get code(): status {
    return KINDS[this.kind].code;
  }

  details(): Detail[] {
    const metadata: Record<string, string> = {};
    if (this.kind !== "outage") {
      const { terminal = false, at, byDevice, slot, role } = this.about;
      const at_unix = at && String(at.seconds);
      const all = { terminal: String(terminal), at_unix, by_device: byDevice, slot, role };
      Object.assign(metadata, Object.fromEntries(Object.entries(all).filter(([, value]) => value)));
    }
    const info = ErrorInfo.encode({ reason: this.reason, domain: DOMAIN, metadata }).finish();
    const details = [{ type: "google.rpc.ErrorInfo", value: info }];
    if (this.kind === "outage") {
      const value = RetryInfo.encode({ retryDelay: { seconds: RETRY_AFTER, nanos: 0 } }).finish();
      details.push({ type: "google.rpc.RetryInfo", value });
    }
    return details;
  }

  grpc(): StatusObject {
    const { code, message } = this;
    const details = this.details().map(({ type, value }) => ({ typeUrl: `type.googleapis.com/${type}`, value }));
    const metadata = new Metadata();
    metadata.set("grpc-status-details-bin", Buffer.from(Status.encode({ code, message, details }).finish()));
    return { code, details: message, metadata };
  }

  http(): HttpAnswer {
    const { reason, message, kind } = this;
    const headers: Record<string, string> = { "content-type": "application/json", "cache-control": "no-store" };
    const { http, error } = KINDS[kind];
    if (kind === "outage") {
      headers["retry-after"] = String(RETRY_AFTER);
      return { status: http, headers, body: JSON.stringify({ reason, message }) };
    }
    headers["x-latchkey-reason"] = reason;
    if (error !== undefined) {
      // The description is the reason, which is plain ASCII. The message can contain the name of a device.
      const why = error && `, error="${error}", error_description="${reason}"`;
      headers["www-authenticate"] = `${REALM}${why}`;
    }
    const { terminal = false, at, byDevice } = this.about;
    const body = { reason, message, terminal, at: at && rfc3339(at), by_device: byDevice || undefined };
    return { status: http, headers, body: JSON.stringify(body) };
  }

  /** Sends the answer, unless another one has begun. */
  send(response: ServerResponse): void {
    const { status, headers, body } = this.http();
    if (!response.headersSent) {
      response.writeHead(status, { ...headers, "content-length": Buffer.byteLength(body) });
      response.end(body);
    }
  }
}

/** Denial: Latchkey rejected the token. */
export function rejected(rejection: Rejection): Denial {
  const reason = reasonOf(rejection);
  const kind = reason === "ACCOUNT_DISABLED" ? "disabled" : "rejected";
  return new Denial(kind, reason, rejection.message, rejection);
}

/** Denial: the call has no token. */
export function noToken(): Denial {
  return new Denial("noToken", "TOKEN_REQUIRED", NO_TOKEN);
}

/** Denial: `authorization` is not exactly one bearer token. */
export function malformed(message: string): Denial {
  return new Denial("malformed", "MALFORMED", message);
}

/** Denial: the session is live, but in another slot. */
export function slotRequired(slot: string): Denial {
  return new Denial("insufficient", "SLOT_REQUIRED", `This needs a session in the slot \`${slot}\`.`, { slot });
}

/** Denial: the session is live, but its user lacks the role. */
export function roleRequired(role: string): Denial {
  return new Denial("insufficient", "ROLE_REQUIRED", `This needs the role \`${role}\`.`, { role });
}

/** Error: there is no verdict. It says nothing about the token; the log has the cause. */
export function unavailable(cause?: unknown): Denial {
  const message = "the session cannot be checked at the moment: try again";
  return new Denial("outage", "STORE_UNAVAILABLE", message, {}, { cause });
}
