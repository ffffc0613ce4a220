package latchkey.spring;

import latchkey.client.HttpGuard;
import org.springframework.context.ApplicationContext;
import org.springframework.security.config.annotation.web.builders.HttpSecurity;
import org.springframework.security.config.annotation.web.configurers.AbstractHttpConfigurer;
import org.springframework.security.config.annotation.web.configurers.CsrfConfigurer;
import org.springframework.security.config.http.SessionCreationPolicy;
import org.springframework.security.web.access.intercept.AuthorizationFilter;
import org.springframework.security.web.util.matcher.AnyRequestMatcher;

/**
 * Authenticates the requests of a {@code SecurityFilterChain} by their bearer tokens:
 * {@code http.with(latchkey(), withDefaults())}. The principal is the {@link latchkey.client.Identity}, and each role is an
 * authority {@code ROLE_...}. A token is validated when a rule of the chain or a method needs the identity.
 *
 * <p>It makes the chain stateless, and turns CSRF protection off, because no cookie authenticates. Give a form login a
 * chain of its own.
 */
public final class LatchkeySecurity extends AbstractHttpConfigurer<LatchkeySecurity, HttpSecurity> {
  private String role = "";
  private String slot = "";

  private LatchkeySecurity() {}

  /** Creates the configurer. Its {@link HttpGuard} is the bean of the application context. */
  public static LatchkeySecurity latchkey() {
    return new LatchkeySecurity();
  }

  /** Denies users without this role, in the whole chain. */
  public LatchkeySecurity requiredRole(String role) {
    this.role = role;
    return this;
  }

  /** Denies sessions in other slots, in the whole chain. */
  public LatchkeySecurity requiredSlot(String slot) {
    this.slot = slot;
    return this;
  }

  /** Changes the other configurers before they are initialized. */
  @Override
  public void setBuilder(HttpSecurity http) {
    super.setBuilder(http);
    Denials denials = new Denials();
    try {
      http.csrf(CsrfConfigurer::disable);
      http.sessionManagement(sessions -> sessions.sessionCreationPolicy(SessionCreationPolicy.STATELESS));
      http.exceptionHandling(handling -> handling
          .defaultAuthenticationEntryPointFor(denials, AnyRequestMatcher.INSTANCE)
          .defaultAccessDeniedHandlerFor(denials, AnyRequestMatcher.INSTANCE));
    } catch (Exception e) {
      // Only Spring Security before 7 declares it.
      throw new IllegalStateException(e);
    }
  }

  @Override
  public void configure(HttpSecurity http) {
    HttpGuard guard = http.getSharedObject(ApplicationContext.class).getBean(HttpGuard.class);
    if (!role.isEmpty()) {
      guard = guard.withRequiredRole(role);
    }
    if (!slot.isEmpty()) {
      guard = guard.withRequiredSlot(slot);
    }
    // After the filter that translates its exceptions.
    http.addFilterBefore(new BearerFilter(guard), AuthorizationFilter.class);
  }
}
