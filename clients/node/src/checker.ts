import type { Metadata } from "@grpc/grpc-js";

import { Client, question } from "./client.js";
import { Denial, malformed, noToken, rejected, roleRequired, slotRequired, unavailable } from "./denial.js";
import type { ValidateResponse } from "./gen/latchkey/v1/auth.js";
import { type Identity, identityOf } from "./identity.js";
import type { CheckOptions } from "./options.js";

const MORE_THAN_ONE = "There is more than one `authorization`.";
const NOT_BEARER = "The header `authorization` is not of the form `Bearer <token>`.";

/** The core of all guards: decides about the token of a request. */
export class Checker {
  readonly client: Client;
  readonly onOutage: (why: Error, where: string) => void;
  private readonly owned: boolean;

  /** `latchkey` is a client, or the address of Latchkey; then the guard has a client of its own. */
  constructor(
    latchkey: Client | string,
    private readonly options: CheckOptions,
  ) {
    this.owned = typeof latchkey === "string";
    this.client = typeof latchkey === "string" ? new Client(latchkey) : latchkey;
    this.onOutage = options.onOutage ?? limitedWarnings();
  }

  /** Returns a checker with the same client and log, and further requirements. */
  requiring(options: CheckOptions): Checker {
    return new Checker(this.client, { ...this.options, onOutage: this.onOutage, ...options });
  }

  /** Returns the identity behind the one bearer token in these values of `authorization`, or throws a {@link Denial}. */
  async check(authorization: readonly string[], where: string, signal?: AbortSignal): Promise<Identity> {
    const token = bearer(authorization);
    try {
      return this.judge(await this.ask(token, this.options, signal));
    } catch (error) {
      if (error instanceof Denial) {
        throw error;
      }
      // If the caller has disconnected, this is not an outage.
      if (!signal?.aborted) {
        this.onOutage(error as Error, where);
      }
      throw unavailable(error);
    }
  }

  /** Asks Latchkey once, within the time limit. An error is no verdict. */
  ask(token: string, { peek, maxStaleness }: CheckOptions, signal?: AbortSignal): Promise<ValidateResponse> {
    const until = { deadline: Date.now() + (this.options.timeout ?? 1000) };
    const request = question(token, { peek, maxStaleness });
    return new Promise((resolve, reject) => {
      const call = this.client.auth.validate(request, this.metadata(), until, (error, answer) => {
        signal?.removeEventListener("abort", cancel);
        error === null ? resolve(answer) : reject(error);
      });
      const cancel = (): void => call.cancel();
      signal?.addEventListener("abort", cancel);
    });
  }

  /** Returns the metadata for Latchkey. Metadata of the guarded call is not forwarded. */
  metadata(): Metadata {
    return this.client.metadata(this.options.callerKey);
  }

  /** Closes the client, if it is that of the guard. */
  close(): void {
    if (this.owned) {
      this.client.close();
    }
  }

  private judge({ verdict }: ValidateResponse): Identity {
    if (verdict === undefined) {
      throw new Error("Latchkey answered without a verdict");
    }
    if (verdict.$case === "rejection") {
      throw rejected(verdict.value);
    }
    const who = identityOf(verdict.value);
    const { requiredSlot, requiredRole } = this.options;
    if (requiredSlot && who.slot !== requiredSlot) {
      throw slotRequired(requiredSlot);
    }
    if (requiredRole && !who.roles.includes(requiredRole)) {
      throw roleRequired(requiredRole);
    }
    return who;
  }
}

/** Returns the token of exactly one `authorization: Bearer ...`, parsed as in Latchkey. */
export function bearer([value, ...more]: readonly string[]): string {
  if (value === undefined) {
    throw noToken();
  }
  if (more.length > 0) {
    // Proxies disagree on which of them counts, so the guard does not guess.
    throw malformed(MORE_THAN_ONE);
  }
  if (/^\s*(bearer\s*)?$/i.test(value)) {
    // A client without a token that sends the header anyway.
    throw noToken();
  }
  const token = /^bearer +([^ ].*?) *$/i.exec(value)?.[1];
  if (token === undefined) {
    throw malformed(NOT_BEARER);
  }
  if (token.includes(",")) {
    // Proxies join values with commas, and a token never contains one.
    throw malformed(MORE_THAN_ONE);
  }
  return token;
}

/** Returns a logger that writes at most once a second, because every request fails during an outage. */
function limitedWarnings(): (why: Error, where: string) => void {
  let next = 0;
  let omitted = 0;
  return (why, where) => {
    const now = performance.now();
    if (now < next) {
      omitted += 1;
      return;
    }
    const more = omitted > 0 ? ` (and ${omitted} more since the last message)` : "";
    console.warn(`latchkey: no verdict for ${where}: ${why.message}${more}`);
    [next, omitted] = [now + 1000, 0];
  };
}
