/** A service with Nest: `GET /greet` is for users who are logged in. */
import "reflect-metadata";

import { Controller, Get, Module } from "@nestjs/common";
import { NestFactory } from "@nestjs/core";

import { Identity, LatchkeyModule, Open } from "@latchkey-auth/client/nest";

const { LATCHKEY_ADDRESS, LATCHKEY_CALLER_KEY, LATCHKEY_REQUIRED_ROLE, LATCHKEY_REQUIRED_SLOT, LISTEN } = process.env;
const [host = "", port] = (LISTEN ?? "127.0.0.1:0").split(":");

// guarded from here
const latchkey = LatchkeyModule.forRoot({
  latchkey: LATCHKEY_ADDRESS ?? "127.0.0.1:50051",
  callerKey: LATCHKEY_CALLER_KEY,
  requiredRole: LATCHKEY_REQUIRED_ROLE,
  requiredSlot: LATCHKEY_REQUIRED_SLOT,
});
// to here

@Controller()
class Greeter {
  private count = 0;

  @Get("greet")
  greet(@Identity() caller: Identity) {
    this.count += 1;
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
  }

  @Open()
  @Get("begun")
  begun() {
    return { count: this.count };
  }
}

@Module({ imports: [latchkey], controllers: [Greeter] })
class App {}

const app = await NestFactory.create(App, { logger: ["error"] });
app.enableShutdownHooks();
await app.listen(Number(port), host);
console.log(`listens on ${(await app.getUrl()).replace("http://", "")}`);
