//! The messages of `clients/sample/sample/v1/greeter.proto`, written by hand to keep code generation out of the
//! example.

use std::time::{SystemTime, UNIX_EPOCH};

use latchkey_client as client;

#[derive(Clone, PartialEq, prost::Message)]
pub struct GreetRequest {
    #[prost(string, tag = "1")]
    pub greeting: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct GreetResponse {
    #[prost(string, tag = "1")]
    pub text: String,
    #[prost(message, optional, tag = "2")]
    pub identity: Option<Identity>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Identity {
    #[prost(string, tag = "1")]
    pub user_id: String,
    #[prost(string, tag = "2")]
    pub username: String,
    #[prost(string, tag = "3")]
    pub session_id: String,
    #[prost(string, tag = "4")]
    pub slot: String,
    #[prost(string, tag = "5")]
    pub device: String,
    #[prost(string, repeated, tag = "6")]
    pub roles: Vec<String>,
    #[prost(int64, tag = "7")]
    pub issued_at_unix: i64,
    #[prost(int64, tag = "8")]
    pub expires_at_unix: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct BegunRequest {}

#[derive(Clone, PartialEq, prost::Message)]
pub struct BegunResponse {
    #[prost(uint32, tag = "1")]
    pub count: u32,
    #[prost(uint32, tag = "2")]
    pub running: u32,
}

impl From<&client::Identity> for Identity {
    fn from(caller: &client::Identity) -> Self {
        Self {
            user_id: caller.user_id.to_string(),
            username: caller.username.to_string(),
            session_id: caller.session_id.to_string(),
            slot: caller.slot.to_string(),
            device: caller.device.to_string(),
            roles: caller.roles.to_vec(),
            issued_at_unix: seconds(caller.issued_at),
            expires_at_unix: seconds(caller.expires_at),
        }
    }
}

fn seconds(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
