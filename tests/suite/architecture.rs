//! The direction of dependencies between the modules of the server: `grpc, http -> domain -> ports <- store`.
//!
//! The tests parse `src/`, collect every path that names a module of this crate or another crate, and compare the
//! paths with the tables below. Paths in macros count if the arguments are expressions. An item that a module
//! exports again counts as an item of that module.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::LazyLock,
};

use syn::{
    Expr, Token, UseTree,
    punctuated::Punctuated,
    visit::{self, Visit},
};

/// Each top-level module with the modules of this crate that it may name.
const ALLOWED: [(&str, &[&str]); 15] = [
    ("trace", &[]),
    ("metrics", &[]),
    ("isolation", &[]),
    ("admission", &[]),
    ("domain", &["isolation", "metrics", "trace"]),
    ("store", &["domain", "isolation", "metrics", "trace"]),
    ("gateway", &["domain"]),
    ("config", &["domain"]),
    ("telemetry", &["config", "domain::ports", "isolation", "store::clock", "store::secret_file", "trace"]),
    ("transport", &["admission", "domain::callers", "domain::ports", "domain::types", "isolation"]),
    ("grpc", &["admission", "domain", "gateway", "isolation", "metrics", "trace", "transport"]),
    ("http", &["admission", "domain", "gateway", "isolation", "metrics", "telemetry", "trace", "transport"]),
    ("json", &["admission", "domain::metrics", "grpc", "isolation", "transport"]),
    ("app", &["*"]),
    (
        "cli",
        &[
            "app",
            "config",
            "domain",
            "grpc::pb",
            "store::clock",
            "store::key_files",
            "store::secret_file",
            "telemetry",
        ],
    ),
];

/// Paths outside this crate that a module must not name: the domain knows neither protocols nor the environment.
const BANNED: [(&str, &[&str]); 8] = [
    (
        "domain",
        &[
            "tonic",
            "prost",
            "redis",
            "rusqlite",
            "sqlx",
            "axum",
            "hyper",
            "std::env",
            "std::fs",
            "std::time::SystemTime",
        ],
    ),
    ("admission", &["tonic", "axum", "hyper"]),
    ("isolation", &["tonic", "axum", "hyper"]),
    ("gateway", &["tonic", "prost", "redis", "rusqlite", "sqlx", "axum", "hyper"]),
    ("store", &["tonic", "axum"]),
    ("grpc", &["redis", "rusqlite", "sqlx"]),
    ("http", &["tonic", "redis", "rusqlite", "sqlx"]),
    ("cli", &["redis", "rusqlite", "sqlx", "axum"]),
];

/// Modules whose children must not depend on each other in a cycle.
const WITHOUT_CYCLES: [&str; 4] = ["crate", "crate::grpc", "crate::store::sql", "crate::cli"];

/// Cycles that exist today, each with what has to move to end it. A cycle that grows or shrinks fails the test too.
const KNOWN_CYCLES: [(&str, &[&str], &str); 0] = [];

/// A path that a module of this crate names; paths inside the crate begin with `crate::`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Reference {
    from: String,
    to: String,
}

/// Collects the references of one file.
struct Collector {
    module: Vec<String>,
    found: BTreeSet<Reference>,
}

impl Collector {
    fn collect(module: &[&str], source: &str) -> BTreeSet<Reference> {
        let module = ["crate"].iter().chain(module).map(|name| (*name).to_owned()).collect();
        let mut collector = Self { module, found: BTreeSet::new() };
        collector.visit_file(&syn::parse_file(source).unwrap());
        collector.found
    }

    fn add(&mut self, path: &[String]) {
        let ups = path.iter().take_while(|name| *name == "super").count();
        let to = match path[0].as_str() {
            "self" => [&self.module, &path[1..]].concat(),
            "super" => [&self.module[..self.module.len() - ups], &path[ups..]].concat(),
            _ => path.to_vec(),
        };
        self.found.insert(Reference { from: self.module.join("::"), to: to.join("::") });
    }

    /// Adds every path of a `use` item, however its braces are nested.
    fn add_use(&mut self, prefix: &[String], tree: &UseTree) {
        let with = |name: &syn::Ident| [prefix, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.add_use(&with(&path.ident), &path.tree),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_use(prefix, tree)),
            UseTree::Name(name) if name.ident == "self" => self.add(prefix),
            UseTree::Rename(rename) if rename.ident == "self" => self.add(prefix),
            UseTree::Name(name) => self.add(&with(&name.ident)),
            UseTree::Rename(rename) => self.add(&with(&rename.ident)),
            UseTree::Glob(_) => self.add(prefix),
        }
    }
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_use(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        // A single name is that of something local or imported.
        if names.len() > 1 {
            self.add(&names);
        }
        visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        visit::visit_macro(self, call);
        if let Ok(arguments) = call.parse_body_with(Punctuated::<Expr, Token![,]>::parse_terminated) {
            // These expressions do not live as long as the file, so a second collector visits them.
            let mut inner = Collector { module: self.module.clone(), found: BTreeSet::new() };
            arguments.iter().for_each(|argument| inner.visit_expr(argument));
            self.found.append(&mut inner.found);
        }
    }
}

/// Reads the references of all files in a folder of `src/`.
fn read(folder: &Path, module: &[&str], found: &mut BTreeSet<Reference>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let child = [module, &[name]].concat();
        if path.is_dir() {
            read(&path, &child, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let module = if ["mod", "lib"].contains(&name) { module } else { &child };
            found.append(&mut Collector::collect(module, &fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The references of the whole crate.
static REFERENCES: LazyLock<BTreeSet<Reference>> = LazyLock::new(|| {
    let mut found = BTreeSet::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &[], &mut found);
    // The binary sees the library as another crate.
    found.retain(|reference| reference.from != "crate::main");
    found
});

/// Whether a path is this module or something in it. A crate includes its companions: `tonic` covers `tonic_types`.
fn within(path: &str, module: &str) -> bool {
    path.strip_prefix(module)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::") || rest.starts_with('_'))
}

/// The name of the child of `parent` that a path leads through.
fn child<'a>(path: &'a str, parent: &str) -> Option<&'a str> {
    path.strip_prefix(parent)?.strip_prefix("::")?.split("::").next()
}

/// Finds the references that the tables forbid.
fn violations(references: &BTreeSet<Reference>) -> Vec<String> {
    let is_forbidden = |reference: &&Reference| {
        let Some(from) = child(&reference.from, "crate") else { return false };
        let Some(to) = reference.to.strip_prefix("crate::") else {
            let banned = BANNED.iter().filter(|(module, _)| *module == from);
            return banned.flat_map(|(_, paths)| *paths).any(|path| within(&reference.to, path));
        };
        let allowed =
            ALLOWED.iter().find(|(module, _)| *module == from).map_or(&[][..], |(_, allowed)| allowed);
        !within(to, from) && !allowed.iter().any(|module| *module == "*" || within(to, module))
    };
    let found = references.iter().filter(is_forbidden);
    found.map(|reference| format!("{} names {}", reference.from, reference.to)).collect()
}

/// Finds the groups of children of a module that depend on each other in a cycle. Unit tests may name any sibling.
fn cycles(references: &BTreeSet<Reference>, parent: &str) -> BTreeSet<BTreeSet<String>> {
    let modules: BTreeSet<_> =
        references.iter().filter_map(|reference| child(&reference.from, parent)).collect();
    let mut reachable: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let is_test = |reference: &&Reference| reference.from.split("::").any(|name| name == "tests");
    for reference in references.iter().filter(|reference| !is_test(reference)) {
        if let (Some(from), Some(to)) = (child(&reference.from, parent), child(&reference.to, parent))
            && from != to
            && modules.contains(to)
        {
            reachable.entry(from).or_default().insert(to);
        }
    }
    // Everything that is reachable through `middle`, for each `middle` in turn.
    for middle in &modules {
        let next = reachable.get(middle).cloned().unwrap_or_default();
        reachable.values_mut().filter(|to| to.contains(middle)).for_each(|to| to.extend(&next));
    }
    let reaches = |from: &str, to: &str| reachable.get(from).is_some_and(|reached| reached.contains(to));
    let group = |of: &&str| {
        let in_cycle = modules.iter().filter(|other| reaches(of, other) && reaches(other, of));
        in_cycle.map(|name| (*name).to_owned()).collect()
    };
    let groups = modules.iter().map(group);
    groups.filter(|group: &BTreeSet<_>| !group.is_empty()).collect()
}

#[test]
fn modules_depend_only_on_what_the_table_allows() {
    for (module, _) in ALLOWED {
        let parent = format!("crate::{module}");
        assert!(REFERENCES.iter().any(|reference| within(&reference.from, &parent)), "src has no {module}");
    }
    let violations = violations(&REFERENCES);
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn sibling_modules_do_not_depend_on_each_other_in_a_cycle() {
    let of = |parent| cycles(&REFERENCES, parent).into_iter().map(move |names| (parent, names));
    let found: BTreeSet<_> = WITHOUT_CYCLES.into_iter().flat_map(of).collect();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let known = KNOWN_CYCLES.iter().map(|(parent, cycle, _)| (*parent, names(cycle))).collect();
    assert_eq!(found, known, "left: cycles in src/, right: known cycles");
}

#[test]
fn forbidden_references_and_cycles_are_noticed() {
    let forbidden = [
        "use crate::{isolation::{self, panics}, store::{sql::{self as db, Lookup}}};",
        "use super::super::{grpc::*};",
        "fn now() { std::time::SystemTime::now(); }",
        "fn call(status: Option<tonic_types::Code>) {}",
        "fn check() { assert!(crate::config::Config::is_valid(), \"invalid\"); }",
    ];
    for source in forbidden {
        let found = violations(&Collector::collect(&["domain", "login"], source));
        assert!(!found.is_empty(), "not noticed: {source}");
    }
    let allowed =
        "use crate::{domain::ports, isolation}; use super::model::{self, types}; use std::time::Instant;";
    assert_eq!(violations(&Collector::collect(&["domain", "login"], allowed)), Vec::<String>::new());

    let mut references = Collector::collect(&["grpc", "auth"], "use super::{status, access::{self, Role}};");
    references
        .append(&mut Collector::collect(&["grpc", "access"], "fn f(_: crate::grpc::convert::Origin) {}"));
    assert!(cycles(&references, "crate::grpc").is_empty());
    references.append(&mut Collector::collect(&["grpc", "convert"], "use crate::{grpc::auth, domain};"));
    let expected = ["access", "auth", "convert"].map(str::to_owned).into();
    assert_eq!(cycles(&references, "crate::grpc"), BTreeSet::from([expected]));
}
