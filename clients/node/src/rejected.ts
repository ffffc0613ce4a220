import type { ValidateResponse } from "./gen/latchkey/v1/auth.js";
import { type Rejection, RejectionReason } from "./gen/latchkey/v1/reason.js";
import { type Identity, identityOf } from "./identity.js";

/** Latchkey rejected the token. The message can be shown to the user. */
export class Rejected extends Error {
  /** The reason, such as `REPLACED`. A reason that this version does not know becomes `UNKNOWN_SESSION`. */
  readonly reason: string;
  /** When the session ended, if a session is known. */
  readonly at: Date | undefined;
  /** The device of the login that displaced the session, if there is one and it has a name. */
  readonly byDevice: string;
  /** Whether a client must not log in again automatically. */
  readonly terminal: boolean;

  constructor(rejection: Rejection) {
    super(rejection.message);
    this.name = "Rejected";
    const known = rejection.reason > 0 ? RejectionReason[rejection.reason] : undefined;
    this.reason = known?.replace("REJECTION_REASON_", "") ?? "UNKNOWN_SESSION";
    this.at = rejection.at;
    this.byDevice = rejection.byDevice;
    this.terminal = rejection.terminal;
  }
}

/** Returns the identity, or throws {@link Rejected}. Any other answer is an error. */
export function verdict(answer: ValidateResponse): Identity {
  switch (answer.verdict?.$case) {
    case "session":
      return identityOf(answer.verdict.value);
    case "rejection":
      throw new Rejected(answer.verdict.value);
    default:
      throw new Error("Latchkey answered without a verdict");
  }
}
