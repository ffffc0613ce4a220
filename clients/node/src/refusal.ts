import { Metadata, status, type StatusObject } from "@grpc/grpc-js";

import { ErrorInfo, RetryInfo } from "./gen/google/rpc/error_details.js";
import { Status } from "./gen/google/rpc/status.js";
import type { Rejected } from "./rejected.js";

/** The domain of every ErrorInfo, as in Latchkey itself. */
const DOMAIN = "latchkey";

/** When to try again after an outage, as Latchkey itself says. */
const RETRY_AFTER = { seconds: 1, nanos: 0 };

/** A client may log in again by itself. */
const AGAIN = { terminal: "false" };

/** What a guard answers in place of the method. */
export class Refusal extends Error {
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

/** What Latchkey rejected. */
export function rejected(why: Rejected): Refusal {
  const about: Record<string, string> = { terminal: String(why.terminal) };
  if (why.at !== undefined) {
    about["at_unix"] = String(Math.floor(why.at.getTime() / 1000));
  }
  if (why.byDevice !== "") {
    about["by_device"] = why.byDevice;
  }
  const code = why.reason === "ACCOUNT_DISABLED" ? status.PERMISSION_DENIED : status.UNAUTHENTICATED;
  return new Refusal(code, why.message, why.reason, about);
}

/** There is no token to ask about. */
export function tokenRequired(): Refusal {
  return new Refusal(status.UNAUTHENTICATED, "Please log in: there is no access token.", "TOKEN_REQUIRED", AGAIN);
}

/** There is something, and not exactly one token. */
export function malformed(message: string): Refusal {
  return new Refusal(status.UNAUTHENTICATED, message, "MALFORMED", AGAIN);
}

/** The session is live, in another slot. */
export function slotRequired(slot: string): Refusal {
  const message = `This needs a session in the slot \`${slot}\`.`;
  return new Refusal(status.PERMISSION_DENIED, message, "SLOT_REQUIRED", { ...AGAIN, slot });
}

/** The session is live, and its user does not have the role. */
export function roleRequired(role: string): Refusal {
  const message = `This needs the role \`${role}\`.`;
  return new Refusal(status.PERMISSION_DENIED, message, "ROLE_REQUIRED", { ...AGAIN, role });
}

/** There is no verdict. It says nothing about the token, nor why: that is for the log. */
export function unavailable(): Refusal {
  const message = "the session cannot be checked at the moment: try again";
  return new Refusal(status.UNAVAILABLE, message, "STORE_UNAVAILABLE", {}, true);
}
