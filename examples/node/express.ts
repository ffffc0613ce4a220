/** A service with Express: `GET /greet` is for users who are logged in. */
import express from "express";

import { guard, identity } from "@latchkey-auth/client/express";

const { LATCHKEY_ADDRESS, LATCHKEY_CALLER_KEY, LATCHKEY_REQUIRED_ROLE, LATCHKEY_REQUIRED_SLOT, LISTEN } = process.env;
const [host, port] = (LISTEN ?? "127.0.0.1:0").split(":");
const app = express();

// guarded from here
const latchkey = guard(LATCHKEY_ADDRESS ?? "127.0.0.1:50051", {
  callerKey: LATCHKEY_CALLER_KEY,
  openPaths: ["/begun"],
  requiredRole: LATCHKEY_REQUIRED_ROLE,
  requiredSlot: LATCHKEY_REQUIRED_SLOT,
});
app.use(latchkey);
// to here

let begun = 0;

app.get("/greet", (request, response) => {
  begun += 1;
  const caller = identity(request);
  response.json({
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
  });
});

app.get("/begun", (_, response) => {
  response.json({ count: begun });
});

const server = app.listen(Number(port), host, () => {
  const address = server.address();
  console.log(`listens on ${host}:${typeof address === "object" ? address?.port : port}`);
});

process.once("SIGTERM", () => server.close(() => latchkey.close()));
