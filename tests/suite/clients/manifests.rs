//! The names, versions, licences and descriptions in the manifests of the clients are those of the server.
//!
//! The workspace in `Cargo.toml` is the one place for the repository and the version. What packages are called in other
//! languages follows from the repository.

use std::{fs, path::Path};

use serde_json::Value;
use toml::Table;

/// The parts of an address such as `https://github.com/OWNER/NAME`.
struct Repository {
    address: String,
    owner: String,
}

/// The fields of a manifest that are compared.
struct Manifest {
    file: &'static str,
    name: String,
    version: String,
    licence: String,
    description: String,
    repository: String,
}

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file))
        .unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn workspace() -> (Repository, String, String) {
    let manifest: Table = toml::from_str(&read("Cargo.toml")).unwrap();
    let package = &manifest["workspace"]["package"];
    let text = |key: &str| package[key].as_str().unwrap().to_owned();
    let address = text("repository");
    let (owner, name) = address.strip_prefix("https://github.com/").unwrap().split_once('/').unwrap();
    assert_eq!(name, "latchkey");
    (Repository { owner: owner.into(), address: address.clone() }, text("version"), text("license"))
}

/// Returns the text of the first element with this name.
fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let (_, rest) = xml.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no <{name}>"));
    rest.split_once(&format!("</{name}>")).unwrap().0.trim()
}

fn python() -> Manifest {
    let file = "clients/python/pyproject.toml";
    let manifest: Table = toml::from_str(&read(file)).unwrap();
    let project = &manifest["project"];
    let text = |key: &str| project[key].as_str().unwrap_or_else(|| panic!("{file}: no {key}")).to_owned();
    let urls = project.get("urls").unwrap_or_else(|| panic!("{file}: no [project.urls] with Homepage"));
    Manifest {
        file,
        name: text("name"),
        version: text("version"),
        licence: text("license"),
        description: text("description"),
        repository: urls["Homepage"].as_str().unwrap().to_owned(),
    }
}

fn node() -> Manifest {
    let file = "clients/node/package.json";
    let manifest: Value = serde_json::from_str(&read(file)).unwrap();
    let text = |key: &str| {
        let value = manifest.pointer(key).and_then(Value::as_str);
        value.unwrap_or_else(|| panic!("{file}: no {key}")).to_owned()
    };
    let lock: Value = serde_json::from_str(&read("clients/node/package-lock.json")).unwrap();
    for key in ["name", "version"] {
        assert_eq!(lock[key], manifest[key], "clients/node/package-lock.json: run npm install");
    }
    // npm writes the address of a repository in this form.
    let repository = text("/repository/url");
    let repository = repository.strip_prefix("git+").and_then(|address| address.strip_suffix(".git"));
    Manifest {
        file,
        name: text("/name"),
        version: text("/version"),
        licence: text("/license"),
        description: text("/description"),
        repository: repository.unwrap_or_else(|| panic!("{file}: not git+https://...git")).to_owned(),
    }
}

/// The modules of the project have the rest from their parent.
fn java() -> Manifest {
    let file = "clients/java/pom.xml";
    let pom = read(file);
    for module in pom.split("<module>").skip(1).filter_map(|rest| rest.split_once("</module>")) {
        let file = format!("clients/java/{}/pom.xml", module.0.trim());
        let module = read(&file);
        let parent = element(&module, "parent");
        for name in ["groupId", "version"] {
            assert_eq!(element(parent, name), element(&pom, name), "{file}: {name}");
        }
    }
    // The licence has a name and an address of its own.
    Manifest {
        file,
        name: element(&pom, "groupId").to_owned(),
        version: element(&pom, "version").to_owned(),
        licence: element(element(&pom, "license"), "name").to_owned(),
        description: element(&pom, "description").to_owned(),
        repository: element(element(&pom, "scm"), "url").to_owned(),
    }
}

fn rust() -> Manifest {
    let file = "crates/latchkey-client/Cargo.toml";
    let manifest: Table = toml::from_str(&read(file)).unwrap();
    let package = &manifest["package"];
    for key in ["version", "license", "repository"] {
        assert_eq!(package[key]["workspace"].as_bool(), Some(true), "{file}: {key}");
    }
    let (repository, version, licence) = workspace();
    Manifest {
        file,
        name: package["name"].as_str().unwrap().to_owned(),
        version,
        licence,
        description: package["description"].as_str().unwrap().to_owned(),
        repository: repository.address,
    }
}

#[test]
fn the_clients_have_the_version_and_the_licence_of_the_server() {
    let (repository, version, licence) = workspace();
    for manifest in [python(), node(), java(), rust()] {
        let file = manifest.file;
        assert_eq!((&manifest.version, &manifest.licence), (&version, &licence), "{file}");
        assert_eq!(manifest.repository, repository.address, "{file}");
        // Registries show it beside packages that have nothing to do with Latchkey.
        let description = &manifest.description;
        assert!(description.contains("Latchkey") && description.len() > 30, "{file}: {description}");
    }
}

#[test]
fn the_names_of_the_clients_stand_for_the_repository() {
    let (Repository { address, owner }, ..) = workspace();
    assert_eq!(python().name, owner);
    assert!(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("clients/python/src/{}", owner.replace('-', "_")))
            .is_dir(),
        "the package of Python is imported under the name of its distribution"
    );
    assert_eq!(node().name, format!("@{owner}/client"));
    assert_eq!(java().name, format!("io.github.{owner}"));
    assert_eq!(rust().name, "latchkey-client");
    let module = read("clients/go/go.mod");
    let module = module.lines().find_map(|line| line.strip_prefix("module ")).unwrap();
    assert_eq!(module, format!("{}/clients/go", address.trim_start_matches("https://")));
}

/// A name that was given up must not come back in a page or an import.
#[test]
fn nothing_uses_an_earlier_name_of_a_client() {
    let earlier = ["latchkey.internal/go", "@latchkey/client", "<groupId>latchkey</groupId>"];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = ["clients", "docs", "examples"].map(|folder| root.join(folder)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy();
            let is_made =
                ["node_modules", "target", "dist", "gen"].contains(&&*name) || name.starts_with('.');
            if path.is_dir() && !is_made {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let found = earlier.iter().find(|earlier| text.contains(**earlier));
                assert_eq!(found, None, "{}", path.display());
            }
        }
    }
}

#[test]
fn the_chart_has_the_version_of_the_server() {
    let (_, version, _) = workspace();
    let chart = read("deploy/helm/latchkey/Chart.yaml");
    for line in [format!("version: {version}"), format!("appVersion: \"{version}\"")] {
        assert!(chart.lines().any(|found| found == line), "Chart.yaml has no line `{line}`");
    }
    let manifest: Table = toml::from_str(&read("Cargo.toml")).unwrap();
    for kind in ["dependencies", "dev-dependencies"] {
        assert_eq!(manifest[kind]["latchkey-client"]["version"].as_str(), Some(version.as_str()), "{kind}");
    }
}
