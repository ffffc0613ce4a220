//! The files that the container image is built from form a complete package, and the final stage of the image runs the
//! program. `make image` builds the whole image, which takes minutes.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use crate::support::{process::LATCHKEY, skip::skip};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn dockerfile() -> String {
    fs::read_to_string(root().join("Dockerfile")).unwrap()
}

/// Returns what the first stage of the Dockerfile copies, and where to.
fn copied(dockerfile: &str) -> Vec<(&str, &str)> {
    let build = dockerfile.split("\nFROM ").nth(1).unwrap();
    let copies = build.lines().filter_map(|line| line.strip_prefix("COPY "));
    let copies = copies.map(|files| files.rsplit_once(' ').unwrap());
    copies.flat_map(|(files, to)| files.split(' ').map(move |file| (file, to))).collect()
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    }
}

#[test]
fn the_image_is_built_from_a_complete_package() {
    let dockerfile = dockerfile();
    let ignored = fs::read_to_string(root().join(".dockerignore")).unwrap();
    let context = tempfile::tempdir().unwrap();
    let files = copied(&dockerfile);
    assert!(files.iter().any(|(file, _)| *file == "src"), "{files:?}");
    for (file, _) in &files {
        let allowed = ignored.lines().filter_map(|line| line.strip_prefix('!'));
        assert!(allowed.into_iter().any(|allowed| Path::new(file).starts_with(allowed)), "{file} is ignored");
        copy(&root().join(file), &context.path().join(file));
    }
    // The step that stands in for the sources while the dependencies are built. It must not replace what was copied.
    let stubs = dockerfile.split("\nRUN mkdir").nth(1).unwrap().split("\nRUN ").next().unwrap();
    let stubs = format!("mkdir{stubs}").replace("\\\n", " ");
    let bare = tempfile::tempdir().unwrap();
    let made = Command::new("sh").args(["-euc", &stubs]).current_dir(bare.path()).output().unwrap();
    assert!(made.status.success(), "{}", text(&made));
    let bench = Path::new("crates/latchkey-bench");
    copy(&bare.path().join(bench), &context.path().join(bench));
    // `cargo fetch` reads the manifests as a build does, so every file that they name must exist. The dependencies are
    // already in the local registry.
    let about = Command::new(env!("CARGO")).arg("-vV").output().unwrap().stdout;
    let about = String::from_utf8(about).unwrap();
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let mut fetch = Command::new(env!("CARGO"));
    fetch.args(["fetch", "--locked", "--offline", "--target", host]).current_dir(context.path());
    let fetched = fetch.output().unwrap();
    assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
}

#[test]
fn the_image_is_built_with_the_pinned_toolchain() {
    let pinned = fs::read_to_string(root().join("rust-toolchain.toml")).unwrap();
    let version = pinned.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap().trim_matches('"');
    assert!(dockerfile().contains(&format!("\nARG RUST_VERSION={version}\n")), "{version}");
}

fn docker(arguments: &[&str]) -> Output {
    Command::new("docker").args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn succeeds(arguments: &[&str]) -> String {
    let output = docker(arguments);
    assert!(output.status.success(), "docker {arguments:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Removes the container and its image.
struct Container {
    name: String,
}

impl Drop for Container {
    fn drop(&mut self) {
        docker(&["rm", "--force", "--volumes", &self.name]);
        docker(&["rmi", "--force", &self.name]);
    }
}

/// Whether a Docker engine runs, with the base of the final stage.
fn engine_with(base: &str) -> bool {
    let info = Command::new("docker").arg("info").output();
    if !info.is_ok_and(|info| info.status.success()) {
        skip("no Docker engine runs");
        return false;
    }
    let has_base = docker(&["image", "inspect", base]).status.success()
        || docker(&["pull", "--quiet", base]).status.success();
    if !has_base {
        skip(&format!("the image {base} cannot be pulled"));
    }
    has_base
}

#[test]
fn the_image_serves_with_a_read_only_root_and_reports_its_health() {
    let dockerfile = dockerfile();
    let release = dockerfile.lines().find_map(|line| line.strip_prefix("ARG DEBIAN=")).unwrap();
    if !engine_with(&format!("debian:{release}-slim")) {
        return;
    }
    // The final stage with the program of this build in place of that of the first stage.
    let stage = dockerfile
        .rsplit_once("\nFROM ")
        .unwrap()
        .1
        .replace("--from=build ", "")
        .replace(" /rootfs/", " rootfs/");
    let context = tempfile::tempdir().unwrap();
    fs::write(context.path().join("Dockerfile"), format!("ARG DEBIAN={release}\nFROM {stage}")).unwrap();
    let rootfs = context.path().join("rootfs");
    copy(Path::new(LATCHKEY), &rootfs.join("usr/local/bin/latchkey"));
    fs::create_dir_all(rootfs.join("etc/ssl/certs")).unwrap();
    fs::write(rootfs.join("etc/passwd"), "latchkey:x:10001:10001::/var/lib/latchkey:/usr/sbin/nologin\n")
        .unwrap();
    let data = rootfs.join("data/latchkey");
    fs::create_dir_all(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();

    let name = format!("latchkey-test-{}", std::process::id());
    let container = Container { name: name.clone() };
    succeeds(&[
        "build",
        "--quiet",
        "--tag",
        &name,
        "--build-arg",
        "VERSION=1.2.3",
        context.path().to_str().unwrap(),
    ]);
    let label = "{{index .Config.Labels \"org.opencontainers.image.version\"}}";
    assert_eq!(succeeds(&["image", "inspect", "--format", label, &name]), "1.2.3");
    let started = [
        "run",
        "--detach",
        "--name",
        &name,
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        &name,
    ];
    succeeds(&started);
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let health = succeeds(&["inspect", "--format", "{{.State.Health.Status}}", &name]);
        if health == "healthy" {
            break;
        }
        let logs = text(&docker(&["logs", &name]));
        if logs.contains("GLIBC_") {
            skip(&format!("this build needs a newer C library than Debian {release} has"));
            return;
        }
        assert!(Instant::now() < deadline, "{health}: {logs}");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(succeeds(&["exec", &name, "latchkey", "health", "--http"]), "serving");
    assert_eq!(succeeds(&["exec", &name, "id", "-u"]), "10001");
    succeeds(&["stop", &name]);
    assert_eq!(succeeds(&["inspect", "--format", "{{.State.ExitCode}}", &name]), "0");
    drop(container);
}

#[test]
fn the_compose_file_is_valid() {
    let compose = Command::new("docker").args(["compose", "version"]).output();
    if !compose.is_ok_and(|compose| compose.status.success()) {
        return skip("docker compose is not installed");
    }
    let file = root().join("deploy/compose.yaml");
    let file = file.to_str().unwrap();
    let config =
        succeeds(&["compose", "--file", file, "--profile", "monitoring", "config", "--format", "json"]);
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let services = config["services"].as_object().unwrap();
    let replicas: Vec<_> = services.iter().filter(|(name, _)| name.starts_with("latchkey")).collect();
    assert_eq!(replicas.len(), 2, "{config}");
    for (name, replica) in replicas {
        assert_eq!(replica["environment"], services["latchkey"]["environment"], "{name}");
        assert_eq!(replica["depends_on"]["keys"]["condition"], "service_completed_successfully", "{name}");
        // The server accepts its settings. The key files are in a volume.
        let mut check = Command::new(LATCHKEY);
        check.env_clear().args(["serve", "--check"]);
        for (variable, value) in replica["environment"].as_object().unwrap() {
            if !variable.ends_with("KEYS_DIR") {
                check.env(variable, value.as_str().unwrap());
            }
        }
        let data = tempfile::tempdir().unwrap();
        let checked = check.current_dir(data.path()).output().unwrap();
        assert!(checked.status.success(), "{name}: {}", text(&checked));
    }
    // What Prometheus and Grafana mount exists, and Prometheus finds both replicas by the name that they share.
    for service in ["prometheus", "grafana"] {
        let volumes = services[service]["volumes"].as_array().unwrap();
        let mounts: Vec<_> = volumes.iter().filter(|volume| volume["type"] == "bind").collect();
        assert!(!mounts.is_empty(), "{service}");
        for mount in mounts {
            let source = Path::new(mount["source"].as_str().unwrap());
            assert!(fs::read_dir(source).unwrap().next().is_some(), "{} is empty", source.display());
        }
        assert!(services[service]["networks"].get("default").is_some(), "{service} is on another network");
    }
    let scraped = fs::read_to_string(root().join("deploy/prometheus/prometheus.yml")).unwrap();
    assert!(scraped.contains("- names: [latchkey]\n"), "{scraped}");
    for name in ["latchkey", "latchkey-2"] {
        assert_eq!(services[name]["networks"]["default"]["aliases"][0], "latchkey", "{name}");
    }
}
