//! External programs that tests need. A test whose program is missing is skipped and says so; in CI it fails.

use std::{
    env,
    io::{Write as _, stderr},
    path::PathBuf,
    thread,
};

/// Finds the program that `variable` names, or else `program` on the PATH. Reports the skipped test if there is none.
pub fn find_program(program: &str, variable: &str) -> Option<PathBuf> {
    set(variable).or_else(|| on_path(program)).or_else(|| missing(program, variable))
}

/// Finds the program that `variable` names. Reports the skipped test if it names none.
pub fn named_program(description: &str, variable: &str) -> Option<PathBuf> {
    set(variable).or_else(|| missing(description, variable))
}

/// Reports on standard error that the current test is skipped, or panics in CI.
fn missing(program: &str, variable: &str) -> Option<PathBuf> {
    let hint = format!("no {program} found; `make test` installs it, or set {variable} to its path");
    assert!(set("CI").is_none(), "{hint}");
    skip(&hint);
    None
}

/// Reports on standard error that the current test is skipped.
pub fn skip(reason: &str) {
    let test = thread::current().name().unwrap_or("a test").to_owned();
    // libtest captures `println!` and `eprintln!`, but not this.
    stderr().write_all(format!("skipped: {test}: {reason}\n").as_bytes()).unwrap();
}

fn set(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian installs servers in a directory that is not on the PATH of every user.
    let dirs = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    dirs.map(|dir| dir.join(program)).find(|path| path.is_file())
}
