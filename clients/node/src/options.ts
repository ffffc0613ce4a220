import { Metadata } from "@grpc/grpc-js";

import { ValidateRequest } from "./gen/latchkey/v1/auth.js";

/** The options of a guard. */
export interface GuardOptions {
  /** The caller key for Latchkey, needed with `access.validate = "caller"`. */
  readonly callerKey?: string;
  /** Methods that are open to everybody, by full names such as `/grpc.health.v1.Health/Check`. */
  readonly openMethods?: readonly string[];
  /** Lets Latchkey answer from its near-cache, at most this many milliseconds old. */
  readonly maxStaleness?: number;
  /** Calls do not count as a use of the session. */
  readonly peek?: boolean;
  /** Time limit for Latchkey's answer in milliseconds. Default: 1000. */
  readonly timeout?: number;
  /** Calls of users without this role get PERMISSION_DENIED. */
  readonly requiredRole?: string;
  /** Calls of sessions in other slots get PERMISSION_DENIED. */
  readonly requiredSlot?: string;
  /** Whether streams end when the session of their caller ends. Default: `true`. */
  readonly watchStreams?: boolean;
  /**
   * The maximum number of watched streams. The tokens of further streams are validated every 10 seconds. Default: 100.
   * Keep it well below Latchkey's `server.max_streams` and the limits of proxies in between, because all other calls of
   * the guard share the same connection.
   */
  readonly maxWatches?: number;
  /** How long streams continue while Latchkey is unavailable, in milliseconds. Default: 60,000. */
  readonly outageGrace?: number;
  /** Called with the reason for a missing verdict, or if streams cannot be watched. Default: `console.warn`. */
  readonly onOutage?: (why: Error, method: string) => void;
}

/** Returns the ValidateRequest for a token. */
export function question(token: string, { peek = false, maxStaleness }: GuardOptions): ValidateRequest {
  if (maxStaleness === undefined) {
    return ValidateRequest.create({ token, peek });
  }
  const seconds = Math.floor(maxStaleness / 1000);
  const nanos = Math.round((maxStaleness - seconds * 1000) * 1_000_000);
  return ValidateRequest.create({ token, peek, maxStaleness: { seconds, nanos } });
}

/** Returns the metadata for Latchkey. Metadata of the guarded call is not forwarded. */
export function about({ callerKey }: GuardOptions): Metadata {
  const metadata = new Metadata();
  if (callerKey) {
    metadata.set("x-latchkey-key", callerKey);
  }
  return metadata;
}
