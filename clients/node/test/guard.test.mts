/** Tests what Latchkey never does. clients/scenarios.json covers everything else. */
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";

import { credentials, Metadata, Server, ServerCredentials, type ServiceError, status } from "@grpc/grpc-js";

import { ErrorInfo } from "./gen/google/rpc/error_details.js";
import { Status } from "./gen/google/rpc/status.js";
import { AuthServiceService, Session, ValidateRequest, ValidateResponse } from "@latchkey-auth/client/v1/auth";
import { Rejection } from "@latchkey-auth/client/v1/reason";
import { Client, guard, type GuardOptions, identity, type Identity } from "@latchkey-auth/client";
import { GreeterServiceClient, GreeterServiceService, GreetResponse } from "./gen/sample/v1/greeter.js";

const GREET = "/sample.v1.GreeterService/Greet";
const LIVE = ValidateResponse.create({
  verdict: {
    $case: "session",
    value: Session.fromPartial({
      userId: "u1",
      username: "anna",
      slot: "web",
      roles: ["staff"],
      issuedAt: { seconds: 1, nanos: 0 },
      expiresAt: { seconds: 2, nanos: 0 },
      idleExpiresAt: { seconds: 3, nanos: 0 },
    }),
  },
});

function rejects(rejection: Partial<Rejection>): ValidateResponse {
  return ValidateResponse.create({ verdict: { $case: "rejection", value: Rejection.create(rejection) } });
}

interface Fake {
  answer: ValidateResponse | { code: status; details: string } | undefined;
  asked?: ValidateRequest;
  metadata?: Metadata;
}

function listen(t: TestContext, server: Server): Promise<string> {
  t.after(() => server.forceShutdown());
  return new Promise((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) =>
      error === null ? resolve(`127.0.0.1:${port}`) : reject(error),
    );
  });
}

/** A fake Latchkey with configurable answers. */
async function latchkey(t: TestContext, fake: Fake) {
  const server = new Server();
  server.addService(AuthServiceService, {
    validate(call: { request: ValidateRequest; metadata: Metadata }, done: (e: unknown, a?: unknown) => void) {
      fake.asked = call.request;
      fake.metadata = call.metadata;
      if (fake.answer !== undefined) {
        "code" in fake.answer ? done(fake.answer) : done(null, fake.answer);
      }
    },
  } as never);
  const client = new Client(await listen(t, server));
  t.after(() => client.close());
  return client;
}

/** Calls a guarded method. Returns the identity that its handler sees, or the status. */
async function call(t: TestContext, fake: Fake, options: GuardOptions = {}): Promise<Identity | string> {
  let seen: Identity | string = "nobody";
  const interceptor = guard(await latchkey(t, fake), { onOutage: () => {}, ...options });
  const server = new Server({ interceptors: [interceptor] });
  server.addService(GreeterServiceService, {
    greet(call: { metadata: Metadata }, done: (e: null, a: GreetResponse) => void) {
      try {
        seen = identity(call);
      } catch {
        // The method is open.
      }
      done(null, GreetResponse.create());
    },
  } as never);
  const client = new GreeterServiceClient(await listen(t, server), credentials.createInsecure());
  t.after(() => client.close());
  const metadata = new Metadata();
  metadata.set("authorization", "Bearer t");
  metadata.set("x-forwarded-for", "192.0.2.1");
  return new Promise((resolve, reject) => {
    client.greet({ greeting: "Hello" }, metadata, (error) => (error === null ? resolve(seen) : reject(error)));
  });
}

/** Asserts that the call is denied and returns the metadata of the ErrorInfo. */
async function denied(t: TestContext, fake: Fake, code: status, reason: string, options: GuardOptions = {}) {
  const error = await call(t, fake, options).then(
    (who) => assert.fail(`was let in: ${JSON.stringify(who)}`),
    (error: ServiceError) => error,
  );
  const told = Status.decode(error.metadata.get("grpc-status-details-bin")[0] as Buffer);
  const info = ErrorInfo.decode(told.details[0]?.value ?? Buffer.of());
  assert.deepEqual([error.code, info.reason, info.domain], [code, reason, "latchkey"]);
  assert.deepEqual([told.code, told.message], [code, error.details]);
  return info.metadata;
}

test("the guard asks as it is told", async (t) => {
  const fake: Fake = { answer: LIVE };
  const who = await call(t, fake, { maxStaleness: 1500, peek: true, callerKey: "secret" });
  assert.ok(typeof who !== "string");
  assert.deepEqual([who.userId, who.username, who.roles, who.idleExpiresAt], ["u1", "anna", ["staff"], new Date(3000)]);
  assert.deepEqual(fake.asked, { token: "t", peek: true, maxStaleness: { seconds: 1, nanos: 500_000_000 } });
  assert.deepEqual(fake.metadata?.get("x-latchkey-key"), ["secret"]);
  assert.deepEqual(fake.metadata?.get("authorization"), []);
  assert.deepEqual(fake.metadata?.get("x-forwarded-for"), []);
});

test("without options the defaults of Latchkey count", async (t) => {
  const fake: Fake = { answer: LIVE };
  await call(t, fake);
  assert.deepEqual(fake.asked, { token: "t", peek: false, maxStaleness: undefined });
  assert.deepEqual(fake.metadata?.get("x-latchkey-key"), []);
});

for (let code = status.CANCELLED; code <= status.UNAUTHENTICATED; code += 1) {
  test(`${status[code]} of Latchkey is no verdict`, async (t) => {
    const outages: string[] = [];
    const onOutage = (why: Error, method: string) => outages.push(`${method} ${why.message}`);
    const fake = { answer: { code, details: "told to the guard alone" } };
    assert.deepEqual(await denied(t, fake, status.UNAVAILABLE, "STORE_UNAVAILABLE", { onOutage }), {});
    assert.equal(outages.length, 1);
    assert.match(outages[0] ?? "", /Greet .*told to the guard alone/);
  });
}

test("an answer without a verdict lets nobody in", async (t) => {
  await denied(t, { answer: ValidateResponse.create() }, status.UNAVAILABLE, "STORE_UNAVAILABLE");
});

test("Latchkey may take so long and no longer", async (t) => {
  const begun = Date.now();
  await denied(t, { answer: undefined }, status.UNAVAILABLE, "STORE_UNAVAILABLE", { timeout: 50 });
  assert.ok(Date.now() - begun < 900);
});

for (const reason of [0, 99]) {
  test(`the reason ${reason} is an unknown session`, async (t) => {
    const fake = { answer: rejects({ reason, terminal: true }) };
    const about = await denied(t, fake, status.UNAUTHENTICATED, "UNKNOWN_SESSION");
    assert.deepEqual(about, { terminal: "true" });
  });
}

test("a role or a slot can be required", async (t) => {
  const fake = { answer: LIVE };
  const who = await call(t, fake, { requiredRole: "staff", requiredSlot: "web" });
  assert.ok(typeof who !== "string" && who.username === "anna");
  const no = status.PERMISSION_DENIED;
  const terminal = "false";
  const role = await denied(t, fake, no, "ROLE_REQUIRED", { requiredRole: "sta" });
  assert.deepEqual(role, { terminal, role: "sta" });
  const slot = await denied(t, fake, no, "SLOT_REQUIRED", { requiredSlot: "mobile" });
  assert.deepEqual(slot, { terminal, slot: "mobile" });
});

test("only the methods that are named are open", async (t) => {
  const fake = { answer: { code: status.INTERNAL, details: "" } };
  assert.equal(await call(t, fake, { openMethods: [GREET] }), "nobody");
  for (const method of [`${GREET}s`, GREET.toLowerCase(), GREET.slice(1), "/sample.v1.GreeterService/"]) {
    await denied(t, fake, status.UNAVAILABLE, "STORE_UNAVAILABLE", { openMethods: [method] });
  }
});
