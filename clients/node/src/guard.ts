import { type ClientUnaryCall, Metadata, ServerInterceptingCall, type ServerInterceptor } from "@grpc/grpc-js";

import { type AuthServiceClient, ValidateRequest, type ValidateResponse } from "./gen/latchkey/v1/auth.js";
import { identify, type Identity } from "./identity.js";
import { malformed, notAllowed, Refusal, rejected, unavailable } from "./refusal.js";
import { Rejected, verdict } from "./rejected.js";
import { keepRepeated } from "./repeated.js";

/** What a guard does. */
export interface GuardOptions {
  /** Says who asks, for a Latchkey with `access.validate = "caller"`. */
  readonly callerKey?: string;
  /** Methods for everybody, by full names such as `/grpc.health.v1.Health/Check`. */
  readonly openMethods?: readonly string[];
  /** Lets Latchkey answer from memory, never with anything older than so many milliseconds. */
  readonly maxStaleness?: number;
  /** Calls do not count as a use of the session. */
  readonly peek?: boolean;
  /** How many milliseconds Latchkey may take: 1000, unless it is set. */
  readonly timeout?: number;
  /** Who does not have this role is told PERMISSION_DENIED. */
  readonly requiredRole?: string;
  /** The same for sessions of other slots. */
  readonly requiredSlot?: string;
  /** Is told why there was no verdict. `console.warn`, unless it is set. */
  readonly onOutage?: (why: Error, method: string) => void;
}

/**
 * An interceptor that lets calls through whose token Latchkey finds good. Make it before the server listens.
 */
export function guard(latchkey: AuthServiceClient, options: GuardOptions = {}): ServerInterceptor {
  keepRepeated();
  const open = new Set(options.openMethods);
  const onOutage = options.onOutage ?? warn;
  return (method, call) => {
    if (open.has(method.path)) {
      return new ServerInterceptingCall(call);
    }
    let asking: ClientUnaryCall | undefined;
    let gone = false;
    return new ServerInterceptingCall(call, {
      start: (next) => {
        next({
          // What follows the metadata is held back until `admit` is called.
          onReceiveMetadata: (metadata, admit) => {
            const decide = (why: Error | null, answer?: ValidateResponse): void => {
              try {
                identify(metadata, judge(why, answer, options));
              } catch (error) {
                const refusal = error instanceof Refusal ? error : unavailable();
                // Where the caller has gone, nothing is wrong.
                if (refusal !== error && !gone) {
                  onOutage(error as Error, method.path);
                }
                call.sendStatus(refusal.status);
                return;
              }
              admit(metadata);
            };
            try {
              const token = bearer(metadata);
              asking = latchkey.validate(request(token, options), about(options), deadline(options), decide);
            } catch (error) {
              decide(error as Error);
            }
          },
          onCancel: () => {
            gone = true;
            asking?.cancel();
          },
        });
      },
    });
  };
}

function judge(why: Error | null, answer: ValidateResponse | undefined, options: GuardOptions): Identity {
  if (why !== null || answer === undefined) {
    throw why ?? new Error("Latchkey did not answer");
  }
  const who = admitted(answer);
  if (options.requiredSlot !== undefined && who.slot !== options.requiredSlot) {
    throw notAllowed("slot", options.requiredSlot);
  }
  if (options.requiredRole !== undefined && !who.roles.includes(options.requiredRole)) {
    throw notAllowed("role", options.requiredRole);
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

function request(token: string, { peek = false, maxStaleness }: GuardOptions): ValidateRequest {
  if (maxStaleness === undefined) {
    return ValidateRequest.create({ token, peek });
  }
  const seconds = Math.floor(maxStaleness / 1000);
  const nanos = Math.round((maxStaleness - seconds * 1000) * 1_000_000);
  return ValidateRequest.create({ token, peek, maxStaleness: { seconds, nanos } });
}

/** Of the call's own metadata nothing goes to Latchkey. */
function about({ callerKey }: GuardOptions): Metadata {
  const metadata = new Metadata();
  if (callerKey) {
    metadata.set("x-latchkey-key", callerKey);
  }
  return metadata;
}

function deadline({ timeout = 1000 }: GuardOptions): { deadline: number } {
  return { deadline: Date.now() + timeout };
}

/** The token of exactly one `authorization: Bearer ...`, as Latchkey itself reads it. */
function bearer(metadata: Metadata): string {
  const [value, ...more] = metadata.get("authorization");
  if (value === undefined) {
    throw malformed("there is no access token: send the metadata `authorization: Bearer <token>`");
  }
  if (more.length > 0) {
    // Which of them did the caller mean? Proxies disagree, so nobody guesses.
    throw malformed("there is more than one `authorization`");
  }
  const token = /^bearer +([^ ].*?) *$/i.exec(String(value))?.[1];
  if (token === undefined) {
    throw malformed("`authorization` is not of the form `Bearer <token>`");
  }
  return token;
}

function warn(why: Error, method: string): void {
  console.warn(`Latchkey gave no verdict on a call of ${method}: ${why.message}`);
}
