//! The paths of the methods, from the descriptors.

use std::collections::{BTreeSet, HashMap};

use http::Method as HttpMethod;
use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, MessageDescriptor, MethodDescriptor, Value,
};

use super::template::{Captures, Template};

/// The services of this package are served.
const PACKAGE: &str = "latchkey.v1";
/// The option with the paths of a method.
const OPTION: &str = "google.api.http";
const VERBS: [(&str, HttpMethod); 5] = [
    ("get", HttpMethod::GET),
    ("put", HttpMethod::PUT),
    ("post", HttpMethod::POST),
    ("delete", HttpMethod::DELETE),
    ("patch", HttpMethod::PATCH),
];

/// A method.
#[derive(Debug)]
pub(super) struct Method {
    /// The path in gRPC.
    pub(super) path: String,
    pub(super) input: MessageDescriptor,
    pub(super) output: MessageDescriptor,
    is_streaming: bool,
}

/// The form of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Connect's unary protocol: the message is the body.
    Connect,
    /// The message is the body, with fields in the path.
    Body,
    /// The fields are in the path and in the query.
    Query,
    /// A request without fields, which opens a stream.
    Events,
}

/// A path of a method.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) verb: HttpMethod,
    pub(super) text: String,
    template: Template,
    pub(super) kind: Kind,
    method: usize,
}

/// The paths of all methods.
#[derive(Debug)]
pub(super) struct Routes {
    methods: Vec<Method>,
    by_path: HashMap<String, usize>,
    /// Those with a verb first, because a field may contain a colon too.
    rules: Vec<Rule>,
}

/// What serves a request.
pub(super) enum Match<'a> {
    Found(Found<'a>),
    /// The path is for these methods of HTTP.
    WrongMethod(String),
    None,
}

/// The method that serves a request.
pub(super) struct Found<'a> {
    pub(super) method: &'a Method,
    pub(super) kind: Kind,
    pub(super) captures: Captures,
}

impl Routes {
    pub(super) fn new(pool: &DescriptorPool) -> Result<Self, String> {
        let option = pool.get_extension_by_name(OPTION).ok_or(format!("there is no {OPTION}"))?;
        let mut routes = Self { methods: Vec::new(), by_path: HashMap::new(), rules: Vec::new() };
        for method in methods(pool) {
            let index = routes.methods.len();
            let path = path(&method);
            routes.rules.extend(rules(&method, &option, index)?);
            routes.by_path.insert(path.clone(), index);
            routes.methods.push(Method {
                path,
                input: method.input(),
                output: method.output(),
                is_streaming: method.is_client_streaming() || method.is_server_streaming(),
            });
        }
        routes.rules.sort_by_key(|rule| !rule.template.has_verb());
        Ok(routes)
    }

    /// Whether there is a method with this path.
    pub(super) fn has_path(&self, path: &str) -> bool {
        self.by_path.contains_key(path)
            || self.rules.iter().any(|rule| rule.template.match_path(path).is_some())
    }

    /// Finds the method that serves a request.
    pub(super) fn find(&self, verb: &HttpMethod, path: &str) -> Match<'_> {
        if let Some(index) = self.by_path.get(path) {
            let method = &self.methods[*index];
            return if *verb == HttpMethod::POST {
                Match::Found(Found { method, kind: Kind::Connect, captures: Vec::new() })
            } else {
                Match::WrongMethod("POST".into())
            };
        }
        let mut allowed = BTreeSet::new();
        for rule in &self.rules {
            let Some(captures) = rule.template.match_path(path) else { continue };
            if rule.verb == *verb {
                return Match::Found(Found { method: &self.methods[rule.method], kind: rule.kind, captures });
            }
            allowed.insert(rule.verb.as_str());
        }
        if allowed.is_empty() {
            Match::None
        } else {
            Match::WrongMethod(allowed.into_iter().collect::<Vec<_>>().join(", "))
        }
    }
}

impl Method {
    /// Whether the method is not unary.
    pub(super) fn is_streaming(&self) -> bool {
        self.is_streaming
    }
}

/// The methods of all services that are served.
pub(super) fn methods(pool: &DescriptorPool) -> impl Iterator<Item = MethodDescriptor> {
    let services = pool.services().filter(|service| service.package_name() == PACKAGE);
    services.flat_map(|service| service.methods().collect::<Vec<_>>())
}

/// Returns the path of a method in gRPC and Connect.
pub(super) fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

/// Returns the annotated paths of a method. That of a stream of messages is a stream of events, which pages open with
/// GET.
pub(super) fn rules(
    method: &MethodDescriptor,
    option: &ExtensionDescriptor,
    index: usize,
) -> Result<Vec<Rule>, String> {
    let options = method.options();
    let annotated = options.has_extension(option).then(|| options.get_extension(option));
    let Some(Value::Message(first)) = annotated.as_deref() else { return Ok(Vec::new()) };
    let more = first.get_field_by_name("additional_bindings");
    let more = more.as_deref().and_then(Value::as_list).unwrap_or_default();
    let all = [first].into_iter().chain(more.iter().filter_map(Value::as_message));
    let is_events = method.is_server_streaming() && !method.is_client_streaming();
    all.map(|rule| {
        let (verb, text) = pattern(rule).ok_or_else(|| format!("{}: no path", method.full_name()))?;
        let body = rule.get_field_by_name("body");
        let kind = match body.as_deref().and_then(Value::as_str).unwrap_or_default() {
            _ if is_events => Kind::Events,
            "" => Kind::Query,
            "*" => Kind::Body,
            field => return Err(format!("{}: the body {field} is not supported", method.full_name())),
        };
        let verb = if is_events { HttpMethod::GET } else { verb };
        Ok(Rule { verb, template: Template::parse(&text)?, text, kind, method: index })
    })
    .collect()
}

fn pattern(rule: &DynamicMessage) -> Option<(HttpMethod, String)> {
    VERBS.into_iter().find_map(|(name, verb)| {
        let text = rule.has_field_by_name(name).then(|| rule.get_field_by_name(name)).flatten()?;
        Some((verb, text.as_str()?.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::pb;

    fn routes() -> Routes {
        Routes::new(&DescriptorPool::decode(pb::PUBLISHED).unwrap()).unwrap()
    }

    fn found(routes: &Routes, verb: &HttpMethod, path: &str) -> String {
        match routes.find(verb, path) {
            Match::Found(Found { method, kind, captures }) => {
                let (_, name) = method.path.rsplit_once('/').unwrap();
                format!("{name} {kind:?} {captures:?}")
            }
            Match::WrongMethod(allowed) => format!("only {allowed}"),
            Match::None => "none".into(),
        }
    }

    #[test]
    fn the_annotations_and_the_names_of_methods_are_paths() {
        let routes = routes();
        for (verb, path, expected) in [
            (HttpMethod::POST, "/v1/login", "Login Body []"),
            (HttpMethod::GET, "/v1/login", "only POST"),
            (HttpMethod::GET, "/v1/watch", "WatchSession Events []"),
            (HttpMethod::POST, "/v1/watch", "only GET"),
            (HttpMethod::GET, "/v1/accounts/7", "GetAccount Query [(\"user_id\", \"7\")]"),
            (HttpMethod::GET, "/v1/accounts:find", "GetAccount Query []"),
            (HttpMethod::GET, "/v1/accounts", "ListAccounts Query []"),
            (HttpMethod::PUT, "/v1/accounts", "only GET, POST"),
            (HttpMethod::POST, "/v1/accounts/7:unlock", "UnlockAccount Body [(\"user_id\", \"7\")]"),
            (HttpMethod::DELETE, "/v1/callers/a/b", "RevokeCaller Query [(\"name\", \"a/b\")]"),
            (HttpMethod::POST, "/latchkey.v1.AuthService/Login", "Login Connect []"),
            (HttpMethod::GET, "/latchkey.v1.AuthService/Login", "only POST"),
            (HttpMethod::POST, "/latchkey.v1.AuthService/Nothing", "none"),
            (HttpMethod::POST, "/envoy.service.auth.v3.Authorization/Check", "none"),
            (HttpMethod::GET, "/", "none"),
        ] {
            assert_eq!(found(&routes, &verb, path), expected, "{verb} {path}");
        }
    }
}
