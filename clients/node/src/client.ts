import {
  type CallOptions as GrpcOptions,
  type ChannelCredentials,
  type ChannelOptions,
  type ClientReadableStream,
  type ClientUnaryCall,
  credentials,
  Metadata,
  type ServiceError,
  status,
} from "@grpc/grpc-js";

import { channelOptions } from "./channel.js";
import { errorOf, failureOf, LatchkeyError, rejectedBy, Rejected, tokenRequired } from "./errors.js";
import {
  AuthServiceClient,
  ChangePasswordRequest,
  GetJwksRequest,
  LoginRequest,
  type LoginResponse,
  LogoutRequest,
  LogoutScope,
  type Session as SessionMessage,
  ValidateRequest,
  type ValidateResponse,
  WatchSessionRequest,
  type WatchSessionResponse,
} from "./gen/latchkey/v1/auth.js";
import {
  EndSessionsRequest,
  IssueSessionRequest,
  ListSessionsRequest,
  SessionServiceClient,
} from "./gen/latchkey/v1/session.js";
import { type Identity, identityOf } from "./identity.js";
import { dateOf, durationOf } from "./time.js";

/** The options of a client. */
export interface ClientOptions {
  /** The caller key, needed with `access.validate = "caller"` and for methods that require a role. */
  readonly callerKey?: string | undefined;
  /** Time limit for a call in milliseconds. Default: 10,000. */
  readonly timeout?: number | undefined;
  /** The credentials of the connection, such as `credentials.createSsl()`. Default: plaintext. */
  readonly credentials?: ChannelCredentials | undefined;
  /** Options of the channel, which override those of the client. */
  readonly channelOptions?: ChannelOptions | undefined;
}

/** The options of every call. */
export interface CallOptions {
  /** Cancels the call, which then throws the reason of the signal. */
  readonly signal?: AbortSignal | undefined;
  /** Time limit in milliseconds, instead of that of the client. */
  readonly timeout?: number | undefined;
}

/** The options of a call on behalf of a client. */
export interface ForwardedOptions {
  /** The address of the client, if this service is one of Latchkey's `throttle.trusted_proxies`. */
  readonly clientAddress?: string | undefined;
}

export interface NewSessionOptions extends CallOptions {
  /** The slot. Default: the first configured slot. */
  readonly slot?: string | undefined;
  /** A name of the client that the user will recognise, such as `Firefox on Linux`. */
  readonly device?: string | undefined;
  /** Displaces the holder of the slot even with `session.on_limit = "deny"`. */
  readonly takeover?: boolean | undefined;
  /** Identifies this login, so that it can be repeated within 60 seconds: for example a UUID. */
  readonly idempotencyKey?: string | undefined;
}

export interface LoginOptions extends NewSessionOptions, ForwardedOptions {
  /** Asks for the token in a cookie: forward `setCookie` of the result to the browser. */
  readonly cookie?: boolean | undefined;
}

export interface LogoutOptions extends CallOptions {
  /** The sessions to end. Default: that of the token. */
  readonly scope?: "this" | "others" | "all" | undefined;
  /** Asks for a cookie that clears that of the login: forward `setCookie` of the result to the browser. */
  readonly cookie?: boolean | undefined;
}

export interface ValidateOptions extends CallOptions {
  /** Does not slide the idle timeout. */
  readonly peek?: boolean | undefined;
  /** The maximum age of the answer in milliseconds. 0 reads the primary store. Default: that of the server. */
  readonly maxStaleness?: number | undefined;
}

/** A session in a list. */
export interface Session extends Identity {
  /** The latest recorded use. */
  readonly lastSeenAt: Date | undefined;
}

/** A session that a login displaced. */
export interface DisplacedSession {
  readonly sessionId: string;
  readonly slot: string;
  readonly device: string;
  readonly issuedAt: Date | undefined;
}

/** An opened session. `console.log` does not show its secrets. */
export class LoggedIn {
  constructor(
    /** The access token. It is a secret: do not log it. */
    readonly token: string,
    /** The session that was opened. */
    readonly session: Identity,
    /** The live sessions that this login ended, the oldest first. */
    readonly displaced: readonly DisplacedSession[],
    /** The `set-cookie` headers for the browser. Empty without the option `cookie`. */
    readonly setCookie: readonly string[],
  ) {}

  [Symbol.for("nodejs.util.inspect.custom")](): unknown {
    return { session: this.session, displaced: this.displaced };
  }
}

/** The result of a logout. */
export interface LoggedOut {
  /** The number of live sessions that the call ended. */
  readonly ended: number;
  /** Why the token was not good, if it was not. No session was ended then. */
  readonly rejection: Rejected | undefined;
  /** The `set-cookie` headers for the browser. Empty without the option `cookie`. */
  readonly setCookie: readonly string[];
}

/** A message of {@link Client.watchSession}: first the session, last the rejection. */
export type WatchEvent =
  | { readonly session: Identity; readonly rejection?: undefined }
  | { readonly session?: undefined; readonly rejection: Rejected };

/** An answer of {@link Client.validateStream}. With an `error` there is no verdict. */
export type StreamVerdict =
  | { readonly session: Identity; readonly rejection?: undefined; readonly error?: undefined }
  | { readonly session?: undefined; readonly rejection: Rejected; readonly error?: undefined }
  | { readonly session?: undefined; readonly rejection?: undefined; readonly error: LatchkeyError };

type Done<T> = (error: ServiceError | null, answer: T) => void;
type Start<T> = (metadata: Metadata, options: GrpcOptions, done: Done<T>) => ClientUnaryCall;

const SCOPES = {
  this: LogoutScope.LOGOUT_SCOPE_THIS,
  others: LogoutScope.LOGOUT_SCOPE_OTHERS,
  all: LogoutScope.LOGOUT_SCOPE_ALL,
};

/**
 * A client for Latchkey. It connects with the first call and reconnects when it has to, so it can be created at module
 * level. Calls that are safe to repeat are repeated while Latchkey is unavailable. All errors are {@link LatchkeyError}s,
 * except those of an aborted `signal`.
 */
export class Client {
  /** The generated clients, for streams and for access to all fields. They send no caller key by themselves. */
  readonly auth: AuthServiceClient;
  readonly sessions: SessionServiceClient;
  readonly #callerKey: string | undefined;
  readonly #timeout: number;

  /** `address` is a target of gRPC, such as `127.0.0.1:50051` or `dns:///latchkey.example:50051`. */
  constructor(address: string, options: ClientOptions = {}) {
    const channelCredentials = options.credentials ?? credentials.createInsecure();
    this.auth = new AuthServiceClient(address, channelCredentials, {
      ...channelOptions,
      ...options.channelOptions,
    });
    const channelOverride = this.auth.getChannel();
    this.sessions = new SessionServiceClient(address, channelCredentials, { channelOverride });
    this.#callerKey = options.callerKey;
    this.#timeout = options.timeout ?? 10_000;
  }

  /** Opens a session. The sessions that it displaced are rejected from now on. */
  async login(username: string, password: string, options: LoginOptions = {}): Promise<LoggedIn> {
    const { cookie, clientAddress } = options;
    const request = LoginRequest.create({ username, password, ...newSession(options) });
    const [answer, setCookie] = await this.#call<LoginResponse>(
      (metadata, until, done) => this.auth.login(request, metadata, until, done),
      options,
      { cookie, clientAddress },
    );
    return loggedIn(answer, setCookie);
  }

  /** Returns the session of the token, or throws {@link Rejected}. Any other error says nothing about the token. */
  async validate(token: string, options: ValidateOptions = {}): Promise<Identity> {
    if (token === "") {
      throw tokenRequired();
    }
    const request = question(token, options);
    const [answer] = await this.#call<ValidateResponse>(
      (metadata, until, done) => this.auth.validate(request, metadata, until, done),
      options,
    );
    return verdict(answer);
  }

  /** Validates many tokens over one stream, and yields one answer for each in their order. */
  async *validateStream(
    tokens: AsyncIterable<string> | Iterable<string>,
    { signal, ...options }: Omit<ValidateOptions, "timeout"> = {},
  ): AsyncGenerator<StreamVerdict, void, undefined> {
    signal?.throwIfAborted();
    const stream = this.auth.validateStream(this.metadata());
    const write = async (): Promise<void> => {
      for await (const token of tokens) {
        if (stream.destroyed) {
          return;
        }
        if (!stream.write(question(token, options))) {
          await new Promise((resolve) => stream.once("drain", resolve).once("close", resolve));
        }
      }
      stream.end();
    };
    let failed: unknown;
    write().catch((error: unknown) => {
      failed = error;
      stream.cancel();
    });
    try {
      for await (const answer of read<ValidateResponse>(stream, signal)) {
        yield streamVerdict(answer);
      }
    } catch (error) {
      throw failed ?? error;
    }
  }

  /** Ends sessions. It is not an error if the token is missing or no longer good: the result has the rejection. */
  async logout(token: string, options: LogoutOptions = {}): Promise<LoggedOut> {
    if (token === "") {
      return { ended: 0, rejection: tokenRequired(), setCookie: [] };
    }
    const request = LogoutRequest.create({ token, scope: SCOPES[options.scope ?? "this"] });
    const [answer, setCookie] = await this.#call<{
      ended: number;
      rejection: Parameters<typeof rejectedBy>[0] | undefined;
    }>((metadata, until, done) => this.auth.logout(request, metadata, until, done), options, {
      cookie: options.cookie,
    });
    return { ended: answer.ended, rejection: answer.rejection && rejectedBy(answer.rejection), setCookie };
  }

  /**
   * Yields the session of the token, and the rejection as soon as the session ends. If the token is not good, the
   * rejection comes first. A watch that breaks throws and says nothing about the session: watch again.
   */
  async *watchSession(
    token: string,
    { signal }: Pick<CallOptions, "signal"> = {},
  ): AsyncGenerator<WatchEvent, void, undefined> {
    if (token === "") {
      yield { rejection: tokenRequired() };
      return;
    }
    signal?.throwIfAborted();
    const stream = this.auth.watchSession(WatchSessionRequest.create({ token }), this.metadata());
    try {
      for await (const { verdict } of read<WatchSessionResponse>(stream, signal)) {
        if (verdict?.$case === "session") {
          yield { session: identityOf(verdict.value) };
        } else if (verdict?.$case === "rejection") {
          yield { rejection: rejectedBy(verdict.value) };
          return;
        }
      }
    } catch (error) {
      if (!(error instanceof Rejected)) {
        throw error;
      }
      yield { rejection: error };
    }
  }

  /** Sets a new password and ends all other sessions of the user. */
  async changePassword(
    token: string,
    currentPassword: string,
    newPassword: string,
    options: CallOptions & ForwardedOptions = {},
  ): Promise<{ readonly ended: number }> {
    if (token === "") {
      throw tokenRequired();
    }
    const request = ChangePasswordRequest.create({ token, currentPassword, newPassword });
    const [{ ended }] = await this.#call<{ ended: number }>(
      (metadata, until, done) => this.auth.changePassword(request, metadata, until, done),
      options,
      { clientAddress: options.clientAddress },
    );
    return { ended };
  }

  /** Returns the public keys that verify tokens, a JSON Web Key Set. */
  async getJwks(options: CallOptions = {}): Promise<{ readonly keys: readonly Record<string, unknown>[] }> {
    const [{ jwks }] = await this.#call<{ jwks: string }>(
      (metadata, until, done) => this.auth.getJwks(GetJwksRequest.create(), metadata, until, done),
      options,
    );
    return JSON.parse(jwks) as { keys: Record<string, unknown>[] };
  }

  /** Opens a session for a user whom this service has authenticated. It needs the role `issuer`. */
  async issueSession(
    user: { readonly userId: string } | { readonly username: string },
    options: NewSessionOptions = {},
  ): Promise<LoggedIn> {
    const request = IssueSessionRequest.fromPartial({ ...user, ...newSession(options) });
    const [answer] = await this.#call<LoginResponse>(
      (metadata, until, done) => this.sessions.issueSession(request, metadata, until, done),
      options,
    );
    return loggedIn(answer, []);
  }

  /**
   * Lists the live sessions of a user, or one page of those of all users: pass `nextPageToken` of the result, unless it
   * is empty, as `pageToken`. It needs the role `operator`.
   */
  async listSessions(
    whose:
      | { readonly userId: string }
      | { readonly everyone: true; readonly pageSize?: number; readonly pageToken?: string },
    options: CallOptions = {},
  ): Promise<{ readonly sessions: readonly Session[]; readonly nextPageToken: string }> {
    const request = ListSessionsRequest.fromPartial(whose);
    const [{ sessions, nextPageToken }] = await this.#call<{ sessions: SessionMessage[]; nextPageToken: string }>(
      (metadata, until, done) => this.sessions.listSessions(request, metadata, until, done),
      options,
    );
    const listed = sessions.map((session) => ({ ...identityOf(session), lastSeenAt: dateOf(session.lastSeenAt) }));
    return { sessions: listed, nextPageToken };
  }

  /** Ends sessions of a user, or of all users. It needs the role `operator`. */
  async endSessions(
    whose:
      | {
          readonly userId: string;
          readonly slot?: string;
          readonly sessionId?: string;
          readonly message?: string;
        }
      | { readonly everyone: true; readonly message?: string },
    options: CallOptions = {},
  ): Promise<{ readonly ended: number }> {
    const request = EndSessionsRequest.fromPartial(whose);
    const [{ ended }] = await this.#call<{ ended: number }>(
      (metadata, until, done) => this.sessions.endSessions(request, metadata, until, done),
      options,
    );
    return { ended };
  }

  /** Returns metadata with the caller key, for calls of the generated clients. */
  metadata(callerKey: string | undefined = this.#callerKey): Metadata {
    const metadata = new Metadata();
    if (callerKey) {
      metadata.set("x-latchkey-key", callerKey);
    }
    return metadata;
  }

  /** Closes the connection. Running calls fail. */
  close(): void {
    // The generated clients share the channel.
    this.auth.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  /** Makes a unary call. Returns the answer and its `set-cookie`. */
  #call<T>(
    start: Start<T>,
    { signal, timeout = this.#timeout }: CallOptions,
    { cookie, clientAddress }: { cookie?: boolean | undefined; clientAddress?: string | undefined } = {},
  ): Promise<[T, string[]]> {
    const metadata = this.metadata();
    if (cookie) {
      metadata.set("x-latchkey-cookie", "true");
    }
    if (clientAddress !== undefined) {
      metadata.set("x-forwarded-for", clientAddress);
    }
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const setCookie: string[] = [];
      const cancel = (): void => call.cancel();
      const call = start(metadata, { deadline: Date.now() + timeout }, (error, answer) => {
        signal?.removeEventListener("abort", cancel);
        if (error === null) {
          resolve([answer, setCookie]);
        } else {
          reject(signal?.aborted ? signal.reason : errorOf(error));
        }
      });
      call.on("metadata", (headers: Metadata) => setCookie.push(...headers.get("set-cookie").map(String)));
      signal?.addEventListener("abort", cancel);
    });
  }
}

/** Yields the messages of a stream, and cancels it when the reader stops or the signal is aborted. */
async function* read<T>(stream: ClientReadableStream<T>, signal?: AbortSignal): AsyncGenerator<T, void, undefined> {
  const cancel = (): void => stream.cancel();
  signal?.addEventListener("abort", cancel);
  try {
    for await (const message of stream) {
      yield message as T;
    }
  } catch (error) {
    signal?.throwIfAborted();
    throw errorOf(error as ServiceError);
  } finally {
    signal?.removeEventListener("abort", cancel);
    cancel();
  }
}

function newSession({ slot = "", device = "", takeover = false, idempotencyKey = "" }: NewSessionOptions) {
  return { slot, device, takeover, idempotencyKey };
}

function loggedIn({ token, session, displaced }: LoginResponse, setCookie: readonly string[]): LoggedIn {
  if (session === undefined) {
    throw new LatchkeyError("Latchkey answered a login without a session", "", status.DATA_LOSS);
  }
  const ended = displaced.map(({ sessionId, slot, device, issuedAt }) => {
    return { sessionId, slot, device, issuedAt: dateOf(issuedAt) };
  });
  return new LoggedIn(token, identityOf(session), ended, setCookie);
}

/** Returns the ValidateRequest for a token. */
export function question(token: string, { peek = false, maxStaleness }: ValidateOptions): ValidateRequest {
  const request = ValidateRequest.create({ token, peek });
  return maxStaleness === undefined ? request : { ...request, maxStaleness: durationOf(maxStaleness) };
}

/** Returns the identity, or throws {@link Rejected}. Any other answer is an error. */
function verdict({ verdict }: ValidateResponse): Identity {
  switch (verdict?.$case) {
    case "session":
      return identityOf(verdict.value);
    case "rejection":
      throw rejectedBy(verdict.value);
    default:
      throw new LatchkeyError("Latchkey answered without a verdict", "", status.DATA_LOSS);
  }
}

function streamVerdict(answer: ValidateResponse): StreamVerdict {
  if (answer.failure !== undefined) {
    return { error: failureOf(answer.failure) };
  }
  try {
    return { session: verdict(answer) };
  } catch (error) {
    return error instanceof Rejected ? { rejection: error } : { error: error as LatchkeyError };
  }
}
