//! The tests against the real thing: real servers, real stores, the real binary.
//!
//! | module | what it tests |
//! |---|---|
//! | `api` | every RPC, reason and status, on the server in this process and both stores, with a clock set by hand |
//! | `stores` | one suite of behaviour for every store, and what networks do to a connection |
//! | `gateways` | what gateways are told, and the samples in `deploy/` with the real programs |
//! | `guard` | the guard of the Rust client, in front of tonic and axum servers |
//! | `process` | the binary: crashes, outages, replicas, signals, limits, the command line, the README |
//! | `architecture` | the direction of dependencies |
//! | `documents` | that documents link to what exists |
//! | `generated` | that generated code which is committed is up to date |
//! | `image` | what the container image is built from |
//! | `clients` | the guards of `clients/` in front of real servers; run by `make test-clients` |

#![expect(unreachable_pub, clippy::unwrap_used, reason = "a test that panics has failed")]

mod api;
mod architecture;
mod clients;
mod documents;
mod gateways;
mod generated;
mod guard;
mod image;
mod process;
mod stores;
mod support;
