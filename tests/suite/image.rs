//! The files that the container image is built from form a complete package. Building it needs a container engine.

use std::{fs, path::Path, process::Command};

/// Returns the files that the first stage of the Dockerfile copies.
fn copied(dockerfile: &str) -> Vec<&str> {
    let build = dockerfile.split("\nFROM ").nth(1).unwrap();
    let copies = build.lines().filter_map(|line| line.strip_prefix("COPY "));
    copies.flat_map(|files| files.rsplit_once(' ').unwrap().0.split(' ')).collect()
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::copy(from, to).unwrap();
    }
}

#[test]
fn the_image_is_built_from_a_complete_package() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    let (dockerfile, ignored) = (read("Dockerfile"), read(".dockerignore"));
    let context = tempfile::tempdir().unwrap();
    let files = copied(&dockerfile);
    assert!(files.contains(&"src") && files.contains(&"Cargo.lock"), "{files:?}");
    for file in files {
        assert!(ignored.lines().any(|line| line.strip_prefix('!') == Some(file)), "{file} is ignored");
        copy(&root.join(file), &context.path().join(file));
    }
    // `cargo fetch` reads the manifest as a build does, so every file that it names must exist. The dependencies are
    // already in the local registry.
    let about = Command::new(env!("CARGO")).arg("-vV").output().unwrap().stdout;
    let about = String::from_utf8(about).unwrap();
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let mut fetch = Command::new(env!("CARGO"));
    fetch.args(["fetch", "--locked", "--offline", "--target", host]).current_dir(context.path());
    let fetched = fetch.output().unwrap();
    assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
}
