import { Metadata } from "@grpc/grpc-js";

import { ValidateRequest } from "./gen/latchkey/v1/auth.js";

/** What a guard does. */
export interface GuardOptions {
  /** Says who asks, for a Latchkey with `access.validate = "caller"`. */
  readonly callerKey?: string;
  /** Methods for everybody, by full names such as `/grpc.health.v1.Health/Check`. */
  readonly openMethods?: readonly string[];
  /** Lets Latchkey answer from memory, never with anything older than so many milliseconds. */
  readonly maxStaleness?: number;
  /** Calls do not count as a use of the session. */
  readonly peek?: boolean;
  /** How many milliseconds Latchkey may take: 1000, unless it is set. */
  readonly timeout?: number;
  /** Who does not have this role is told PERMISSION_DENIED. */
  readonly requiredRole?: string;
  /** The same for sessions of other slots. */
  readonly requiredSlot?: string;
  /** Streams end when the session of their caller does: `true`, unless it is set. */
  readonly watchStreams?: boolean;
  /**
   * How many streams are watched at a time over the connection to Latchkey: 100, unless it is set. About the others it
   * is asked every 10 seconds. It has to stay well below Latchkey's `server.max_streams` and what proxies between
   * allow, because every other call of the guard's needs room on the same connection.
   */
  readonly maxWatches?: number;
  /** How many milliseconds streams go on while Latchkey is away: 60,000, unless it is set. */
  readonly outageGrace?: number;
  /** Is told why there was no verdict, and that streams cannot be watched. `console.warn`, unless it is set. */
  readonly onOutage?: (why: Error, method: string) => void;
}

/** What to ask Latchkey about a token. */
export function question(token: string, { peek = false, maxStaleness }: GuardOptions): ValidateRequest {
  if (maxStaleness === undefined) {
    return ValidateRequest.create({ token, peek });
  }
  const seconds = Math.floor(maxStaleness / 1000);
  const nanos = Math.round((maxStaleness - seconds * 1000) * 1_000_000);
  return ValidateRequest.create({ token, peek, maxStaleness: { seconds, nanos } });
}

/** What to send along. Of the call's own metadata nothing goes to Latchkey. */
export function about({ callerKey }: GuardOptions): Metadata {
  const metadata = new Metadata();
  if (callerKey) {
    metadata.set("x-latchkey-key", callerKey);
  }
  return metadata;
}
