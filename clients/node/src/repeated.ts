import { subscribe } from "node:diagnostics_channel";
import http2, { type Http2Server, type IncomingHttpHeaders, type ServerHttp2Stream } from "node:http2";
import type { IncomingMessage } from "node:http";
import { syncBuiltinESMExports } from "node:module";

import { authorizationOf } from "./http.js";

type Create = (...args: unknown[]) => Http2Server;

let watching = false;
let joining = false;

/**
 * Node keeps the first of several `authorization` headers and silently drops the others, before gRPC or a guard sees
 * them. A proxy in front may have used another one. HTTP/2 servers that are created after this call pass all of them to
 * gRPC, and the guard denies the call. Nothing else changes, and servers of other protocols are not affected.
 */
export function keepRepeated(): void {
  if (watching) {
    return;
  }
  watching = true;
  const makers = http2 as unknown as Record<"createServer" | "createSecureServer", Create>;
  for (const name of ["createServer", "createSecureServer"] as const) {
    const create = makers[name];
    makers[name] = (...args) => create(...args).prependListener("stream", restore);
  }
  syncBuiltinESMExports();
}

/**
 * The same for servers of Connect, which can be those of HTTP/1.1, too, and carry other content types: several
 * `authorization` headers are joined with a comma, as RFC 9110 section 5.2 allows for every header.
 */
export function joinRepeated(): void {
  keepRepeated();
  if (joining) {
    return;
  }
  joining = true;
  subscribe("http.server.request.start", (message) => {
    const { request } = message as { request: IncomingMessage };
    const values = authorizationOf(request);
    if (values.length > 1) {
      request.headers.authorization = values.join(", ");
    }
  });
}

function restore(_stream: ServerHttp2Stream, headers: IncomingHttpHeaders, _flags: number, raw: unknown): void {
  if (!Array.isArray(raw)) {
    return;
  }
  const values = authorizationOf({ headers: {}, rawHeaders: raw.map(String) });
  if (values.length < 2) {
    return;
  }
  if (headers["content-type"]?.startsWith("application/grpc")) {
    // gRPC accepts a list of values, as for other headers.
    (headers as Record<string, unknown>)["authorization"] = values;
  } else if (joining) {
    headers.authorization = values.join(", ");
  }
}
