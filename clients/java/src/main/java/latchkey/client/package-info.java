/**
 * Guards gRPC servers with Latchkey, the authentication service in which the latest login wins.
 *
 * <p>A {@link latchkey.client.Guard} takes the bearer token from the metadata {@code authorization} of every call,
 * validates it with Latchkey, and gives the handler the identity of the caller
 * ({@link latchkey.client.Identity#current()}). A denied call gets the reason in a {@code google.rpc.ErrorInfo}. While
 * Latchkey does not answer, calls get {@code UNAVAILABLE}. Streams end when the session of their caller ends.
 *
 * <p>The generated client of Latchkey's services is in {@code latchkey.v1}.
 */
package latchkey.client;
