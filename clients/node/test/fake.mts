/** A fake Latchkey, whose verdicts a test sets. */
import type { TestContext } from "node:test";
import { setTimeout as pause } from "node:timers/promises";

import { type Metadata, Server, ServerCredentials, type ServerWritableStream, status } from "@grpc/grpc-js";

import { Client, type GuardOptions } from "@latchkey-auth/client";
import {
  AuthServiceService,
  Session,
  type ValidateRequest,
  ValidateResponse,
  type WatchSessionRequest,
  WatchSessionResponse,
} from "@latchkey-auth/client/v1/auth";
import { Rejection, RejectionReason } from "@latchkey-auth/client/v1/reason";

export const SESSION = Session.fromPartial({
  userId: "u1",
  username: "anna",
  sessionId: "s1",
  slot: "web",
  device: "Mac",
  roles: ["staff"],
  issuedAt: { seconds: 1, nanos: 0 },
  expiresAt: { seconds: 2, nanos: 0 },
  idleExpiresAt: { seconds: 3, nanos: 0 },
});
export const REPLACED = Rejection.create({
  reason: RejectionReason.REJECTION_REASON_REPLACED,
  message: "You were logged out because of a newer login on Zoë’s iPhone.",
  byDevice: "Zoë’s iPhone",
  at: { seconds: 1_785_342_896, nanos: 100_020_999 },
  terminal: true,
});

type Done = (error: unknown, answer?: ValidateResponse) => void;

export class Fake {
  /** The verdict of all tokens: a rejection, a status without a verdict, or else a session. */
  rejection: Rejection | undefined;
  code: status | undefined;
  asked: ValidateRequest | undefined;
  metadata: Metadata | undefined;
  readonly watches = new Set<ServerWritableStream<WatchSessionRequest, WatchSessionResponse>>();
  readonly outages: string[] = [];
  readonly options: GuardOptions = { onOutage: (why, where) => this.outages.push(`${where} ${why.message}`) };

  async start(t: TestContext): Promise<Client> {
    const server = new Server();
    server.addService(AuthServiceService, {
      validate: ({ request, metadata }: { request: ValidateRequest; metadata: Metadata }, done: Done) => {
        this.asked = request;
        this.metadata = metadata;
        if (this.code !== undefined) {
          done({ code: this.code, details: "for the log alone" });
        } else if (this.rejection !== undefined) {
          done(null, ValidateResponse.create({ verdict: { $case: "rejection", value: this.rejection } }));
        } else {
          done(null, ValidateResponse.create({ verdict: { $case: "session", value: SESSION } }));
        }
      },
      watchSession: (call: ServerWritableStream<WatchSessionRequest, WatchSessionResponse>) => {
        this.watches.add(call);
        call.on("close", () => this.watches.delete(call));
        call.write(WatchSessionResponse.create({ verdict: { $case: "session", value: SESSION } }));
      },
    } as never);
    const port = await new Promise<number>((resolve, reject) => {
      server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) =>
        error === null ? resolve(port) : reject(error),
      );
    });
    const client = new Client(`127.0.0.1:${port}`, { callerKey: "secret" });
    t.after(() => {
      client.close();
      server.forceShutdown();
    });
    return client;
  }

  /** Ends all sessions that are watched. */
  async end(): Promise<void> {
    this.rejection = REPLACED;
    await until(() => this.watches.size > 0);
    for (const watch of this.watches) {
      watch.write(WatchSessionResponse.create({ verdict: { $case: "rejection", value: REPLACED } }));
      watch.end();
    }
  }
}

export async function until(so: () => boolean): Promise<void> {
  for (const begun = Date.now(); !so(); await pause(2)) {
    if (Date.now() - begun > 5000) {
      throw new Error("it does not happen");
    }
  }
}
