package latchkey.client;

import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import java.lang.System.Logger.Level;
import latchkey.v1.Session;
import latchkey.v1.ValidateResponse;

/** Decides whether a token lets a call through. All guards share it. */
final class Checker implements AutoCloseable {
  static final System.Logger LOG = System.getLogger("latchkey");

  private final Calls latchkey;
  private final ManagedChannel own;
  private final String role;
  private final String slot;

  Checker(Calls latchkey, ManagedChannel own, String role, String slot) {
    this.latchkey = latchkey;
    this.own = own;
    this.role = role == null || role.isEmpty() ? null : role;
    this.slot = slot == null || slot.isEmpty() ? null : slot;
  }

  Checker withRole(String role) {
    return new Checker(latchkey, own, role, slot);
  }

  Checker withSlot(String slot) {
    return new Checker(latchkey, own, role, slot);
  }

  Calls latchkey() {
    return latchkey;
  }

  /** Waits for the verdict on a token. {@code call} names the call in the log. */
  Identity check(String token, String call) throws DeniedException {
    ValidateResponse answer;
    try {
      answer = latchkey.validate(token);
    } catch (StatusRuntimeException e) {
      throw noVerdict(call, e);
    }
    return admit(answer, call);
  }

  /** Returns the answer to a call without a verdict, and logs why there is none. */
  DeniedException noVerdict(String call, Throwable why) {
    LOG.log(Level.WARNING, "got no verdict for a call of {0}: {1}", call, why.getMessage());
    latchkey.reconnect();
    return DeniedException.unavailable();
  }

  Identity admit(ValidateResponse answer, String call) throws DeniedException {
    switch (answer.getVerdictCase()) {
      case SESSION:
        return admit(answer.getSession());
      case REJECTION:
        throw DeniedException.rejected(answer.getRejection());
      default:
        LOG.log(Level.WARNING, "got an answer without a verdict for a call of {0}", call);
        throw DeniedException.unavailable();
    }
  }

  private Identity admit(Session session) throws DeniedException {
    return admit(Identity.of(session));
  }

  /** Returns the identity if it has the required slot and role. */
  Identity admit(Identity who) throws DeniedException {
    if (slot != null && !slot.equals(who.slot())) {
      throw DeniedException.slotRequired(slot);
    }
    if (role != null && !who.hasRole(role)) {
      throw DeniedException.roleRequired(role);
    }
    return who;
  }

  @Override
  public void close() {
    if (own != null) {
      own.shutdownNow();
    }
  }
}
