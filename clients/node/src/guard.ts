import { type ServerInterceptor, ServerInterceptingCall } from "@grpc/grpc-js";

import { Checker } from "./checker.js";
import type { Client } from "./client.js";
import { Denial, unavailable } from "./denial.js";
import { EndableCall } from "./endable.js";
import { identify } from "./identity.js";
import type { GuardOptions } from "./options.js";
import { keepRepeated } from "./repeated.js";
import { Watcher } from "./watch.js";

/** An interceptor for gRPC servers. `close` closes the connection, if the guard was created with an address. */
export type Guard = ServerInterceptor & { close(): void };

/**
 * Creates an interceptor that accepts only calls whose token has a live session, and ends streams when the session of
 * their caller ends. Create it before the server listens. `latchkey` is a client or the address of Latchkey.
 */
export function guard(latchkey: Client | string, options: GuardOptions = {}): Guard {
  keepRepeated();
  const open = new Set(options.openMethods);
  const checker = new Checker(latchkey, options);
  const watcher = new Watcher(checker, options);
  const interceptor: ServerInterceptor = (method, call) => {
    if (open.has(method.path)) {
      return new ServerInterceptingCall(call);
    }
    const over = new AbortController();
    const guarded = new EndableCall(call, {
      start: (next) => {
        next({
          // Everything after the metadata is held back until `admit` is called.
          onReceiveMetadata: (metadata, admit) => {
            const authorization = metadata.get("authorization").map(String);
            checker.check(authorization, method.path, over.signal).then(
              (who) => {
                identify(metadata, who);
                if ((method.requestStream || method.responseStream) && options.watchStreams !== false) {
                  void watcher
                    .end(method.path, authorization, over.signal)
                    .then((denial) => denial !== undefined && guarded.end(denial));
                }
                admit(metadata);
              },
              (error: unknown) => guarded.end(error instanceof Denial ? error : unavailable(error)),
            );
          },
          onCancel: () => over.abort(),
        });
      },
    });
    return guarded;
  };
  return Object.assign(interceptor, { close: () => checker.close() });
}
