//! `latchkey login`

use std::{io, time::Duration};

use clap::Args;
use serde_json::json;
use tonic::Status;

use super::{
    Common, Failure,
    client::{self, Carries},
    output::{self, rejection_text, session_json, session_text},
    secret,
};
use crate::grpc::pb;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  latchkey login alice\n  TOKEN=$(latchkey login alice --device laptop)\n  latchkey login alice --takeover\n  echo \"$PASSWORD\" | latchkey login alice --output json"
)]
pub(super) struct Login {
    /// Who logs in.
    username: String,
    #[command(flatten)]
    place: Place,
}

/// Where a login goes, and whom it may displace there.
#[derive(Args)]
pub(super) struct Place {
    /// The slot to take; by default the first one.
    #[arg(long, default_value = "")]
    pub(super) slot: String,
    /// What to call this client to the user it may displace.
    #[arg(long, default_value = "latchkey command line")]
    pub(super) device: String,
    /// Displace whoever holds the slot, where the server would refuse.
    #[arg(long)]
    pub(super) takeover: bool,
    /// Names this login: repeated within a minute with the same key it is answered with the same session,
    /// and displaces nobody.
    #[arg(long, value_name = "KEY", default_value = "")]
    pub(super) idempotency_key: String,
}

impl Login {
    pub(super) async fn run(self, common: &Common) -> Result<(), Failure> {
        let password = secret::password(&format!("Password of {}: ", self.username))?;
        let Place { slot, device, takeover, idempotency_key } = self.place;
        let repeatable = !idempotency_key.is_empty();
        let request =
            pb::LoginRequest { username: self.username, password, slot, device, idempotency_key, takeover };
        let mut client = client::auth(common, Carries::Calls).await?;
        let answer = client.login(request).await.map_err(refused)?.into_inner();
        let printed = print(common, &answer.token, answer.session, &answer.displaced);
        end_if_lost(common, printed, answer.token, repeatable).await
    }
}

/// Prints a session that was opened: the token on standard output, and what is no secret on standard error.
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

/// Ends the session of a token that could not be printed: nobody has the token. One that can be asked for again by its
/// idempotency key is left.
pub(super) async fn end_if_lost(
    common: &Common,
    printed: io::Result<()>,
    token: String,
    repeatable: bool,
) -> Result<(), Failure> {
    let Err(error) = printed else { return Ok(()) };
    let sentence = output::write_error(&error).into_sentence();
    if repeatable {
        return Err(Failure::Refused(format!(
            "{sentence}. The session is open: the same command gives its token again within a minute"
        )));
    }
    let ended = async {
        let request = pb::LogoutRequest { token, scope: pb::LogoutScope::This.into() };
        client::auth(common, Carries::Calls).await?.logout(request).await.map_err(client::failed)
    };
    Err(Failure::Refused(match ended.await {
        Ok(_) => format!("{sentence}. The token is lost, so its session was ended again"),
        Err(failure) => {
            let why = failure.into_sentence();
            format!("{sentence}. The token is lost, and its session could not be ended ({why})")
        }
    }))
}

/// What it means that no session was opened.
pub(super) fn refused(status: Status) -> Failure {
    // The login of this idempotency key has already come to its end.
    if let Some(rejection) = client::rejection(&status) {
        return Failure::Refused(rejection_text(&rejection));
    }
    match limit(&status) {
        Some(sentence) => Failure::Refused(sentence),
        None => client::failed(status),
    }
}

/// Who holds the slot, where that is why.
fn limit(status: &Status) -> Option<String> {
    let info = client::info(status).filter(|info| info.reason == "SESSION_LIMIT")?;
    let told = |name: &str| info.metadata.get(name).map(String::as_str);
    let number = |name: &str| told(name).and_then(|text| text.parse().ok());
    let mut holder = told("device").filter(|device| !device.is_empty()).unwrap_or("another login").to_owned();
    if let Some(seconds) = number("issued_at_unix").and_then(|seconds: u64| i64::try_from(seconds).ok()) {
        let since = output::time(Some(&prost_types::Timestamp { seconds, nanos: 0 }));
        holder = format!("{holder} (logged in {since})");
    }
    if let Some(idle) = number("idle_seconds") {
        let idle = humantime::format_duration(Duration::from_secs(idle));
        holder = format!("{holder}, last used {idle} ago");
    }
    let slot = told("slot").unwrap_or_default();
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
        match refused(status) {
            Failure::Refused(sentence) => sentence,
            Failure::Usage(other) | Failure::Unavailable(other) => panic!("{other}"),
        }
    }

    #[test]
    fn who_is_refused_is_told_who_holds_the_slot_and_how_to_get_in() {
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
        // What an older or newer server does not say is left out.
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
