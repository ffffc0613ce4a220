/**
 * A client of Latchkey, the authentication service in which the latest login wins, and a guard for gRPC servers. The
 * guards for Express, Fastify, Nest and Connect are in `@latchkey-auth/client/express`, `/fastify`, `/nest` and
 * `/connect`.
 *
 * A guard takes the bearer token from the metadata `authorization` of every call, validates it with Latchkey, and gives
 * the handler the identity of the caller ({@link identity}). A denied call gets the reason in a `google.rpc.ErrorInfo`.
 * While Latchkey does not answer, calls get `UNAVAILABLE`. Streams end when the session of their caller ends.
 *
 * The generated clients of Latchkey's services are in `@latchkey-auth/client/v1/*`.
 */
export {
  type CallOptions,
  Client,
  type ClientOptions,
  type DisplacedSession,
  type ForwardedOptions,
  LoggedIn,
  type LoggedOut,
  type LoginOptions,
  type LogoutOptions,
  type NewSessionOptions,
  type Session,
  type StreamVerdict,
  type ValidateOptions,
  type WatchEvent,
} from "./client.js";
export {
  AccountDisabled,
  type Holder,
  InvalidCredentials,
  InvalidRequest,
  LatchkeyError,
  NotAllowed,
  Rejected,
  SessionLimit,
  Throttled,
  Unavailable,
} from "./errors.js";
export { type Guard, guard } from "./guard.js";
export { identity, type Identity } from "./identity.js";
export type { CheckOptions, GuardOptions, HttpGuardOptions } from "./options.js";
