/** A service with Fastify: `GET /greet` is for users who are logged in. */
import fastify from "fastify";

import { latchkey } from "@latchkey-auth/client/fastify";

const { LATCHKEY_ADDRESS, LATCHKEY_CALLER_KEY, LATCHKEY_REQUIRED_ROLE, LATCHKEY_REQUIRED_SLOT, LISTEN } = process.env;
const [host, port] = (LISTEN ?? "127.0.0.1:0").split(":");
const app = fastify();

// guarded from here
await app.register(latchkey, {
  latchkey: LATCHKEY_ADDRESS ?? "127.0.0.1:50051",
  callerKey: LATCHKEY_CALLER_KEY,
  requiredRole: LATCHKEY_REQUIRED_ROLE,
  requiredSlot: LATCHKEY_REQUIRED_SLOT,
});
// to here

let begun = 0;

app.get("/greet", async (request) => {
  begun += 1;
  const caller = request.latchkey;
  return {
    text: `Hello, ${caller.username}`,
    identity: {
      user_id: caller.userId,
      username: caller.username,
      session_id: caller.sessionId,
      slot: caller.slot,
      device: caller.device,
      roles: caller.roles,
      issued_at_unix: Math.floor(caller.issuedAt.getTime() / 1000),
      expires_at_unix: Math.floor(caller.expiresAt.getTime() / 1000),
    },
  };
});

app.get("/begun", { config: { latchkey: false } }, async () => ({ count: begun }));

console.log("listens on", (await app.listen({ host, port: Number(port) })).replace("http://", ""));

process.once("SIGTERM", () => app.close());
