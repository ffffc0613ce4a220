import { setTimeout as pause } from "node:timers/promises";

import { type ServiceError, status } from "@grpc/grpc-js";

import { bearer, type Checker } from "./checker.js";
import { type Denial, rejected, unavailable } from "./denial.js";
import { type ValidateResponse, WatchSessionRequest, type WatchSessionResponse } from "./gen/latchkey/v1/auth.js";
import type { Rejection } from "./gen/latchkey/v1/reason.js";
import type { GuardOptions } from "./options.js";

/** The first delay before watching again. It doubles each time. */
const FIRST_PAUSE = 100;

/** The maximum delay, and so the polling interval of streams that cannot be watched. */
const ASK_EVERY = 10_000;

/** The maximum time of one watch, because a connection can be dead without an error. */
const WATCH_FOR = 60_000;

interface Answer {
  readonly verdict?: ValidateResponse["verdict"];
  readonly failed?: Error;
}

/** Waits for the ends of sessions with running streams. */
export class Watcher {
  private free: number;
  private told = false;

  constructor(
    private readonly checker: Checker,
    private readonly options: GuardOptions,
  ) {
    // A connection carries at most 256 calls, or fewer behind a proxy, and all other calls of the guard need room on
    // it.
    this.free = options.maxWatches ?? 100;
  }

  /**
   * Waits until the session has ended, and returns the denial for its caller, or undefined if `over` is aborted first.
   *
   * A watch that breaks says nothing about the session, so its token is validated. A session that cannot be watched is
   * validated periodically.
   */
  async end(method: string, authorization: readonly string[], over: AbortSignal): Promise<Denial | undefined> {
    const token = bearer(authorization);
    const grace = this.options.outageGrace ?? 60_000;
    let live = performance.now();
    let wait = FIRST_PAUSE;
    while (!over.aborted) {
      const { watched, rejection, broke } = await this.watch(token, over);
      if (rejection !== undefined) {
        return rejected(rejection);
      }
      if (watched) {
        live = performance.now();
        wait = FIRST_PAUSE;
      }
      this.tell(broke, method);
      const { verdict, failed }: Answer = await this.ask(token, over);
      if (verdict?.$case === "rejection") {
        return rejected(verdict.value);
      }
      if (verdict?.$case === "session") {
        live = performance.now();
      }
      const left = live + grace - performance.now();
      if (left <= 0 && !over.aborted) {
        this.checker.onOutage(new Error(`ended a stream because Latchkey is unavailable: ${failed?.message}`), method);
        return unavailable();
      }
      await pause(Math.min(left, jittered(wait)), undefined, { signal: over }).catch(() => {});
      wait = Math.min(2 * wait, ASK_EVERY);
    }
    return undefined;
  }

  /** Watches a session until the watch breaks. Returns whether it received a session, and how it ended. */
  private watch(token: string, over: AbortSignal) {
    return new Promise<{ watched: boolean; rejection?: Rejection; broke?: Partial<ServiceError> }>((resolve) => {
      let watched = false;
      if (this.free <= 0) {
        const broke = { code: status.RESOURCE_EXHAUSTED, message: "the guard has reached maxWatches" };
        resolve({ watched, broke });
        return;
      }
      this.free -= 1;
      const until = { deadline: Date.now() + jittered(WATCH_FOR) };
      const request = WatchSessionRequest.create({ token });
      const call = this.checker.client.auth.watchSession(request, this.checker.metadata(), until);
      const cancel = (): void => call.cancel();
      over.addEventListener("abort", cancel);
      let done = (end: { rejection?: Rejection; broke?: Partial<ServiceError> }): void => {
        done = () => {};
        this.free += 1;
        over.removeEventListener("abort", cancel);
        cancel();
        resolve({ watched, ...end });
      };
      call.on("data", ({ verdict }: WatchSessionResponse) => {
        if (verdict?.$case === "rejection") {
          done({ rejection: verdict.value });
        }
        watched ||= verdict?.$case === "session";
      });
      call.on("error", (broke: ServiceError) => done({ broke }));
      call.on("end", () => done({}));
    });
  }

  private async ask(token: string, over: AbortSignal): Promise<Answer> {
    try {
      const { verdict } = await this.checker.ask(token, { ...this.options, peek: true }, over);
      return { verdict };
    } catch (error) {
      return { failed: error as Error };
    }
  }

  /** Reports a reached limit of watches, once for all streams. */
  private tell(broke: Partial<ServiceError> | undefined, method: string): void {
    if (broke?.code === status.RESOURCE_EXHAUSTED && !this.told) {
      this.told = true;
      const what = `some streams are not watched and are validated every 10 s instead: ${broke.message}`;
      this.checker.onOutage(new Error(what), method);
    }
  }
}

/** Shortens a pause at random, so that streams that began together do not reconnect together. */
function jittered(wait: number): number {
  return wait * (0.5 + Math.random() / 2);
}
