import type { Metadata } from "@grpc/grpc-js";

import type { Session } from "./gen/latchkey/v1/auth.js";

/** Who calls: the session that Latchkey found live. */
export interface Identity {
  /** The account's stable, opaque id. */
  readonly userId: string;
  /** What a person types. */
  readonly username: string;
  /** The token's `jti`. */
  readonly sessionId: string;
  /** The kind of client in which only the latest login lives. */
  readonly slot: string;
  /** What the client called itself when it logged in. */
  readonly device: string;
  /** Those of the account now, which can be newer than the token's. */
  readonly roles: readonly string[];
  /** The moment of the login. */
  readonly issuedAt: Date;
  /** When the session ends at the latest. */
  readonly expiresAt: Date;
  /** When the session ends if it is not used before. */
  readonly idleExpiresAt: Date;
}

/** The metadata of a call is the same object from the guard to the handler, and nobody can send one. */
const identities = new WeakMap<Metadata, Identity>();

/** Who calls the method whose handler was given this call. Throws in a method that is open. */
export function identity(call: { readonly metadata: Metadata }): Identity {
  const found = identities.get(call.metadata);
  if (found === undefined) {
    throw new Error("nobody is known to be calling: the method is open, or no guard stands before it");
  }
  return found;
}

export function identify(metadata: Metadata, identity: Identity): void {
  identities.set(metadata, identity);
}

export function identityOf(session: Session): Identity {
  const { userId, username, sessionId, slot, device, roles, issuedAt, expiresAt, idleExpiresAt } = session;
  if (issuedAt === undefined || expiresAt === undefined || idleExpiresAt === undefined) {
    throw new Error("Latchkey answered with a session that has no deadlines");
  }
  return Object.freeze({ userId, username, sessionId, slot, device, roles, issuedAt, expiresAt, idleExpiresAt });
}
