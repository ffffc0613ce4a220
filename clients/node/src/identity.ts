import type { Metadata } from "@grpc/grpc-js";

import type { Session } from "./gen/latchkey/v1/auth.js";
import { dateOf } from "./time.js";

/** The identity of the caller: a live session. */
export interface Identity {
  /** The account's stable, opaque id. */
  readonly userId: string;
  /** The username. */
  readonly username: string;
  /** The token's `jti`. */
  readonly sessionId: string;
  /** The slot: the kind of client in which only the latest login lives. */
  readonly slot: string;
  /** The name that the client gave itself at login. */
  readonly device: string;
  /** The current roles of the account, which can be newer than those in the token. */
  readonly roles: readonly string[];
  /** When the login was committed. */
  readonly issuedAt: Date;
  /** The absolute deadline. */
  readonly expiresAt: Date;
  /** The idle deadline. */
  readonly idleExpiresAt: Date;
}

/** Keyed by the metadata object of a call, which is the same from the guard to the handler and cannot be forged. */
const identities = new WeakMap<Metadata, Identity>();

/** Returns the identity of the caller of this call. Throws in an open method. */
export function identity(call: { readonly metadata: Metadata }): Identity {
  return guarded(identities.get(call.metadata));
}

export function identify(metadata: Metadata, identity: Identity): void {
  identities.set(metadata, identity);
}

/** Throws if a handler asks for an identity that no guard has provided. */
export function guarded(identity: Identity | null | undefined): Identity {
  if (identity === null || identity === undefined) {
    throw new Error("the caller has no identity: this is open to everybody, or it has no guard");
  }
  return identity;
}

export function identityOf(session: Session): Identity {
  const { userId, username, sessionId, slot, device, roles } = session;
  const issuedAt = dateOf(session.issuedAt);
  const expiresAt = dateOf(session.expiresAt);
  const idleExpiresAt = dateOf(session.idleExpiresAt);
  if (issuedAt === undefined || expiresAt === undefined || idleExpiresAt === undefined) {
    throw new Error("Latchkey answered with a session that has no deadlines");
  }
  return Object.freeze({ userId, username, sessionId, slot, device, roles, issuedAt, expiresAt, idleExpiresAt });
}
