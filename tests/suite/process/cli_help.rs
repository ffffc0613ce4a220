//! The help of every command fits a screen; completions and manual pages have every command.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use super::cli::{Done, subcommands};
use crate::support::process::{command, run};

/// The usual size of a terminal.
const SCREEN: (usize, &str) = (24, "80");

/// The overview, and the commands with the most options.
const LONGER: [(&str, usize); 3] = [("", 50), ("account import", 48), ("bench", 48)];

fn says(words: &[String]) -> Done {
    let data = tempfile::tempdir().unwrap();
    let mut command = command(data.path(), &[]);
    command.args(words).env("COLUMNS", SCREEN.1);
    run(command, "").into()
}

/// Every command, as its words.
fn commands() -> Vec<Vec<String>> {
    let mut left = vec![Vec::new()];
    let mut found = Vec::new();
    while let Some(words) = left.pop() {
        let help = says(&[words.clone(), vec!["--help".into()]].concat()).text();
        left.extend(subcommands(&help).into_iter().map(|word| [words.clone(), vec![word]].concat()));
        found.push(words);
    }
    assert!(found.len() >= 25, "only {} commands were found", found.len());
    found
}

#[test]
fn the_help_of_a_command_fits_a_screen() {
    let mut long = Vec::new();
    for words in commands() {
        let name = words.join(" ");
        let help = says(&[words, vec!["--help".into()]].concat()).text();
        let limit = LONGER.iter().find(|(command, _)| *command == name).map_or(SCREEN.0, |(_, limit)| *limit);
        if help.lines().count() > limit {
            long.push(format!("{name}: {} lines instead of {limit}", help.lines().count()));
        }
        // The global options are in the help of latchkey itself.
        assert_eq!(help.contains("--certificate-key-file"), name.is_empty(), "{help}");
        assert!(name.is_empty() || help.contains("latchkey --help"), "{help}");
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn completions_have_the_commands_and_work_in_bash() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = says(&["completions".into(), shell.into()]).text();
        for word in ["set-roles", "session", "certificate-key-file"] {
            assert!(script.contains(word), "{shell} has no {word}");
        }
    }
    says(&["completions".into(), "cmd".into()]).fails(2, "cmd");

    let script = says(&["completions".into(), "bash".into()]).text();
    let complete = "COMP_WORDS=(latchkey account set); COMP_CWORD=2; _latchkey latchkey set account; echo ${COMPREPLY[@]}";
    let mut bash = Command::new("bash").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(format!("{script}\n{complete}\n").as_bytes()).unwrap();
    let reply = String::from_utf8(bash.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(reply.trim(), "set-roles set-password");
}

#[test]
fn there_is_a_manual_page_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1");
    says(&["man".into(), "--dir".into(), pages.to_str().unwrap().into()]).text();
    for words in commands() {
        let name = [vec!["latchkey".to_owned()], words.clone()].concat().join("-");
        let page =
            fs::read_to_string(pages.join(format!("{name}.1"))).unwrap_or_else(|_| panic!("no page {name}"));
        assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{name}: {page}");
        assert_eq!(says(&[vec!["man".into()], words].concat()).text().trim_end(), page.trim_end(), "{name}");
    }
    says(&["man".into(), "account".into(), "frobnicate".into()]).fails(2, "latchkey-account has no command");
    let nowhere = "/proc/nowhere/man1";
    says(&["man".into(), "--dir".into(), nowhere.into()]).fails(1, &format!("cannot write {nowhere}"));
}
