//! Every reason is the same in Validate, Check and forward-auth.

use std::{
    collections::HashMap,
    time::{Duration, UNIX_EPOCH},
};

use latchkey::grpc::{
    envoy::service::auth::v3::CheckResponse,
    pb::{self, LogoutScope, RejectionReason},
};
use tonic_types::{ErrorInfo, StatusExt as _};

use super::{bearer, check, check_request, denied, set, value_of};
use crate::support::{
    client::login_request,
    http,
    server::{Server, Store},
};

/// All reasons. Those that move the clock or clear the store come last.
pub const REASONS: [RejectionReason; 12] = [
    RejectionReason::Malformed,
    RejectionReason::BadSignature,
    RejectionReason::Replaced,
    RejectionReason::Kicked,
    RejectionReason::LoggedOut,
    RejectionReason::Evicted,
    RejectionReason::CredentialsChanged,
    RejectionReason::AccountDisabled,
    RejectionReason::NotYetValid,
    RejectionReason::IdleTimeout,
    RejectionReason::Expired,
    RejectionReason::UnknownSession,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reason_is_the_same_through_validate_check_and_forward_auth() {
    let settings = [("SESSION__SLOTS", "default,many"), ("SLOT__MANY__LIMIT", "2")];
    let server = Server::with(Store::Redis, &settings).await;
    for reason in REASONS {
        let token = rejected(&server, reason).await;
        same_everywhere(&server, reason, &token).await;
    }
    let all = (1..).map_while(|number| RejectionReason::try_from(number).ok());
    assert!(all.into_iter().all(|reason| REASONS.contains(&reason)), "a reason is missing here");
}

/// Makes a token that is rejected for this reason.
pub async fn rejected(server: &Server, reason: RejectionReason) -> String {
    let client = &server.client;
    let name = reason.as_str_name().to_ascii_lowercase();
    let user_id = client.user(&name).await;
    let token = client.login(&name, "phone").await.token;
    assert_eq!(client.session(&token).await.username, name);
    match reason {
        RejectionReason::Unspecified => unreachable!("it is never sent"),
        RejectionReason::Malformed => return format!("{token}x"),
        RejectionReason::BadSignature => {
            let (message, _) = token.rsplit_once('.').unwrap();
            return format!("{message}.{}", data_encoding::BASE64URL_NOPAD.encode(&[7; 64]));
        }
        RejectionReason::NotYetValid => server.clock.set_back(Duration::from_secs(7)),
        RejectionReason::Expired => {
            server.clock.advance(Duration::from_hours(25));
        }
        RejectionReason::IdleTimeout => server.clock.advance(Duration::from_mins(62)),
        RejectionReason::Replaced => drop(client.login(&name, "Jürgens \"iPhone\"").await),
        RejectionReason::Kicked => {
            let message = pb::EndSessionsRequest {
                user_id,
                message: "Bitte ins Büro kommen.".into(),
                ..Default::default()
            };
            assert_eq!(client.end_sessions(message).await, 1);
        }
        RejectionReason::LoggedOut => assert_eq!(client.logout(&token, LogoutScope::This).await.ended, 1),
        RejectionReason::Evicted => {
            let login = |device| pb::LoginRequest { slot: "many".into(), ..login_request(&name, device) };
            let evicted = client.try_login(login("one")).await.unwrap().token;
            for device in ["two", "three"] {
                client.try_login(login(device)).await.unwrap();
            }
            return evicted;
        }
        RejectionReason::CredentialsChanged => {
            let message =
                pb::SetPasswordRequest { user_id, password: "another battery, and a staple".into() };
            client.accounts.clone().set_password(client.admin(message)).await.unwrap();
        }
        RejectionReason::AccountDisabled => {
            let message = pb::UpdateAccountRequest { user_id, disabled: Some(true), ..Default::default() };
            client.update(message).await;
        }
        RejectionReason::UnknownSession => {
            let () = server.redis.as_ref().unwrap().query(&redis::cmd("FLUSHALL"));
            // The first call records the end of the session and its time.
            client.rejection(&token).await;
        }
    }
    token
}

async fn same_everywhere(server: &Server, reason: RejectionReason, token: &str) {
    let native = server.client.rejection(token).await;
    assert_eq!(native.reason(), reason);
    let name = reason.as_str_name().strip_prefix("REJECTION_REASON_").unwrap();
    let forbidden = reason == RejectionReason::AccountDisabled;
    let (status, code) = if forbidden { (403, 7) } else { (401, 16) };

    let bearer = bearer(token);
    let headers = [("authorization", bearer.as_str())];
    let check_answer = check(server.app.grpc, check_request(&headers, &[])).await.unwrap();
    let (check_status, check_denied) = denied(&check_answer);
    let raw = [("authorization", bearer.as_bytes())];
    let http_answer = http::get(server.app.http, "/forward-auth", &raw).await;

    // Both bodies are equal to the byte.
    assert_eq!((check_status, http_answer.status), (status, u16::try_from(status).unwrap()), "{name}");
    assert_eq!(check_denied.body, http_answer.body, "{name}");
    let set = set(&check_denied.headers);
    for header in ["www-authenticate", "content-type", "cache-control", "x-latchkey-reason"] {
        assert_eq!(value_of(&set, header), http_answer.header(header), "{name}: {header}");
    }
    assert_eq!(value_of(&set, "x-latchkey-reason"), Some(name));
    let challenge = value_of(&set, "www-authenticate");
    assert_eq!(challenge.is_none(), forbidden, "{challenge:?}");
    assert!(challenge.is_none_or(|challenge| challenge.contains("error=\"invalid_token\"")), "{challenge:?}");

    // The bodies agree with the gRPC answer.
    let body = http_answer.json();
    assert_eq!(body["reason"], name);
    assert_eq!(body["message"], native.message.as_str());
    assert_eq!(body["terminal"], native.terminal);
    assert_eq!(body["by_device"].as_str().unwrap_or_default(), native.by_device);
    let at = body.get("at").map(|at| humantime::parse_rfc3339(at.as_str().unwrap()).unwrap());
    let at = at.map(|at| at.duration_since(UNIX_EPOCH).unwrap());
    let native_at = native.at.map(|at| Duration::new(at.seconds.unsigned_abs(), at.nanos.unsigned_abs()));
    assert_eq!(at, native_at, "{name}");

    // A gRPC client behind Envoy gets the same reason.
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/grpc")];
    let answer = check(server.app.grpc, check_request(&headers, &[])).await.unwrap();
    let (_, denied) = denied(&answer);
    assert_eq!(value_of(&super::set(&denied.headers), "content-type"), None, "Envoy's own must stand");
    let told = told(&answer);
    assert_eq!((told.code, told.message.as_str()), (code, native.message.as_str()), "{name}");
    let mut expected = HashMap::from([("terminal".to_owned(), native.terminal.to_string())]);
    expected.extend(native.at.map(|at| ("at_unix".to_owned(), at.seconds.to_string())));
    if !native.by_device.is_empty() {
        expected.insert("by_device".to_owned(), native.by_device.clone());
    }
    assert_eq!((told.info.reason.as_str(), told.info.metadata), (name, expected));
}

/// What a gRPC client behind Envoy is told.
struct Told {
    code: i32,
    message: String,
    info: ErrorInfo,
}

fn told(answer: &CheckResponse) -> Told {
    let rpc = answer.status.as_ref().unwrap();
    let (_, denied) = denied(answer);
    assert_eq!(denied.body, rpc.message);
    let set = set(&denied.headers);
    let details = value_of(&set, "grpc-status-details-bin").unwrap();
    let mut map = ::http::HeaderMap::new();
    map.insert("grpc-status", rpc.code.to_string().parse().unwrap());
    map.insert("grpc-status-details-bin", details.parse().unwrap());
    let info = tonic::Status::from_header_map(&map).unwrap().get_details_error_info().unwrap();
    assert_eq!(info.domain, "latchkey");
    Told { code: rpc.code, message: rpc.message.clone(), info }
}

/// The `authorization` header, the requirement of the route, and the code, reason and message of the denial.
type Case<'a> = (Option<&'a str>, &'a [(&'a str, &'a str)], i32, &'a str, &'a str);

/// The clients in `clients/` give the same answers; `clients/scenarios.json` has the same texts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unmet_requirement_of_a_route_has_a_reason_that_is_not_terminal() {
    let server = Server::with(Store::Embedded, &[("SESSION__SLOTS", "default,pair")]).await;
    server.client.user("alice").await;
    let bearer = bearer(&server.client.login("alice", "phone").await.token);
    let two = format!("{bearer}, {bearer}");
    let cases: [Case<'_>; 5] = [
        (None, &[], 16, "TOKEN_REQUIRED", "Please log in: there is no access token."),
        (
            Some("Basic YWxpY2U6"),
            &[],
            16,
            "MALFORMED",
            "The header `authorization` is not of the form `Bearer <token>`.",
        ),
        (Some(&two), &[], 16, "MALFORMED", "There is more than one `authorization`."),
        (
            Some(&bearer),
            &[("required_slot", "pair")],
            7,
            "SLOT_REQUIRED",
            "This needs a session in the slot `pair`.",
        ),
        (Some(&bearer), &[("required_role", "admin")], 7, "ROLE_REQUIRED", "This needs the role `admin`."),
    ];
    for (authorization, route, code, reason, message) in cases {
        let mut headers = vec![("content-type", "application/grpc")];
        headers.extend(authorization.map(|value| ("authorization", value)));
        let told = told(&check(server.app.grpc, check_request(&headers, route)).await.unwrap());
        assert_eq!((told.code, told.message.as_str(), told.info.reason.as_str()), (code, message, reason));
        let mut expected = HashMap::from([("terminal".to_owned(), "false".to_owned())]);
        for (key, value) in route {
            expected.insert(key.replace("required_", ""), (*value).to_owned());
        }
        assert_eq!(told.info.metadata, expected, "{reason}");
    }
}
