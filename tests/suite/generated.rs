//! What is generated and committed is up to date. `make generate` renews it.

use std::{env, fmt::Write as _, fs, path::Path};

#[test]
fn the_committed_client_code_is_generated_from_the_protocol() {
    let committed = include_str!("../../crates/latchkey-client/src/generated/latchkey.v1.rs");
    let generated = include_str!(concat!(env!("OUT_DIR"), "/client/latchkey.v1.rs"));
    assert!(committed == generated, "run `make generate` and commit what it changes");
}

#[test]
fn the_page_of_the_settings_is_generated_from_their_defaults() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let generated = configuration_page(include_str!("../../src/config.default.toml"));
    if env::var_os("LATCHKEY_TEST_GENERATE").is_some() {
        fs::write(&page, &generated).unwrap();
    }
    assert!(
        fs::read_to_string(&page).unwrap() == generated,
        "run `make generate` and commit what it changes"
    );
}

/// Returns a page with a heading for each section, and for each group of keys with a comment of its own.
fn configuration_page(defaults: &str) -> String {
    let mut page =
        "# Configuration\n\nGenerated from `src/config.default.toml` by `make generate`.\n".to_owned();
    let mut section = String::new();
    let mut comment: Vec<&str> = Vec::new();
    let mut keys: Vec<&str> = Vec::new();
    for line in defaults.lines().chain([""]) {
        let is_key = !line.is_empty() && !line.starts_with(['#', '[']);
        if !is_key && !keys.is_empty() {
            let name = |line: &&str| format!("`{section}{}`", line.split(' ').next().unwrap());
            let names: Vec<_> = keys.iter().map(name).collect();
            writeln!(page, "\n### {}\n\n{}", names.join(", "), prose(&comment)).unwrap();
            writeln!(page, "\n```toml\n{}\n```", keys.join("\n")).unwrap();
            comment.clear();
            keys.clear();
        }
        if is_key {
            keys.push(line);
        } else if let Some(text) = line.strip_prefix('#') {
            comment.push(text.strip_prefix(' ').unwrap_or(text));
        } else if let Some(name) = line.strip_prefix('[') {
            let name = name.trim_end_matches(']');
            section = format!("{name}.");
            writeln!(page, "\n## [{name}]").unwrap();
            // The comment above a section is about its sub-sections.
            if !comment.is_empty() {
                writeln!(page, "\n{}", prose(&comment)).unwrap();
                comment.clear();
            }
        } else if !comment.is_empty() && section.is_empty() {
            writeln!(page, "\n{}", prose(&comment)).unwrap();
            comment.clear();
        }
    }
    page
}

/// Turns a comment into Markdown: indented lines, and a section or settings in it, become blocks of code.
fn prose(comment: &[&str]) -> String {
    let mut text = String::new();
    let mut in_code = false;
    for line in comment {
        let is_block =
            line.starts_with("  ") || line.starts_with('[') || line.split_once(" = ").is_some_and(is_setting);
        if is_block != in_code {
            text += if is_block { "\n```text\n" } else { "```\n\n" };
            in_code = is_block;
        }
        let line = if is_block {
            line.strip_prefix("  ").unwrap_or(line).to_owned()
        } else {
            line.replace('<', "&lt;")
        };
        text += &line;
        text.push('\n');
    }
    if in_code {
        text += "```\n";
    }
    text.trim().to_owned()
}

fn is_setting((key, value): (&str, &str)) -> bool {
    !key.contains(' ') && (value.starts_with('"') || value.parse::<u32>().is_ok())
}
