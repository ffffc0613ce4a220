//! Pages in a headless Chromium, driven by the `DevTools` protocol over a pipe.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The time limit of an answer and of a condition.
const PATIENCE: Duration = Duration::from_secs(30);
/// Chromium reads from descriptor 3 and writes to 4.
const SHELL: &str = r#"exec "$@" --remote-debugging-pipe 3<&0 4>&1 0</dev/null 1>&2"#;
/// Collects what the content security policy of the page forbids, and errors of its script.
const COLLECT: &str = "window.problems = [];
    addEventListener('securitypolicyviolation', (event) => problems.push(event.violatedDirective));
    addEventListener('error', (event) => problems.push(event.message ?? 'a file is missing'), true);
    addEventListener('unhandledrejection', (event) => problems.push(String(event.reason)));";

/// A browser. It ends with this value, and with the tests, because its pipe is closed.
pub struct Chromium {
    process: Child,
    requests: ChildStdin,
    messages: Receiver<Value>,
    last_id: u64,
    _profile: TempDir,
}

/// A page.
pub struct Page {
    session: String,
    /// The pages of a context share their cookies.
    context: Value,
}

impl Chromium {
    pub fn start(program: &Path) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut process = Command::new("sh")
            .args(["-c", SHELL, "chromium"])
            .arg(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
            ])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--disable-background-timer-throttling", "--disable-renderer-backgrounding"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let requests = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        let (sender, messages) = mpsc::channel();
        std::thread::spawn(move || {
            for message in answers.split(0).map_while(Result::ok) {
                if sender.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    break;
                }
            }
        });
        Self { process, requests, messages, last_id: 0, _profile: profile }
    }

    /// Opens an address with cookies of its own, as a browser with this `user-agent` or as Chromium itself.
    pub fn open(&mut self, url: &str, user_agent: Option<&str>) -> Page {
        let mut created = self.call(None, "Target.createBrowserContext", &json!({}));
        self.open_in(created["browserContextId"].take(), url, user_agent)
    }

    /// Opens an address with the cookies of another page.
    pub fn open_beside(&mut self, other: &Page, url: &str) -> Page {
        self.open_in(other.context.clone(), url, None)
    }

    fn open_in(&mut self, context: Value, url: &str, user_agent: Option<&str>) -> Page {
        let blank = json!({ "url": "about:blank", "browserContextId": context });
        let target = self.call(None, "Target.createTarget", &blank);
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = self.call(None, "Target.attachToTarget", &attach);
        let page = Page { session: attached["sessionId"].as_str().unwrap().to_owned(), context };
        if let Some(agent) = user_agent {
            self.call(Some(&page), "Emulation.setUserAgentOverride", &json!({ "userAgent": agent }));
        }
        self.call(Some(&page), "Page.enable", &json!({}));
        self.call(Some(&page), "Page.addScriptToEvaluateOnNewDocument", &json!({ "source": COLLECT }));
        self.call(Some(&page), "Page.navigate", &json!({ "url": url }));
        page
    }

    pub fn reload(&mut self, page: &Page) {
        self.evaluate(page, "window.isOld = true");
        self.call(Some(page), "Page.reload", &json!({}));
        self.until(page, "!window.isOld");
    }

    /// Returns the value of an expression.
    #[track_caller]
    pub fn evaluate(&mut self, page: &Page, expression: &str) -> Value {
        self.try_evaluate(page, expression).unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    fn try_evaluate(&mut self, page: &Page, expression: &str) -> Result<Value, Value> {
        let parameters = json!({ "expression": expression, "returnByValue": true, "userGesture": true });
        let mut answer = self.try_call(Some(page), "Runtime.evaluate", &parameters)?;
        match answer["exceptionDetails"].take() {
            Value::Null => Ok(answer["result"]["value"].take()),
            exception => Err(exception),
        }
    }

    /// Waits until a condition is true. While the page is loading, it may be an error.
    #[track_caller]
    pub fn until(&mut self, page: &Page, condition: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.try_evaluate(page, &format!("Boolean({condition})"));
            if value.as_ref().is_ok_and(|value| *value == true) {
                break;
            }
            if Instant::now() > deadline {
                let shown = self.evaluate(page, "document.body.innerText + JSON.stringify(window.problems)");
                panic!("not true: {condition}: {value:?}\n{shown}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    fn call(&mut self, page: Option<&Page>, method: &str, parameters: &Value) -> Value {
        self.try_call(page, method, parameters).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    fn try_call(&mut self, page: Option<&Page>, method: &str, parameters: &Value) -> Result<Value, Value> {
        self.last_id += 1;
        let id = self.last_id;
        let mut request = json!({ "id": id, "method": method, "params": parameters });
        if let Some(page) = page {
            request["sessionId"] = page.session.as_str().into();
        }
        self.requests.write_all((request.to_string() + "\0").as_bytes()).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = self.messages.recv_timeout(left);
            let mut message = message.unwrap_or_else(|error| panic!("{method}: {error}"));
            if message["id"] == id {
                return match message["error"].take() {
                    Value::Null => Ok(message["result"].take()),
                    error => Err(error),
                };
            }
        }
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
