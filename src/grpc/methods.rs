//! The methods that the server serves, by full path: who may call each one, and whether it reads or sends a stream.

use crate::{admission::Resource, domain::callers::role::CallerRole};

/// The callers that may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Everybody.
    Open,
    /// Everybody, or only callers with the role `validator`, depending on `access.validate`.
    Validator,
    /// Callers with this role.
    Role(CallerRole),
}

/// The paths of all methods.
pub const PATHS: [&str; 27] = [
    "/latchkey.v1.AuthService/Login",
    "/latchkey.v1.AuthService/Logout",
    "/latchkey.v1.AuthService/WatchSession",
    "/latchkey.v1.AuthService/ChangePassword",
    "/latchkey.v1.AuthService/GetJwks",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/latchkey.v1.AuthService/Validate",
    "/latchkey.v1.AuthService/ValidateStream",
    "/envoy.service.auth.v3.Authorization/Check",
    "/latchkey.v1.SessionService/IssueSession",
    "/latchkey.v1.SessionService/ListSessions",
    "/latchkey.v1.SessionService/EndSessions",
    "/latchkey.v1.SessionService/WatchSessions",
    "/latchkey.v1.AccountService/CreateAccount",
    "/latchkey.v1.AccountService/GetAccount",
    "/latchkey.v1.AccountService/ListAccounts",
    "/latchkey.v1.AccountService/UpdateAccount",
    "/latchkey.v1.AccountService/SetPassword",
    "/latchkey.v1.AccountService/UnlockAccount",
    "/latchkey.v1.AccountService/DeleteAccount",
    "/latchkey.v1.AccountService/ImportAccounts",
    "/latchkey.v1.CallerService/CreateCaller",
    "/latchkey.v1.CallerService/ListCallers",
    "/latchkey.v1.CallerService/RevokeCaller",
];

/// Returns the rule of a method. A method without a rule is not served.
pub fn rule(path: &str) -> Option<Rule> {
    Some(match path {
        "/latchkey.v1.AuthService/Login"
        | "/latchkey.v1.AuthService/Logout"
        | "/latchkey.v1.AuthService/WatchSession"
        | "/latchkey.v1.AuthService/ChangePassword"
        | "/latchkey.v1.AuthService/GetJwks"
        | "/grpc.health.v1.Health/Check"
        | "/grpc.health.v1.Health/Watch"
        | "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => Rule::Open,
        "/latchkey.v1.AuthService/Validate"
        | "/latchkey.v1.AuthService/ValidateStream"
        | "/envoy.service.auth.v3.Authorization/Check" => Rule::Validator,
        "/latchkey.v1.SessionService/IssueSession" => Rule::Role(CallerRole::Issuer),
        "/latchkey.v1.SessionService/ListSessions"
        | "/latchkey.v1.SessionService/EndSessions"
        | "/latchkey.v1.SessionService/WatchSessions" => Rule::Role(CallerRole::Operator),
        "/latchkey.v1.AccountService/CreateAccount"
        | "/latchkey.v1.AccountService/GetAccount"
        | "/latchkey.v1.AccountService/ListAccounts"
        | "/latchkey.v1.AccountService/UpdateAccount"
        | "/latchkey.v1.AccountService/SetPassword"
        | "/latchkey.v1.AccountService/UnlockAccount"
        | "/latchkey.v1.AccountService/DeleteAccount"
        | "/latchkey.v1.AccountService/ImportAccounts"
        | "/latchkey.v1.CallerService/CreateCaller"
        | "/latchkey.v1.CallerService/ListCallers"
        | "/latchkey.v1.CallerService/RevokeCaller" => Rule::Role(CallerRole::Admin),
        _ => return None,
    })
}

/// Whether the response of a method is a stream.
pub(super) fn sends_stream(path: &str) -> bool {
    matches!(
        path,
        "/latchkey.v1.AuthService/ValidateStream"
            | "/latchkey.v1.AuthService/WatchSession"
            | "/latchkey.v1.SessionService/WatchSessions"
            | "/grpc.health.v1.Health/Watch"
            | "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    )
}

/// Whether the request of a method is a stream.
pub(super) fn reads_stream(path: &str) -> bool {
    matches!(
        path,
        "/latchkey.v1.AuthService/ValidateStream"
            | "/latchkey.v1.AccountService/ImportAccounts"
            | "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    )
}

/// Whether a method reads a stream and sends one response at its end. The method itself limits the time between two
/// messages; the call as a whole has no deadline.
pub(super) fn is_upload(path: &str) -> bool {
    path == "/latchkey.v1.AccountService/ImportAccounts"
}

/// Returns the resource that an open stream of a method uses.
pub(super) fn stream_resource(path: &str) -> Option<Resource> {
    match path {
        "/grpc.health.v1.Health/Watch" => Some(Resource::HealthStreams),
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => {
            Some(Resource::ReflectionStreams)
        }
        _ => (sends_stream(path) || reads_stream(path)).then_some(Resource::Streams),
    }
}

#[cfg(test)]
mod tests;
