//! `envoy.service.auth.v3.Authorization`: Envoy asks before it lets a request pass, and so do Istio, Contour and
//! others that speak its protocol.
//!
//! A denial is an answer like any other. Whatever could not be decided is an error, after which the gateway does what
//! its own settings say: it should fail closed. An empty answer would mean "allow", so none is ever made from a default.

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderMap;
use prost::Message as _;
use prost_types::{ListValue, Struct, Value, value::Kind};
use tonic::{Request, Response, Status, async_trait};

use super::{
    envoy::{
        config::core::v3::{HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction},
        service::auth::v3::{
            AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
            attribute_context::HttpRequest, authorization_server::Authorization,
            check_response::HttpResponse,
        },
        r#type::v3::{HttpStatus, StatusCode},
    },
    request_id::RequestId,
    status,
};
use crate::{
    domain::{Error, Violation},
    gateway::{Decision, Denial, Gateway, Identity},
};

/// A larger request is refused, in bytes. Envoy passes on all headers if it is not told otherwise, which by default
/// can be 60 KiB, and adds what it knows of the connection.
pub(super) const MAX_REQUEST: usize = 256 * 1024;

pub(super) struct CheckHandler {
    gateway: Arc<Gateway>,
}

impl CheckHandler {
    pub(super) fn new(gateway: Arc<Gateway>) -> Self {
        Self { gateway }
    }

    async fn answer(&self, message: CheckRequest) -> Result<CheckResponse, Error> {
        let AttributeContext { request, context_extensions } = message.attributes.unwrap_or_default();
        let extensions = context_extensions.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let route = self.gateway.route("context_extensions", extensions)?;
        let request = request.and_then(|request| request.http);
        let request = request.ok_or_else(|| {
            let what = "is missing: Latchkey answers Envoy's HTTP filter ext_authz, not its network filter";
            Violation::new("attributes.request.http", what)
        })?;
        let decision =
            self.gateway.decide(values(&request, "authorization"), values(&request, "cookie"), &route);
        Ok(match decision.await? {
            Decision::Allowed(identity) => self.allowed(identity.as_ref(), &request),
            Decision::Denied(denial) => denied(&denial, is_grpc(&request)),
        })
    }

    /// The headers that tell who it is take the place of any that the client has sent, in whatever spelling.
    fn allowed(&self, identity: Option<&Identity>, request: &HttpRequest) -> CheckResponse {
        let names = &self.gateway.settings().headers;
        let set = identity.map(|identity| identity.headers(names)).unwrap_or_default();
        // One that is set must not be among those removed: Envoy removes last.
        let is_set = |name: &str| set.iter().any(|(set, _)| *set == name);
        let spoofed = headers(request).map(|(name, _)| name).filter(|name| names.are_like(name));
        let mut removed: Vec<_> =
            names.used().chain(spoofed).filter(|name| !is_set(name)).map(str::to_owned).collect();
        removed.sort();
        removed.dedup();
        CheckResponse {
            status: Some(tonic_types::pb::Status::default()),
            http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
                headers: set.into_iter().map(|(name, value)| header(name, value)).collect(),
                headers_to_remove: removed,
            })),
            dynamic_metadata: identity.map(metadata),
        }
    }
}

#[async_trait]
impl Authorization for CheckHandler {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let (_, extensions, message) = request.into_parts();
        let answer = self.answer(message).await;
        answer.map(Response::new).map_err(|error| status::of(error, &RequestId::from_extensions(&extensions)))
    }
}

/// Every header with its value, in either of the two forms in which Envoy sends them.
fn headers(request: &HttpRequest) -> impl Iterator<Item = (&str, &[u8])> {
    let joined = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let raw = request.header_map.iter().flat_map(|map| &map.headers).map(|header| {
        let value =
            if header.raw_value.is_empty() { header.value.as_bytes() } else { header.raw_value.as_slice() };
        (header.key.as_str(), value)
    });
    joined.chain(raw)
}

fn values<'a>(request: &'a HttpRequest, name: &str) -> impl Iterator<Item = &'a [u8]> {
    headers(request).filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// Whether the client speaks gRPC.
fn is_grpc(request: &HttpRequest) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    values(request, "content-type").any(|value| {
        value.get(..GRPC.len()).is_some_and(|start| start.eq_ignore_ascii_case(GRPC))
            && matches!(value.get(GRPC.len()), None | Some(b'+' | b';' | b' '))
    })
}

/// Envoy makes of it an HTTP answer or, for a client that speaks gRPC, a status whose message is the body.
fn denied(denial: &Denial, grpc: bool) -> CheckResponse {
    let status = status::denied(denial);
    let mut headers: Vec<_> = denial.headers().into_iter().map(|(name, value)| header(name, value)).collect();
    let body = if grpc {
        headers.extend(details(&status).map(|details| header(DETAILS, details)));
        denial.message()
    } else {
        headers.push(header("content-type", "application/json".into()));
        denial.body()
    };
    let code = if denial.is_forbidden() { StatusCode::Forbidden } else { StatusCode::Unauthorized };
    CheckResponse {
        status: Some(rpc_status(&status)),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus { code: code.into() }),
            headers,
            body,
        })),
        dynamic_metadata: Some(Struct {
            fields: BTreeMap::from([("reason".to_owned(), text(denial.reason()))]),
        }),
    }
}

/// Where a gRPC client finds the details of a status.
const DETAILS: &str = "grpc-status-details-bin";

/// The details of a status as they travel in a header.
fn details(status: &Status) -> Option<String> {
    let mut headers = HeaderMap::new();
    status.add_header(&mut headers).ok()?;
    headers.get(DETAILS)?.to_str().ok().map(str::to_owned)
}

fn rpc_status(status: &Status) -> tonic_types::pb::Status {
    let bare = || tonic_types::pb::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: Vec::new(),
    };
    tonic_types::pb::Status::decode(status.details())
        .ok()
        .filter(|whole| whole.code != 0)
        .unwrap_or_else(bare)
}

fn header(name: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.into(), value, raw_value: Vec::new() }),
        append: None,
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
    }
}

/// Who it is, for the filters behind and for access logs.
fn metadata(identity: &Identity) -> Struct {
    let verified = &identity.verified;
    let roles = verified.roles().iter().map(|role| text(role.as_str())).collect();
    let list = Value { kind: Some(Kind::ListValue(ListValue { values: roles })) };
    let fields = [
        ("user_id", text(verified.user_id().as_str())),
        ("username", text(verified.username())),
        ("session_id", text(&verified.session().id.to_string())),
        ("slot", text(verified.session().slot.as_str())),
        ("device", text(verified.session().device.as_str())),
        ("roles", list),
    ];
    Struct { fields: fields.map(|(name, value)| (name.to_owned(), value)).into() }
}

fn text(value: &str) -> Value {
    Value { kind: Some(Kind::StringValue(value.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::types::{Role, Slot},
        gateway::Cause,
        grpc::pb::ErrorReason,
    };

    #[test]
    fn reasons_that_are_no_rejections_have_the_names_of_the_protocol() {
        for (cause, reason) in [
            (Cause::NoToken, ErrorReason::TokenRequired),
            (Cause::WrongSlot(Slot::parse("web").unwrap()), ErrorReason::SlotRequired),
            (Cause::MissingRole(Role::parse("admin").unwrap()), ErrorReason::RoleRequired),
        ] {
            let name = format!("ERROR_REASON_{}", Denial::from(cause).reason());
            assert_eq!(ErrorReason::from_str_name(&name), Some(reason));
        }
    }

    #[test]
    fn a_client_speaks_grpc_if_it_says_so_and_not_grpc_web() {
        for (value, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
            ("", false),
        ] {
            let headers = [("content-type".to_owned(), value.to_owned())].into();
            assert_eq!(is_grpc(&HttpRequest { headers, header_map: None }), grpc, "{value}");
        }
    }
}
