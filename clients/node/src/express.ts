/** A guard for Express 4 and 5, and for any other server with middlewares for requests of Node. */
import type { IncomingMessage, ServerResponse } from "node:http";

import { Checker } from "./checker.js";
import type { Client } from "./client.js";
import { Denial, unavailable } from "./denial.js";
import { authorizationOf, pathOf } from "./http.js";
import { guarded, type Identity } from "./identity.js";
import type { HttpGuardOptions } from "./options.js";

export type { HttpGuardOptions, Identity };

declare global {
  // The namespace that the types of Express merge into their requests.
  namespace Express {
    interface Request {
      /** The identity of the caller, set by the guard. See {@link identity} for one that is never undefined. */
      latchkey?: Identity;
    }
  }
}

/** A middleware. `close` closes the connection, if the guard was created with an address. */
export interface Guard {
  (
    request: IncomingMessage & { originalUrl?: string },
    response: ServerResponse,
    next: (error?: unknown) => void,
  ): void;
  close(): void;
}

/**
 * Creates a middleware that accepts only requests whose token has a live session: for an app, a router or a route.
 * `latchkey` is a client or the address of Latchkey.
 */
export function guard(latchkey: Client | string, options: HttpGuardOptions = {}): Guard {
  const checker = new Checker(latchkey, options);
  const open = new Set(options.openPaths);
  const middleware = (
    request: IncomingMessage & { originalUrl?: string; latchkey?: Identity },
    response: ServerResponse,
    next: (error?: unknown) => void,
  ): void => {
    const path = pathOf(request.originalUrl ?? request.url);
    if (open.has(path)) {
      next();
      return;
    }
    const over = new AbortController();
    const abort = (): void => over.abort();
    response.once("close", abort);
    checker.check(authorizationOf(request), path, over.signal).then(
      (who) => {
        response.off("close", abort);
        request.latchkey = who;
        next();
      },
      (error: unknown) => (error instanceof Denial ? error : unavailable(error)).send(response),
    );
  };
  return Object.assign(middleware, { close: () => checker.close() });
}

/** Returns the identity of the caller. Throws if no guard has accepted the request. */
export function identity(request: { latchkey?: Identity }): Identity {
  return guarded(request.latchkey);
}
