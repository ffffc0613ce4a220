/**
 * The client of Latchkey, the authentication service in which the latest login wins, and guards for servers.
 *
 * <ul>
 *   <li>{@link latchkey.client.Client} logs users in and out, validates tokens and manages sessions.
 *   <li>{@link latchkey.client.Guard} guards a gRPC server: each handler gets the identity of the caller
 *       ({@link latchkey.client.Identity#current()}), and streams end when the session of their caller ends.
 *   <li>{@link latchkey.client.HttpGuard} is what guards for HTTP use: the filter in {@link latchkey.servlet}, and the
 *       starter for Spring Boot.
 * </ul>
 *
 * <p>The generated stubs of all services are in {@code latchkey.v1}.
 */
package latchkey.client;
