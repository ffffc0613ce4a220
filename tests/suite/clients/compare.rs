//! Comparison of the answers of a guarded server with the expected ones and with the verdict of Latchkey.

use latchkey::grpc::pb;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{
    guarded::{GreetResponse, Identity},
    scenario::Expect,
};

/// Checks that every answer has the identity of the session.
pub fn identified(answers: &[GreetResponse], session: &pb::Session, context: &str) {
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

/// Checks a status against the scenario.
pub fn refused(status: &Status, expect: &Expect, context: &str) {
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
    assert_eq!((told("role"), told("slot")), (expect.role.clone(), expect.slot.clone()), "{context}");
    assert_eq!(details.retry_info().is_some(), code == Code::Unavailable, "{context}: {details:?}");
    assert!(!status.message().is_empty(), "{context}");
    if let Some(message) = &expect.message {
        assert_eq!(status.message(), message, "{context}");
    }
}

/// Checks a status against the verdict of Latchkey.
pub fn agrees(status: &Status, rejection: &pb::Rejection, context: &str) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(rejection.reason().as_str_name(), format!("REJECTION_REASON_{}", info.reason), "{context}");
    assert_eq!(status.message(), rejection.message, "{context}");
    assert_eq!(info.metadata["terminal"], rejection.terminal.to_string(), "{context}");
    assert_eq!(info.metadata.get("by_device").map_or("", String::as_str), rejection.by_device, "{context}");
    let at = rejection.at.map(|at| at.seconds.to_string());
    assert_eq!(info.metadata.get("at_unix"), at.as_ref(), "{context}");
}
