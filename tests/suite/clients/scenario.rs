//! The file of scenarios. What it does not know is an error, so that nothing is left out by a slip of the pen.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenarios {
    /// For readers.
    #[serde(rename = "about")]
    _about: Vec<String>,
    /// Settings of Latchkey besides the usual ones of tests.
    pub settings: BTreeMap<String, String>,
    #[serde(rename = "scenarios")]
    pub all: Vec<Scenario>,
}

/// A story of one user, and of others where a step names them.
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
    /// The same at another Latchkey, which has the same keys, a store of its own, and a clock that is off.
    LoginElsewhere {
        #[serde(rename = "as")]
        name: String,
        clock_hours: i64,
    },
    /// Stores a token that is none.
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
    /// What becomes of Latchkey.
    Latchkey {
        #[serde(rename = "is")]
        state: State,
    },
    /// Calls the guarded server, with so many headers.
    Call {
        #[serde(default)]
        guard: Guard,
        authorization: Vec<String>,
        expect: Expect,
    },
    /// Opens a stream of each kind that there is, and leaves them open.
    OpenStreams {
        #[serde(rename = "as")]
        name: String,
        token: String,
    },
    /// Each of them ends by itself.
    StreamsEnd { streams: String, within_ms: u64, expect: Expect },
    /// None of them has ended.
    StreamsGoOn { streams: String },
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It does not answer, and holds its connections.
    Stopped,
    Continued,
    Killed,
    /// At the same address, with the same store.
    Started,
}

/// Which server is called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// One whose guard may ask Latchkey.
    #[default]
    Usual,
    /// One whose guard has a key that Latchkey does not know.
    WrongKey,
    /// One whose guard requires the role `admin`, which no user here has.
    NeedsAdmin,
    /// One whose guard requires a session in the slot `pair`.
    NeedsPair,
}

/// What the server has to answer.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The name of the code.
    pub code: String,
    pub reason: Option<String>,
    pub terminal: Option<bool>,
    pub by_device: Option<String>,
    pub message: Option<String>,
    /// What a live session lacks.
    pub role: Option<String>,
    /// The same.
    pub slot: Option<String>,
    /// The answer comes within this.
    pub within_ms: Option<u64>,
    /// The answer may be UNAVAILABLE for a while: the guard connects again.
    #[serde(default)]
    pub eventually: bool,
}
