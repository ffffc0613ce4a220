// A peer of `make peers`: the Validate of Latchkey as a Node.js service with @grpc/grpc-js, jsonwebtoken and ioredis. The
// newest token of a user is in Redis under the user's id, and each use slides its time to live.
import { createSecretKey } from "node:crypto";
import { createRequire } from "node:module";
import path from "node:path";

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";
import { Redis } from "ioredis";
import jwt from "jsonwebtoken";

const IDLE_SECONDS = 3600;
const { PEER_ALGORITHM, PEER_KEY, PEER_PROTO, PEER_REDIS_URL } = process.env;

// The annotations of Google are part of protobufjs, which the loader uses.
const protobufjs = path.dirname(createRequire(import.meta.url).resolve("protobufjs/package.json"));
const definition = protoLoader.loadSync("latchkey/v1/auth.proto", {
  includeDirs: [PEER_PROTO, protobufjs],
  keepCase: true,
});
const { AuthService } = grpc.loadPackageDefinition(definition).latchkey.v1;

const redis = new Redis(PEER_REDIS_URL, { enableAutoPipelining: true });
// Given the bytes, jsonwebtoken would try to read a public key from them for every token, which takes a millisecond.
const key = createSecretKey(Buffer.from(PEER_KEY, "base64"));
const expected = { algorithms: [PEER_ALGORITHM], issuer: "latchkey", audience: "latchkey" };

function rejection(reason) {
  return { rejection: { reason } };
}

async function validate(token) {
  let claims;
  try {
    claims = jwt.verify(token, key, expected);
  } catch {
    return rejection("REJECTION_REASON_BAD_SIGNATURE");
  }
  const newest = await redis.getex(`peer:${claims.sub}`, "EX", IDLE_SECONDS);
  if (newest === null) {
    return rejection("REJECTION_REASON_IDLE_TIMEOUT");
  }
  if (newest !== token) {
    return rejection("REJECTION_REASON_REPLACED");
  }
  return {
    session: {
      session_id: claims.jti,
      user_id: claims.sub,
      username: claims.name,
      slot: claims.slot,
      device: claims.device,
      roles: claims.roles,
      issued_at: { seconds: claims.iat },
      expires_at: { seconds: claims.exp },
      idle_expires_at: { seconds: Math.floor(Date.now() / 1000) + IDLE_SECONDS },
    },
  };
}

const server = new grpc.Server();
server.addService(AuthService.service, {
  validate(call, answer) {
    validate(call.request.token).then(
      (response) => answer(null, response),
      (error) => answer({ code: grpc.status.UNAVAILABLE, details: String(error) }),
    );
  },
});
server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) {
    throw error;
  }
  console.log(`the Node.js twin listens on 127.0.0.1:${port}`);
});
