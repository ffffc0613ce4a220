// Uses the installed package as CommonJS and as ES modules, without any framework.
const assert = require("node:assert/strict");
const http = require("node:http");

const { Client, Rejected, Unavailable } = require("@latchkey-auth/client");
const { guard } = require("@latchkey-auth/client/express");
const { RejectionReason } = require("@latchkey-auth/client/v1/reason");

async function main() {
  const modules = await import("./smoke.mjs");
  assert.equal(modules.Client, Client);
  assert.equal(modules.guard, guard);
  assert.equal(modules.RejectionReason, RejectionReason);

  // Nobody listens on port 1.
  const latchkey = new Client("127.0.0.1:1");
  await assert.rejects(latchkey.validate(""), Rejected);
  await assert.rejects(latchkey.validate("t", { timeout: 1000 }), Unavailable);

  const guarded = guard(latchkey, { onOutage: () => {} });
  const server = http.createServer((request, response) => guarded(request, response, () => response.end("let in")));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${server.address().port}/`;
  const none = await fetch(url);
  assert.deepEqual([none.status, (await none.json()).reason], [401, "TOKEN_REQUIRED"]);
  const outage = await fetch(url, { headers: { authorization: "Bearer t" } });
  assert.deepEqual([outage.status, (await outage.json()).reason], [503, "STORE_UNAVAILABLE"]);
  server.close();
  server.closeAllConnections();
  latchkey.close();
  // Now nothing keeps the process alive.
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
