import { type ClientUnaryCall, type Metadata, type ServerInterceptor, ServerInterceptingCall } from "@grpc/grpc-js";

import { EndableCall } from "./endable.js";
import type { AuthServiceClient, ValidateResponse } from "./gen/latchkey/v1/auth.js";
import { identify, type Identity } from "./identity.js";
import { about, type GuardOptions, question } from "./options.js";
import { malformed, Denial, rejected, roleRequired, slotRequired, tokenRequired, unavailable } from "./denial.js";
import { Rejected, verdict } from "./rejected.js";
import { keepRepeated } from "./repeated.js";
import { Watcher } from "./watch.js";

const MORE_THAN_ONE = "There is more than one `authorization`.";

/**
 * Creates an interceptor that accepts only calls whose token has a live session, and ends streams when the session of
 * their caller ends. Create it before the server listens.
 */
export function guard(latchkey: AuthServiceClient, options: GuardOptions = {}): ServerInterceptor {
  keepRepeated();
  const open = new Set(options.openMethods);
  const onOutage = options.onOutage ?? warn;
  const watcher = new Watcher(latchkey, options, onOutage);
  return (method, call) => {
    if (open.has(method.path)) {
      return new ServerInterceptingCall(call);
    }
    let asking: ClientUnaryCall | undefined;
    let token = "";
    const over = new AbortController();
    const guarded = new EndableCall(call, {
      start: (next) => {
        next({
          // Everything after the metadata is held back until `admit` is called.
          onReceiveMetadata: (metadata, admit) => {
            const decide = (why: Error | null, answer?: ValidateResponse): void => {
              try {
                identify(metadata, judge(why, answer, options));
              } catch (error) {
                const denial = error instanceof Denial ? error : unavailable();
                // If the caller has disconnected, this is not an outage.
                if (denial !== error && !over.signal.aborted) {
                  onOutage(error as Error, method.path);
                }
                guarded.end(denial);
                return;
              }
              if ((method.requestStream || method.responseStream) && options.watchStreams !== false) {
                void watcher
                  .end(method.path, token, over.signal)
                  .then((denial) => denial !== undefined && guarded.end(denial));
              }
              admit(metadata);
            };
            try {
              token = bearer(metadata);
              asking = latchkey.validate(question(token, options), about(options), deadline(options), decide);
            } catch (error) {
              decide(error as Error);
            }
          },
          onCancel: () => {
            over.abort();
            asking?.cancel();
          },
        });
      },
    });
    return guarded;
  };
}

function judge(why: Error | null, answer: ValidateResponse | undefined, options: GuardOptions): Identity {
  if (why !== null || answer === undefined) {
    throw why ?? new Error("Latchkey did not answer");
  }
  const who = admitted(answer);
  if (options.requiredSlot !== undefined && who.slot !== options.requiredSlot) {
    throw slotRequired(options.requiredSlot);
  }
  if (options.requiredRole !== undefined && !who.roles.includes(options.requiredRole)) {
    throw roleRequired(options.requiredRole);
  }
  return who;
}

function admitted(answer: ValidateResponse): Identity {
  try {
    return verdict(answer);
  } catch (error) {
    throw error instanceof Rejected ? rejected(error) : error;
  }
}

function deadline({ timeout = 1000 }: GuardOptions): { deadline: number } {
  return { deadline: Date.now() + timeout };
}

/** Returns the token of exactly one `authorization: Bearer ...`, parsed as in Latchkey. */
function bearer(metadata: Metadata): string {
  const [value, ...more] = metadata.get("authorization");
  if (value === undefined) {
    throw tokenRequired();
  }
  if (more.length > 0) {
    // Proxies disagree on which of them counts, so the guard does not guess.
    throw malformed(MORE_THAN_ONE);
  }
  if (/^\s*(bearer\s*)?$/i.test(String(value))) {
    // A client without a token that sends the header anyway.
    throw tokenRequired();
  }
  const token = /^bearer +([^ ].*?) *$/i.exec(String(value))?.[1];
  if (token === undefined) {
    throw malformed("The header `authorization` is not of the form `Bearer <token>`.");
  }
  if (token.includes(",")) {
    // Proxies join values with commas, and a token never contains one.
    throw malformed(MORE_THAN_ONE);
  }
  return token;
}

function warn(why: Error, method: string): void {
  console.warn(`latchkey: call of ${method}: ${why.message}`);
}
