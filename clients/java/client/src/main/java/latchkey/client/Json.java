package latchkey.client;

import java.time.Instant;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;

/** The JSON of denials, which needs no library. */
final class Json {
  private static final DateTimeFormatter RFC3339 =
      DateTimeFormatter.ofPattern("uuuu-MM-dd'T'HH:mm:ss.SSSSSS'Z'").withZone(ZoneOffset.UTC);
  /** The latest time that RFC 3339 can express. */
  private static final Instant LATEST = Instant.parse("9999-12-31T23:59:59.999999Z");

  private Json() {}

  /** Returns a string in quotes. */
  static String quoted(String text) {
    StringBuilder quoted = new StringBuilder("\"");
    for (int i = 0; i < text.length(); i++) {
      char c = text.charAt(i);
      if (c == '"' || c == '\\') {
        quoted.append('\\').append(c);
      } else if (c < ' ') {
        quoted.append(String.format("\\u%04x", (int) c));
      } else {
        quoted.append(c);
      }
    }
    return quoted.append('"').toString();
  }

  /** Returns a time in RFC 3339 with six decimal places. */
  static String time(Instant at) {
    return RFC3339.format(at.isAfter(LATEST) ? LATEST : at);
  }
}
