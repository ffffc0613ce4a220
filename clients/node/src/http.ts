import type { IncomingHttpHeaders } from "node:http";

/** The parts of a request that a guard reads. Both HTTP/1.1 and HTTP/2 requests of Node have them. */
export interface RawRequest {
  readonly headers: IncomingHttpHeaders;
  readonly rawHeaders?: readonly string[] | undefined;
}

/**
 * Returns all values of `authorization`. Node keeps only the first one in `headers`, while a proxy in front may have used
 * another one.
 */
export function authorizationOf({ headers, rawHeaders }: RawRequest): string[] {
  const values: string[] = [];
  for (let at = 0; rawHeaders !== undefined && at + 1 < rawHeaders.length; at += 2) {
    if (rawHeaders[at]?.toLowerCase() === "authorization") {
      values.push(rawHeaders[at + 1] ?? "");
    }
  }
  // A middleware may have set the header, and requests that a test makes up may have no raw headers.
  return values.length === 0 && headers.authorization !== undefined ? [headers.authorization] : values;
}

/** Returns the path of a URL as it was sent, without the query. */
export function pathOf(url: string | undefined): string {
  return url?.split("?", 1)[0] ?? "";
}
