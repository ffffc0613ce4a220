//! TLS on the gRPC port, and client certificates of callers.

mod cli;
mod reload;

use std::{
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, Instant},
};

use latchkey::grpc::pb;
use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::{Code, Request, Status, transport::Channel};
use tonic_health::pb::HealthCheckRequest;
use tonic_types::StatusExt as _;

use crate::support::{
    client::Client,
    process::{Process, command, run},
    tls::{Authority, Identity, channel, client_config, client_params, handshake, server_params},
};

/// A server with TLS, and the authority of its certificate and those of its clients.
struct TlsServer {
    process: Process,
    authority: Authority,
    folder: TempDir,
}

impl TlsServer {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let authority = Authority::new("ours");
        let folder = tempfile::tempdir().unwrap();
        let mut all = files(folder.path(), &authority.server());
        all.push(("TLS__RELOAD_INTERVAL", "50ms".into()));
        authority.write(folder.path());
        let mut all: Vec<_> = all.iter().map(|(name, value)| (*name, value.as_str())).collect();
        all.extend_from_slice(settings);
        let process = Process::start(&folder.path().join("data"), &all);
        let secured = Self { process, authority, folder };
        // A required client certificate must come from this authority.
        let identity = secured.authority.client(&["the-tests"]);
        secured.client(Some(&identity)).await.until_serving().await;
        secured
    }

    /// Starts a server that requires client certificates of the authority.
    async fn with_clients(settings: &[(&str, &str)]) -> Self {
        let ca = tempfile::tempdir().unwrap();
        let authority = Authority::new("ours");
        let path = authority.write(ca.path());
        let (certificate, key) = authority.server().write(ca.path(), "server");
        let mut all = vec![
            ("TLS__CLIENT_CA_FILE", path.to_str().unwrap()),
            ("TLS__CERTIFICATE_FILE", certificate.to_str().unwrap()),
            ("TLS__KEY_FILE", key.to_str().unwrap()),
            ("LOG__LEVEL", "info,latchkey=debug"),
        ];
        all.extend_from_slice(settings);
        let process = Process::start(&ca.path().join("data"), &all);
        let secured = Self { process, authority, folder: ca };
        let identity = secured.authority.client(&["the-tests"]);
        secured.client(Some(&identity)).await.until_serving().await;
        secured
    }

    async fn client(&self, identity: Option<&Identity>) -> Client {
        self.over(channel(self.process.grpc, &self.authority.certificate, identity).await.unwrap())
    }

    fn over(&self, channel: Channel) -> Client {
        Client::over(channel, &std::fs::read_to_string(self.folder.path().join("data/admin.key")).unwrap())
    }

    /// Whether a client with this certificate gets an answer.
    async fn answers(&self, identity: Option<&Identity>) -> bool {
        let Ok(channel) = channel(self.process.grpc, &self.authority.certificate, identity).await else {
            return false;
        };
        let request = HealthCheckRequest { service: String::new() };
        let answer = timeout(Duration::from_secs(5), self.over(channel).health.check(request)).await;
        let Ok(answer) = answer else { panic!("neither an answer nor an end") };
        answer.is_ok()
    }
}

/// Writes a certificate to a folder and returns the settings for it.
fn files(folder: &Path, identity: &Identity) -> Vec<(&'static str, String)> {
    let (certificate, key) = identity.write(folder, "server");
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    vec![("TLS__CERTIFICATE_FILE", text(certificate)), ("TLS__KEY_FILE", text(key))]
}

fn reason(status: &Status) -> (Code, String) {
    (status.code(), status.get_details_error_info().map(|info| info.reason).unwrap_or_default())
}

async fn validates(client: &Client) -> Result<(), (Code, String)> {
    client.try_validate("not a token").await.map(drop).map_err(|status| reason(&status))
}

async fn lists(client: &Client) -> Result<(), (Code, String)> {
    let answer = client.accounts.clone().list_accounts(pb::ListAccountsRequest::default()).await;
    answer.map(drop).map_err(|status| reason(&status))
}

fn unauthenticated() -> (Code, String) {
    (Code::Unauthenticated, "CALLER_UNAUTHENTICATED".into())
}

fn not_allowed() -> (Code, String) {
    (Code::PermissionDenied, "CALLER_NOT_ALLOWED".into())
}

/// Measures the time until the server closes a connection.
async fn closed(mut socket: impl AsyncRead + Unpin) -> Duration {
    let begun = Instant::now();
    let mut rest = Vec::new();
    // The connection may end with or without an error.
    assert!(
        timeout(Duration::from_secs(20), socket.read_to_end(&mut rest)).await.is_ok(),
        "the connection is not closed"
    );
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_trust_the_certificate_use_tls() {
    // A low limit of connections avoids the warning about a low limit of open files.
    let server = TlsServer::start(&[("SERVER__MAX_CONNECTIONS", "100")]).await;
    let client = server.client(None).await;
    client.user("alice").await;
    let token = client.login("alice", "phone").await.token;
    assert_eq!(client.session(&token).await.username, "alice");

    let stranger = Authority::new("theirs");
    let refused = channel(server.process.grpc, &stranger.certificate, None).await.unwrap_err();
    assert!(format!("{refused:?}").contains("UnknownIssuer"), "{refused:?}");
    assert!(!server.process.output().contains("WARN"), "{}", server.process.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_http_2_is_accepted() {
    let server = TlsServer::start(&[]).await;
    let roots = &server.authority.certificate;
    let dial = |alpn: &[&[u8]]| handshake(server.process.grpc, client_config(roots, None, alpn));
    let mut spoken = dial(&[b"http/1.1", b"h2"]).await.unwrap();
    assert_eq!(spoken.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut first = [0; 9];
    spoken.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    spoken.read_exact(&mut first).await.unwrap();
    assert_eq!(first[3], 4, "SETTINGS");

    let refused = dial(&[b"http/1.1"]).await.unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    let silent = dial(&[]).await.unwrap();
    assert!(closed(silent).await < Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_the_wrong_protocol_is_disconnected_at_once() {
    let server = TlsServer::start(&[]).await;
    for words in ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\nhost: x\r\n\r\n", "\0\0\0\0\0\0\0\0"]
    {
        let mut socket = TcpStream::connect(server.process.grpc).await.unwrap();
        socket.write_all(words.as_bytes()).await.unwrap();
        assert!(closed(socket).await < Duration::from_secs(2), "{words:?}");
    }
    let in_clear =
        tonic::transport::Endpoint::from_shared(format!("http://{}", server.process.grpc)).unwrap();
    let begun = Instant::now();
    if let Ok(channel) = in_clear.connect().await {
        server.over(channel).try_validate("token").await.unwrap_err();
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(server.answers(None).await);

    // A TLS client of a server without TLS fails fast too.
    let folder = tempfile::tempdir().unwrap();
    let clear = Process::start(folder.path(), &[]);
    let begun = Instant::now();
    let roots = &server.authority.certificate;
    handshake(clear.grpc, client_config(roots, None, &[b"h2"])).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(2));
    for process in [&server.process, &clear] {
        assert!(!process.output().contains("ERROR") && !process.output().contains("panicked"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_handshakes_time_out_and_delay_no_other_client() {
    let server = TlsServer::start(&[]).await;
    let mut crowd = Vec::new();
    for number in 0..100 {
        let mut socket = TcpStream::connect(server.process.grpc).await.unwrap();
        // The client sends nothing, or an incomplete hello.
        if number % 2 == 0 {
            socket.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1]).await.unwrap();
        }
        crowd.push(socket);
    }
    let begun = Instant::now();
    assert!(server.answers(None).await);
    assert!(begun.elapsed() < Duration::from_secs(2), "the close took {:?}", begun.elapsed());
    for socket in crowd {
        closed(socket).await;
    }
    let waited = begun.elapsed();
    assert!((Duration::from_secs(8)..Duration::from_secs(15)).contains(&waited), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_required_client_certificate_must_be_valid() {
    let server = TlsServer::with_clients(&[("TLS__CLIENT_CERTIFICATE", "required")]).await;
    let good = client_params(&["web"]);
    assert!(server.answers(Some(&server.authority.sign(&good))).await);
    assert!(!server.answers(None).await);
    assert!(
        !server.answers(Some(&Authority::new("ours").sign(&good))).await,
        "another authority of that name"
    );

    let mut expired = good.clone();
    (expired.not_before, expired.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    assert!(!server.answers(Some(&server.authority.sign(&expired))).await);
    let mut future = good.clone();
    future.not_before = date_time_ymd(2200, 1, 1);
    assert!(!server.answers(Some(&server.authority.sign(&future))).await);
    let mut purpose = good;
    purpose.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    assert!(!server.answers(Some(&server.authority.sign(&purpose))).await, "a certificate for servers");

    for why in [
        "TLS handshake failed",
        "peer sent no certificates",
        "BadSignature",
        "expired",
        "not valid yet",
        "client authentication",
    ] {
        server.process.output_until(why);
    }
    assert!(!server.process.output().contains("ERROR"), "{}", server.process.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_with_a_listed_name_is_a_caller() {
    let listed = "spiffe://prod/ns/default/sa/web validator,dns:gateway.internal issuer,uri:urn:boss admin";
    let server =
        TlsServer::with_clients(&[("ACCESS__VALIDATE", "caller"), ("ACCESS__CERTIFICATES", listed)]).await;
    let client = async |names: &[&str]| server.client(Some(&server.authority.client(names))).await;

    let web = client(&["spiffe://prod/ns/default/sa/web"]).await;
    assert_eq!(validates(&web).await, Ok(()));
    assert_eq!(lists(&web).await, Err(not_allowed()));
    let gateway = client(&["unlisted.internal", "gateway.internal"]).await;
    assert_eq!(validates(&gateway).await, Err(not_allowed()), "issuer implies nothing");
    let both = client(&["gateway.internal", "spiffe://prod/ns/default/sa/web"]).await;
    assert_eq!(validates(&both).await, Ok(()), "the roles of all names count");
    let boss = client(&["urn:boss"]).await;
    assert_eq!((validates(&boss).await, lists(&boss).await), (Ok(()), Ok(())));

    // A certificate without a listed name has no more rights than none.
    let none = server.client(None).await;
    for other in [
        &none,
        &client(&["spiffe://prod/ns/default/sa/web2"]).await,
        &client(&["web.gateway.internal"]).await,
        &client(&["*.internal"]).await,
        // The common name is `admin`.
        &client(&[]).await,
    ] {
        assert_eq!(validates(other).await, Err(unauthenticated()));
        assert_eq!(lists(other).await, Err(unauthenticated()));
        other.auth.clone().get_jwks(pb::GetJwksRequest {}).await.unwrap();
    }

    // A caller key takes precedence over the certificate.
    web.accounts.clone().list_accounts(web.admin(pb::ListAccountsRequest::default())).await.unwrap();
    let mut wrong = Request::new(pb::ListAccountsRequest::default());
    wrong.metadata_mut().insert("x-latchkey-key", "lka_wrong".parse().unwrap());
    let refused = boss.accounts.clone().list_accounts(wrong).await.unwrap_err();
    assert_eq!(reason(&refused), unauthenticated());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_certificate_is_refused_even_if_none_is_required() {
    let server = TlsServer::with_clients(&[]).await;
    assert!(server.answers(None).await);
    assert!(!server.answers(Some(&Authority::new("theirs").client(&["web"]))).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_connections_are_drained() {
    let server = TlsServer::start(&[]).await;
    let client = server.client(None).await;
    let request = HealthCheckRequest { service: String::new() };
    let mut watching = client.health.clone().watch(request).await.unwrap().into_inner();
    watching.message().await.unwrap();
    server.process.terminate();
    let end = loop {
        match watching.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the connection ends without a GOAWAY"),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&end), (Code::Unavailable, "SHUTTING_DOWN".into()), "{end:?}");
    let process = server.process;
    let (code, output) =
        tokio::task::spawn_blocking(move || process.wait(Duration::from_secs(5))).await.unwrap();
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("stopped"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsafe_settings_are_logged_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let open = Process::start(&folder.path().join("open"), &[("LISTEN__GRPC", "0.0.0.0:0")]);
    assert!(open.output_until("travel unencrypted").contains("tls.certificate_file"));

    let mut old = server_params();
    (old.not_before, old.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    let settings = files(folder.path(), &Authority::new("ours").sign(&old));
    let mut settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    settings.push(("LISTEN__GRPC", "0.0.0.0:0"));
    let expired = Process::start(&folder.path().join("expired"), &settings);
    assert!(expired.output_until("expired at 2021-01-01T00:00:00Z").contains("server.pem"));
    assert!(!expired.output().contains("travel unencrypted"));
}

#[test]
fn unusable_files_end_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("ours");
    let (certificate, key) = authority.server().write(folder.path(), "server");
    let (other, _) = authority.server().write(folder.path(), "other");
    let (_, readable) = authority.server().write(folder.path(), "readable");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&readable, mode).unwrap();
    let mut nonsense = tempfile::NamedTempFile::new_in(folder.path()).unwrap();
    nonsense.write_all(b"nonsense").unwrap();
    let nowhere = folder.path().join("nowhere.pem");

    let refusal = |certificate: &Path, key: &Path, ca: Option<&Path>| {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let mut settings = vec![("TLS__CERTIFICATE_FILE", path(certificate)), ("TLS__KEY_FILE", path(key))];
        settings.extend(ca.map(|ca| ("TLS__CLIENT_CA_FILE", path(ca))));
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut serve = command(&folder.path().join("data"), &settings);
        serve.args(["serve", "--check"]);
        let Output { status, stderr, .. } = run(serve, "");
        (status.code(), String::from_utf8(stderr).unwrap())
    };
    assert_eq!(refusal(&certificate, &key, Some(&certificate)).0, Some(0), "the twin");
    for (certificate, key, ca, said) in [
        (&*nowhere, &*key, None, "tls.certificate_file: cannot read"),
        (nonsense.path(), &key, None, "holds no certificate in PEM"),
        (&certificate, &nowhere, None, "tls.key_file: cannot read"),
        (&certificate, &readable, None, "can be read by everybody (mode 0644): run `chmod 600"),
        (&certificate, &certificate, None, "can be read by everybody"),
        (&certificate, nonsense.path(), None, "holds no private key in PEM"),
        (&other, &key, None, "do not fit together"),
        (&certificate, &key, Some(&*nowhere), "tls.client_ca_file: cannot read"),
        (&certificate, &key, Some(nonsense.path()), "holds no certificate in PEM"),
    ] {
        let (code, sentence) = refusal(certificate, key, ca);
        assert_eq!(code, Some(1), "{sentence}");
        assert!(sentence.contains(said) && sentence.lines().count() == 1, "{said}: {sentence}");
    }
}

/// Where a command finds a server.
fn localhost(address: SocketAddr) -> String {
    format!("https://localhost:{}", address.port())
}
