package latchkey.spring;

import jakarta.servlet.DispatcherType;
import latchkey.client.Client;
import latchkey.client.HttpGuard;
import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.boot.autoconfigure.condition.ConditionalOnMissingBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnWebApplication;
import org.springframework.boot.autoconfigure.condition.ConditionalOnWebApplication.Type;
import org.springframework.boot.context.properties.EnableConfigurationProperties;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.security.config.Customizer;
import org.springframework.security.config.annotation.web.builders.HttpSecurity;
import org.springframework.security.core.userdetails.UserDetailsService;
import org.springframework.security.provisioning.InMemoryUserDetailsManager;
import org.springframework.security.web.SecurityFilterChain;

/**
 * Provides a {@link Client}, an {@link HttpGuard} and, unless the service defines a {@link SecurityFilterChain}, one that
 * requires a live session for every path except {@code latchkey.open-paths}.
 */
@AutoConfiguration(
    // Before the defaults of Spring Boot 4 and 3, which would guard the service with a generated password.
    beforeName = {
      "org.springframework.boot.security.autoconfigure.UserDetailsServiceAutoConfiguration",
      "org.springframework.boot.security.autoconfigure.actuate.web.servlet.ManagementWebSecurityAutoConfiguration",
      "org.springframework.boot.security.autoconfigure.web.servlet.ServletWebSecurityAutoConfiguration",
      "org.springframework.boot.autoconfigure.security.servlet.UserDetailsServiceAutoConfiguration",
      "org.springframework.boot.actuate.autoconfigure.security.servlet.ManagementWebSecurityAutoConfiguration",
      "org.springframework.boot.autoconfigure.security.servlet.SecurityAutoConfiguration",
    })
@ConditionalOnWebApplication(type = Type.SERVLET)
@EnableConfigurationProperties(LatchkeyProperties.class)
public class LatchkeyAutoConfiguration {
  @Bean
  @ConditionalOnMissingBean
  Client latchkeyClient(LatchkeyProperties properties) {
    return Client.newBuilder(properties.address()).callerKey(properties.callerKey()).build();
  }

  /** The channel is that of the client. */
  @Bean
  @ConditionalOnMissingBean
  HttpGuard latchkeyGuard(Client client, LatchkeyProperties properties) {
    HttpGuard.Builder guard = HttpGuard.newBuilder(client)
        .requiredRole(properties.requiredRole())
        .requiredSlot(properties.requiredSlot())
        .timeout(properties.timeout());
    if (properties.maxStaleness() != null) {
      guard.maxStaleness(properties.maxStaleness());
    }
    return (properties.peek() ? guard.peek() : guard).build();
  }

  @Configuration(proxyBeanMethods = false)
  @ConditionalOnMissingBean(SecurityFilterChain.class)
  static class DefaultChain {
    @Bean
    SecurityFilterChain latchkeySecurityFilterChain(HttpSecurity http, LatchkeyProperties properties) throws Exception {
      http.with(LatchkeySecurity.latchkey(), Customizer.withDefaults());
      http.authorizeHttpRequests(requests -> {
        // Error pages and forwards belong to a request that was authorized.
        requests.dispatcherTypeMatchers(DispatcherType.ERROR, DispatcherType.FORWARD).permitAll();
        if (!properties.openPaths().isEmpty()) {
          requests.requestMatchers(properties.openPaths().toArray(String[]::new)).permitAll();
        }
        requests.anyRequest().authenticated();
      });
      return http.build();
    }

    /** Keeps Spring Boot from generating a user with a password, which nothing would check. */
    @Bean
    @ConditionalOnMissingBean
    UserDetailsService noUsersWithPasswords() {
      return new InMemoryUserDetailsManager();
    }
  }
}
