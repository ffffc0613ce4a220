package latchkey.client;

import java.util.List;

/**
 * The result of a logout.
 *
 * @param ended the number of live sessions that it has ended
 * @param rejection why the token was dead already, in which case no session was ended, or {@code null}
 * @param setCookies values of {@code set-cookie} for the browser, if the logout asked for them
 */
public record Logout(int ended, Rejection rejection, List<String> setCookies) {
  /** Copies the list. */
  public Logout {
    setCookies = List.copyOf(setCookies);
  }

  @Override
  public String toString() {
    return "Logout[ended=" + ended + ", rejection=" + rejection + "]";
  }
}
