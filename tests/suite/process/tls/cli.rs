//! The command line and grpcurl as clients of a server with TLS.

use std::process::Command;

use super::*;
use crate::support::skip::named_program;

/// Runs `latchkey` on the machine of the server and returns the exit code and the output.
fn says(server: &TlsServer, settings: &[(&str, &str)], words: &str) -> (i32, String) {
    let mut command = command(&server.folder.path().join("data"), settings);
    command.args(words.split(' '));
    let output = run(command, "");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code().unwrap(), text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_same_machine_the_settings_suffice() {
    let server = TlsServer::start(&[]).await;
    server.client(None).await.user("alice").await;
    let address = server.process.grpc.to_string();
    let certificate = server.folder.path().join("server.pem");
    let key = server.folder.path().join("server.key");
    let local = [
        ("LISTEN__GRPC", address.as_str()),
        ("TLS__CERTIFICATE_FILE", certificate.to_str().unwrap()),
        ("TLS__KEY_FILE", key.to_str().unwrap()),
    ];
    let (code, said) = says(&server, &local, "account list");
    assert!(code == 0 && said.contains("alice"), "{said}");
    let (code, said) = says(&server, &local, &format!("account list --server {address}"));
    assert!(code == 0 && said.contains("alice"), "{said}");

    // Only the configured certificate is trusted, and no other of the same authority.
    let (other, _) = server.authority.server().write(server.folder.path(), "other");
    let mut another = local;
    another[1].1 = other.to_str().unwrap();
    let (code, said) = says(&server, &another, "account list");
    assert!(code == 1 && said.contains("is not the one in"), "{code} {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_remote_server_needs_https_and_a_trusted_root() {
    let server = TlsServer::start(&[]).await;
    server.client(None).await.user("alice").await;
    let there = localhost(server.process.grpc);
    let ca = server.folder.path().join("ca.pem");
    let ca = ca.to_str().unwrap();
    let (code, said) = says(&server, &[], &format!("account list --server {there} --ca-file {ca}"));
    assert!(code == 0 && said.contains("alice"), "{said}");
    let (code, said) = says(&server, &[("SERVER", &there), ("CA_FILE", ca)], "account list");
    assert!(code == 0 && said.contains("alice"), "{said}");
    // With --ca-file the command uses TLS even without https.
    let bare = there.strip_prefix("https://").unwrap();
    let (code, said) = says(&server, &[], &format!("account list --server {bare} --ca-file {ca}"));
    assert!(code == 0 && said.contains("alice"), "{said}");

    // The name of the server is not in the certificate.
    let elsewhere = there.replace("localhost", "127.0.0.1");
    let (code, said) = says(&server, &[], &format!("account list --server {elsewhere} --ca-file {ca}"));
    assert!(code == 1 && said.contains("not trusted"), "{code} {said}");
    // Neither the roots of a stranger nor those of the system have signed the certificate.
    let stranger = tempfile::tempdir().unwrap();
    let theirs = Authority::new("theirs").write(stranger.path());
    let words = format!("account list --server {there} --ca-file {}", theirs.display());
    let (code, said) = says(&server, &[], &words);
    assert!(code == 1 && said.contains("not trusted"), "{code} {said}");
    let (code, said) = says(&server, &[], &format!("account list --server {there}"));
    assert_eq!(code, 1, "{said}");
    // A connection without TLS fails.
    let (code, said) = says(&server, &[], &format!("account list --server http://{bare}"));
    assert!(code == 3 && said.contains("https://"), "{code} {said}");
    let (code, said) = says(&server, &[], "account list --ca-file /nowhere");
    assert!(code == 1 && said.contains("--ca-file: cannot use /nowhere"), "{code} {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_is_sent_if_required() {
    let server = TlsServer::with_clients(&[
        ("TLS__CLIENT_CERTIFICATE", "required"),
        ("ACCESS__VALIDATE", "caller"),
        ("ACCESS__CERTIFICATES", "dns:web validator"),
    ])
    .await;
    let folder = server.folder.path();
    let (certificate, key) = server.authority.client(&["web"]).write(folder, "client");
    let there = localhost(server.process.grpc);
    let ca = folder.join("ca.pem");
    let base = [("SERVER", there.as_str()), ("CA_FILE", ca.to_str().unwrap())];
    let mine = [
        ("CERTIFICATE_FILE", certificate.to_str().unwrap()),
        ("CERTIFICATE_KEY_FILE", key.to_str().unwrap()),
        ("TOKEN", "not a token"),
    ];
    let (code, said) = says(&server, &[base.as_slice(), &mine].concat(), "validate");
    assert!(code == 1 && said.contains("MALFORMED"), "a verdict: {code} {said}");
    let (code, said) = says(&server, &base, "account list");
    assert!(code == 3 && said.contains("--certificate-file"), "{code} {said}");
    let (code, said) = says(&server, &base, &format!("account list --certificate-file {}", ca.display()));
    assert!(code == 2 && said.contains("--certificate-key-file"), "{code} {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpcurl_connects_with_tls() {
    let Some(grpcurl) = named_program("grpcurl", "LATCHKEY_TEST_GRPCURL") else { return };
    let server = TlsServer::with_clients(&[("ACCESS__CERTIFICATES", "dns:boss admin")]).await;
    let (certificate, key) = server.authority.client(&["boss"]).write(server.folder.path(), "client");
    let list = |with_certificate: bool| {
        let mut grpcurl = Command::new(&grpcurl);
        grpcurl.arg("-cacert").arg(server.folder.path().join("ca.pem"));
        if with_certificate {
            grpcurl.arg("-cert").arg(&certificate).arg("-key").arg(&key);
        }
        let address = format!("localhost:{}", server.process.grpc.port());
        grpcurl.args([&address, "latchkey.v1.AccountService/ListAccounts"]);
        run(grpcurl, "")
    };
    assert!(list(true).status.success(), "{:?}", list(true));
    let refused = String::from_utf8(list(false).stderr).unwrap();
    assert!(refused.contains("CALLER_UNAUTHENTICATED"), "{refused}");
}
