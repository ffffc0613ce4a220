/**
 * Guards gRPC servers with Latchkey, the authentication service in which the latest login wins.
 *
 * A guard takes the bearer token from the metadata `authorization` of every call, asks Latchkey whether its session is
 * live, and tells the handler whose it is ({@link identity}). Whoever is rejected is told why, in a
 * `google.rpc.ErrorInfo`. Where Latchkey does not answer, nobody gets in: `UNAVAILABLE`. Streams end when the session of
 * their caller does.
 *
 * The generated client of Latchkey's own services is in `@latchkey/client/v1/*`.
 */
export { Client, type ClientOptions } from "./client.js";
export { connect } from "./connect.js";
export { guard } from "./guard.js";
export { identity, type Identity } from "./identity.js";
export type { GuardOptions } from "./options.js";
export { Rejected } from "./rejected.js";
