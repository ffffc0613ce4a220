//! Envoy, nginx and Apache with the samples in `deploy/`, in which tests change only ports and what they name.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::support::{
    address::unused_address,
    child_server::{ChildServer, is_root},
    http,
    skip::{find_program, named_program},
};

/// How long a gateway may take to start.
const STARTED: Duration = Duration::from_secs(20);

/// Reads a file of `deploy/` and applies changes, each of which must match.
fn sample(path: &str, changes: &[(&str, &str)]) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path);
    let mut text = fs::read_to_string(&path).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{} has no {from}", path.display());
        text = text.replace(from, to);
    }
    text
}

pub struct Gateway {
    pub address: SocketAddr,
    _process: ChildServer,
    _dir: TempDir,
}

/// Starts Envoy with its sample, for the gRPC port `latchkey` and a service at `app`.
pub async fn envoy(latchkey: SocketAddr, app: SocketAddr, changes: &[(&str, &str)]) -> Option<Gateway> {
    envoy_on("envoy/envoy.yaml", latchkey, app, changes).await
}

/// Starts Envoy with the sample for web pages.
pub async fn envoy_for_pages(
    latchkey: SocketAddr,
    app: SocketAddr,
    changes: &[(&str, &str)],
) -> Option<Gateway> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("latchkey.binpb");
    let printed = Command::new(env!("CARGO_BIN_EXE_latchkey")).arg("descriptor").output().unwrap();
    fs::write(&file, printed.stdout).unwrap();
    let file = format!("proto_descriptor: {}", file.display());
    let mut all = vec![("proto_descriptor: latchkey.binpb", &*file)];
    all.extend_from_slice(changes);
    envoy_on("envoy/pages.yaml", latchkey, app, &all).await
}

async fn envoy_on(
    file: &str,
    latchkey: SocketAddr,
    app: SocketAddr,
    changes: &[(&str, &str)],
) -> Option<Gateway> {
    let program = find_program("envoy", "LATCHKEY_TEST_ENVOY")?;
    let dir = tempfile::tempdir().unwrap();
    let (latchkey, app) = (format!("port_value: {}", latchkey.port()), format!("port_value: {}", app.port()));
    let mut all = vec![
        // Port 0 is any free port.
        ("port_value: 8080", "port_value: 0"),
        ("port_value: 9901", "port_value: 0"),
        ("port_value: 50051", &*latchkey),
        ("port_value: 3000", &*app),
    ];
    all.extend_from_slice(changes);
    let (config, admin) = (dir.path().join("envoy.yaml"), dir.path().join("admin"));
    let log = dir.path().join("log");
    fs::write(&config, sample(file, &all)).unwrap();
    let mut command = Command::new(program);
    command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "--config-path"]);
    command.arg(&config).arg("--log-path").arg(&log).arg("--admin-address-path").arg(&admin);
    let mut process = ChildServer::start(&command, "KILL", None);
    let begun = Instant::now();
    loop {
        let said = || fs::read_to_string(&log).unwrap_or_default();
        assert!(!process.has_ended() && begun.elapsed() < STARTED, "Envoy did not start: {}", said());
        let admin = fs::read_to_string(&admin).ok().and_then(|text| text.trim().parse().ok());
        if let Some(address) = listener(admin).await {
            return Some(Gateway { address, _process: process, _dir: dir });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Returns the address of the listener once Envoy serves.
async fn listener(admin: Option<SocketAddr>) -> Option<SocketAddr> {
    let admin = admin?;
    if http::try_get(admin, "/ready", &[]).await?.status != 200 {
        return None;
    }
    let listeners = http::try_get(admin, "/listeners", &[]).await?;
    // The line is `public::127.0.0.1:1`.
    let line = listeners.body.lines().find_map(|line| line.trim().strip_prefix("public::"))?;
    line.parse().ok()
}

/// Starts nginx with its sample, for the HTTP port `latchkey` and a service at `app`.
pub async fn nginx(latchkey: SocketAddr, app: SocketAddr, changes: &[(&str, &str)]) -> Option<Gateway> {
    let program = find_program("nginx", "LATCHKEY_TEST_NGINX")?;
    let dir = tempfile::tempdir().unwrap();
    // Another process may take the port first, so several ports are tried.
    for _ in 0..10 {
        let address = unused_address();
        let (latchkey, app) = (format!("server {latchkey}"), format!("server {app}"));
        let listen = format!("listen {address}");
        let mut all = vec![
            ("server 127.0.0.1:8081", &*latchkey),
            ("server 127.0.0.1:3000", &*app),
            ("listen 127.0.0.1:8080", &*listen),
        ];
        all.extend_from_slice(changes);
        let conf = dir.path().join("latchkey.conf");
        fs::write(&conf, sample("nginx/latchkey.conf", &all)).unwrap();
        // The sample is a part of nginx.conf.
        let temp = dir.path().display();
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|of| format!("{of}_temp_path {temp}/{of};"));
        let main = format!(
            "daemon off; master_process off; pid {temp}/pid; error_log {temp}/log;\n\
             events {{}}\nhttp {{ access_log off; {} include {temp}/latchkey.conf; }}\n",
            paths.join(" "),
        );
        let file = dir.path().join("nginx.conf");
        fs::write(&file, main).unwrap();
        let mut command = Command::new(&program);
        command.arg("-e").arg(dir.path().join("log")).arg("-c").arg(&file).arg("-p").arg(dir.path());
        let mut process = ChildServer::start(&command, "KILL", None);
        let begun = Instant::now();
        while !process.has_ended() && begun.elapsed() < STARTED {
            if http::try_get(address, "/public/", &[]).await.is_some() {
                return Some(Gateway { address, _process: process, _dir: dir });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    panic!("nginx did not start: {}", fs::read_to_string(dir.path().join("log")).unwrap_or_default());
}

/// Starts Apache with its sample, for a service at `app`.
pub async fn apache(app: SocketAddr, changes: &[(&str, &str)]) -> Option<Gateway> {
    let program = named_program("Apache", "LATCHKEY_TEST_APACHE")?;
    let usr = program.ancestors().nth(2).unwrap();
    let modules = usr.join("lib/apache2/modules");
    let libraries = fs::read_dir(usr.join("lib")).unwrap().map(|entry| entry.unwrap().path());
    let libraries: Vec<_> = libraries
        .filter(|path| path.to_str().is_some_and(|path| path.ends_with("-linux-gnu")))
        .map(|path| path.display().to_string())
        .collect();
    let dir = tempfile::tempdir().unwrap();
    // Its workers are not root, and read the certificate.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for _ in 0..10 {
        let address = unused_address();
        let (listen, app) = (address.to_string(), app.to_string());
        let mut all = vec![("127.0.0.1:8080", &*listen), ("127.0.0.1:3000", &*app)];
        all.extend_from_slice(changes);
        let conf = dir.path().join("latchkey.conf");
        fs::write(&conf, sample("apache/latchkey.conf", &all)).unwrap();
        // The sample is a part of apache2.conf.
        let temp = dir.path().display();
        let mut main = format!(
            "ServerRoot {temp}\nServerName localhost\nPidFile {temp}/pid\nErrorLog {temp}/log\nMutex pthread\n\
             StartServers 1\nServerLimit 1\nThreadsPerChild 8\nMaxRequestWorkers 8\nMinSpareThreads 1\n"
        );
        for name in [
            "mpm_event",
            "authn_core",
            "authz_core",
            "authz_user",
            "headers",
            "proxy",
            "proxy_http",
            "auth_openidc",
        ] {
            writeln!(main, "LoadModule {name}_module {}/mod_{name}.so", modules.display()).unwrap();
        }
        if is_root() {
            main += "User nobody\nGroup nogroup\n";
        }
        writeln!(main, "Include {}", conf.display()).unwrap();
        let file = dir.path().join("apache2.conf");
        fs::write(&file, main).unwrap();
        let mut command = Command::new("env");
        command.arg(format!("LD_LIBRARY_PATH={}", libraries.join(":"))).arg(&program);
        command.args(["-D", "FOREGROUND", "-f"]).arg(&file);
        let mut process = ChildServer::start(&command, "TERM", None);
        let begun = Instant::now();
        while !process.has_ended() && begun.elapsed() < STARTED {
            if http::try_get(address, "/", &[]).await.is_some() {
                return Some(Gateway { address, _process: process, _dir: dir });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    panic!("Apache did not start: {}", fs::read_to_string(dir.path().join("log")).unwrap_or_default());
}
