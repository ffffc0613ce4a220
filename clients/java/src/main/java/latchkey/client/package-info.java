/**
 * Guards gRPC servers with Latchkey, the authentication service in which the latest login wins.
 *
 * <p>A {@link latchkey.client.Guard} takes the bearer token from the metadata {@code authorization} of every call, asks
 * Latchkey whether its session is live, and tells the handler whose it is ({@link latchkey.client.Identity#current()}).
 * Whoever is rejected is told why, in a {@code google.rpc.ErrorInfo}. Where Latchkey does not answer, nobody gets in:
 * {@code UNAVAILABLE}. Streams end when the session of their caller does.
 *
 * <p>The generated client of Latchkey's own services is in {@code latchkey.v1}.
 */
package latchkey.client;
