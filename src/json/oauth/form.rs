//! The parameters of a request.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use prost::Message as _;
use tonic::{Code, Status};
use url::form_urlencoded;

use super::Operation;
use crate::{
    grpc::{pb, status},
    json::{
        headers::{self, Unserved},
        request::Translate,
    },
};

const FORM: &str = "application/x-www-form-urlencoded";
/// The prefix of the parameters that only Latchkey has.
const OWN: &str = "latchkey_";

/// Checks that the body of a request is a form in UTF-8.
pub(super) fn check_type(headers: &HeaderMap) -> Result<(), Unserved> {
    match headers::media_type(headers) {
        Some((kind, true)) if kind.eq_ignore_ascii_case(FORM) => Ok(()),
        _ => {
            let message = format!("send content-type: {FORM}, in UTF-8");
            let status = status::not_served(Code::InvalidArgument, message);
            Err(Box::new((Some(StatusCode::UNSUPPORTED_MEDIA_TYPE), status)))
        }
    }
}

/// Translates the form of a request to this operation.
pub(super) struct Form {
    pub(super) operation: Operation,
    pub(super) query: Option<String>,
}

impl Translate for Form {
    fn message(&self, body: Bytes) -> Result<Bytes, Status> {
        let parameters = Parameters::parse(self.operation, self.query.as_deref().unwrap_or_default(), &body)?;
        let token = match parameters.token {
            Some(token) if !token.is_empty() => token.into_owned(),
            _ => return Err(status::invalid_message("token", "is missing")),
        };
        Ok(match self.operation {
            Operation::Revoke => {
                pb::LogoutRequest { token, scope: pb::LogoutScope::This.into() }.encode_to_vec()
            }
            Operation::Introspect => {
                let max_staleness = parameters.max_staleness.as_deref().map(duration).transpose()?;
                let peek = parameters.peek.as_deref().map(boolean).transpose()?.unwrap_or_default();
                pb::ValidateRequest { token, peek, max_staleness }.encode_to_vec()
            }
        }
        .into())
    }
}

#[derive(Default)]
struct Parameters<'a> {
    token: Option<Cow<'a, str>>,
    hint: Option<Cow<'a, str>>,
    peek: Option<Cow<'a, str>>,
    max_staleness: Option<Cow<'a, str>>,
}

impl<'a> Parameters<'a> {
    /// Reads the parameters in the body, and those of Latchkey in the query, too: many resource servers send only the
    /// parameters of the standard, but have a setting for the URL. Unknown parameters are ignored, as the standard
    /// demands, except those that can only be misspelled parameters of Latchkey.
    fn parse(operation: Operation, query: &'a str, body: &'a [u8]) -> Result<Self, Status> {
        let mut parameters = Self::default();
        let in_query = form_urlencoded::parse(query.as_bytes()).map(|pair| (true, pair));
        let in_body = form_urlencoded::parse(body).map(|pair| (false, pair));
        for (is_in_query, (name, value)) in in_query.chain(in_body) {
            let is_introspection = operation == Operation::Introspect;
            let (name, parameter) = match &*name {
                "token" => ("token", &mut parameters.token),
                "token_type_hint" => ("token_type_hint", &mut parameters.hint),
                "latchkey_peek" if is_introspection => ("latchkey_peek", &mut parameters.peek),
                "latchkey_max_staleness" if is_introspection => {
                    ("latchkey_max_staleness", &mut parameters.max_staleness)
                }
                name if name.starts_with(OWN) => {
                    let known = if is_introspection {
                        "is not a parameter: use latchkey_peek or latchkey_max_staleness"
                    } else {
                        "is not a parameter: this path has none that begins with latchkey_"
                    };
                    return Err(status::invalid_message(&printable(name), known));
                }
                _ => continue,
            };
            if is_in_query && !name.starts_with(OWN) {
                return Err(status::invalid_message(name, "must be in the body: URLs are logged"));
            }
            if parameter.replace(value).is_some() {
                return Err(status::invalid_message(name, "is set more than once: remove all but one"));
            }
        }
        Ok(parameters)
    }
}

/// The part of a name that an error may show.
fn printable(name: &str) -> String {
    name.chars().filter(char::is_ascii_graphic).take(64).collect()
}

fn boolean(value: &str) -> Result<bool, Status> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(status::invalid_message("latchkey_peek", "must be true or false")),
    }
}

/// Reads a duration as settings spell it.
fn duration(value: &str) -> Result<prost_types::Duration, Status> {
    let duration = humantime::parse_duration(value).ok();
    duration.and_then(|duration| duration.try_into().ok()).ok_or_else(|| {
        status::invalid_message("latchkey_max_staleness", "must be a duration such as 250ms or 2s")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translate(operation: Operation, query: &str, body: &str) -> Result<Bytes, String> {
        let form = Form { operation, query: Some(query.to_owned()) };
        form.message(Bytes::copy_from_slice(body.as_bytes())).map_err(|status| status.message().to_owned())
    }

    fn validate(query: &str, body: &str) -> Result<pb::ValidateRequest, String> {
        translate(Operation::Introspect, query, body)
            .map(|message| pb::ValidateRequest::decode(message).unwrap())
    }

    #[test]
    fn a_form_becomes_a_message() {
        let one = validate("", "token=a.b.c&token_type_hint=access_token&client_id=x&resource=y").unwrap();
        assert_eq!((&*one.token, one.peek, one.max_staleness), ("a.b.c", false, None));
        let one = validate("latchkey_peek=true", "latchkey_max_staleness=250ms&token=a%2Eb%20+").unwrap();
        let staleness = Some(prost_types::Duration { seconds: 0, nanos: 250_000_000 });
        assert_eq!((&*one.token, one.peek, one.max_staleness), ("a.b  ", true, staleness));
        let message = translate(Operation::Revoke, "", "token=x&token_type_hint=refresh_token").unwrap();
        let message = pb::LogoutRequest::decode(message).unwrap();
        assert_eq!((&*message.token, message.scope()), ("x", pb::LogoutScope::This));
        // What is not UTF-8 is no token, but the resource server is not to blame.
        assert_eq!(validate("", "token=%ff").unwrap().token, "\u{fffd}");
    }

    #[test]
    fn an_error_names_the_parameter_and_shows_no_value() {
        for (query, body, names) in [
            ("", "", "token is missing"),
            ("", "token", "token is missing"),
            ("", "token=", "token is missing"),
            ("", "Token=secret", "token is missing"),
            ("", "token=secret&token=secret", "token is set more than once"),
            ("", "token=secret&token_type_hint=a&token_type_hint=b", "token_type_hint is set more than once"),
            ("token=secret", "", "token must be in the body"),
            ("token=secret", "token=secret", "token must be in the body"),
            ("token_type_hint=secret", "token=secret", "token_type_hint must be in the body"),
            ("", "token=secret&latchkey_peek=secret", "latchkey_peek must be true or false"),
            ("latchkey_peek=true", "token=secret&latchkey_peek=true", "latchkey_peek is set more than once"),
            ("latchkey_peak=true", "token=secret", "latchkey_peak is not a parameter: use latchkey_peek"),
            ("", "token=secret&latchkey_max_staleness=5", "latchkey_max_staleness must be a duration"),
            ("", "token=secret&latchkey_max_staleness=-1s", "latchkey_max_staleness must be a duration"),
            ("", "token=secret&latchkey_max_staleness=", "latchkey_max_staleness must be a duration"),
        ] {
            let error = validate(query, body).unwrap_err();
            assert!(error.starts_with(names) && !error.contains("secret"), "{query} {body}: {error}");
        }
        let error = translate(Operation::Revoke, "latchkey_peek=true", "token=secret").unwrap_err();
        assert!(error.starts_with("latchkey_peek is not a parameter: this path"), "{error}");
    }
}
