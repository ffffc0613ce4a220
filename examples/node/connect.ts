/** A service with Connect, gRPC and gRPC-Web. All methods but one are for users who are logged in. */
import { createServer } from "node:http2";
import type { AddressInfo } from "node:net";
import { setTimeout as pause } from "node:timers/promises";
import type { ConnectRouter, HandlerContext } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";

import { guard, identity } from "@latchkey-auth/client/connect";
import { GreeterService, type GreetRequest } from "./gen/sample/v1/greeter_pb.js";

const { LATCHKEY_ADDRESS, LATCHKEY_CALLER_KEY, LATCHKEY_REQUIRED_ROLE, LATCHKEY_REQUIRED_SLOT, LISTEN } = process.env;
const [host, port] = (LISTEN ?? "127.0.0.1:0").split(":");
// guarded from here
const callers = guard(LATCHKEY_ADDRESS ?? "127.0.0.1:50051", {
  callerKey: LATCHKEY_CALLER_KEY,
  openMethods: ["/sample.v1.GreeterService/Begun"],
  requiredRole: LATCHKEY_REQUIRED_ROLE,
  requiredSlot: LATCHKEY_REQUIRED_SLOT,
});
// to here
let [begun, running] = [0, 0];

function answer({ greeting }: GreetRequest, context: HandlerContext) {
  const { roles, issuedAt, expiresAt, ...caller } = identity(context);
  const [issuedAtUnix, expiresAtUnix] = [issuedAt, expiresAt].map((at) => BigInt(Math.floor(at.getTime() / 1000)));
  const who = { ...caller, roles: [...roles], issuedAtUnix, expiresAtUnix };
  return { text: `${greeting}, ${caller.username}`, identity: who };
}

async function* answers(requests: AsyncIterable<GreetRequest> | GreetRequest[], context: HandlerContext, often = 1) {
  begun += 1;
  running += 1;
  try {
    for await (const request of requests) {
      for (let times = 0; times < often; times += 1) {
        yield answer(request, context);
        await pause(often > 3 ? 50 : 0, undefined, { signal: context.signal });
      }
    }
  } finally {
    running -= 1;
  }
}

const routes = (router: ConnectRouter) =>
  router.service(GreeterService, {
    greet: (request, context) => (begun++, answer(request, context)),
    async greetAll(requests, context) {
      let last = {};
      for await (last of answers(requests, context));
      return last;
    },
    greetOften: (request, context) => answers([request], context, 3),
    greetOn: (request, context) => answers([request], context, Infinity),
    chat: (requests, context) => answers(requests, context),
    begun: () => ({ count: begun, running }),
  });
const server = createServer(connectNodeAdapter({ routes, interceptors: [callers] }));
server.listen(Number(port), host, () => console.log(`listens on ${host}:${(server.address() as AddressInfo).port}`));
