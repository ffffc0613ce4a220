//! Replacement of certificates while the server runs.

use super::*;

/// Waits until new connections see a certificate of this authority.
async fn until_trusted(server: &TlsServer, authority: &Authority) {
    let begun = Instant::now();
    while channel(server.process.grpc, &authority.certificate, None).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(5), "the new certificate is not used");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_used_for_new_connections_and_open_ones_stay() {
    let server = TlsServer::start(&[]).await;
    let open = server.client(None).await;
    let next = Authority::new("next");
    files(server.folder.path(), &next.server());
    until_trusted(&server, &next).await;
    assert!(!server.answers(None).await, "the old certificate is still used for new connections");
    assert_eq!(validates(&open).await, Ok(()), "the open connection was closed");
    assert!(server.process.output_until("using the new certificate").contains("server.pem"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_replaces_a_certificate_before_the_interval() {
    let server = TlsServer::start(&[("TLS__RELOAD_INTERVAL", "1h")]).await;
    let next = Authority::new("next");
    files(server.folder.path(), &next.server());
    assert!(server.answers(None).await, "the certificate is replaced without a signal");
    server.process.signal("HUP");
    until_trusted(&server, &next).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_files_leave_the_old_certificate_in_use_and_are_logged_once() {
    let server = TlsServer::start(&[]).await;
    let path = server.folder.path().join("server.pem");
    std::fs::write(&path, "broken").unwrap();
    let output = server.process.output_until("failed to use the TLS files");
    assert!(output.contains("server.pem"), "{output}");
    // Many reload intervals pass.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(server.answers(None).await);
    assert_eq!(server.process.output().matches("failed to use the TLS files").count(), 1);

    // A certificate with the wrong key is ignored too.
    let next = Authority::new("next");
    std::fs::write(&path, next.server().certificate).unwrap();
    server.process.output_until("do not fit together");
    assert!(server.answers(None).await);
    files(server.folder.path(), &next.server());
    until_trusted(&server, &next).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_client_roots_apply_to_new_connections() {
    let server =
        TlsServer::with_clients(&[("TLS__CLIENT_CERTIFICATE", "required"), ("TLS__RELOAD_INTERVAL", "50ms")])
            .await;
    let next = Authority::new("next");
    let (old_client, new_client) = (server.authority.client(&["web"]), next.client(&["web"]));
    assert!(!server.answers(Some(&new_client)).await);
    std::fs::write(server.folder.path().join("ca.pem"), &next.certificate).unwrap();
    let begun = Instant::now();
    while !server.answers(Some(&new_client)).await {
        assert!(begun.elapsed() < Duration::from_secs(5), "the new roots are not used");
    }
    assert!(!server.answers(Some(&old_client)).await);
}
