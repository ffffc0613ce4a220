//! JSON over HTTP from web pages: origins, cookies, and the events of a watch.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::json::{error, login, send};
use crate::support::{
    http::exchange,
    server::{Server, Store},
};

const SITE: &str = "https://app.example.com";
const ORIGIN: (&str, &[u8]) = ("origin", SITE.as_bytes());

pub async fn server(more: &[(&str, &str)]) -> Server {
    let settings =
        [("BROWSER__ORIGINS", SITE), ("BROWSER__SET_COOKIE", "true"), ("GATEWAY__COOKIE", "__Host-latchkey")];
    let server = Server::with(Store::Embedded, &[&settings, more].concat()).await;
    server.client.user("alice").await;
    server
}

/// A stream of events.
pub struct Events {
    socket: TcpStream,
    read: String,
}

impl Events {
    pub async fn open(address: SocketAddr, headers: &[(&str, &str)]) -> Self {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let mut head = "GET /v1/watch HTTP/1.1\r\nhost: app.test\r\n".to_owned();
        for (name, value) in headers {
            head += name;
            head += ": ";
            head += value;
            head += "\r\n";
        }
        head += "\r\n";
        socket.write_all(head.as_bytes()).await.unwrap();
        Self { socket, read: String::new() }
    }

    /// Reads until these words have arrived, and returns all that was read.
    pub async fn until(&mut self, words: &str) -> &str {
        while !self.read.contains(words) {
            let mut bytes = vec![0; 4096];
            let read = timeout(Duration::from_secs(20), self.socket.read(&mut bytes)).await;
            let read = read.unwrap_or_else(|_| panic!("no {words}: {}", self.read)).unwrap();
            assert_ne!(read, 0, "ended without {words}: {}", self.read);
            self.read.push_str(str::from_utf8(&bytes[..read]).unwrap());
        }
        &self.read
    }

    /// Returns the events with their data.
    fn events(&self) -> Vec<(String, Value)> {
        let events = self.read.split("event: ").skip(1);
        events
            .map(|event| {
                let (name, rest) = event.split_once('\n').unwrap();
                let data = rest.strip_prefix("data: ").unwrap().lines().next().unwrap();
                (name.to_owned(), serde_json::from_str(data).unwrap())
            })
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_logs_in_with_a_cookie_watches_and_logs_out() {
    let server = server(&[]).await;
    let http = server.app.http;
    let answer = send(http, "POST /v1/login", &login("Firefox"), &[ORIGIN]).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(SITE)));
    assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(answer.json()["token"], "");
    let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let with_cookie = [ORIGIN, ("cookie", cookie.as_bytes())];
    let verdict = send(http, "POST /v1/validate", &json!({}), &with_cookie).await.json();
    assert_eq!(verdict["session"]["device"], "Firefox", "{verdict}");

    // From another origin, and from the same one, where browsers send no `origin` with GET.
    let mut streams = [
        Events::open(http, &[("origin", SITE), ("cookie", &cookie), ("last-event-id", "7")]).await,
        Events::open(http, &[("sec-fetch-site", "same-origin"), ("cookie", &cookie)]).await,
    ];
    for stream in &mut streams {
        let head = stream.until("\"Firefox\"").await;
        assert!(
            head.starts_with("HTTP/1.1 200") && head.contains("content-type: text/event-stream"),
            "{head}"
        );
    }
    server.client.login("alice", "phone").await;
    for stream in &mut streams {
        stream.until("REJECTION_REASON_REPLACED").await;
        // The end of the response.
        stream.until("\r\n0\r\n\r\n").await;
        let [(first, session), (last, rejection)] = &stream.events()[..] else { panic!("{}", stream.read) };
        assert_eq!((first.as_str(), &session["device"]), ("session", &json!("Firefox")));
        assert_eq!((last.as_str(), &rejection["byDevice"]), ("rejection", &json!("phone")));
    }
    assert!(streams[0].read.contains("access-control-allow-origin"), "{}", streams[0].read);

    let answer = send(http, "POST /v1/logout", &json!({}), &with_cookie).await;
    assert_eq!(answer.json()["rejection"]["byDevice"], "phone");
    assert!(answer.header("set-cookie").unwrap().contains("; Max-Age=0;"), "{answer:?}");
    // The stream tells a page that its token is dead by an error, after which `EventSource` does not reconnect.
    let mut stream = Events::open(http, &[("origin", SITE), ("cookie", &cookie)]).await;
    assert!(stream.until("\"REPLACED\"").await.starts_with("HTTP/1.1 401"), "{}", stream.read);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_page_and_no_safelisted_request_reaches_a_method() {
    let server = server(&[("LISTEN__GRPC_JSON", "true")]).await;
    let cookie = format!("__Host-latchkey={}", server.client.login("alice", "phone").await.token);
    let cookie: (&str, &[u8]) = ("cookie", cookie.as_bytes());
    let body = login("a page of another site").to_string();
    for address in [server.app.http, server.app.grpc] {
        for line in ["POST /v1/login", "POST /latchkey.v1.AuthService/Login"] {
            for origins in [&["https://evil.example"][..], &["null"], &[""], &[SITE, SITE]] {
                let mut headers = vec![cookie, ("content-type", b"application/json")];
                headers.extend(origins.iter().map(|origin| ("origin", origin.as_bytes())));
                let answer = exchange(address, line, &headers, body.as_bytes()).await.unwrap();
                assert_eq!(error(&answer).0, 403, "{line} {origins:?}");
                assert!(
                    answer.headers.iter().all(|(name, _)| !name.starts_with("access-control")),
                    "{answer:?}"
                );
            }
            // A page needs no preflight for these, and a request without `origin` may come from an old browser.
            for kind in
                ["text/plain", "text/plain; application/json", "application/x-www-form-urlencoded", ""]
            {
                for origin in [&[][..], &[ORIGIN]] {
                    let mut headers = [&[cookie], origin].concat();
                    if !kind.is_empty() {
                        headers.push(("content-type", kind.as_bytes()));
                    }
                    let answer = exchange(address, line, &headers, body.as_bytes()).await.unwrap();
                    assert_eq!(error(&answer).0, 415, "{line} {kind}");
                }
            }
        }
        // The cookie alone is not enough for a watch: another site can send it.
        for site in ["cross-site", "same-site", "none"] {
            let headers = [cookie, ("sec-fetch-site", site.as_bytes())];
            let answer = exchange(address, "GET /v1/watch", &headers, b"").await.unwrap();
            assert_eq!(error(&answer).0, 400, "{site}: {answer:?}");
        }
        let forged = [cookie, ("sec-fetch-site", b"same-origin"), ("origin", b"https://evil.example")];
        assert_eq!(exchange(address, "GET /v1/watch", &forged, b"").await.unwrap().status, 403);
    }
    let token = str::from_utf8(cookie.1).unwrap().split_once('=').unwrap().1;
    assert_eq!(server.client.session(token).await.device, "phone", "nobody has logged in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preflight_allows_pages_of_the_configured_origins() {
    let server = server(&[("LISTEN__GRPC_JSON", "true")]).await;
    for address in [server.app.http, server.app.grpc] {
        let preflight = |origin: &'static str| {
            let headers = [("origin", origin.as_bytes()), ("access-control-request-method", &b"POST"[..])];
            async move { exchange(address, "OPTIONS /v1/login", &headers, b"").await.unwrap() }
        };
        let answer = preflight(SITE).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, Some(SITE)));
        let allowed = answer.header("access-control-allow-headers").unwrap();
        assert!(
            allowed.contains("connect-protocol-version") && !allowed.contains("x-latchkey-key"),
            "{allowed}"
        );
        assert_eq!(preflight("https://evil.example").await.status, 403);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_takes_a_token_and_has_the_limits_of_grpc() {
    let server = server(&[("SERVER__MAX_WATCHES_PER_SESSION", "1")]).await;
    let http = server.app.http;
    let token = server.client.login("alice", "phone").await.token;
    let bearer = format!("Bearer {token}");
    let mut stream = Events::open(http, &[("authorization", &bearer)]).await;
    assert!(stream.until("\"phone\"").await.contains("event: session\n"));
    let headers: [(&str, &[u8]); 1] = [("authorization", bearer.as_bytes())];
    let second = exchange(http, "GET /v1/watch", &headers, b"").await.unwrap();
    assert_eq!(error(&second), (429, "resource_exhausted".into(), "OVERLOADED".into()));
    assert!(second.header("retry-after").is_some());
    // A token does not belong into a URL.
    let answer = exchange(http, &format!("GET /v1/watch?token={token}"), &[], b"").await.unwrap();
    assert_eq!(error(&answer).0, 400);
    assert!(!answer.body.contains(&token));
    assert_eq!(exchange(http, "POST /v1/watch", &headers, b"").await.unwrap().header("allow"), Some("GET"));
    // A watch that was closed makes room for another one.
    drop(stream);
    let begun = std::time::Instant::now();
    loop {
        let mut again = Events::open(http, &[("authorization", &bearer)]).await;
        if again.until("\r\n").await.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "the first watch is still counted");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_watches_do_not_hold_up_a_shutdown() {
    let server = server(&[]).await;
    let token = server.client.login("alice", "phone").await.token;
    let mut stream = Events::open(server.app.http, &[("authorization", &format!("Bearer {token}"))]).await;
    stream.until("event: session").await;
    let stop = tokio::spawn(server.app.stop());
    let end = stream.until("retry: ").await;
    assert!(!end.contains("rejection"), "{end}");
    let drained = timeout(Duration::from_secs(5), stop).await.expect("it stops").unwrap();
    assert!(drained);
}
