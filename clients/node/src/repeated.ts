import http2, { type Http2Server, type IncomingHttpHeaders, type ServerHttp2Stream } from "node:http2";

type Create = (...args: unknown[]) => Http2Server;

let watching = false;

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
    // gRPC accepts a list of values, as for other headers.
    (headers as Record<string, unknown>)["authorization"] = values;
  }
}
