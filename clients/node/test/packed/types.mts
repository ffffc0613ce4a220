/** Compiles only. types.cts is a copy of it. */
import { Server } from "@grpc/grpc-js";
import { Controller, Get, Module } from "@nestjs/common";
import express from "express";
import fastify from "fastify";

import { Client, guard, type Identity, Rejected, SessionLimit, Throttled } from "@latchkey-auth/client";
import { guard as connectGuard } from "@latchkey-auth/client/connect";
import { guard as expressGuard, identity } from "@latchkey-auth/client/express";
import { latchkey } from "@latchkey-auth/client/fastify";
import { Identity as Caller, LatchkeyModule, RequiredRole } from "@latchkey-auth/client/nest";
import { AccountServiceClient } from "@latchkey-auth/client/v1/account";

export async function login(client: Client): Promise<Identity> {
  try {
    const { session } = await client.login("anna", "password", { device: "Firefox", takeover: true });
    return session;
  } catch (error) {
    if (error instanceof Throttled) console.log(error.retryAfter.toFixed());
    if (error instanceof SessionLimit) console.log(error.holder.device.length);
    if (error instanceof Rejected) console.log(error.at?.getTime(), error.terminal);
    // @ts-expect-error: without a test of its type, an error has no fields
    throw error.reason;
  }
}

const client = new Client("127.0.0.1:50051");
export const server = new Server({ interceptors: [guard(client, { requiredRole: "admin" })] });
export const interceptors = [connectGuard(client)];
export const accounts = AccountServiceClient;

export const app = express();
app.use(expressGuard(client, { openPaths: ["/healthz"] }));
app.get("/", (request, response) => {
  const name: string | undefined = request.latchkey?.username;
  response.json({ name, roles: identity(request).roles.length });
});

export const fast = fastify();
fast.register(latchkey, { latchkey: client, everyRoute: false });
fast.get("/", { config: { latchkey: { requiredRole: "admin" } } }, async (request) => request.latchkey.username);
// @ts-expect-error: there is no such option
fast.register(latchkey, { latchkey: client, requiredRoles: "admin" });

@Controller()
class Greeter {
  @RequiredRole("admin")
  @Get()
  greet(@Caller() caller: Caller): string {
    return caller.username;
  }
}

@Module({ imports: [LatchkeyModule.forRoot({ latchkey: client })], controllers: [Greeter] })
export class App {}
