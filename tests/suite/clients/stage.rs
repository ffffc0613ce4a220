//! Latchkey and the state of a scenario, which are the same for guards of all protocols.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use latchkey::grpc::pb::{self, validate_response::Verdict};
use tempfile::TempDir;

use super::{
    sample::Sample,
    scenario::{Guard, State, Step},
};
use crate::support::{
    client::{Client, PASSWORD},
    process::Process,
    server::{Server, Store},
};

/// The time limit of an event.
pub const PATIENCE: Duration = Duration::from_secs(15);

pub struct Stage {
    pub latchkey: Process,
    pub client: Client,
    settings: Vec<(String, String)>,
    elsewhere: BTreeMap<i64, Server>,
    pub tokens: BTreeMap<String, String>,
    username: String,
    user_id: String,
    data: TempDir,
}

impl Stage {
    /// Starts Latchkey with these settings.
    pub async fn begin(settings: &BTreeMap<String, String>) -> Self {
        let data = tempfile::tempdir().unwrap();
        let settings: Vec<_> = settings.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let latchkey = Process::start(data.path(), &borrowed(&settings));
        let client = latchkey.client().await;
        client.until_serving().await;
        Self {
            latchkey,
            client,
            settings,
            elsewhere: BTreeMap::new(),
            tokens: BTreeMap::new(),
            username: String::new(),
            user_id: String::new(),
            data,
        }
    }

    /// Starts the sample of this command once for each guard.
    pub async fn samples(&self, command: &str) -> BTreeMap<Guard, Sample> {
        let create = pb::CreateCallerRequest { name: "guard".into(), roles: vec!["validator".into()] };
        let created = self.client.callers.clone().create_caller(self.client.admin(create)).await;
        let key = created.unwrap().into_inner().key;
        let all = [Guard::Usual, Guard::WrongKey, Guard::NeedsAdmin, Guard::NeedsPair].map(|guard| {
            let (key, settings): (_, &[_]) = match guard {
                Guard::Usual => (key.as_str(), &[]),
                Guard::WrongKey => ("wrong", &[]),
                Guard::NeedsAdmin => (key.as_str(), &[("LATCHKEY_REQUIRED_ROLE", "admin")]),
                Guard::NeedsPair => (key.as_str(), &[("LATCHKEY_REQUIRED_SLOT", "pair")]),
            };
            (guard, Sample::start(command, self.latchkey.grpc, key, settings))
        });
        all.into_iter().map(|(guard, starting)| (guard, starting.listens())).collect()
    }

    /// Begins a scenario with a user of its own.
    pub async fn enter(&mut self, number: usize) {
        self.tokens.clear();
        self.username = format!("user-{number}");
        self.user_id = self.client.user_with_roles(&self.username, &["editor", "staff"]).await;
    }

    /// Does a step that does not call the guarded server.
    pub async fn step(&mut self, step: &Step) {
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
            Step::Call { .. }
            | Step::OpenStreams { .. }
            | Step::StreamsEnd { .. }
            | Step::StreamsGoOn { .. } => unreachable!("{step:?} is for the player of a protocol"),
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
    pub async fn verdict(&self, token: &str) -> Verdict {
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

    pub async fn is_up(&self) -> bool {
        self.client.health.clone().check(tonic_health::pb::HealthCheckRequest::default()).await.is_ok()
    }

    /// Replaces `{one}` by the token that was stored as `one`, in each of the values.
    pub fn filled_in(&self, values: &[String]) -> Vec<String> {
        let filled_in = |value: &String| {
            let tokens = self.tokens.iter();
            tokens.fold(value.clone(), |value, (name, token)| value.replace(&format!("{{{name}}}"), token))
        };
        values.iter().map(filled_in).collect()
    }
}

fn borrowed(settings: &[(String, String)]) -> Vec<(&str, &str)> {
    settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// The one token in these values of `authorization`, if there is exactly one.
pub fn bearer(authorization: &[String]) -> Option<&str> {
    let [value] = authorization else { return None };
    let (scheme, token) = value.split_once(' ')?;
    let token = Some(token.trim()).filter(|token| !token.is_empty() && !token.contains(','));
    token.filter(|_| scheme.eq_ignore_ascii_case("bearer"))
}

/// Replaces a letter in the middle of the signature of a token.
fn tampered(token: &str) -> String {
    let at = token.len() - 20;
    let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
    format!("{}{other}{}", &token[..at], &token[at + 1..])
}
