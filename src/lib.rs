//! Latchkey: a gRPC authentication service in which **the latest login wins**.
//!
//! # Modules
//!
//! Dependencies point to the domain:
//!
//! ```text
//! main, cli ──> app ──> json ──> grpc, http ──> gateway ──> domain ──> domain::ports <── store
//!                                   │
//!                                   └─────────> transport ──> admission
//! ```
//!
//! | module | what it is | what it may name |
//! |---|---|---|
//! | [`cli`] | the command line, one file per command | `app`, `config`, `telemetry`, `grpc::pb`, parts of `store` |
//! | [`app`] | the composition root, which builds and connects all others | all modules |
//! | [`config`] | typed settings and their validation | `domain` |
//! | [`telemetry`] | the log, and the export of traces | `config`, `domain::ports`, `isolation`, `store::clock`, `store::secret_file`, `trace` |
//! | [`transport`] | connections: accept loop, TLS, HTTP/2, HTTP/1.1, drain | `admission`, `isolation`, types of `domain` |
//! | [`grpc`] | the gRPC services: messages to domain values and back, access control, statuses | `transport`, `admission`, `gateway`, `domain`, `isolation`, `metrics`, `trace` |
//! | [`http`] | the HTTP port: forward-auth, probes, metrics, JWKS | `transport`, `admission`, `gateway`, `domain`, `isolation`, `metrics`, `telemetry`, `trace` |
//! | [`json`] | JSON over HTTP, translated to gRPC by the descriptors | `grpc`, `transport`, `admission`, `domain`, `isolation` |
//! | [`gateway`] | decisions and denials for gateways, shared by `grpc` and `http` | `domain` |
//! | [`domain`] | the rules: verbs, services, models and ports; no protocol, store, environment or wall clock | `isolation`, `metrics`, `trace` |
//! | [`store`] | the implementations of the ports: SQLite, PostgreSQL, MySQL, Redis, files, webhook, clock | `domain`, `isolation`, `metrics`, `trace` |
//! | [`admission`] | admission control: limits in total, per client address and per connection | nothing |
//! | [`trace`] | trace context, sampling and the spans of requests | nothing |
//! | [`metrics`] | counters and histograms, incremented without a lock | nothing |
//! | [`isolation`] | fault isolation: caught panics, restarted background tasks, limited log lines | nothing |
//!
//! `tests/suite/architecture.rs` fails if a module names one that is not in its row. The Rust client and the guard for services are the
//! crate `latchkey_client`, which also has the generated messages and the RFC 6750 code that `gateway` uses.
//!
//! # How to follow a login
//!
//! 1. `transport/accept.rs`, `transport/connection.rs`: a connection and its requests
//! 2. `grpc/dispatch.rs`, `grpc/methods.rs`, `grpc/access.rs`: request id, deadline, permission, admission
//! 3. `grpc/auth.rs`: the handler, which converts the message
//! 4. `domain/login.rs`: the verb
//! 5. `domain/password_service.rs`, `domain/limiter.rs`: the login limiter and the password check
//! 6. `domain/open_session.rs`, `domain/session_repository.rs`: load, decide, commit, and again after a conflict
//! 7. `domain/model/sessions/open.rs`: the decision, a pure function
//! 8. `store/redis/`, `store/embedded/`: the commit
//! 9. `domain/background/session_events.rs`: the event reaches those who watch the displaced session

pub mod admission;
pub mod app;
pub mod cli;
pub mod config;
pub mod domain;
pub mod gateway;
pub mod grpc;
pub mod http;
pub mod isolation;
pub mod json;
pub mod metrics;
pub mod store;
pub mod telemetry;
pub mod trace;
pub mod transport;
