//! The page in `examples/web`, in headless Chromium.

use std::{
    convert::Infallible,
    fs,
    future::ready,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use axum::body::Body;
use http::{Response, StatusCode, header};
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::support::{
    chromium::{Chromium, Page},
    client::{Client, PASSWORD},
    process::{Process, command},
    skip::find_program,
};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/web");
/// The address of Latchkey in the page.
const LATCHKEY: &str = "http://localhost:8081";
const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";

/// The page, on a server of its own.
struct Site {
    url: String,
    latchkey: Process,
    data: TempDir,
}

impl Site {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://localhost:{}", listener.local_addr().unwrap().port());
        let data = tempfile::tempdir().unwrap();
        let latchkey = launch(data.path(), &url, settings);
        latchkey.serving_client().await;
        let address = format!("http://localhost:{}", latchkey.http.port());
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let address = address.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
                        ready(Ok::<_, Infallible>(file(request.uri().path(), &address)))
                    });
                    let builder = Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Self { url, latchkey, data }
    }

    async fn client(&self) -> Client {
        self.latchkey.serving_client().await
    }

    /// Waits until this number of sessions is watched.
    async fn until_watches(&self, number: u64) {
        let begun = Instant::now();
        while self.latchkey.metric("latchkey_session_watches").await != number {
            assert!(begun.elapsed() < Duration::from_secs(10), "not {number} watches");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts Latchkey again on the same port.
    async fn restart(&mut self, http: SocketAddr) {
        let http = http.to_string();
        self.latchkey = launch(self.data.path(), &self.url, &[("LISTEN__HTTP", &http)]);
        self.latchkey.serving_client().await;
    }
}

/// Starts Latchkey with the settings of the example, for the page on another port.
fn launch(data: &Path, url: &str, settings: &[(&str, &str)]) -> Process {
    let settings = [&[("BROWSER__ORIGINS", url)], settings].concat();
    let mut command = command(data, &settings);
    command.args(["serve", "--config"]).arg(Path::new(FOLDER).join("latchkey.toml"));
    Process::launch(command, data)
}

/// Returns a file of the page, with another address of Latchkey.
fn file(path: &str, latchkey: &str) -> Response<Body> {
    let name = if path == "/" { "index.html" } else { &path[1..] };
    let kind = match name.rsplit_once('.') {
        Some((_, "html")) => "text/html",
        Some((_, "css")) => "text/css",
        _ => "text/javascript",
    };
    let Ok(text) = fs::read_to_string(Path::new(FOLDER).join(name)) else {
        return Response::builder().status(StatusCode::NOT_FOUND).body(Body::empty()).unwrap();
    };
    let body = Body::from(text.replace(LATCHKEY, latchkey));
    Response::builder().header(header::CONTENT_TYPE, kind).body(body).unwrap()
}

/// A browser with the words that the page shows.
struct Browser(Chromium);

impl Browser {
    fn start() -> Option<Self> {
        let program = find_program("chromium", "LATCHKEY_TEST_CHROMIUM")?;
        Some(Self(Chromium::start(&program)))
    }

    /// Opens the page and waits for the form.
    #[track_caller]
    fn open(&mut self, site: &Site, user_agent: Option<&str>) -> Page {
        let page = self.0.open(&site.url, user_agent);
        self.until_logged_out(&page);
        page
    }

    #[track_caller]
    fn until_logged_out(&mut self, page: &Page) {
        self.0.until(
            page,
            "document.readyState === 'complete' && document.querySelector('#login:not([hidden])')",
        );
    }

    /// Fills in the form and sends it.
    #[track_caller]
    fn log_in(&mut self, page: &Page, password: &str) {
        let script = format!(
            "document.querySelector('#username').value = 'alice';
             document.querySelector('#password').value = '{password}';
             document.querySelector('#login button').click()"
        );
        self.0.evaluate(page, &script);
    }

    #[track_caller]
    fn click(&mut self, page: &Page, id: &str) {
        self.0.evaluate(page, &format!("document.querySelector('#{id}').click()"));
    }

    /// Waits until an element is visible and contains a text.
    #[track_caller]
    fn until_shows(&mut self, page: &Page, id: &str, text: &str) {
        let element = format!("document.querySelector('#{id}')");
        self.0.until(page, &format!("{element}.checkVisibility() && {element}.innerText.includes({text:?})"));
    }

    /// Returns the visible text of an element.
    #[track_caller]
    fn text(&mut self, page: &Page, id: &str) -> String {
        let element = format!("document.querySelector('#{id}')");
        let text = self.0.evaluate(page, &format!("{element}.checkVisibility() ? {element}.innerText : ''"));
        text.as_str().unwrap().to_owned()
    }

    /// Counts from now on how often the page says that there is no connection.
    #[track_caller]
    fn count_outages(&mut self, page: &Page) {
        let script = "const connection = document.querySelector('#connection');
            window.outages = 0;
            new MutationObserver(() => { outages += connection.textContent !== '' })
                .observe(connection, { childList: true })";
        self.0.evaluate(page, script);
    }

    /// Checks that the policy and the script of the page caused no errors.
    #[track_caller]
    fn check(&mut self, page: &Page) {
        let problems = self.0.evaluate(page, "JSON.stringify(window.problems)");
        assert_eq!(problems, "[]");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_is_told_of_a_newer_login_and_recovers_from_a_restart() {
    let Some(mut browser) = Browser::start() else { return };
    let mut site = Site::start(&[]).await;
    site.client().await.user("alice").await;

    let first = browser.open(&site, None);
    assert_eq!(browser.text(&first, "notice"), "");
    browser.log_in(&first, "wrong");
    browser.until_shows(&first, "error", "The username or the password is wrong.");
    browser.log_in(&first, PASSWORD);
    browser.until_shows(&first, "device", "Chrome on Linux");
    browser.until_shows(&first, "user", "alice");
    assert_eq!(browser.0.evaluate(&first, "document.cookie"), "", "scripts cannot read the token");
    assert_eq!(browser.0.evaluate(&first, "document.querySelector('#password').value"), "");
    browser.0.reload(&first);
    browser.until_shows(&first, "device", "Chrome on Linux");

    browser.count_outages(&first);
    let second = browser.open(&site, Some(FIREFOX));
    browser.log_in(&second, PASSWORD);
    browser.until_shows(&second, "device", "Firefox on Linux");
    browser.until_shows(&second, "notice", "This login has ended your session on Chrome on Linux.");
    browser.until_shows(&first, "notice", "You were logged out by Firefox on Linux at ");
    browser.until_logged_out(&first);
    assert_eq!(browser.0.evaluate(&first, "outages"), 0, "the watch said it before it ended");
    // The page neither watches nor logs in again, and knows the reason after a reload too.
    site.until_watches(1).await;
    browser.0.reload(&first);
    browser.until_shows(&first, "notice", "You were logged out by Firefox on Linux at ");
    browser.until_logged_out(&first);

    let http = site.latchkey.http;
    site.latchkey.kill();
    browser.until_shows(&second, "connection", "Latchkey cannot be reached.");
    browser.log_in(&first, PASSWORD);
    browser.until_shows(&first, "error", "Latchkey cannot be reached.");
    site.restart(http).await;
    browser.0.until(&second, "document.querySelector('#connection').innerText === ''");
    browser.until_shows(&second, "device", "Firefox on Linux");
    site.client().await.login("alice", "iPhone").await;
    browser.until_shows(&second, "notice", "You were logged out by iPhone at ");

    browser.log_in(&second, PASSWORD);
    browser.until_shows(&second, "device", "Firefox on Linux");
    browser.click(&second, "logout");
    browser.until_shows(&second, "notice", "You have logged out.");
    browser.until_logged_out(&second);
    browser.0.reload(&second);
    browser.until_logged_out(&second);
    assert_eq!(browser.text(&second, "notice"), "", "there is no cookie any more");
    for page in [&first, &second] {
        browser.check(page);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_shows_the_limits_of_logins_and_what_other_tabs_do() {
    let Some(mut browser) = Browser::start() else { return };
    let settings =
        [("SESSION__ON_LIMIT", "deny"), ("THROTTLE__FREE_ATTEMPTS", "1"), ("THROTTLE__FIRST_WAIT", "10m")];
    let site = Site::start(&settings).await;
    let client = site.client().await;
    client.user("alice").await;
    client.login("alice", "iPhone").await;

    let page = browser.open(&site, None);
    assert_eq!(browser.text(&page, "takeover"), "");
    browser.log_in(&page, PASSWORD);
    browser.until_shows(&page, "error", "You are logged in on iPhone.");
    browser.click(&page, "takeover");
    browser.until_shows(&page, "device", "Chrome on Linux");

    // Another tab has the same session.
    let tab = browser.0.open_beside(&page, &site.url);
    browser.until_shows(&tab, "device", "Chrome on Linux");
    browser.click(&tab, "logout");
    for page in [&page, &tab] {
        browser.until_shows(page, "notice", "You have logged out.");
        browser.until_logged_out(page);
    }

    browser.log_in(&page, "wrong");
    browser.until_shows(&page, "error", "The username or the password is wrong.");
    browser.log_in(&page, PASSWORD);
    browser.until_shows(&page, "error", "There were too many attempts. Try again in 10 minutes.");
    browser.check(&page);
}

/// `make example-web` serves the page where its settings expect it, with the addresses of the defaults.
#[test]
fn the_page_and_its_settings_name_the_same_addresses() {
    let read = |name: &str| fs::read_to_string(Path::new(FOLDER).join(name)).unwrap();
    assert!(read("latchkey.toml").contains("origins = [\"http://localhost:8000\"]"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = fs::read_to_string(root.join("scripts/example-web.sh")).unwrap();
    assert!(script.contains("http.server 8000 ") && script.contains("examples/web/latchkey.toml"));
    assert_eq!(read("index.html").matches(LATCHKEY).count(), 2, "in the policy and for the script");
    let defaults = fs::read_to_string(root.join("src/config.default.toml")).unwrap();
    assert!(defaults.contains("http = \"127.0.0.1:8081\""));
}
