/** Tests of the client: typed errors, restarts, aborted calls and closing. */
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { inspect } from "node:util";

import { Metadata, Server, ServerCredentials, type ServerWritableStream, status } from "@grpc/grpc-js";

import {
  AccountDisabled,
  Client,
  InvalidCredentials,
  InvalidRequest,
  LatchkeyError,
  NotAllowed,
  Rejected,
  SessionLimit,
  Throttled,
  Unavailable,
} from "@latchkey-auth/client";
import {
  AuthServiceService,
  LogoutScope,
  Session,
  ValidateResponse,
  WatchSessionResponse,
  type WatchSessionRequest,
} from "@latchkey-auth/client/v1/auth";
import { Rejection, RejectionReason } from "@latchkey-auth/client/v1/reason";
import { SessionServiceService } from "@latchkey-auth/client/v1/session";
import { BadRequest, ErrorInfo, RetryInfo } from "./gen/google/rpc/error_details.js";
import { Status } from "./gen/google/rpc/status.js";

const at = (seconds: number) => ({ seconds, nanos: 0 });
const SESSION = Session.fromPartial({
  userId: "u1",
  username: "anna",
  sessionId: "s1",
  issuedAt: at(1),
  expiresAt: at(2),
  idleExpiresAt: at(3),
});
const LIVE = ValidateResponse.create({ verdict: { $case: "session", value: SESSION } });
const REPLACED = Rejection.create({
  reason: RejectionReason.REJECTION_REASON_REPLACED,
  message: "too bad",
  byDevice: "iPhone",
  at: { seconds: 7, nanos: 123_456_789 },
  terminal: true,
});

type Done = (error: unknown, answer?: unknown) => void;
type Call = { request: Record<string, unknown>; metadata: Metadata; sendMetadata(metadata: Metadata): void };
type Handlers = Record<string, (call: Call, done: Done) => void>;

function listen(server: Server, address = "127.0.0.1:0"): Promise<string> {
  return new Promise((resolve, reject) => {
    server.bindAsync(address, ServerCredentials.createInsecure(), (error, port) =>
      error === null ? resolve(`127.0.0.1:${port}`) : reject(error),
    );
  });
}

async function start(handlers: Handlers, address?: string) {
  const server = new Server();
  server.addService(AuthServiceService, handlers as never);
  server.addService(SessionServiceService, handlers as never);
  return { server, address: await listen(server, address) };
}

async function client(t: TestContext, handlers: Handlers, options = {}): Promise<Client> {
  const { server, address } = await start(handlers);
  const client = new Client(address, options);
  t.after(() => {
    client.close();
    server.forceShutdown();
  });
  return client;
}

/** A status as Latchkey sends it. */
function failure(
  code: status,
  reason: string,
  about: Record<string, string> = {},
  more: { type: string; value: Uint8Array }[] = [],
) {
  const info = ErrorInfo.encode({ reason, domain: "latchkey", metadata: about }).finish();
  const all = [{ type: "google.rpc.ErrorInfo", value: info }, ...more];
  const details = all.map(({ type, value }) => ({ typeUrl: `type.googleapis.com/${type}`, value }));
  const metadata = new Metadata();
  metadata.set("grpc-status-details-bin", Buffer.from(Status.encode({ code, message: "why", details }).finish()));
  return { code, details: "why", metadata };
}

async function thrown<T extends LatchkeyError>(call: Promise<unknown>, kind: new (...args: never) => T): Promise<T> {
  const error = await call.then(
    (answer) => assert.fail(`succeeded: ${inspect(answer)}`),
    (error: unknown) => error,
  );
  assert.ok(error instanceof kind, inspect(error));
  assert.ok(error instanceof LatchkeyError);
  assert.equal(error.name, kind.name);
  return error;
}

const RETRY = {
  type: "google.rpc.RetryInfo",
  value: RetryInfo.encode({ retryDelay: { seconds: 2, nanos: 500_000_000 } }).finish(),
};

test("a login sends what it is told, and its result has the token and the cookie", async (t) => {
  let seen: Call | undefined;
  const latchkey = await client(
    t,
    {
      login(call, done) {
        seen = call;
        const headers = new Metadata();
        headers.set("set-cookie", "a=b");
        call.sendMetadata(headers);
        done(null, {
          token: "hunter2",
          session: SESSION,
          displaced: [{ sessionId: "s0", slot: "web", device: "Mac", issuedAt: at(5) }],
        });
      },
    },
    { callerKey: "secret" },
  );
  const opened = await latchkey.login("anna", "password", {
    slot: "web",
    device: "Firefox",
    takeover: true,
    idempotencyKey: "k1",
    clientAddress: "203.0.113.5",
    cookie: true,
  });
  const { token, session, displaced, setCookie } = opened;
  assert.deepEqual([token, session.username, setCookie], ["hunter2", "anna", ["a=b"]]);
  assert.deepEqual(displaced, [{ sessionId: "s0", slot: "web", device: "Mac", issuedAt: new Date(5000) }]);
  assert.ok(!inspect(opened).includes("hunter2") && !inspect(latchkey).includes("secret"));
  assert.deepEqual(
    { ...seen?.request },
    {
      username: "anna",
      password: "password",
      slot: "web",
      device: "Firefox",
      takeover: true,
      idempotencyKey: "k1",
    },
  );
  const sent = ["x-latchkey-key", "x-forwarded-for", "x-latchkey-cookie"].map((name) => seen?.metadata.get(name)[0]);
  assert.deepEqual(sent, ["secret", "203.0.113.5", "true"]);
});

test("errors have types", async (t) => {
  let answer: unknown;
  const latchkey = await client(t, { login: (_, done) => done(answer), issueSession: (_, done) => done(answer) });
  const login = () => latchkey.login("anna", "password");

  answer = failure(status.UNAUTHENTICATED, "INVALID_CREDENTIALS");
  assert.equal((await thrown(login(), InvalidCredentials)).message, "why");
  answer = failure(status.PERMISSION_DENIED, "ACCOUNT_DISABLED");
  await thrown(login(), AccountDisabled);
  answer = failure(status.RESOURCE_EXHAUSTED, "THROTTLED", {}, [RETRY]);
  assert.equal((await thrown(login(), Throttled)).retryAfter, 2500);
  answer = failure(status.FAILED_PRECONDITION, "SESSION_LIMIT", {
    slot: "web",
    device: "Mac",
    issued_at_unix: "5",
    idle_seconds: "60",
  });
  const { holder } = await thrown(login(), SessionLimit);
  assert.deepEqual(holder, { slot: "web", device: "Mac", issuedAt: new Date(5000), idle: 60_000 });
  answer = failure(status.UNAUTHENTICATED, "REPLACED", { terminal: "true", at_unix: "7", by_device: "iPhone" });
  const rejected = await thrown(login(), Rejected);
  assert.deepEqual(
    [rejected.reason, rejected.terminal, rejected.at, rejected.byDevice],
    ["REPLACED", true, new Date(7000), "iPhone"],
  );
  answer = failure(status.UNAVAILABLE, "STORE_UNAVAILABLE", {}, [RETRY]);
  assert.equal((await thrown(login(), Unavailable)).retryAfter, 2500);
  answer = failure(status.RESOURCE_EXHAUSTED, "OVERLOADED");
  assert.equal((await thrown(login(), Unavailable)).retryAfter, 1000);
  const fieldViolations = [{ field: "device", description: "is too long" }];
  const violation = { type: "google.rpc.BadRequest", value: BadRequest.encode({ fieldViolations }).finish() };
  answer = failure(status.INVALID_ARGUMENT, "INVALID_REQUEST", {}, [violation]);
  assert.equal((await thrown(login(), InvalidRequest)).field, "device");
  answer = failure(status.PERMISSION_DENIED, "CALLER_NOT_ALLOWED", { role: "issuer" });
  assert.equal((await thrown(latchkey.issueSession({ userId: "u1" }), NotAllowed)).role, "issuer");
  answer = failure(status.UNAUTHENTICATED, "CALLER_UNAUTHENTICATED");
  await thrown(latchkey.issueSession({ username: "anna" }), NotAllowed);
  answer = failure(status.NOT_FOUND, "ACCOUNT_NOT_FOUND");
  const other = await thrown(latchkey.issueSession({ userId: "u2" }), LatchkeyError);
  assert.deepEqual([other.reason, other.code], ["ACCOUNT_NOT_FOUND", status.NOT_FOUND]);
});

test("a missing token is rejected everywhere and is not sent", async (t) => {
  const latchkey = await client(t, {});
  assert.equal((await thrown(latchkey.validate(""), Rejected)).reason, "TOKEN_REQUIRED");
  assert.equal((await thrown(latchkey.changePassword("", "old", "new"), Rejected)).reason, "TOKEN_REQUIRED");
  const { ended, rejection } = await latchkey.logout("");
  assert.deepEqual([ended, rejection?.reason, rejection?.terminal], [0, "TOKEN_REQUIRED", false]);
  for await (const { rejection } of latchkey.watchSession("")) {
    assert.equal(rejection?.reason, "TOKEN_REQUIRED");
  }
});

test("a rejection is told from an outage", async (t) => {
  let answer: [unknown, unknown?] = [
    null,
    ValidateResponse.create({ verdict: { $case: "rejection", value: REPLACED } }),
  ];
  const latchkey = await client(t, { validate: (_, done) => done(...answer) });
  const { reason, message, byDevice, at, terminal } = await thrown(latchkey.validate("t"), Rejected);
  assert.deepEqual([reason, message, byDevice, at, terminal], ["REPLACED", "too bad", "iPhone", new Date(7123), true]);
  answer = [{ code: status.UNAVAILABLE, details: "" }];
  await thrown(latchkey.validate("t"), Unavailable);
  answer = [null, ValidateResponse.create()];
  assert.ok(!((await thrown(latchkey.validate("t"), LatchkeyError)) instanceof Rejected));
});

test("the other methods send what they are told", async (t) => {
  const seen: unknown[] = [];
  const answers = (answer: unknown) => (call: Call, done: Done) => {
    seen.push(call.request);
    done(null, answer);
  };
  const latchkey = await client(t, {
    logout: answers({ ended: 2, rejection: undefined }),
    changePassword: answers({ ended: 1 }),
    getJwks: answers({ jwks: '{"keys":[{"kid":"k"}]}' }),
    listSessions: answers({ sessions: [{ ...SESSION, lastSeenAt: at(9) }], nextPageToken: "next" }),
    endSessions: answers({ ended: 3 }),
  });
  assert.equal((await latchkey.logout("t", { scope: "all" })).ended, 2);
  assert.deepEqual(seen.pop(), { token: "t", scope: LogoutScope.LOGOUT_SCOPE_ALL });
  assert.deepEqual(await latchkey.changePassword("t", "old", "new"), { ended: 1 });
  assert.deepEqual(seen.pop(), { token: "t", currentPassword: "old", newPassword: "new" });
  assert.deepEqual(await latchkey.getJwks(), { keys: [{ kid: "k" }] });
  const page = await latchkey.listSessions({ everyone: true, pageSize: 7 });
  assert.deepEqual([page.sessions[0]?.lastSeenAt, page.nextPageToken], [new Date(9000), "next"]);
  assert.deepEqual(seen.pop(), { userId: "", everyone: true, pageSize: 7, pageToken: "" });
  assert.deepEqual(await latchkey.endSessions({ userId: "u1", slot: "web" }), { ended: 3 });
  assert.deepEqual(seen.pop(), { userId: "u1", slot: "web", sessionId: "", message: "", everyone: false });
});

test("many tokens are validated over one stream", async (t) => {
  const latchkey = await client(t, {
    validateStream(call) {
      const stream = call as never as NodeJS.ReadWriteStream;
      stream.on("data", ({ token }: { token: string }) => {
        const verdicts: Record<string, unknown> = {
          good: LIVE,
          stale: ValidateResponse.create({ verdict: { $case: "rejection", value: REPLACED } }),
          down: ValidateResponse.fromPartial({
            failure: { code: status.UNAVAILABLE, reason: "STORE_UNAVAILABLE" },
          }),
        };
        stream.write(verdicts[token] as never);
      });
      stream.on("end", () => stream.end());
    },
  });
  const verdicts = [];
  for await (const { session, rejection, error } of latchkey.validateStream(["good", "stale", "down"])) {
    verdicts.push(session?.username ?? rejection?.reason ?? error?.name);
  }
  assert.deepEqual(verdicts, ["anna", "REPLACED", "Unavailable"]);
  async function* broken() {
    yield "good";
    throw new Error("no more tokens");
  }
  await assert.rejects(async () => {
    for await (const _ of latchkey.validateStream(broken()));
  }, /no more tokens/);
});

type Watch = ServerWritableStream<WatchSessionRequest, WatchSessionResponse>;

test("a watch yields the session and its end", async (t) => {
  const latchkey = await client(t, {
    watchSession(call) {
      const watch = call as never as Watch;
      watch.write(WatchSessionResponse.create({ verdict: { $case: "session", value: SESSION } }));
      watch.write(WatchSessionResponse.create({ verdict: { $case: "rejection", value: REPLACED } }));
      watch.end();
    },
  });
  const events = [];
  for await (const { session, rejection } of latchkey.watchSession("t")) {
    events.push(session?.username ?? rejection?.reason);
  }
  assert.deepEqual(events, ["anna", "REPLACED"]);
});

test("a watch of a bad token yields its rejection, and one that breaks throws", async (t) => {
  let answer = failure(status.UNAUTHENTICATED, "KICKED", { terminal: "true" });
  const latchkey = await client(t, { watchSession: (call) => (call as never as Watch).emit("error", answer) });
  for await (const { rejection } of latchkey.watchSession("t")) {
    assert.equal(rejection?.reason, "KICKED");
  }
  answer = failure(status.RESOURCE_EXHAUSTED, "OVERLOADED");
  await assert.rejects(latchkey.watchSession("t").next(), Unavailable);
});

test("a signal ends calls and watches, and so does their reader", { timeout: 10_000 }, async (t) => {
  const open = new Set<Watch>();
  const latchkey = await client(t, {
    validate: () => {},
    watchSession(call) {
      const watch = call as never as Watch;
      open.add(watch);
      watch.on("close", () => open.delete(watch));
      watch.write(WatchSessionResponse.create({ verdict: { $case: "session", value: SESSION } }));
    },
  });
  const abort = new AbortController();
  const reason = new Error("enough");
  const pending = latchkey.validate("t", { signal: abort.signal });
  const watch = latchkey.watchSession("t", { signal: abort.signal });
  await watch.next();
  const end = watch.next();
  abort.abort(reason);
  await assert.rejects(pending, reason);
  await assert.rejects(end, reason);
  await assert.rejects(latchkey.validate("t", { signal: abort.signal }), reason);
  for await (const _ of latchkey.watchSession("t")) {
    break;
  }
  while (open.size > 0) {
    await new Promise(setImmediate);
  }
});

test("a call takes no longer than its timeout", async (t) => {
  const latchkey = await client(t, { validate: () => {} }, { timeout: 50 });
  await thrown(latchkey.validate("t"), Unavailable);
});

test("the service config repeats validate and not login", async (t) => {
  let [outages, logins] = [3, 0];
  const down = { code: status.UNAVAILABLE, details: "restarting" };
  const latchkey = await client(t, {
    validate: (_, done) => (outages-- > 0 ? done(down) : done(null, LIVE)),
    login(_, done) {
      logins += 1;
      done(down);
    },
  });
  assert.equal((await latchkey.validate("t")).userId, "u1");
  outages = 4;
  await thrown(latchkey.validate("t"), Unavailable);
  await thrown(latchkey.login("anna", "password"), Unavailable);
  assert.equal(logins, 1);
});

test("after a restart of Latchkey the first call succeeds", async (t) => {
  const handlers: Handlers = { validate: (_, done) => done(null, LIVE) };
  const { server, address } = await start(handlers);
  const latchkey = new Client(address);
  t.after(() => latchkey.close());
  await latchkey.validate("t");
  server.forceShutdown();
  await thrown(latchkey.validate("t"), Unavailable);
  const again = await start(handlers, address);
  t.after(() => again.server.forceShutdown());
  const begun = Date.now();
  assert.equal((await latchkey.validate("t", { timeout: 1000 })).userId, "u1");
  assert.ok(Date.now() - begun < 1000);
});

test("a client can be created before Latchkey is up, and be closed by `using`", async (t) => {
  const handlers: Handlers = { validate: (_, done) => done(null, LIVE) };
  const { server, address } = await start(handlers);
  server.forceShutdown();
  const latchkey = new Client(address);
  const again = await start(handlers, address);
  t.after(() => again.server.forceShutdown());
  await latchkey.validate("t");
  latchkey[Symbol.dispose]();
  await assert.rejects(latchkey.validate("t"));
  await latchkey[Symbol.asyncDispose]();
});
