//! The player of scenarios: it prepares tokens, calls the guarded server, and compares the answers.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use latchkey::grpc::pb::{self, validate_response::Verdict};
use tempfile::TempDir;

use super::{
    compare::{agrees, identified, refused},
    guarded::Guarded,
    scenario::{Expect, Guard, Scenario, State, Step},
    streams::{self, Streams},
};
use crate::support::{
    client::{Client, PASSWORD},
    process::Process,
    server::{Server, Store},
};

/// How long an event may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Latchkey, the guarded servers, and the state of a scenario.
pub struct Play {
    latchkey: Process,
    client: Client,
    settings: Vec<(String, String)>,
    guarded: BTreeMap<Guard, Guarded>,
    elsewhere: BTreeMap<i64, Server>,
    tokens: BTreeMap<String, String>,
    /// With the tokens that they were opened with.
    streams: BTreeMap<String, (String, Streams)>,
    username: String,
    user_id: String,
    data: TempDir,
}

impl Play {
    pub async fn begin(settings: &BTreeMap<String, String>, command: &str) -> Self {
        let data = tempfile::tempdir().unwrap();
        let settings: Vec<_> = settings.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let latchkey = Process::start(data.path(), &borrowed(&settings));
        let client = latchkey.client().await;
        client.until_serving().await;
        let create = pb::CreateCallerRequest { name: "guard".into(), roles: vec!["validator".into()] };
        let key = client.callers.clone().create_caller(client.admin(create)).await.unwrap().into_inner().key;
        let start = |key, settings| Guarded::start(command, latchkey.grpc, key, settings);
        let guarded = BTreeMap::from([
            (Guard::Usual, start(&key, &[]).await),
            (Guard::WrongKey, start("wrong", &[]).await),
            (Guard::NeedsAdmin, start(&key, &[("LATCHKEY_REQUIRED_ROLE", "admin")]).await),
            (Guard::NeedsPair, start(&key, &[("LATCHKEY_REQUIRED_SLOT", "pair")]).await),
        ]);
        Self {
            latchkey,
            client,
            settings,
            guarded,
            elsewhere: BTreeMap::new(),
            tokens: BTreeMap::new(),
            streams: BTreeMap::new(),
            username: String::new(),
            user_id: String::new(),
            data,
        }
    }

    pub async fn scenario(&mut self, number: usize, scenario: &Scenario) {
        #[expect(clippy::print_stdout, reason = "where it fails, the last line says in which scenario")]
        {
            println!("{}", scenario.name);
        }
        self.tokens.clear();
        self.username = format!("user-{number}");
        self.user_id = self.client.user_with_roles(&self.username, &["editor", "staff"]).await;
        for step in &scenario.steps {
            self.step(step).await;
        }
        // A disconnected client leaves no handler behind.
        self.streams.clear();
        self.guarded[&Guard::Usual].until_running(0).await;
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Login { name, device, slot, user } => {
                let login = self.login(device, slot, user.as_deref()).await;
                let answer = self.client.try_login(login).await.unwrap();
                self.tokens.insert(name.clone(), answer.token);
            }
            Step::LoginElsewhere { name, clock_hours } => {
                let token = self.login_elsewhere(*clock_hours).await;
                self.tokens.insert(name.clone(), token);
            }
            Step::Store { name, repeat, times } => {
                self.tokens.insert(name.clone(), repeat.repeat(*times));
            }
            Step::Tamper { token, name } => {
                let forged = tampered(&self.tokens[token]);
                self.tokens.insert(name.clone(), forged);
            }
            Step::Kick { message } => {
                let user_id = self.user_id.clone();
                let message =
                    pb::EndSessionsRequest { user_id, message: message.clone(), ..Default::default() };
                assert!(self.client.end_sessions(message).await > 0);
            }
            Step::Logout { token } => {
                let answer = self.client.logout(&self.tokens[token], pb::LogoutScope::This).await;
                assert_eq!(answer.ended, 1);
            }
            Step::ChangePassword { token } => {
                let message = pb::ChangePasswordRequest {
                    token: self.tokens[token].clone(),
                    current_password: PASSWORD.into(),
                    new_password: "another horse battery staple".into(),
                };
                self.client.auth.clone().change_password(message).await.unwrap();
            }
            Step::Disable => {
                let user_id = self.user_id.clone();
                let change = pb::UpdateAccountRequest { user_id, disabled: Some(true), ..Default::default() };
                assert!(self.client.update(change).await.ended > 0);
            }
            Step::WaitUntil { token, reason } => self.wait_until(token, reason).await,
            Step::Latchkey { state } => self.latchkey_is(*state).await,
            Step::Call { guard, authorization, expect } => self.call(*guard, authorization, expect).await,
            Step::OpenStreams { name, token } => {
                let token = self.tokens[token].clone();
                let streams = Streams::open(&self.guarded[&Guard::Usual], &token).await;
                self.streams.insert(name.clone(), (token, streams));
                self.handlers_run().await;
            }
            Step::StreamsEnd { streams, within_ms, expect } => {
                self.streams_end(streams, Duration::from_millis(*within_ms), expect).await;
            }
            Step::StreamsGoOn { streams } => {
                let (_, streams) = self.streams.get_mut(streams).unwrap();
                streams.go_on().await;
            }
        }
    }

    async fn login(&self, device: &str, slot: &str, user: Option<&str>) -> pb::LoginRequest {
        let username = match user {
            Some(user) => format!("{}-{user}", self.username),
            None => self.username.clone(),
        };
        if user.is_some() {
            self.client.user_with_roles(&username, &["editor", "staff"]).await;
        }
        pb::LoginRequest {
            username,
            password: PASSWORD.into(),
            device: device.into(),
            slot: slot.into(),
            ..Default::default()
        }
    }

    async fn login_elsewhere(&mut self, hours: i64) -> String {
        if !self.elsewhere.contains_key(&hours) {
            let keys = self.data.path().join("keys");
            let settings = [("TOKEN__KEYS_DIR", keys.to_str().unwrap())];
            let server = Server::with(Store::Embedded, &settings).await;
            let off = Duration::from_hours(hours.unsigned_abs());
            if hours < 0 {
                server.clock.set_back(off);
            } else {
                server.clock.advance(off);
            }
            self.elsewhere.insert(hours, server);
        }
        let there = &self.elsewhere[&hours].client;
        there.user(&self.username).await;
        there.login(&self.username, "Android").await.token
    }

    async fn latchkey_is(&mut self, state: State) {
        match state {
            State::Stopped => self.latchkey.signal("STOP"),
            State::Continued => self.latchkey.signal("CONT"),
            State::Killed => self.latchkey.kill(),
            State::Started => {
                let address = self.latchkey.grpc.to_string();
                let mut settings = borrowed(&self.settings);
                settings.push(("LISTEN__GRPC", &address));
                self.latchkey = Process::start(self.data.path(), &settings);
                self.client = self.latchkey.client().await;
                self.client.until_serving().await;
            }
        }
    }

    /// Returns the verdict of Latchkey on a token, as a peek.
    async fn verdict(&self, token: &str) -> Verdict {
        let message = pb::ValidateRequest { token: token.into(), peek: true, ..Default::default() };
        let answer = self.client.auth.clone().validate(self.client.admin(message)).await;
        answer.unwrap().into_inner().verdict.unwrap()
    }

    async fn wait_until(&self, token: &str, reason: &str) {
        let begun = Instant::now();
        loop {
            if let Verdict::Rejection(rejection) = self.verdict(&self.tokens[token]).await {
                assert_eq!(rejection.reason().as_str_name(), format!("REJECTION_REASON_{reason}"));
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{token} is still good");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn call(&self, guard: Guard, authorization: &[String], expect: &Expect) {
        let guarded = &self.guarded[&guard];
        let headers: Vec<_> = authorization.iter().map(|value| self.filled_in(value)).collect();
        if expect.eventually {
            guarded.until_let_in(&headers, PATIENCE).await;
        }

        let (before, begun) = (guarded.begun().await, Instant::now());
        let outcomes = guarded.call(&headers, expect.code != "OK").await;
        if let Some(limit) = expect.within_ms {
            let took = begun.elapsed();
            assert!(took < Duration::from_millis(limit), "{authorization:?} took {took:?}");
        }
        let reached = guarded.begun().await - before;
        assert_eq!(reached, if expect.code == "OK" { 4 } else { 0 }, "handlers that began: {outcomes:?}");

        // The verdict of Latchkey is compared only if it answers and there is one token.
        let native = match &headers[..] {
            [one] if expect.reason.as_deref() != Some("STORE_UNAVAILABLE") => match bearer(one) {
                Some(token) if expect.code == "OK" || self.is_up().await => Some(self.verdict(token).await),
                _ => None,
            },
            _ => None,
        };
        for (method, outcome) in outcomes {
            let context = format!("{method} with {authorization:?}");
            match (outcome, &native) {
                (Ok(answers), Some(Verdict::Session(session))) if expect.code == "OK" => {
                    identified(&answers, session, &context);
                }
                (Ok(answers), _) => panic!("{context} was let in: {answers:?}"),
                (Err(status), Some(Verdict::Rejection(rejection))) => {
                    refused(&status, expect, &context);
                    agrees(&status, rejection, &context);
                }
                (Err(status), _) => refused(&status, expect, &context),
            }
        }
    }

    async fn streams_end(&mut self, name: &str, within: Duration, expect: &Expect) {
        let (token, streams) = self.streams.remove(name).unwrap();
        let outcomes = streams.end(within).await;
        let Verdict::Rejection(rejection) = self.verdict(&token).await else {
            panic!("{name} is still good")
        };
        for (method, status) in outcomes {
            let context = format!("{method} of {name}");
            refused(&status, expect, &context);
            agrees(&status, &rejection, &context);
        }
        self.handlers_run().await;
    }

    /// Checks that a handler runs for each open stream.
    async fn handlers_run(&self) {
        let open = self.streams.len() * streams::KINDS.len();
        self.guarded[&Guard::Usual].until_running(open.try_into().unwrap()).await;
    }

    async fn is_up(&self) -> bool {
        self.client.health.clone().check(tonic_health::pb::HealthCheckRequest::default()).await.is_ok()
    }

    /// Replaces `{one}` by the token that was stored as `one`.
    fn filled_in(&self, value: &str) -> String {
        self.tokens
            .iter()
            .fold(value.to_owned(), |value, (name, token)| value.replace(&format!("{{{name}}}"), token))
    }
}

fn borrowed(settings: &[(String, String)]) -> Vec<(&str, &str)> {
    settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// The one token of a header, if there is one.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    let token = Some(token.trim()).filter(|token| !token.is_empty() && !token.contains(','));
    token.filter(|_| scheme.eq_ignore_ascii_case("bearer"))
}

/// Replaces a letter in the middle of the signature of a token.
fn tampered(token: &str) -> String {
    let at = token.len() - 20;
    let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
    format!("{}{other}{}", &token[..at], &token[at + 1..])
}
