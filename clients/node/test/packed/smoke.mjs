export { Client } from "@latchkey-auth/client";
export { guard } from "@latchkey-auth/client/express";
export { RejectionReason } from "@latchkey-auth/client/v1/reason";
