/** What every guard can be told. Times are in milliseconds. */
export interface CheckOptions {
  /** The caller key for Latchkey, needed with `access.validate = "caller"`. Default: that of the client. */
  readonly callerKey?: string | undefined;
  /** Users without this role are denied. */
  readonly requiredRole?: string | undefined;
  /** Sessions in other slots are denied. */
  readonly requiredSlot?: string | undefined;
  /** Lets Latchkey answer from its near-cache, at most this old. */
  readonly maxStaleness?: number | undefined;
  /** Requests do not count as a use of the session. */
  readonly peek?: boolean | undefined;
  /** Time limit for Latchkey's answer. Default: 1000. */
  readonly timeout?: number | undefined;
  /**
   * Called with the reason for a missing verdict, or if streams cannot be watched, and with the method or path. Default:
   * `console.warn`, at most once a second.
   */
  readonly onOutage?: ((why: Error, where: string) => void) | undefined;
}

/** The options of a guard for HTTP. */
export interface HttpGuardOptions extends CheckOptions {
  /** Paths that are open to everybody, such as `/healthz`. Each matches as a whole, without the query. */
  readonly openPaths?: readonly string[] | undefined;
}

/** The options of a guard for RPCs. */
export interface GuardOptions extends CheckOptions {
  /** Methods that are open to everybody, by full names such as `/grpc.health.v1.Health/Check`. */
  readonly openMethods?: readonly string[] | undefined;
  /** Whether streams end when the session of their caller ends. Default: `true`. */
  readonly watchStreams?: boolean | undefined;
  /**
   * The maximum number of watched streams. The tokens of further streams are validated every 10 seconds. Default: 100.
   * Keep it well below Latchkey's `server.max_streams` and the limits of proxies in between, because all other calls of
   * the guard share the same connection.
   */
  readonly maxWatches?: number | undefined;
  /** How long streams continue while Latchkey is unavailable. Default: 60,000. */
  readonly outageGrace?: number | undefined;
}
