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
  /** The caller key. */
  readonly callerKey?: string;
  /** Time limit for a call in milliseconds. Default: 10,000. */
  readonly timeout?: number;
}

type Done<T> = (error: Error | null, answer: T) => void;

/** A client for logging in and out on behalf of users. All other RPCs are in `@latchkey/client/v1/*`. */
export class Client {
  constructor(
    private readonly latchkey: AuthServiceClient,
    private readonly options: ClientOptions = {},
  ) {}

  /** Opens a session. Returns the token, the session and the displaced sessions. */
  login(username: string, password: string, more: { device?: string; slot?: string } = {}): Promise<LoginResponse> {
    const request = LoginRequest.fromPartial({ username, password, ...more });
    return this.call((about, until, done: Done<LoginResponse>) => this.latchkey.login(request, about, until, done));
  }

  /** Returns the identity, or throws `Rejected`. Any other error says nothing about the token. */
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

  /** Ends the session of the token. It is not an error if it has ended already, or if the token is invalid. */
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

/** Returns the rejection of an empty token, which Latchkey would treat as a missing one. */
function noToken(): Rejection {
  const reason = RejectionReason.REJECTION_REASON_MALFORMED;
  return Rejection.create({ reason, message: "There is no access token.", terminal: false });
}
