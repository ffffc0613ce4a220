//! Latchkey: a gRPC authentication service in which **the latest login wins**.
//!
//! # The map
//!
//! Data flows one way:
//!
//! ```text
//! cli ─┐
//!      ├─> app ─> grpc, http ─> domain ─> ports <─ store
//! main ┘
//! ```
//!
//! Services in Rust that ask Latchkey use [`client`], which is no part of the server.
//!
//! | module | what it is | what it may name |
//! |---|---|---|
//! | [`domain`] | the rules: one verb, one file, and two pure state machines: one user's sessions, and failed logins | `isolation`, and nothing else of the modules below; no tonic, prost, redis, sqlx, environment or wall clock |
//! | [`store`] | what the domain asks of the outside through its ports: SQLite, PostgreSQL, MySQL, Redis, key files, the audit file, the receiver of the webhook, the clock | `domain` |
//! | [`bearer`] | where a request's token is found, and how a request is turned away over HTTP (RFC 6750) | nothing |
//! | [`gateway`] | what a verdict looks like to Envoy, nginx and their like, for the two modules below | `domain`, `bearer` |
//! | [`admission`] | how much of each resource clients may use: limits in total, by address and by connection | nothing |
//! | [`accept`] | the accept loop of both ports | `admission` |
//! | [`isolation`] | keeps failures from spreading: catches panics, restarts background tasks, limits repeated log lines | nothing |
//! | [`telemetry`] | writes the log | `config`, `isolation`, `store/clock.rs` |
//! | [`grpc`] | inbound: protobuf to domain and back, statuses, limits, who may call what | `accept`, `admission`, `domain`, `gateway`, `bearer` |
//! | [`http`] | inbound: forward-auth, probes, metrics and the JWKS document | `accept`, `admission`, `domain`, `gateway` |
//! | [`config`] | typed settings, and what is wrong with them | `domain` |
//! | [`app`] | the composition root, the only file that knows all the others | everything |
//! | [`cli`] | one file a command | `app`, `config`, `client`, the generated client |
//! | [`client`] | for services in Rust: calls with types, and a guard for tonic and axum servers | the generated client (`grpc/pb.rs`), `bearer`, `isolation/log_limiter.rs` |
//!
//! To follow a login, read `grpc/auth.rs`, `domain/login.rs`, `domain/open_session.rs`, `domain/credentials.rs`,
//! `domain/sessions/open.rs` in that order; to follow its end to those who are told, `domain/hub.rs`. `tests/suite/architecture.rs` fails when the direction is broken.

pub mod admission;
pub mod app;
pub mod cli;
pub mod config;
pub mod domain;
pub mod gateway;
pub mod grpc;
pub mod http;
pub mod isolation;
pub mod store;
pub mod telemetry;
pub mod transport;
