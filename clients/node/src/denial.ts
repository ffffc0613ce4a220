import { Metadata, status, type StatusObject } from "@grpc/grpc-js";

import { ErrorInfo, RetryInfo } from "./gen/google/rpc/error_details.js";
import { Status } from "./gen/google/rpc/status.js";
import type { Rejected } from "./rejected.js";

/** The domain of every ErrorInfo, as in Latchkey. */
const DOMAIN = "latchkey";

/** The retry delay after an outage, as in Latchkey. */
const RETRY_AFTER = { seconds: 1, nanos: 0 };

/** A client may log in again automatically. */
const AGAIN = { terminal: "false" };

/** The answer of a guard instead of the method's: a denial or an error. */
export class Denial extends Error {
  readonly status: StatusObject;

  constructor(code: status, message: string, reason: string, about: Record<string, string>, retry = false) {
    super(message);
    const info = ErrorInfo.encode({ reason, domain: DOMAIN, metadata: about }).finish();
    const details = [{ typeUrl: "type.googleapis.com/google.rpc.ErrorInfo", value: info }];
    if (retry) {
      const value = RetryInfo.encode({ retryDelay: RETRY_AFTER }).finish();
      details.push({ typeUrl: "type.googleapis.com/google.rpc.RetryInfo", value });
    }
    const metadata = new Metadata();
    metadata.set("grpc-status-details-bin", Buffer.from(Status.encode({ code, message, details }).finish()));
    this.status = { code, details: message, metadata };
  }
}

/** Denial: Latchkey rejected the token. */
export function rejected(why: Rejected): Denial {
  const about: Record<string, string> = { terminal: String(why.terminal) };
  if (why.at !== undefined) {
    about["at_unix"] = String(Math.floor(why.at.getTime() / 1000));
  }
  if (why.byDevice !== "") {
    about["by_device"] = why.byDevice;
  }
  const code = why.reason === "ACCOUNT_DISABLED" ? status.PERMISSION_DENIED : status.UNAUTHENTICATED;
  return new Denial(code, why.message, why.reason, about);
}

/** Denial: the call has no token. */
export function tokenRequired(): Denial {
  return new Denial(status.UNAUTHENTICATED, "Please log in: there is no access token.", "TOKEN_REQUIRED", AGAIN);
}

/** Denial: `authorization` is not exactly one bearer token. */
export function malformed(message: string): Denial {
  return new Denial(status.UNAUTHENTICATED, message, "MALFORMED", AGAIN);
}

/** Denial: the session is live, but in another slot. */
export function slotRequired(slot: string): Denial {
  const message = `This needs a session in the slot \`${slot}\`.`;
  return new Denial(status.PERMISSION_DENIED, message, "SLOT_REQUIRED", { ...AGAIN, slot });
}

/** Denial: the session is live, but its user lacks the role. */
export function roleRequired(role: string): Denial {
  const message = `This needs the role \`${role}\`.`;
  return new Denial(status.PERMISSION_DENIED, message, "ROLE_REQUIRED", { ...AGAIN, role });
}

/** Error: there is no verdict. It says nothing about the token; the log has the cause. */
export function unavailable(): Denial {
  const message = "the session cannot be checked at the moment: try again";
  return new Denial(status.UNAVAILABLE, message, "STORE_UNAVAILABLE", {}, true);
}
