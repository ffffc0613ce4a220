/** Tests of streams that clients/scenarios.json does not cover. */
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { setTimeout as pause } from "node:timers/promises";

import {
  credentials,
  Metadata,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerWritableStream,
  type ServiceError,
  status,
} from "@grpc/grpc-js";

import { ErrorInfo } from "./gen/google/rpc/error_details.js";
import { Status } from "./gen/google/rpc/status.js";
import {
  AuthServiceService,
  Session,
  type ValidateRequest,
  ValidateResponse,
  type WatchSessionRequest,
  WatchSessionResponse,
} from "@latchkey-auth/client/v1/auth";
import { Rejection, RejectionReason } from "@latchkey-auth/client/v1/reason";
import { Client, guard, type GuardOptions, identity } from "@latchkey-auth/client";
import { GreeterServiceClient, GreeterServiceService, GreetRequest, GreetResponse } from "./gen/sample/v1/greeter.js";

const SESSION = Session.fromPartial({
  userId: "u1",
  issuedAt: { seconds: 1, nanos: 0 },
  expiresAt: { seconds: 2, nanos: 0 },
  idleExpiresAt: { seconds: 3, nanos: 0 },
});
const REPLACED = Rejection.create({
  reason: RejectionReason.REJECTION_REASON_REPLACED,
  message: "too bad",
  byDevice: "iPhone",
  terminal: true,
});

type Watch = ServerWritableStream<WatchSessionRequest, WatchSessionResponse>;

/** A fake Latchkey whose sessions end, and whose watches break, on demand. */
class Fake {
  rejection: Rejection | undefined;
  code: status | undefined;
  watchError: status | undefined;
  peeked = 0;
  watched = 0;
  watches = new Set<Watch>();

  readonly service = {
    validate: (call: { request: ValidateRequest }, done: (e: unknown, a?: ValidateResponse) => void): void => {
      const { peek } = call.request;
      this.peeked += Number(peek);
      if (peek && this.code !== undefined) {
        done({ code: this.code, details: "no verdict" });
      } else if (peek && this.rejection !== undefined) {
        done(null, ValidateResponse.create({ verdict: { $case: "rejection", value: this.rejection } }));
      } else {
        done(null, ValidateResponse.create({ verdict: { $case: "session", value: SESSION } }));
      }
    },
    watchSession: (call: Watch): void => {
      this.watched += 1;
      assert.deepEqual(call.metadata.get("x-forwarded-for"), []);
      if (this.watchError !== undefined) {
        call.emit("error", { code: this.watchError, details: "no watch" });
        return;
      }
      this.watches.add(call);
      call.on("close", () => this.watches.delete(call));
      call.write(WatchSessionResponse.create({ verdict: { $case: "session", value: SESSION } }));
    },
  };

  async watch(): Promise<Watch> {
    await until(() => this.watches.size === 1);
    const [watch] = this.watches;
    assert.ok(watch);
    return watch;
  }

  async end(): Promise<void> {
    const watch = await this.watch();
    watch.write(WatchSessionResponse.create({ verdict: { $case: "rejection", value: REPLACED } }));
    watch.end();
  }
}

async function until(so: () => boolean): Promise<void> {
  for (const begun = Date.now(); !so(); await pause(2)) {
    assert.ok(Date.now() - begun < 5000, "it does not happen");
  }
}

function listen(t: TestContext, server: Server): Promise<string> {
  t.after(() => server.forceShutdown());
  return new Promise((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) =>
      error === null ? resolve(`127.0.0.1:${port}`) : reject(error),
    );
  });
}

/** Starts a stream that is guarded with this Latchkey. */
async function chat(t: TestContext, fake: Fake, options: GuardOptions = {}, text = "") {
  const latchkey = new Server();
  latchkey.addService(AuthServiceService, fake.service as never);
  const asks = new Client(await listen(t, latchkey));
  t.after(() => asks.close());
  const handler = { events: [] as string[] };
  const server = new Server({ interceptors: [guard(asks, { onOutage: () => {}, ...options })] });
  server.addService(GreeterServiceService, {
    chat(call: ServerDuplexStream<GreetRequest, GreetResponse>) {
      assert.equal(identity(call).userId, "u1");
      const again = setInterval(() => call.write(GreetResponse.create({ text })), 5);
      call.on("cancelled", () => handler.events.push("cancelled"));
      call.on("close", () => {
        handler.events.push("close");
        clearInterval(again);
      });
      const read = async (): Promise<void> => {
        for await (const _ of call);
      };
      read().then(
        () => handler.events.push("all is said"),
        () => handler.events.push("broke off"),
      );
    },
  } as never);
  const client = new GreeterServiceClient(await listen(t, server), credentials.createInsecure());
  t.after(() => client.close());
  const metadata = new Metadata();
  metadata.set("authorization", "Bearer t");
  metadata.set("x-forwarded-for", "192.0.2.1");
  const call = client.chat(metadata, { deadline: Date.now() + 10_000 });
  const answers = { count: 0 };
  call.on("data", () => (answers.count += 1));
  const ended = new Promise<ServiceError>((resolve) => call.on("error", resolve));
  await until(() => answers.count > 0);
  return { call, answers, ended, handler };
}

function denied(error: ServiceError, code: status, reason: string): Record<string, string> {
  const told = Status.decode(error.metadata.get("grpc-status-details-bin")[0] as Buffer);
  const info = ErrorInfo.decode(told.details[0]?.value ?? Buffer.of());
  assert.deepEqual([error.code, info.reason, info.domain], [code, reason, "latchkey"]);
  assert.deepEqual([told.code, told.message], [code, error.details]);
  return info.metadata;
}

function replaced(error: ServiceError): void {
  const about = denied(error, status.UNAUTHENTICATED, "REPLACED");
  assert.deepEqual(about, { terminal: "true", by_device: "iPhone" });
}

test("a stream ends with the session, and its handler is told", async (t) => {
  const fake = new Fake();
  const { ended, handler } = await chat(t, fake);
  await fake.end();
  replaced(await ended);
  await until(() => handler.events.length === 3);
  assert.deepEqual(new Set(handler.events), new Set(["cancelled", "close", "broke off"]));
  await until(() => fake.watches.size === 0);
});

test("a handler is told even if its client reads nothing", async (t) => {
  const fake = new Fake();
  const { call, handler, answers } = await chat(t, fake, {}, "long ".repeat(20_000));
  call.pause();
  let before = -1;
  while (before !== answers.count) {
    before = answers.count;
    await pause(100);
  }
  await fake.end();
  await until(() => handler.events.includes("broke off"));
});

test("a watch that breaks says nothing of the session", async (t) => {
  const fake = new Fake();
  const { ended } = await chat(t, fake);
  for (let times = 0; times < 3; times += 1) {
    const watch = await fake.watch();
    watch.emit("error", { code: status.UNAVAILABLE, details: "it breaks" });
    await until(() => !fake.watches.has(watch));
  }
  await fake.end();
  replaced(await ended);
  assert.equal(fake.watched, 4);
});

for (const options of [{}, { maxWatches: 0 }]) {
  test(`a session that cannot be watched is asked about, with ${JSON.stringify(options)}`, async (t) => {
    const fake = new Fake();
    fake.watchError = status.RESOURCE_EXHAUSTED;
    const told: string[] = [];
    const onOutage = (why: Error): unknown => told.push(why.message);
    const { ended } = await chat(t, fake, { ...options, onOutage });
    await until(() => fake.peeked >= 2);
    fake.rejection = REPLACED;
    replaced(await ended);
    assert.equal(fake.watched === 0, "maxWatches" in options);
    assert.equal(told.length, 1);
  });
}

test("a stream outlives an outage for a while", async (t) => {
  const fake = new Fake();
  fake.watchError = status.UNAVAILABLE;
  fake.code = status.PERMISSION_DENIED;
  const begun = Date.now();
  const { ended } = await chat(t, fake, { outageGrace: 500 });
  denied(await ended, status.UNAVAILABLE, "STORE_UNAVAILABLE");
  const took = Date.now() - begun;
  assert.ok(took >= 500 && took < 3000, `took ${took} ms`);
});

test("streams need not be watched", async (t) => {
  const fake = new Fake();
  const { answers, call } = await chat(t, fake, { watchStreams: false });
  await until(() => answers.count > 20);
  call.cancel();
  assert.deepEqual([fake.watched, fake.peeked], [0, 0]);
});

test("nobody watches once the stream has ended", async (t) => {
  const fake = new Fake();
  const { call, ended } = await chat(t, fake);
  await fake.watch();
  call.cancel();
  await ended;
  await until(() => fake.watches.size === 0);
});
