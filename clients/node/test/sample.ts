/** A guarded server: the sample of README.md, which the scenarios of all clients call. */
import { type sendUnaryData, Server, ServerCredentials, type ServerUnaryCall } from "@grpc/grpc-js";

import { guard, identity } from "@latchkey-auth/client";

import {
  type GreeterServiceServer,
  GreeterServiceService,
  type GreetRequest,
  GreetResponse,
} from "./gen/sample/v1/greeter.js";

const address = process.env["LATCHKEY_ADDRESS"] ?? "";
const key = process.env["LATCHKEY_CALLER_KEY"] ?? "";

// guarded from here
const callers = guard(address, {
  callerKey: key,
  openMethods: ["/sample.v1.GreeterService/Begun"],
});
const server = new Server({ interceptors: [callers] });
// to here

let begun = 0;
let running = 0;

/** Counts a running stream handler. */
function begin(call: { on(event: "close", ended: () => void): unknown }): void {
  begun += 1;
  running += 1;
  call.on("close", () => (running -= 1));
}

function answer(call: Parameters<typeof identity>[0], { greeting }: GreetRequest): GreetResponse {
  const caller = identity(call);
  return GreetResponse.fromPartial({
    text: `${greeting}, ${caller.username}`,
    identity: {
      userId: caller.userId,
      username: caller.username,
      sessionId: caller.sessionId,
      slot: caller.slot,
      device: caller.device,
      roles: [...caller.roles],
      issuedAtUnix: Math.floor(caller.issuedAt.getTime() / 1000),
      expiresAtUnix: Math.floor(caller.expiresAt.getTime() / 1000),
    },
  });
}

const greeter: GreeterServiceServer = {
  greet(call: ServerUnaryCall<GreetRequest, GreetResponse>, done: sendUnaryData<GreetResponse>) {
    begun += 1;
    done(null, answer(call, call.request));
  },
  greetAll(call, done) {
    begin(call);
    let last = GreetResponse.create();
    call.on("data", (request: GreetRequest) => (last = answer(call, request)));
    call.on("end", () => done(null, last));
  },
  greetOften(call) {
    begun += 1;
    for (let times = 0; times < 3; times += 1) {
      call.write(answer(call, call.request));
    }
    call.end();
  },
  greetOn(call) {
    begin(call);
    const greet = (): boolean => call.write(answer(call, call.request));
    greet();
    const again = setInterval(greet, 50);
    call.on("close", () => clearInterval(again));
  },
  chat(call) {
    begin(call);
    call.on("data", (request: GreetRequest) => call.write(answer(call, request)));
    call.on("end", () => call.end());
  },
  begun(_call, done) {
    done(null, { count: begun, running });
  },
};

const role = process.env["LATCHKEY_REQUIRED_ROLE"];
const slot = process.env["LATCHKEY_REQUIRED_SLOT"];
const requiring = guard(address, {
  callerKey: key,
  openMethods: ["/sample.v1.GreeterService/Begun"],
  requiredRole: role,
  requiredSlot: slot,
});
const listening = role || slot ? new Server({ interceptors: [requiring] }) : server;

listening.addService(GreeterServiceService, greeter);
listening.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) => {
  if (error !== null) {
    throw error;
  }
  console.log(`listens on 127.0.0.1:${port}`);
});
