import { Metadata } from "@grpc/grpc-js";

import {
  type AuthServiceClient,
  LoginRequest,
  type LoginResponse,
  LogoutRequest,
  LogoutResponse,
  ValidateRequest,
  type ValidateResponse,
} from "./gen/latchkey/v1/auth.js";
import { Rejection, RejectionReason } from "./gen/latchkey/v1/reason.js";
import type { Identity } from "./identity.js";
import { Rejected, verdict } from "./rejected.js";

export interface ClientOptions {
  /** Says who asks. */
  readonly callerKey?: string;
  /** How many milliseconds a call may take: 10,000, unless it is set. */
  readonly timeout?: number;
}

type Done<T> = (error: Error | null, answer: T) => void;

/** Logging in and out, for services that do so for their users. Everything else is in `@latchkey/client/v1/*`. */
export class Client {
  constructor(
    private readonly latchkey: AuthServiceClient,
    private readonly options: ClientOptions = {},
  ) {}

  /** Opens a session: the token, the session, and those that it displaced. */
  login(username: string, password: string, more: { device?: string; slot?: string } = {}): Promise<LoginResponse> {
    const request = LoginRequest.fromPartial({ username, password, ...more });
    return this.call((about, until, done: Done<LoginResponse>) => this.latchkey.login(request, about, until, done));
  }

  /** Whose token it is, or a `Rejected`. Any other error says nothing about the token. */
  async validate(token: string, { peek = false } = {}): Promise<Identity> {
    if (token === "") {
      throw new Rejected(noToken());
    }
    const request = ValidateRequest.create({ token, peek });
    return verdict(
      await this.call((about, until, done: Done<ValidateResponse>) =>
        this.latchkey.validate(request, about, until, done),
      ),
    );
  }

  /** Ends the session of the token. One that has ended, or is no token, is no error. */
  async logout(token: string): Promise<LogoutResponse> {
    if (token === "") {
      return LogoutResponse.create({ rejection: noToken() });
    }
    const request = LogoutRequest.create({ token });
    return this.call((about, until, done: Done<LogoutResponse>) => this.latchkey.logout(request, about, until, done));
  }

  private call<T>(start: (about: Metadata, until: { deadline: number }, done: Done<T>) => unknown): Promise<T> {
    const about = new Metadata();
    if (this.options.callerKey) {
      about.set("x-latchkey-key", this.options.callerKey);
    }
    const until = { deadline: Date.now() + (this.options.timeout ?? 10_000) };
    return new Promise((resolve, reject) => {
      start(about, until, (error, answer) => (error === null ? resolve(answer) : reject(error)));
    });
  }
}

/** What is said of an empty token, which Latchkey would take for one that was left out. */
function noToken(): Rejection {
  const reason = RejectionReason.REJECTION_REASON_MALFORMED;
  return Rejection.create({ reason, message: "There is no access token.", terminal: false });
}
