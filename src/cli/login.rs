//! `latchkey login`

use std::{io, time::Duration};

use clap::Args;
use serde_json::json;
use tonic::Status;

use super::{
    CommandError, Common,
    client::{self, CallKind},
    output::{self, session_json, session_text},
    secret,
};
use crate::grpc::pb;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  latchkey login alice\n  TOKEN=$(latchkey login alice --device laptop)\n  latchkey login alice --takeover\n  echo \"$PASSWORD\" | latchkey login alice --output json"
)]
pub(super) struct Login {
    /// The username.
    username: String,
    #[command(flatten)]
    options: LoginOptions,
}

/// The options of a login with or without a password.
#[derive(Args)]
pub(super) struct LoginOptions {
    /// The slot, such as web [default: the first]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(super) slot: String,
    /// The device, which a displaced client is told
    #[arg(long, default_value = "latchkey command line", hide_default_value = true)]
    pub(super) device: String,
    /// Displace others although the slot is full
    #[arg(long)]
    pub(super) takeover: bool,
    /// Names this login, so that it can be repeated
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    pub(super) idempotency_key: String,
}

impl Login {
    pub(super) async fn run(self, common: &Common) -> Result<(), CommandError> {
        let password = secret::password(&format!("Password of {}: ", self.username))?;
        let LoginOptions { slot, device, takeover, idempotency_key } = self.options;
        let repeatable = !idempotency_key.is_empty();
        let request =
            pb::LoginRequest { username: self.username, password, slot, device, idempotency_key, takeover };
        let mut client = client::auth(common, CallKind::Unary).await?;
        let response = client.login(request).await.map_err(login_error)?.into_inner();
        let printed = print(common, &response.token, response.session, &response.displaced);
        end_if_not_printed(common, printed, response.token, repeatable).await
    }
}

/// Prints a new session: the token on standard output, and everything else on standard error.
pub(super) fn print(
    common: &Common,
    token: &str,
    session: Option<pb::Session>,
    displaced: &[pb::DisplacedSession],
) -> io::Result<()> {
    let session = session.unwrap_or_default();
    let output = common.output();
    if !output.is_json() {
        output::note(session_text(&session).trim_end());
        for old in displaced {
            let since = output::time(old.issued_at.as_ref());
            output::note(&format!("displaced  {} (logged in {since})", old.device));
        }
    }
    let displaced: Vec<_> = displaced
        .iter()
        .map(|old| {
            json!({
                "session_id": old.session_id,
                "slot": old.slot,
                "device": old.device,
                "issued_at": output::time(old.issued_at.as_ref()),
            })
        })
        .collect();
    let value = json!({
        "token": token,
        "session": session_json(&session),
        "displaced": displaced,
    });
    output.try_print(&value, || token.to_owned())
}

/// Ends the session of a token that could not be printed, because nobody has the token. With an idempotency key the session
/// stays, because the same command prints its token again.
pub(super) async fn end_if_not_printed(
    common: &Common,
    printed: io::Result<()>,
    token: String,
    repeatable: bool,
) -> Result<(), CommandError> {
    let Err(error) = printed else { return Ok(()) };
    let message = output::write_error(&error).message();
    if repeatable {
        return Err(CommandError::Failed(format!(
            "{message}. The session is open: the same command prints its token again within a minute"
        )));
    }
    let ended = async {
        let request = pb::LogoutRequest { token, scope: pb::LogoutScope::This.into() };
        client::auth(common, CallKind::Unary).await?.logout(request).await.map_err(client::command_error)
    };
    Err(CommandError::Failed(match ended.await {
        Ok(_) => format!("{message}. The token is lost, so its session was ended again"),
        Err(error) => {
            let error = error.message();
            format!("{message}. The token is lost, and its session could not be ended ({error})")
        }
    }))
}

/// The error of a command that opened no session.
pub(super) fn login_error(status: Status) -> CommandError {
    // The session of this idempotency key has already ended.
    if let Some(rejection) = client::rejection(&status) {
        return CommandError::rejected(&rejection);
    }
    match session_limit(&status).or_else(|| remedy(&status)) {
        Some(message) => CommandError::of_status(&status, message),
        None => client::command_error(status),
    }
}

/// The message of a failed login with the remedy.
fn remedy(status: &Status) -> Option<String> {
    let info = client::info(status)?;
    let message = status.message();
    match info.reason.as_str() {
        "INVALID_CREDENTIALS" => {
            Some(format!("{message}: try again, or set a new password with `latchkey account set-password`"))
        }
        "ACCOUNT_DISABLED" => {
            let until = info.metadata.get("disabled_until_unix").and_then(|seconds| seconds.parse().ok());
            let until = until.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 });
            let until =
                until.map_or_else(String::new, |until| format!(" until {}", output::time(Some(&until))));
            Some(format!("{message}{until}: `latchkey account enable` enables it"))
        }
        // A kick war has the same reason, and nothing to unlock.
        "THROTTLED" if message.contains("failed attempts") => {
            Some(format!("{message}, or unlock it with `latchkey account unlock`"))
        }
        _ => None,
    }
}

/// The message for a login that was denied because its slot is full.
fn session_limit(status: &Status) -> Option<String> {
    let info = client::info(status).filter(|info| info.reason == "SESSION_LIMIT")?;
    let metadata = |name: &str| info.metadata.get(name).map(String::as_str);
    let number = |name: &str| metadata(name).and_then(|text| text.parse().ok());
    let mut holder =
        metadata("device").filter(|device| !device.is_empty()).unwrap_or("another login").to_owned();
    if let Some(seconds) = number("issued_at_unix").and_then(|seconds: u64| i64::try_from(seconds).ok()) {
        let since = output::time(Some(&prost_types::Timestamp { seconds, nanos: 0 }));
        holder = format!("{holder} (logged in {since})");
    }
    if let Some(idle) = number("idle_seconds") {
        let idle = humantime::format_duration(Duration::from_secs(idle));
        holder = format!("{holder}, last used {idle} ago");
    }
    let slot = metadata("slot").unwrap_or_default();
    Some(format!("the slot {slot} is held by {holder}: --takeover displaces it"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic::Code;
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    fn limited(metadata: &[(&str, &str)]) -> String {
        let metadata: HashMap<_, _> =
            metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let details = ErrorDetails::with_error_info("SESSION_LIMIT", "latchkey", metadata);
        let status = Status::with_error_details(Code::FailedPrecondition, "the slot is full", details);
        let error = login_error(status);
        assert_eq!((error.exit_code(), error.json()["error"]["reason"].as_str()), (1, Some("SESSION_LIMIT")));
        error.message()
    }

    #[test]
    fn a_full_slot_is_reported_with_its_holder_and_a_remedy() {
        let holder = [
            ("slot", "web"),
            ("device", "Android"),
            ("issued_at_unix", "1800000000"),
            ("idle_seconds", "125"),
        ];
        assert_eq!(
            limited(&holder),
            "the slot web is held by Android (logged in 2027-01-15T08:00:00.000Z), last used 2m 5s ago: \
             --takeover displaces it"
        );
        // Metadata that another version of the server does not send is left out.
        assert_eq!(
            limited(&[("slot", "web")]),
            "the slot web is held by another login: --takeover displaces it"
        );
        assert_eq!(
            limited(&[("slot", "web"), ("device", ""), ("issued_at_unix", "soon")]),
            "the slot web is held by another login: --takeover displaces it"
        );
    }
}
