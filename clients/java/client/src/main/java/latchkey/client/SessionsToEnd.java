package latchkey.client;

import latchkey.v1.EndSessionsRequest;

/** The sessions that an operator ends: {@code SessionsToEnd.ofUser(id).inSlot("web").message("Please update.")}. */
public final class SessionsToEnd {
  private final EndSessionsRequest.Builder request = EndSessionsRequest.newBuilder();

  private SessionsToEnd() {}

  /** All sessions of a user. */
  public static SessionsToEnd ofUser(String userId) {
    SessionsToEnd these = new SessionsToEnd();
    these.request.setUserId(userId);
    return these;
  }

  /** All sessions of all users, for example after a signing key has leaked. They are not counted. */
  public static SessionsToEnd ofEveryone() {
    SessionsToEnd these = new SessionsToEnd();
    these.request.setEveryone(true);
    return these;
  }

  /** Only those in this slot. */
  public SessionsToEnd inSlot(String slot) {
    request.setSlot(slot);
    return this;
  }

  /** Only this one. */
  public SessionsToEnd withId(String sessionId) {
    request.setSessionId(sessionId);
    return this;
  }

  /** Sets what the users are told, instead of the default sentence: at most 200 code points. */
  public SessionsToEnd message(String message) {
    request.setMessage(message);
    return this;
  }

  EndSessionsRequest request() {
    return request.build();
  }
}
