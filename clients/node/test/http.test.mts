/** Tests of the guards for Express, Fastify and Nest. The scenarios of all clients cover the rest. */
import "reflect-metadata";

import assert from "node:assert/strict";
import http from "node:http";
import type { AddressInfo } from "node:net";
import { test, type TestContext } from "node:test";

import { Controller, Get, Module, UseGuards } from "@nestjs/common";
import { type AbstractHttpAdapter, NestFactory } from "@nestjs/core";
import { ExpressAdapter } from "@nestjs/platform-express";
import { FastifyAdapter } from "@nestjs/platform-fastify";
import express from "express";
// @ts-expect-error: it has the same types, under another name.
import express4 from "express4";
import fastify from "fastify";

import { status } from "@grpc/grpc-js";

import type { Client, Identity as Caller } from "@latchkey-auth/client";
import { guard, type HttpGuardOptions, identity } from "@latchkey-auth/client/express";
import { latchkey } from "@latchkey-auth/client/fastify";
import { Identity, LatchkeyGuard, LatchkeyModule, Open, RequiredRole, RequiredSlot } from "@latchkey-auth/client/nest";
import { RejectionReason } from "@latchkey-auth/client/v1/reason";
import { Fake, REPLACED } from "./fake.mjs";

/** Counts the handlers that began. */
let begun = 0;

function greet(caller: Caller) {
  begun += 1;
  return { username: caller.username, roles: caller.roles };
}

/** Starts a service with /greet, /admin for a role, /mobile for a slot, and the open /begun and /named. Returns its port. */
type Start = (t: TestContext, client: Client, options: HttpGuardOptions) => Promise<number>;

const withExpress =
  (make: typeof express): Start =>
  async (t, client, options) => {
    const app = make();
    const open = { ...options, openPaths: ["/named"] };
    app.get("/begun", (_, response) => void response.json({ count: begun }));
    app.get("/admin", guard(client, { ...open, requiredRole: "admin" }), (_, response) => void response.json({}));
    const router = make.Router();
    router.get("/mobile", (_, response) => void response.json({}));
    app.use(
      "/",
      guard(client, open),
      make.Router().get("/greet", (request, response) => void response.json(greet(identity(request)))),
    );
    app.get("/named", (request, response) => void response.json({ caller: request.latchkey ?? null }));
    app.use(guard(client, { ...open, requiredSlot: "mobile" }), router);
    const server = app.listen(0, "127.0.0.1");
    t.after(() => server.close());
    await new Promise((resolve) => server.once("listening", resolve));
    return (server.address() as AddressInfo).port;
  };

const withFastify: Start = async (t, client, options) => {
  const app = fastify();
  // Before the plugin, and guarded all the same.
  app.get("/greet", async (request) => greet(request.latchkey));
  await app.register(latchkey, { ...options, latchkey: client, openPaths: ["/named"] });
  app.get("/begun", { config: { latchkey: false } }, async () => ({ count: begun }));
  app.get("/admin", { config: { latchkey: { requiredRole: "admin" } } }, async () => ({}));
  app.get("/mobile", { config: { latchkey: { requiredSlot: "mobile" } } }, async () => ({}));
  app.get("/named", async (request) => {
    assert.throws(() => request.latchkey, /no identity/);
    return { caller: null };
  });
  t.after(() => app.close());
  return Number(new URL(await app.listen({ host: "127.0.0.1", port: 0 })).port);
};

/** The same with hooks of routes. */
const withHooks: Start = async (t, client, options) => {
  const app = fastify();
  await app.register(latchkey, { ...options, latchkey: client, everyRoute: false });
  app.get("/greet", { config: { latchkey: true } }, async (request) => greet(request.latchkey));
  app.get("/begun", async () => ({ count: begun }));
  app.get("/admin", { preHandler: app.latchkeyGuard({ requiredRole: "admin" }) }, async () => ({}));
  app.get("/mobile", { onRequest: app.latchkeyGuard({ requiredSlot: "mobile" }) }, async () => ({}));
  app.get("/named", async () => ({ caller: null }));
  t.after(() => app.close());
  return Number(new URL(await app.listen({ host: "127.0.0.1", port: 0 })).port);
};

@Controller()
class Greeter {
  @Get("greet")
  greet(@Identity() caller: Identity) {
    return greet(caller);
  }

  @Open()
  @Get("begun")
  begun() {
    return { count: begun };
  }

  @Get("named")
  named() {
    return { caller: null };
  }
}

@RequiredRole("admin")
@Controller()
class Required {
  @Get("admin")
  admin() {
    return {};
  }

  @RequiredRole("staff")
  @RequiredSlot("mobile")
  @Get("mobile")
  mobile() {
    return {};
  }
}

const withNest =
  (adapter: () => AbstractHttpAdapter): Start =>
  async (t, client, options) => {
    @Module({
      imports: [LatchkeyModule.forRoot({ ...options, latchkey: client, openPaths: ["/named"] })],
      controllers: [Greeter, Required],
    })
    class App {}
    const app = await NestFactory.create(App, adapter(), { logger: false });
    t.after(() => app.close());
    await app.listen(0, "127.0.0.1");
    return Number(new URL(await app.getUrl()).port);
  };

/** The same with a guard for each controller. */
const withUseGuards: Start = async (t, client, options) => {
  @UseGuards(LatchkeyGuard)
  @Controller()
  class Guarded extends Greeter {}
  @UseGuards(LatchkeyGuard)
  @RequiredRole("admin")
  @Controller()
  class GuardedRequired extends Required {}
  @Module({
    imports: [LatchkeyModule.forRoot({ ...options, latchkey: client, openPaths: ["/named"], everyHandler: false })],
    controllers: [Guarded, GuardedRequired],
  })
  class App {}
  const app = await NestFactory.create(App, { logger: false });
  t.after(() => app.close());
  await app.listen(0, "127.0.0.1");
  return Number(new URL(await app.getUrl()).port);
};

interface Answer {
  readonly status: number;
  readonly headers: http.IncomingHttpHeaders;
  readonly body: string;
}

/** Sends these `authorization` headers. Unlike `fetch`, this does not join them. */
function get(port: number, path: string, ...authorization: string[]): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const headers = authorization.flatMap((value) => ["authorization", value]);
    const options = { port, path, agent: false, headers: ["host", "localhost", ...headers] };
    http
      .get(options, (response) => {
        let body = "";
        response.setEncoding("utf8").on("data", (text: string) => (body += text));
        response.on("end", () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body }));
      })
      .on("error", reject);
  });
}

function denied(
  { status, headers, body }: Answer,
  code: number,
  reason: string,
  challenge: string | undefined,
): unknown {
  assert.equal(status, code, body);
  assert.equal(headers["content-type"], "application/json");
  assert.equal(headers["cache-control"], "no-store");
  assert.equal(headers["x-latchkey-reason"], reason);
  const details = challenge && `, error="${challenge}", error_description="${reason}"`;
  const all = challenge === undefined ? undefined : `Bearer realm="latchkey"${details}`;
  assert.equal(headers["www-authenticate"], all);
  assert.equal(headers["content-length"], String(Buffer.byteLength(body)));
  const told = JSON.parse(body) as { reason: string };
  assert.equal(told.reason, reason);
  return told;
}

for (const [name, start] of Object.entries<Start>({
  "Express 5": withExpress(express),
  "Express 4": withExpress(express4 as unknown as typeof express),
  Fastify: withFastify,
  "Fastify with hooks of routes": withHooks,
  "Nest on Express": withNest(() => new ExpressAdapter()),
  "Nest on Fastify": withNest(() => new FastifyAdapter() as never),
  "Nest with guards of controllers": withUseGuards,
})) {
  test(`${name}: requests are accepted and denied as by Latchkey`, async (t) => {
    const fake = new Fake();
    const port = await start(t, await fake.start(t), { ...fake.options, peek: true, maxStaleness: 1500 });
    begun = 0;
    for (const value of ["Bearer t", "bearer t", "BEARER   t"]) {
      const { status, body } = await get(port, "/greet", value);
      assert.deepEqual([status, JSON.parse(body)], [200, { username: "anna", roles: ["staff"] }]);
    }
    assert.deepEqual(fake.asked, { token: "t", peek: true, maxStaleness: { seconds: 1, nanos: 500_000_000 } });
    assert.deepEqual(fake.metadata?.get("x-latchkey-key"), ["secret"]);
    assert.equal(begun, 3);

    denied(await get(port, "/admin", "Bearer t"), 403, "ROLE_REQUIRED", "insufficient_scope");
    denied(await get(port, "/mobile", "Bearer t"), 403, "SLOT_REQUIRED", "insufficient_scope");
    for (const values of [[], [""], ["Bearer"], ["bearer   "]]) {
      denied(await get(port, "/greet", ...values), 401, "TOKEN_REQUIRED", "");
    }
    for (const values of [
      ["Bearer t", "Bearer t"],
      ["Bearer t, Bearer t"],
      ["", "Bearer t"],
      ["Basic t"],
      ["Bearers"],
    ]) {
      denied(await get(port, "/greet", ...values), 401, "MALFORMED", "invalid_request");
    }

    fake.rejection = REPLACED;
    assert.deepEqual(denied(await get(port, "/greet", "Bearer t"), 401, "REPLACED", "invalid_token"), {
      reason: "REPLACED",
      message: "You were logged out because of a newer login on Zoë’s iPhone.",
      terminal: true,
      at: "2026-07-29T16:34:56.100020Z",
      by_device: "Zoë’s iPhone",
    });
    fake.rejection = { ...REPLACED, reason: RejectionReason.REJECTION_REASON_ACCOUNT_DISABLED, byDevice: "" };
    denied(await get(port, "/greet", "Bearer t"), 403, "ACCOUNT_DISABLED", undefined);

    for (const path of ["/begun", "/named", "/named?a=b"]) {
      assert.equal((await get(port, path)).status, 200, path);
    }
    assert.equal(JSON.parse((await get(port, "/begun")).body).count, 3);
    assert.deepEqual(fake.outages, []);
  });

  test(`${name}: without a verdict nobody gets in, and the log has the cause`, async (t) => {
    const fake = new Fake();
    const port = await start(t, await fake.start(t), fake.options);
    begun = 0;
    for (const code of [status.INTERNAL, status.UNAUTHENTICATED, status.PERMISSION_DENIED, status.INVALID_ARGUMENT]) {
      fake.code = code;
      const answer = await get(port, "/greet", "Bearer t");
      assert.deepEqual([answer.status, answer.headers["retry-after"]], [503, "1"]);
      assert.deepEqual(
        [answer.headers["cache-control"], answer.headers["content-type"]],
        ["no-store", "application/json"],
      );
      const message = "the session cannot be checked at the moment: try again";
      assert.equal(answer.body, JSON.stringify({ reason: "STORE_UNAVAILABLE", message }));
    }
    assert.equal(begun, 0);
    assert.equal(fake.outages.length, 4);
    assert.match(fake.outages[0] ?? "", /^\/greet .*for the log alone/);
  });
}

@Open()
@Controller()
class Opened {
  @Get("open")
  open() {
    return {};
  }

  @RequiredRole("admin")
  @Get("closed")
  closed() {
    return {};
  }
}

test("Nest: a handler with a role is not open in an open controller", async (t) => {
  const fake = new Fake();
  @Module({ imports: [LatchkeyModule.forRoot({ latchkey: await fake.start(t) })], controllers: [Opened] })
  class App {}
  const app = await NestFactory.create(App, { logger: false });
  t.after(() => app.close());
  await app.listen(0, "127.0.0.1");
  const port = Number(new URL(await app.getUrl()).port);
  assert.equal((await get(port, "/open")).status, 200);
  denied(await get(port, "/closed"), 401, "TOKEN_REQUIRED", "");
  denied(await get(port, "/closed", "Bearer t"), 403, "ROLE_REQUIRED", "insufficient_scope");
});

test("Express: only whole paths are open", async (t) => {
  const fake = new Fake();
  const port = await withExpress(express)(t, await fake.start(t), fake.options);
  for (const path of ["/named/", "/NAMED", "//named", "/named/../greet", "/%6eamed", "/greet?/named"]) {
    assert.equal((await get(port, path)).status, 401, path);
  }
});
