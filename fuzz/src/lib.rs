//! Fuzz targets: what each does with its input, and what must hold then. A target panics if it does not hold.
//!
//! `cargo fuzz` and `make fuzz` run them on new inputs. `tests/corpus.rs` runs them on the inputs in `corpus/`, as a
//! part of `make test`.

pub mod codec;
pub mod config;
pub mod ext_authz;
pub mod redis_replies;
mod resp;
mod server;
mod states;
pub mod token;
pub mod validate;

/// A target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name, which is also that of its directory in `corpus/`.
    pub name: &'static str,
    /// Runs the target on an input. Panics if something does not hold.
    pub run: fn(&[u8]),
    /// Returns the inputs that the kept corpus begins with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: [Target; 6] = [
    Target { name: "codec", run: codec::run, seeds: codec::seeds },
    Target { name: "config", run: config::run, seeds: config::seeds },
    Target { name: "ext_authz", run: ext_authz::run, seeds: ext_authz::seeds },
    Target { name: "redis_replies", run: redis_replies::run, seeds: redis_replies::seeds },
    Target { name: "token", run: token::run, seeds: token::seeds },
    Target { name: "validate", run: validate::run, seeds: validate::seeds },
];

/// Says how to run a target. A target that was built without `--cfg fuzzing` does nothing else.
pub fn explain() {
    eprintln!(
        "this target was built without fuzzing: run `make fuzz` or `cargo fuzz run <target> --sanitizer none`"
    );
}
