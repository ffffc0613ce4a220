//! Plays scenarios: prepares the tokens at Latchkey, calls the guarded server, and compares.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use latchkey::grpc::pb::{self, validate_response::Verdict};
use tempfile::TempDir;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{
    guarded::{GreetResponse, Guarded, Identity},
    scenario::{Expect, Guard, Scenario, State, Step},
};
use crate::support::{
    client::{Client, PASSWORD},
    process::Process,
    server::{Server, Store},
};

/// What has not happened within this does not happen.
const PATIENCE: Duration = Duration::from_secs(15);

/// Latchkey, the guarded servers, and what a scenario has gathered so far.
pub struct Play {
    latchkey: Process,
    client: Client,
    settings: Vec<(String, String)>,
    guarded: BTreeMap<Guard, Guarded>,
    elsewhere: BTreeMap<i64, Server>,
    tokens: BTreeMap<String, String>,
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
        let guarded = BTreeMap::from([
            (Guard::Usual, Guarded::start(command, latchkey.grpc, &key).await),
            (Guard::WrongKey, Guarded::start(command, latchkey.grpc, "wrong").await),
        ]);
        Self {
            latchkey,
            client,
            settings,
            guarded,
            elsewhere: BTreeMap::new(),
            tokens: BTreeMap::new(),
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
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Login { name, device, slot } => {
                let answer = self.client.try_login(self.login(device, slot)).await.unwrap();
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
        }
    }

    fn login(&self, device: &str, slot: &str) -> pb::LoginRequest {
        pb::LoginRequest {
            username: self.username.clone(),
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

    /// What Latchkey itself says of a token, which does not use the session.
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

        // What Latchkey says of it can be asked only where it answers, and where there is one token.
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

    async fn is_up(&self) -> bool {
        self.client.health.clone().check(tonic_health::pb::HealthCheckRequest::default()).await.is_ok()
    }

    /// `Bearer {one}` with the token that was stored as `one`.
    fn filled_in(&self, value: &str) -> String {
        self.tokens
            .iter()
            .fold(value.to_owned(), |value, (name, token)| value.replace(&format!("{{{name}}}"), token))
    }
}

fn borrowed(settings: &[(String, String)]) -> Vec<(&str, &str)> {
    settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// The token with one letter in the middle of its signature replaced.
fn tampered(token: &str) -> String {
    let at = token.len() - 20;
    let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
    format!("{}{other}{}", &token[..at], &token[at + 1..])
}

/// Every answer has the session as the caller's identity.
fn identified(answers: &[GreetResponse], session: &pb::Session, context: &str) {
    let expected = Identity {
        user_id: session.user_id.clone(),
        username: session.username.clone(),
        session_id: session.session_id.clone(),
        slot: session.slot.clone(),
        device: session.device.clone(),
        roles: session.roles.clone(),
        issued_at_unix: session.issued_at.unwrap().seconds,
        expires_at_unix: session.expires_at.unwrap().seconds,
    };
    assert_eq!(expected.roles, ["editor", "staff"]);
    for answer in answers {
        assert_eq!(answer.identity.as_ref(), Some(&expected), "{context}");
        assert!(answer.text.ends_with(&format!(", {}", session.username)), "{context}: {}", answer.text);
    }
}

/// The status is what the scenario expects.
fn refused(status: &Status, expect: &Expect, context: &str) {
    let code = match expect.code.as_str() {
        "UNAUTHENTICATED" => Code::Unauthenticated,
        "PERMISSION_DENIED" => Code::PermissionDenied,
        "UNAVAILABLE" => Code::Unavailable,
        other => panic!("{context}: {status:?} instead of {other}"),
    };
    assert_eq!(status.code(), code, "{context}: {status:?}");
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("{context}: no ErrorInfo in {status:?}"));
    assert_eq!((info.domain.as_str(), Some(&info.reason)), ("latchkey", expect.reason.as_ref()), "{context}");
    let told = |key: &str| info.metadata.get(key).cloned();
    assert_eq!(told("terminal"), expect.terminal.map(|terminal| terminal.to_string()), "{context}");
    assert_eq!(told("by_device"), expect.by_device, "{context}");
    assert_eq!(details.retry_info().is_some(), code == Code::Unavailable, "{context}: {details:?}");
    assert!(!status.message().is_empty(), "{context}");
    if let Some(message) = &expect.message {
        assert_eq!(status.message(), message, "{context}");
    }
}

/// The status says of the token what Latchkey itself says.
fn agrees(status: &Status, rejection: &pb::Rejection, context: &str) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(rejection.reason().as_str_name(), format!("REJECTION_REASON_{}", info.reason), "{context}");
    assert_eq!(status.message(), rejection.message, "{context}");
    assert_eq!(info.metadata["terminal"], rejection.terminal.to_string(), "{context}");
    assert_eq!(info.metadata.get("by_device").map_or("", String::as_str), rejection.by_device, "{context}");
    let at = rejection.at.map(|at| at.seconds.to_string());
    // Whoever first asks for a session that nobody knows ends it, and only those after are told when.
    if rejection.reason() != pb::RejectionReason::UnknownSession {
        assert_eq!(info.metadata.get("at_unix"), at.as_ref(), "{context}");
    }
}
