package latchkey.client;

import java.util.Iterator;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Finds the token of a call, as Latchkey does. */
final class Bearer {
  private static final Pattern BEARER = Pattern.compile("bearer +([^ ].*?) *", Pattern.CASE_INSENSITIVE);
  private static final String MORE_THAN_ONE = "There is more than one `authorization`.";

  private Bearer() {}

  /** Returns the token of exactly one {@code authorization: Bearer ...}. */
  static String token(Iterator<String> authorization) throws DeniedException {
    if (!authorization.hasNext()) {
      throw DeniedException.tokenRequired();
    }
    String sent = authorization.next();
    if (authorization.hasNext()) {
      // Proxies disagree on which of them counts, so the guard does not guess.
      throw DeniedException.malformed(MORE_THAN_ONE);
    }
    if (sent.isBlank() || sent.strip().equalsIgnoreCase("bearer")) {
      // A client without a token that sends the header anyway.
      throw DeniedException.tokenRequired();
    }
    Matcher value = BEARER.matcher(sent);
    if (!value.matches()) {
      throw DeniedException.malformed("The header `authorization` is not of the form `Bearer <token>`.");
    }
    if (value.group(1).contains(",")) {
      // Proxies join values with commas, and a token never contains one.
      throw DeniedException.malformed(MORE_THAN_ONE);
    }
    return value.group(1);
  }
}
