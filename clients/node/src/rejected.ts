import type { ValidateResponse } from "./gen/latchkey/v1/auth.js";
import { type Rejection, RejectionReason } from "./gen/latchkey/v1/reason.js";
import { type Identity, identityOf } from "./identity.js";

/** A token is not, or no longer, good. The message can be shown to the user. */
export class Rejected extends Error {
  /** Such as `REPLACED`. What this version does not know is `UNKNOWN_SESSION`. */
  readonly reason: string;
  /** When the session ended, where one is known. */
  readonly at: Date | undefined;
  /** The device of the login that took the place, where one did and had a name. */
  readonly byDevice: string;
  /** Whether a client must not log in again by itself: show a button. */
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

/** The identity, or a {@link Rejected} that is thrown. An answer that is neither is no verdict. */
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
