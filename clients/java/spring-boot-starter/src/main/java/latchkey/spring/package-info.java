/**
 * Guards Spring Boot services with Latchkey through Spring Security. {@link latchkey.spring.LatchkeyAutoConfiguration}
 * says what the starter does by itself, and {@link latchkey.spring.LatchkeySecurity} adds it to another
 * {@code SecurityFilterChain}.
 */
package latchkey.spring;
