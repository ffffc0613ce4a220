//! `envoy.service.auth.v3.Authorization`: Envoy, Istio, Contour and others call it before they forward a request.
//!
//! A denial is a response like any other. An error means that nothing was decided; the gateway then follows its own
//! settings and should fail closed. An empty response would mean "allow", so no response is built from a default.

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderMap;
use prost::Message as _;
use prost_types::{ListValue, Struct, Value, value::Kind};
use tonic::{Request, Response, Status, async_trait};
use tracing::Instrument as _;

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
    domain::{Error, Violation, metrics::Surface},
    gateway::{Decision, Denial, Gateway, Identity},
    trace::{RequestSpans, Sampled, TraceContext},
};

/// Maximum size of a request, in bytes. By default, Envoy sends all headers, which can be 60 KiB, and attributes of the
/// connection.
pub(super) const MAX_REQUEST: usize = 256 * 1024;

pub(super) const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";

pub(super) struct CheckHandler {
    gateway: Arc<Gateway>,
}

impl CheckHandler {
    pub(super) fn new(gateway: Arc<Gateway>) -> Self {
        Self { gateway }
    }

    async fn decide(&self, message: CheckRequest) -> Result<CheckResponse, Error> {
        let AttributeContext { request, context_extensions } = message.attributes.unwrap_or_default();
        let extensions = context_extensions.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let route = self.gateway.route("context_extensions", extensions)?;
        let request = request.and_then(|request| request.http);
        let request = request.ok_or_else(|| {
            let description = "is missing: configure ext_authz as an HTTP filter, not as a network filter";
            Violation::new("attributes.request.http", description)
        })?;
        let (authorization, cookies) = (values(&request, "authorization"), values(&request, "cookie"));
        let decision = self.gateway.decide(Surface::ExtAuthz, authorization, cookies, &route);
        Ok(match decision.await? {
            Decision::Allowed(identity) => self.allowed(identity.as_ref(), &request),
            Decision::Denied(denial) => denied(&denial, is_grpc(&request)),
        })
    }

    /// Allows a request. The identity headers replace all headers of the client with the same or a similar name.
    fn allowed(&self, identity: Option<&Identity>, request: &HttpRequest) -> CheckResponse {
        let names = &self.gateway.settings().headers;
        let set = identity.map(|identity| identity.headers(names)).unwrap_or_default();
        // Envoy removes headers last and ignores case, so a header that is set must not be removed in any spelling.
        let is_set = |name: &str| set.iter().any(|(set, _)| set.eq_ignore_ascii_case(name));
        let spoofed = headers(request).map(|(name, _)| name).filter(|name| names.contain_similar(name));
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
        let id = RequestId::from_extensions(request.extensions());
        let spans = spans(&request, &id);
        let decided = async {
            let response = self.decide(request.into_inner()).await;
            response.map(Response::new).map_err(|error| status::from_error(error, &id))
        };
        let response = decided.instrument(spans.span().clone()).await;
        if let Some(root) = spans.root() {
            root.rpc_status(response.as_ref().err().map_or(0, |status| status.code().into()));
        }
        response
    }
}

/// Begins the spans of a call without a trace context of its own: that of the request that the gateway asks about applies.
/// Otherwise the dispatcher has begun them.
fn spans(call: &Request<CheckRequest>, id: &RequestId) -> RequestSpans {
    if TraceContext::of(call.metadata().as_ref()).is_some() {
        return RequestSpans::none();
    }
    let http = call.get_ref().attributes.as_ref().and_then(|all| all.request.as_ref()?.http.as_ref());
    let caller = http.and_then(|http| TraceContext::find(|name| values(http, name)));
    RequestSpans::new(caller.as_ref(), id, || {
        Some(Sampled::decide(caller.clone())?.rpc(METHOD.trim_start_matches('/')))
    })
}

/// Returns all headers. Envoy sends them in one of two fields.
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

/// Whether the client is a gRPC client.
fn is_grpc(request: &HttpRequest) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    values(request, "content-type").any(|value| {
        value.get(..GRPC.len()).is_some_and(|start| start.eq_ignore_ascii_case(GRPC))
            && matches!(value.get(GRPC.len()), None | Some(b'+' | b';' | b' '))
    })
}

/// Denies a request. Envoy sends an HTTP response or, to a gRPC client, a status with the body as its message.
fn denied(denial: &Denial, is_grpc: bool) -> CheckResponse {
    let status = status::denied(denial);
    let mut headers: Vec<_> = denial.headers().into_iter().map(|(name, value)| header(name, value)).collect();
    let body = if is_grpc {
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
            fields: BTreeMap::from([("reason".to_owned(), string(denial.reason()))]),
        }),
    }
}

/// The header with the details of a gRPC status.
const DETAILS: &str = "grpc-status-details-bin";

/// Encodes the details of a status for a header.
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

/// Returns the identity as metadata for further filters and access logs.
fn metadata(identity: &Identity) -> Struct {
    let live = &identity.session;
    let roles = live.roles().iter().map(|role| string(role.as_str())).collect();
    let list = Value { kind: Some(Kind::ListValue(ListValue { values: roles })) };
    let fields = [
        ("user_id", string(live.user_id().as_str())),
        ("username", string(live.username())),
        ("session_id", string(&live.session().id.to_string())),
        ("slot", string(live.session().slot.as_str())),
        ("device", string(live.session().device.as_str())),
        ("roles", list),
    ];
    Struct { fields: fields.map(|(name, value)| (name.to_owned(), value)).into() }
}

fn string(value: &str) -> Value {
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
    fn reasons_of_denials_have_the_names_of_the_protocol() {
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
    fn a_grpc_client_is_known_by_its_content_type() {
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
