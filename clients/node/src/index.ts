/**
 * Guards gRPC servers with Latchkey, the authentication service in which the latest login wins.
 *
 * A guard takes the bearer token from the metadata `authorization` of every call, validates it with Latchkey, and gives
 * the handler the identity of the caller ({@link identity}). A denied call gets the reason in a `google.rpc.ErrorInfo`.
 * While Latchkey does not answer, calls get `UNAVAILABLE`. Streams end when the session of their caller ends.
 *
 * The generated client of Latchkey's services is in `@latchkey/client/v1/*`.
 */
export { Client, type ClientOptions } from "./client.js";
export { connect } from "./connect.js";
export { guard } from "./guard.js";
export { identity, type Identity } from "./identity.js";
export type { GuardOptions } from "./options.js";
export { Rejected } from "./rejected.js";
