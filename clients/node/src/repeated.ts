import http2, { type Http2Server, type IncomingHttpHeaders, type ServerHttp2Stream } from "node:http2";

type Create = (...args: unknown[]) => Http2Server;

let watching = false;

/**
 * Of several `authorization` headers Node keeps the first and drops the others without a word, before gRPC or a guard
 * sees any. Who stands in front may have meant another one. So HTTP/2 servers that are made from now on hand all of
 * them to gRPC, and the guard refuses. Nothing else changes, and nothing for servers of other protocols.
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
}

function restore(_stream: ServerHttp2Stream, headers: IncomingHttpHeaders, _flags: number, raw: unknown): void {
  if (!headers["content-type"]?.startsWith("application/grpc") || !Array.isArray(raw)) {
    return;
  }
  const values: string[] = [];
  for (let at = 0; at + 1 < raw.length; at += 2) {
    if (raw[at] === "authorization") {
      values.push(String(raw[at + 1]));
    }
  }
  if (values.length > 1) {
    // gRPC takes lists of values, as other headers have them.
    (headers as Record<string, unknown>)["authorization"] = values;
  }
}
