//! Integration tests with real servers, real stores and the real binary.
//!
//! | module | what it tests |
//! |---|---|
//! | `api` | every RPC, reason and status, on a server in this process with both stores and a clock that is set by hand |
//! | `stores` | one conformance suite for every store, and failures of networks and disks |
//! | `gateways` | the interfaces for gateways, and the samples in `deploy/` with real gateways |
//! | `guard` | the guard of the Rust client, in front of tonic and axum servers |
//! | `faults` | what callers see while something fails: the table in `docs/operations.md` |
//! | `process` | the binary: crashes, outages, replicas, signals, limits, the command line, the commands in the documents |
//! | `architecture` | the direction of dependencies |
//! | `documents` | that documents link to what exists |
//! | `generated` | that committed generated code is up to date |
//! | `image` | the container image and `deploy/compose.yaml`, where a Docker engine runs |
//! | `monitoring` | the rules, alerts and dashboard in `deploy/` on a real Prometheus, and the runbook |
//! | `kubernetes` | that Kubernetes and the server accept what the Helm chart renders |
//! | `clients` | the guards of `clients/` in front of real servers; run by `make test-clients` |

#![expect(unreachable_pub, clippy::unwrap_used, reason = "a test that panics has failed")]

mod api;
mod architecture;
mod clients;
mod documents;
mod faults;
mod gateways;
mod generated;
mod guard;
mod image;
mod kubernetes;
mod monitoring;
mod process;
mod stores;
mod support;
