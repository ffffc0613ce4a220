/** A guard for servers with Connect for Node.js, which also speak gRPC and gRPC-Web. */
import { type Code, ConnectError, createContextKey, type ContextValues, type Interceptor } from "@connectrpc/connect";

import { Checker } from "./checker.js";
import type { Client } from "./client.js";
import { Denial, unavailable } from "./denial.js";
import { guarded, type Identity } from "./identity.js";
import type { GuardOptions } from "./options.js";
import { joinRepeated } from "./repeated.js";
import { Watcher } from "./watch.js";

export type { GuardOptions, Identity };

/** An interceptor for servers. `close` closes the connection, if the guard was created with an address. */
export type Guard = Interceptor & { close(): void };

const key = createContextKey<Identity | undefined>(undefined, { description: "latchkey" });

/** Returns the identity of the caller: `identity(context)`. Throws in an open method. */
export function identity(context: { readonly values: ContextValues }): Identity {
  return guarded(context.values.get(key));
}

/**
 * Creates an interceptor that accepts only calls whose token has a live session, and ends streams when the session of
 * their caller ends. Create it before the server. `latchkey` is a client or the address of Latchkey.
 */
export function guard(latchkey: Client | string, options: GuardOptions = {}): Guard {
  joinRepeated();
  const open = new Set(options.openMethods);
  const checker = new Checker(latchkey, options);
  const watcher = new Watcher(checker, options);
  const interceptor: Interceptor = (next) => async (request) => {
    const method = `/${request.service.typeName}/${request.method.name}`;
    if (open.has(method)) {
      return next(request);
    }
    const authorization = split(request.header.get("authorization"));
    try {
      request.contextValues.set(key, await checker.check(authorization, method, request.signal));
    } catch (error) {
      throw connectError(error instanceof Denial ? error : unavailable(error));
    }
    if (!request.stream || options.watchStreams === false) {
      return next(request);
    }

    const over = new AbortController();
    const finish = (): void => over.abort();
    request.signal.addEventListener("abort", finish);
    const ended = new AbortController();
    void watcher.end(method, authorization, over.signal).then((denial) => denial && ended.abort(connectError(denial)));
    const signal = AbortSignal.any([request.signal, ended.signal]);
    const message = until(request.message, ended.signal);
    try {
      const response = await orAborted(next({ ...request, signal, message }), ended.signal);
      if (!response.stream) {
        finish();
        return response;
      }
      return { ...response, message: until(response.message, ended.signal, finish) };
    } catch (error) {
      finish();
      throw error;
    }
  };
  return Object.assign(interceptor, { close: () => checker.close() });
}

/** Several values have been joined with commas, and the value of a bearer token has none. */
function split(authorization: string | null): string[] {
  return authorization === null ? [] : authorization.split(",");
}

function connectError(denial: Denial): ConnectError {
  const error = new ConnectError(denial.message, denial.code as number as Code);
  error.details.push(...denial.details());
  return error;
}

/** Waits for the result, or throws the reason of the signal. */
function orAborted<T>(result: PromiseLike<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(signal.reason as Error);
    if (signal.aborted) {
      abort();
    }
    signal.addEventListener("abort", abort);
    result.then(resolve, reject).then(() => signal.removeEventListener("abort", abort));
  });
}

/** Yields the messages until the signal is aborted, and then throws its reason. */
async function* until<T>(messages: AsyncIterable<T>, signal: AbortSignal, finish = (): void => {}): AsyncGenerator<T> {
  const iterator = messages[Symbol.asyncIterator]();
  try {
    for (;;) {
      const { done, value } = await orAborted(iterator.next(), signal);
      if (done === true) {
        return;
      }
      yield value;
    }
  } finally {
    finish();
    // A handler that still waits for something ends later, so nobody waits for it.
    iterator.return?.().catch(() => {});
  }
}
