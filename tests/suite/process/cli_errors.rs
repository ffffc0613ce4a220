//! Errors of commands: one message with the remedy, and with `--output json` a reason and the retry delay.

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::cli::{Done, Shell};
use crate::support::{
    address::unused_address,
    client::PASSWORD,
    process::{Process, command, run},
    tls::Authority,
};

/// A server with TLS, and a folder with its data and certificates.
struct Tls {
    folder: TempDir,
    process: Process,
}

impl Tls {
    fn start(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("ours");
        let ca = authority.write(folder.path());
        let (certificate, key) = authority.server().write(folder.path(), "server");
        let own = [
            ("TLS__CERTIFICATE_FILE", certificate.to_str().unwrap()),
            ("TLS__KEY_FILE", key.to_str().unwrap()),
        ];
        let ca = [("TLS__CLIENT_CA_FILE", ca.to_str().unwrap())];
        let process = Process::start(&folder.path().join("data"), &[&own[..], &ca, settings].concat());
        Self { folder, process }
    }

    fn server(&self, scheme: &str) -> String {
        format!("{scheme}localhost:{}", self.process.grpc.port())
    }
}

fn says(data: &Path, words: &str, input: &str) -> Done {
    let mut command = command(data, &[]);
    command.args(words.split(' '));
    run(command, input).into()
}

/// Checks a failed command as text and as JSON, and returns the error.
#[track_caller]
fn error(says: impl Fn(&str) -> Done, code: i32, reason: &str, said: &[&str]) -> Value {
    let text = says("text");
    assert_eq!(text.code, code, "{text:?}");
    assert_eq!(text.err.lines().count(), 1, "one message: {text:?}");
    for said in said {
        assert!(text.err.contains(said), "{said} is not in {text:?}");
    }
    let json = says("json");
    assert_eq!((json.code, json.err.lines().count()), (code, 1), "{json:?}");
    let error = serde_json::from_str::<Value>(&json.err).unwrap()["error"].clone();
    assert_eq!(error["reason"], reason, "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(text.err.starts_with(&format!("error: {message}")), "{message} and {text:?}");
    assert!(error["code"].as_str().unwrap().chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{error}");
    error
}

#[test]
fn a_server_that_cannot_be_reached_is_reported_with_the_remedy() {
    let shell = Shell::with(&[]);
    let (grpc, http) = (shell.process.grpc, shell.process.http);
    let at = |server: &str| {
        let server = server.to_owned();
        let data = shell.data.path().to_owned();
        move |output: &str| says(&data, &format!("validate --server {server} --output {output}"), "token")
    };
    let nobody = unused_address();
    let start = format!("no server answers at {nobody}: start one with `latchkey serve`");
    error(at(&nobody.to_string()), 3, "SERVER_UNREACHABLE", &[&start, "--server"]);
    error(
        at("nowhere.invalid:50051"),
        3,
        "NAME_NOT_RESOLVED",
        &["nowhere.invalid does not resolve", "--server"],
    );
    error(at("localhost"), 2, "USAGE", &["localhost has no port: write localhost:50051"]);
    error(
        at("https://localhost"),
        2,
        "USAGE",
        &["https://localhost:50051, or https://localhost:443 behind a proxy"],
    );
    error(at("[::1]"), 2, "USAGE", &["[::1] has no port: write [::1]:50051"]);
    let http_port = format!("{http} is not a gRPC port");
    error(at(&http.to_string()), 3, "HTTP_PORT", &[&http_port, "listen.grpc"]);
    error(at(&format!("https://{http}")), 3, "HTTP_PORT", &[&http_port]);
    let no_tls = format!("the server at {grpc} does not use TLS: write --server http://{grpc}");
    error(at(&format!("https://{grpc}")), 3, "TLS_NOT_SUPPORTED", &[&no_tls]);
}

#[test]
fn a_client_of_http_on_the_grpc_port_is_told_which_port_it_wants() {
    use std::io::{Read as _, Write as _};
    let shell = Shell::with(&[]);
    let ask = |request: &str| {
        let mut socket = std::net::TcpStream::connect(shell.process.grpc).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    };
    for request in ["GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n", "POST /v1/login HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let answer = ask(request);
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
        assert!(answer.contains("listen.http, 8081 by default"), "{answer}");
    }
    assert_eq!(ask("\x16\x03\x01 this is no request at all"), "", "only HTTP is answered");
}

#[test]
fn a_server_with_tls_is_reported_with_the_remedy() {
    let tls = Tls::start(&[("TLS__CLIENT_CERTIFICATE", "required")]);
    let ca = tls.folder.path().join("ca.pem");
    let elsewhere = tempfile::tempdir().unwrap();
    let at = |words: String| {
        let data = elsewhere.path().to_owned();
        move |output: &str| says(&data, &format!("{words} --output {output}"), "token")
    };
    let server = tls.server("");
    let https = format!("uses TLS: write --server https://{server}, with --ca-file");
    error(at(format!("validate --server {server}")), 3, "TLS_REQUIRED", &[&https]);
    // A stream breaks in the same way.
    error(at(format!("watch --server {server}")), 3, "TLS_REQUIRED", &[&https]);
    let words = format!("validate --server https://{server}");
    error(at(words), 1, "CERTIFICATE_NOT_TRUSTED", &["is not trusted", "--ca-file"]);
    let words = format!("validate --server https://{server} --ca-file {}", ca.display());
    error(at(words), 3, "CLIENT_CERTIFICATE_REQUIRED", &["--certificate-file"]);
    // The HTTP port is not encrypted.
    let words = format!("validate --server https://{} --ca-file {}", tls.process.http, ca.display());
    error(at(words), 3, "HTTP_PORT", &["is not a gRPC port"]);
}

#[test]
fn a_login_that_is_refused_says_why_and_when_to_try_again() {
    let shell = Shell::with(&[
        ("THROTTLE__FREE_ATTEMPTS", "1"),
        ("THROTTLE__FIRST_WAIT", "1h"),
        ("THROTTLE__LONGEST_WAIT", "2h"),
    ]);
    shell.add("alice");
    shell.add("bob");
    let login = |words: &str, password: &str| {
        let (words, password) = (words.to_owned(), password.to_owned());
        let shell = &shell;
        move |output: &str| shell.says(&format!("login {words} --output {output}"), &password)
    };
    shell.says("account disable bob", "").text();
    let disabled =
        error(login("bob", PASSWORD), 1, "ACCOUNT_DISABLED", &["the account is disabled", "account enable"]);
    assert_eq!(disabled["code"], "permission_denied");
    let wrong = shell.says("login alice --output json", "not the password");
    assert_eq!((wrong.code, wrong.out.as_str()), (1, ""), "{wrong:?}");
    let wrong: Value = serde_json::from_str(&wrong.err).unwrap();
    assert_eq!(wrong["error"]["code"], "unauthenticated");
    assert_eq!(wrong["error"]["reason"], "INVALID_CREDENTIALS");
    assert!(wrong["error"].get("retry_delay").is_none(), "{wrong}");
    assert!(wrong["error"]["message"].as_str().unwrap().contains("account set-password"), "{wrong}");

    let throttled = error(
        login("alice", PASSWORD),
        1,
        "THROTTLED",
        &["too many failed attempts", "(try again in 1h)", "account unlock"],
    );
    let delay = throttled["retry_delay"].as_str().unwrap().strip_suffix('s').unwrap();
    assert!((3000.0..=3600.0).contains(&delay.parse::<f64>().unwrap()), "{throttled}");
}

#[test]
fn every_error_has_a_reason_in_json() {
    let shell = Shell::with(&[]);
    shell.add("alice");
    let errors = |words: &str, input: &str| {
        let (words, input) = (words.to_owned(), input.to_owned());
        let shell = &shell;
        move |output: &str| shell.says(&format!("{words} --output {output}"), &input)
    };
    error(errors("account show nobody", ""), 1, "ACCOUNT_NOT_FOUND", &["no such account"]);
    error(errors("account add alice", PASSWORD), 1, "ACCOUNT_EXISTS", &[]);
    error(errors("account add bob", "short"), 2, "INVALID_REQUEST", &["15 code points"]);
    error(errors("validate", "not a token"), 1, "MALFORMED", &["MALFORMED: "]);
    error(errors("watch", "not a token"), 1, "MALFORMED", &[]);
    error(errors("session list nobody", ""), 1, "ACCOUNT_NOT_FOUND", &[]);
    error(errors("validate", ""), 2, "USAGE", &["standard input has no token"]);
    error(errors("key list --config /nowhere.toml", ""), 1, "FAILED", &["/nowhere.toml"]);
    // The arguments themselves are wrong.
    for words in
        ["frobnicate --output json", "account show --output=json", "login alice --output json --frobnicate"]
    {
        let wrong = shell.says(words, "");
        assert_eq!((wrong.code, wrong.err.lines().count()), (2, 1), "{wrong:?}");
        let error = &serde_json::from_str::<Value>(&wrong.err).unwrap()["error"];
        assert_eq!(
            (&error["code"], &error["reason"]),
            (&"invalid_argument".into(), &"USAGE".into()),
            "{error}"
        );
        assert!(!error["message"].as_str().unwrap().contains("Usage"), "{error}");
    }
}
