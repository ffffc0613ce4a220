/** Tests of the guard for Connect. The scenarios play the sample over gRPC; this uses the protocol of Connect, too. */
import assert from "node:assert/strict";
import http from "node:http";
import http2 from "node:http2";
import type { AddressInfo } from "node:net";
import { test, type TestContext } from "node:test";
import { setTimeout as pause } from "node:timers/promises";

import { Code, ConnectError, type ConnectRouter, createClient, type HandlerContext } from "@connectrpc/connect";
import { connectNodeAdapter, createConnectTransport } from "@connectrpc/connect-node";

import { guard, type GuardOptions, identity } from "@latchkey-auth/client/connect";
import { ErrorInfo } from "./gen/google/rpc/error_details.js";
import { GreeterService } from "./gen/es/sample/v1/greeter_pb.js";
import { Fake, until } from "./fake.mjs";

interface Seen {
  begun: number;
  ended: string[];
}

async function start(t: TestContext, fake: Fake, options: GuardOptions = {}, version: "1.1" | "2" = "1.1") {
  const seen: Seen = { begun: 0, ended: [] };
  const answer = (context: HandlerContext) => ({ text: `Hello, ${identity(context).username}` });
  const routes = (router: ConnectRouter) =>
    router.service(GreeterService, {
      greet(_, context) {
        seen.begun += 1;
        return answer(context);
      },
      async *greetOn(_, context) {
        seen.begun += 1;
        try {
          for (;;) {
            yield answer(context);
            await pause(5, undefined, { signal: context.signal });
          }
        } finally {
          seen.ended.push("greetOn");
        }
      },
      async greetAll(requests) {
        seen.begun += 1;
        try {
          for await (const _ of requests);
          seen.ended.push("all is said");
        } catch {
          seen.ended.push("broke off");
        }
        return {};
      },
      begun: (_, context) => {
        assert.throws(() => identity(context), /no identity/);
        return {};
      },
    });
  const interceptors = [guard(await fake.start(t), { ...fake.options, ...options })];
  const handler = connectNodeAdapter({ routes, interceptors });
  const server = version === "2" ? http2.createServer(handler) : http.createServer(handler);
  const connections = new Set<{ destroy(): void }>();
  server.on("connection", (connection: { destroy(): void }) => connections.add(connection));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.close();
    connections.forEach((connection) => connection.destroy());
  });
  const { port } = server.address() as AddressInfo;
  const transport = createConnectTransport({ baseUrl: `http://127.0.0.1:${port}`, httpVersion: version });
  return { seen, port, client: createClient(GreeterService, transport) };
}

const headers = { authorization: "Bearer t" };

function denied(error: unknown, code: Code, reason: string): Record<string, string> {
  assert.ok(error instanceof ConnectError, String(error));
  const [detail] = error.details as { type: string; value: Uint8Array }[];
  assert.equal(detail?.type, "google.rpc.ErrorInfo");
  const info = ErrorInfo.decode(detail.value);
  assert.deepEqual([error.code, info.reason, info.domain], [code, reason, "latchkey"]);
  return info.metadata;
}

async function failed(call: Promise<unknown>): Promise<unknown> {
  return call.then(
    () => assert.fail("succeeded"),
    (error: unknown) => error,
  );
}

for (const version of ["1.1", "2"] as const) {
  test(`calls over HTTP/${version} are accepted and denied`, async (t) => {
    const fake = new Fake();
    const openMethods = ["/sample.v1.GreeterService/Begun"];
    const { client, seen } = await start(t, fake, { openMethods, requiredSlot: "web" }, version);
    assert.equal((await client.greet({}, { headers })).text, "Hello, anna");
    await client.begun({});
    denied(await failed(client.greet({})), Code.Unauthenticated, "TOKEN_REQUIRED");
    denied(
      await failed(client.greet({}, { headers: { authorization: "Basic t" } })),
      Code.Unauthenticated,
      "MALFORMED",
    );
    fake.rejection = {
      reason: 6,
      message: "m",
      byDevice: "Zoë’s iPhone",
      terminal: true,
      at: { seconds: 7, nanos: 1 },
    };
    const about = denied(await failed(client.greet({}, { headers })), Code.Unauthenticated, "REPLACED");
    assert.deepEqual(about, { terminal: "true", at_unix: "7", by_device: "Zoë’s iPhone" });
    fake.rejection = undefined;
    fake.code = 7;
    denied(await failed(client.greet({}, { headers })), Code.Unavailable, "STORE_UNAVAILABLE");
    assert.deepEqual([seen.begun, fake.outages.length], [1, 1]);
  });
}

test("a role can be required", async (t) => {
  const { client } = await start(t, new Fake(), { requiredRole: "admin" });
  const about = denied(await failed(client.greet({}, { headers })), Code.PermissionDenied, "ROLE_REQUIRED");
  assert.deepEqual(about, { terminal: "false", role: "admin" });
});

test("two tokens are rejected over HTTP/1.1", async (t) => {
  const { port, seen } = await start(t, new Fake());
  const two = ["authorization", "Bearer t", "authorization", "Bearer u"];
  const path = "/sample.v1.GreeterService/Greet";
  const body = await new Promise<string>((resolve, reject) => {
    const options = {
      port,
      path,
      method: "POST",
      headers: ["host", "localhost", "content-type", "application/json", ...two],
    };
    http
      .request(options, (response) => {
        let text = "";
        response.on("data", (part) => (text += String(part))).on("end", () => resolve(text));
      })
      .on("error", reject)
      .end("{}");
  });
  assert.match(body, /There is more than one `authorization`/);
  assert.equal(seen.begun, 0);
});

test("streams end with the session, and their handlers end, too", { timeout: 10_000 }, async (t) => {
  const fake = new Fake();
  const { client, seen } = await start(t, fake, {}, "2");
  let answers = 0;
  const listening = (async () => {
    for await (const _ of client.greetOn({}, { headers })) {
      answers += 1;
    }
  })();
  async function* requests() {
    yield {};
    await pause(60_000, undefined, { ref: false });
  }
  const uploading = client.greetAll(requests(), { headers });
  await until(() => answers > 1 && seen.begun === 2 && fake.watches.size === 2);
  const ends = [failed(listening), failed(uploading)];
  await fake.end();
  for (const error of await Promise.all(ends)) {
    denied(error, Code.Unauthenticated, "REPLACED");
  }
  await until(() => seen.ended.length === 2 && fake.watches.size === 0);
  assert.deepEqual(new Set(seen.ended), new Set(["greetOn", "broke off"]));
});

test("nobody watches once a stream has ended", { timeout: 10_000 }, async (t) => {
  const fake = new Fake();
  const { client } = await start(t, fake, {}, "2");
  for await (const _ of client.greetOn({}, { headers })) {
    await until(() => fake.watches.size === 1);
    break;
  }
  await until(() => fake.watches.size === 0);
});
