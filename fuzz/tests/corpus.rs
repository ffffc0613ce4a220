//! Runs every target on its seeds and on its kept corpus. A build that fuzzes does not need this.
#![cfg(not(fuzzing))]

use std::{
    fs,
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::{
        Once,
        atomic::{AtomicUsize, Ordering},
    },
};

use latchkey_fuzz::TARGETS;

/// Panics in any thread. Latchkey catches those of requests and of background tasks.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn count_panics() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            usual(info);
        }));
    });
}

/// Returns the names and the contents of the inputs of a target.
fn inputs(name: &str, seeds: Vec<Vec<u8>>) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let kept = fs::read_dir(&directory).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        (path.display().to_string(), fs::read(&path).unwrap())
    });
    let seeds = seeds.into_iter().enumerate().map(|(number, seed)| (format!("seed {number}"), seed));
    let mut inputs: Vec<_> = kept.collect();
    assert!(!inputs.is_empty(), "{} is empty", directory.display());
    inputs.sort();
    inputs.extend(seeds);
    inputs
}

fn run(name: &str) {
    count_panics();
    let target = TARGETS.into_iter().find(|target| target.name == name).unwrap();
    for (input, bytes) in inputs(name, (target.seeds)()) {
        let result = panic::catch_unwind(AssertUnwindSafe(|| (target.run)(&bytes)));
        assert!(result.is_ok() && PANICS.load(Ordering::SeqCst) == 0, "{name} fails on {input}");
    }
}

#[test]
fn codec() {
    run("codec");
}

#[test]
fn config() {
    run("config");
}

#[test]
fn ext_authz() {
    run("ext_authz");
}

#[test]
fn redis_replies() {
    run("redis_replies");
}

#[test]
fn token() {
    run("token");
}

#[test]
fn validate() {
    run("validate");
}

#[test]
fn every_target_has_a_test_and_a_program() {
    let source = include_str!("corpus.rs");
    for target in TARGETS {
        assert!(source.contains(&format!("fn {}()", target.name)), "{}", target.name);
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz_targets/{}.rs", target.name));
        assert!(program.exists(), "{}", program.display());
    }
}
