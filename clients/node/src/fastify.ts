/** A guard for Fastify 5, as a plugin. */
import type {
  FastifyInstance,
  FastifyPluginAsync,
  FastifyReply,
  FastifyRequest,
  onRequestAsyncHookHandler,
} from "fastify";

import { Checker } from "./checker.js";
import type { Client } from "./client.js";
import { Denial, unavailable } from "./denial.js";
import { authorizationOf, pathOf } from "./http.js";
import { guarded, type Identity } from "./identity.js";
import type { CheckOptions, HttpGuardOptions } from "./options.js";

export type { HttpGuardOptions, Identity };

/** What a route can require. */
export type RouteOptions = Pick<CheckOptions, "requiredRole" | "requiredSlot" | "maxStaleness" | "peek">;

export interface LatchkeyPluginOptions extends HttpGuardOptions {
  /** A client, or the address of Latchkey. */
  readonly latchkey: Client | string;
  /**
   * `false`: only routes with `config: { latchkey: ... }`, and those with `latchkeyGuard()` as a hook, are guarded.
   * Default: `true`.
   */
  readonly everyRoute?: boolean;
}

declare module "fastify" {
  interface FastifyRequest {
    /** The identity of the caller. Reading it throws if no guard has accepted the request. */
    readonly latchkey: Identity;
  }
  interface FastifyInstance {
    /** Returns a hook that guards a route: `{ preHandler: app.latchkeyGuard({ requiredRole: "admin" }) }`. */
    latchkeyGuard(options?: RouteOptions): onRequestAsyncHookHandler;
  }
  interface FastifyContextConfig {
    /** `false`: the route is open to everybody. Otherwise what it requires. */
    latchkey?: boolean | RouteOptions;
  }
}

const identities = new WeakMap<FastifyRequest, Identity>();

/** Guards all routes of the instance on which it is registered, and closes its connection with it. */
export const latchkey: FastifyPluginAsync<LatchkeyPluginOptions> = Object.assign(
  async (app: FastifyInstance, options: LatchkeyPluginOptions): Promise<void> => {
    const checker = new Checker(options.latchkey, options);
    const open = new Set(options.openPaths);
    const checkers = new Map<object, Checker>();

    app.decorateRequest("latchkey", {
      getter() {
        return guarded(identities.get(this));
      },
    });
    app.decorate("latchkeyGuard", (required: RouteOptions = {}) => hook(checker.requiring(required)));
    app.addHook("onClose", async () => checker.close());
    // Before the body is read, so that requests without a session cost little.
    app.addHook("onRequest", async (request, reply) => {
      const { latchkey = options.everyRoute ?? true } = request.routeOptions.config;
      if (latchkey === false || open.has(pathOf(request.raw.url))) {
        return;
      }
      let own = checker;
      if (latchkey !== true) {
        own = checkers.get(latchkey) ?? checker.requiring(latchkey);
        checkers.set(latchkey, own);
      }
      return hook(own).call(app, request, reply);
    });
  },
  // What fastify-plugin would set: the hooks apply to the instance itself, not only to this plugin.
  {
    [Symbol.for("skip-override")]: true,
    [Symbol.for("fastify.display-name")]: "@latchkey-auth/client",
    [Symbol.for("plugin-meta")]: { name: "@latchkey-auth/client", fastify: "5.x" },
  },
);

function hook(checker: Checker): onRequestAsyncHookHandler {
  return async (request: FastifyRequest, reply: FastifyReply) => {
    const over = new AbortController();
    const abort = (): void => over.abort();
    reply.raw.once("close", abort);
    try {
      const who = await checker.check(authorizationOf(request.raw), pathOf(request.raw.url), over.signal);
      identities.set(request, who);
    } catch (error) {
      const { status, headers, body } = (error instanceof Denial ? error : unavailable(error)).http();
      // Fastify would add a charset to the content type of a string.
      return reply.code(status).headers(headers).send(Buffer.from(body));
    } finally {
      reply.raw.off("close", abort);
    }
  };
}
