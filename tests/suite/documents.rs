//! The documents link to pages, headings and files that exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

/// Folders that hold no documents of ours.
const SKIPPED: [&str; 5] = ["target", "node_modules", ".git", "latchkey-data", "dist"];
/// Where a path in backticks may begin, besides the folder of its document.
const ROOTS: [&str; 7] = [
    "",
    "src",
    "src/domain",
    "src/domain/model",
    "tests/suite",
    "crates/latchkey-client",
    "crates/latchkey-client/src",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn documents(folder: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if !SKIPPED.contains(&name) && !name.starts_with("target") {
                documents(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.insert(path.clone(), fs::read_to_string(&path).unwrap());
        }
    }
}

/// Resolves `..` by the text, because the document's folder need not be the one that is shown.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}

/// The text without fenced blocks of code, which hold no links.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The anchors of a page, as GitHub makes them from its headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    headings
        .map(|heading| {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
}

/// The paths of source files in backticks.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter(|path| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
        path.contains('/')
            && path.chars().all(is_plain)
            && [".rs", ".md", ".sh", ".proto", ".lua"].iter().any(|end| path.ends_with(end))
    })
}

#[test]
fn documents_name_what_exists() {
    let mut pages = BTreeMap::new();
    documents(root(), &mut pages);
    assert!(pages.len() > 20, "only {} documents", pages.len());
    let mut wrong = Vec::new();
    for (page, text) in &pages {
        let (folder, text) = (page.parent().unwrap(), prose(text));
        let shown = page.strip_prefix(root()).unwrap().display();
        for link in links(&text).filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let (target, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if target.is_empty() { page.clone() } else { normal(&folder.join(target)) };
            if !target.exists() {
                wrong.push(format!("{shown}: no {link}"));
            } else if let (false, Some(linked)) = (anchor.is_empty(), pages.get(&target))
                && !anchors(linked).contains(anchor)
            {
                wrong.push(format!("{shown}: no heading {link}"));
            }
        }
        for path in paths(&text) {
            let mut places = ROOTS.iter().map(|start| root().join(start)).chain([folder.to_owned()]);
            if !places.any(|place| place.join(path).exists()) {
                wrong.push(format!("{shown}: no file {path}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_book_has_every_page() {
    let mut pages = BTreeMap::new();
    documents(&root().join("docs"), &mut pages);
    let summary = pages.remove(&root().join("docs/SUMMARY.md")).unwrap();
    let listed: BTreeSet<_> = links(&summary).map(|link| normal(&root().join("docs").join(link))).collect();
    let missing: Vec<_> = pages.keys().filter(|page| !listed.contains(*page)).collect();
    assert!(missing.is_empty(), "not in docs/SUMMARY.md: {missing:?}");
}

/// The functions in the Rust files of a folder.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let names = text.split("fn ").skip(1).filter_map(|rest| rest.split_once('('));
            found.extend(names.map(|(name, _)| name.to_owned()));
        }
    }
}

#[test]
fn the_tests_that_are_evidence_for_security_requirements_exist() {
    let page = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let mut existing = BTreeSet::new();
    for folder in ["src", "tests/suite"] {
        functions(&root().join(folder), &mut existing);
    }
    let is_test = |name: &&str| {
        name.matches('_').count() > 2 && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
    };
    let named: BTreeSet<_> = page.split('`').skip(1).step_by(2).filter(is_test).collect();
    assert!(named.len() > 30, "only {} tests", named.len());
    let missing: Vec<_> = named.iter().filter(|name| !existing.contains(**name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn wrong_links_would_be_found() {
    assert_eq!(links("see [a](b.md#c) and [d](e)").collect::<Vec<_>>(), ["b.md#c", "e"]);
    assert_eq!(paths("`src/lib.rs` and `a b/c.rs` and `cargo run`").collect::<Vec<_>>(), ["src/lib.rs"]);
    assert!(anchors("## One login, *per* user\n").contains("one-login-per-user"));
    assert!(!prose("a\n```\n[x](y)\n```\nb").contains("(y)"));
}
