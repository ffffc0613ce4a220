//! The format of the scenarios. Unknown keys are errors, so that no misspelt step is ignored.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenarios {
    /// A description for readers.
    #[serde(rename = "about")]
    _about: Vec<String>,
    /// Settings of Latchkey besides the usual ones of tests.
    pub settings: BTreeMap<String, String>,
    #[serde(rename = "scenarios")]
    pub all: Vec<Scenario>,
}

/// The steps of one user, and of others that a step names.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub name: String,
    pub steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Logs in, and stores the token.
    Login {
        #[serde(rename = "as")]
        name: String,
        device: String,
        #[serde(default)]
        slot: String,
        /// Another user than the scenario's.
        user: Option<String>,
    },
    /// Logs in at another Latchkey with the same keys, its own store and a wrong clock.
    LoginElsewhere {
        #[serde(rename = "as")]
        name: String,
        clock_hours: i64,
    },
    /// Stores a malformed token.
    Store {
        #[serde(rename = "as")]
        name: String,
        repeat: String,
        times: usize,
    },
    /// Stores a token with another signature.
    Tamper {
        token: String,
        #[serde(rename = "as")]
        name: String,
    },
    /// Ends all sessions of the user.
    Kick { message: String },
    /// Ends the session of the token.
    Logout { token: String },
    /// Changes the password.
    ChangePassword { token: String },
    /// Disables the account.
    Disable,
    /// Waits until Latchkey itself rejects the token, without using it.
    WaitUntil { token: String, reason: String },
    /// Changes the state of Latchkey.
    Latchkey {
        #[serde(rename = "is")]
        state: State,
    },
    /// Calls the guarded server with these headers.
    Call {
        #[serde(default)]
        guard: Guard,
        authorization: Vec<String>,
        expect: Expect,
    },
    /// Opens a stream of each kind and leaves it open.
    OpenStreams {
        #[serde(rename = "as")]
        name: String,
        token: String,
    },
    /// Every open stream ends.
    StreamsEnd { streams: String, within_ms: u64, expect: Expect },
    /// No open stream has ended.
    StreamsGoOn { streams: String },
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Latchkey keeps its connections and does not answer.
    Stopped,
    Continued,
    Killed,
    /// Latchkey starts again at the same address with the same store.
    Started,
}

/// The server that is called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// A server whose guard has a valid key.
    #[default]
    Usual,
    /// A server whose guard has an unknown key.
    WrongKey,
    /// A server whose guard requires the role `admin`, which no user here has.
    NeedsAdmin,
    /// A server whose guard requires a session in the slot `pair`.
    NeedsPair,
}

/// The expected answer.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The name of the code.
    pub code: String,
    pub reason: Option<String>,
    pub terminal: Option<bool>,
    pub by_device: Option<String>,
    pub message: Option<String>,
    /// The requirement that a live session does not meet.
    pub role: Option<String>,
    /// The same.
    pub slot: Option<String>,
    /// The time in which the answer must arrive.
    pub within_ms: Option<u64>,
    /// Whether the answer may be UNAVAILABLE for a while, because the guard reconnects.
    #[serde(default)]
    pub eventually: bool,
}

impl Scenario {
    /// Whether a step is about streams. Such a scenario calls nothing else.
    pub fn is_about_streams(&self) -> bool {
        self.steps.iter().any(Step::is_about_streams)
    }
}

impl Step {
    /// Whether the step has a meaning only for protocols with streams.
    pub fn is_about_streams(&self) -> bool {
        matches!(self, Self::OpenStreams { .. } | Self::StreamsEnd { .. } | Self::StreamsGoOn { .. })
    }
}

impl Expect {
    /// Whether the answer depends on a verdict or a rule, and not on an outage.
    pub fn is_verdict(&self) -> bool {
        self.reason.as_deref() != Some("STORE_UNAVAILABLE")
    }

    /// Checks how long an answer took.
    pub fn in_time(&self, took: Duration, authorization: &[String]) {
        if let Some(limit) = self.within_ms {
            assert!(took < Duration::from_millis(limit), "{authorization:?} took {took:?}");
        }
    }
}
