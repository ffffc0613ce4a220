import type { Duration } from "./gen/google/protobuf/duration.js";
import type { Timestamp } from "./gen/google/protobuf/timestamp.js";

/** The latest time that RFC 3339 can express, in seconds since 1970. */
const LATEST = 253_402_300_799;

export function dateOf(at: Timestamp | undefined): Date | undefined {
  return at && new Date(at.seconds * 1000 + Math.floor(at.nanos / 1_000_000));
}

/** Formats a time in UTC with six decimal places, as Latchkey does. A `Date` would lose three of them. */
export function rfc3339(at: Timestamp): string {
  const [seconds, nanos] = at.seconds > LATEST ? [LATEST, 999_999_999] : [at.seconds, at.nanos];
  const micros = String(Math.floor(nanos / 1000)).padStart(6, "0");
  return `${new Date(seconds * 1000).toISOString().slice(0, -5)}.${micros}Z`;
}

export function durationOf(milliseconds: number): Duration {
  const seconds = Math.floor(milliseconds / 1000);
  return { seconds, nanos: Math.round((milliseconds - seconds * 1000) * 1_000_000) };
}

export function millisecondsOf(duration: Duration | undefined): number | undefined {
  return duration && duration.seconds * 1000 + Math.ceil(duration.nanos / 1_000_000);
}
