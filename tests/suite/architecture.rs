//! The direction of dependencies: `grpc, http -> domain -> ports <- store`.

use std::{fs, path::Path};

/// What the code of a folder, or of a file, must not name, and where it would be a path or a word.
const RULES: [(&str, &[&str]); 11] = [
    (
        "src/domain",
        &[
            "tonic",
            "prost",
            "redis::",
            "sqlx",
            "axum",
            "hyper",
            "std::env",
            "SystemTime",
            "std::fs",
            "crate::grpc",
            "crate::http",
            "crate::store",
            "crate::app",
            "crate::cli",
            "crate::config",
        ],
    ),
    (
        "src/store",
        &["tonic", "axum", "crate::grpc", "crate::http", "crate::app", "crate::cli", "crate::config"],
    ),
    (
        "src/grpc",
        &["sqlx", "redis::", "crate::store", "crate::http", "crate::app", "crate::cli", "crate::config"],
    ),
    (
        "src/gateway",
        &[
            "tonic",
            "prost",
            "sqlx",
            "redis::",
            "axum",
            "hyper",
            "crate::grpc",
            "crate::http",
            "crate::store",
            "crate::app",
            "crate::cli",
            "crate::config",
        ],
    ),
    ("src/http", &["tonic", "sqlx", "redis::", "crate::store", "crate::grpc", "crate::app", "crate::cli"]),
    (
        "src/isolation",
        &[
            "tonic",
            "axum",
            "hyper",
            "crate::grpc",
            "crate::http",
            "crate::store",
            "crate::domain",
            "crate::app",
            "crate::cli",
            "crate::config",
        ],
    ),
    (
        "src/accept.rs",
        &[
            "tonic",
            "axum",
            "hyper",
            "crate::domain",
            "crate::grpc",
            "crate::http",
            "crate::store",
            "crate::app",
            "crate::cli",
            "crate::config",
        ],
    ),
    ("src/admission", &["tonic", "axum", "hyper", "crate::"]),
    ("src/cli", &["sqlx", "redis::", "axum"]),
    ("src/bearer", &["tonic", "prost", "axum", "hyper", "crate::"]),
    ("src/client", &["sqlx", "redis::", "axum", "crate::{"]),
];

/// What of this crate the client may name: it is no part of the server.
const OF_THE_CLIENT: [&str; 4] =
    ["crate::client", "crate::bearer", "crate::grpc::pb", "crate::isolation::log_limiter"];

fn files(folder: &Path) -> Vec<(String, String)> {
    if folder.is_file() {
        return vec![(folder.display().to_string(), fs::read_to_string(folder).unwrap())];
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

/// The lines of code that name something, without comments.
fn offences(text: &str, word: &str) -> Vec<String> {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .filter(|code| code.contains(word))
        .map(str::to_owned)
        .collect()
}

#[test]
fn data_flows_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (folder, banned) in RULES {
        let files = files(&root.join(folder));
        assert!(!files.is_empty(), "{folder} is empty: has it moved?");
        for (path, text) in files {
            for word in banned {
                let found = offences(&text, word);
                assert!(found.is_empty(), "{path} names {word}: {found:?}");
            }
        }
    }
}

/// What a line names of this crate besides what it may.
fn strays(code: &str, may: &[&str]) -> bool {
    code.match_indices("crate::").any(|(at, _)| !may.iter().any(|name| code[at..].starts_with(name)))
}

#[test]
fn the_client_stands_on_the_generated_code_alone() {
    for (path, text) in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/client")) {
        let found = offences(&text, "crate::").into_iter().filter(|code| strays(code, &OF_THE_CLIENT));
        let found: Vec<_> = found.collect();
        assert!(found.is_empty(), "{path} names {found:?}");
    }
    assert!(strays("use crate::domain::Engine;", &OF_THE_CLIENT));
    assert!(strays("use crate::grpc::access;", &OF_THE_CLIENT));
    assert!(!strays("use crate::grpc::pb::Session;", &OF_THE_CLIENT));
}

#[test]
fn the_rule_would_notice() {
    assert_eq!(offences("use tonic::Status; // tonic", "tonic").len(), 1);
    assert!(offences("// tonic is not named here", "tonic").is_empty());
}
