//! Callers that authenticate with a client certificate: their names and roles.

use std::{collections::HashMap, fmt, sync::Arc};

use super::{Identity, role::CallerRole, role::CallerRoles};

/// A name in the subject alternative names of a certificate (RFC 5280 section 4.2.1.6).
///
/// Other kinds of names and the common name do not identify a caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CertificateName {
    /// A DNS name, in lower case.
    Dns(String),
    /// A URI such as a SPIFFE id, compared byte by byte.
    Uri(String),
}

impl CertificateName {
    /// Creates a DNS name.
    pub fn dns(name: &str) -> Self {
        Self::Dns(name.to_ascii_lowercase())
    }

    /// Parses a name as written in the configuration: `dns:<name>`, `uri:<uri>`, or a URI that contains `://`.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
        let name = match (text.strip_prefix("dns:"), text.strip_prefix("uri:")) {
            (Some(name), _) if name.contains('*') => {
                return Err("is a wildcard: list each name");
            }
            (Some(name), _) => Self::dns(name),
            (_, Some(uri)) => Self::Uri(uri.to_owned()),
            _ if text.contains("://") => Self::Uri(text.to_owned()),
            _ => return Err("must be dns:<name>, uri:<uri> or a URI such as spiffe://prod/web"),
        };
        match &name {
            Self::Dns(text) | Self::Uri(text) if plain && !text.is_empty() => Ok(name),
            _ => Err("must be one or more printable ASCII characters"),
        }
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "dns:{name}"),
            Self::Uri(uri) if uri.contains("://") => f.write_str(uri),
            Self::Uri(uri) => write!(f, "uri:{uri}"),
        }
    }
}

/// The callers that authenticate with a certificate, by the names in it.
#[derive(Debug, Clone, Default)]
pub struct Certificates(HashMap<CertificateName, Identity>);

impl Certificates {
    /// Parses entries of a name and roles, separated by blanks: `spiffe://prod/web validator`. An error is a sentence
    /// that quotes the entry.
    pub fn parse<T: AsRef<str>>(entries: &[T]) -> Result<Self, String> {
        let mut callers = HashMap::new();
        for entry in entries {
            let entry = entry.as_ref();
            let mut words = entry.split_whitespace();
            let name = CertificateName::parse(words.next().unwrap_or_default())
                .map_err(|what| format!("the name in \"{entry}\" {what}"))?;
            let roles = words.map(|word| {
                CallerRole::named(word).ok_or_else(|| {
                    format!(
                        "\"{word}\" in \"{entry}\" is not a role: use admin, issuer, operator or validator"
                    )
                })
            });
            let roles = roles.collect::<Result<CallerRoles, _>>()?;
            if roles == CallerRoles::default() {
                return Err(format!("\"{entry}\" names no role: add admin, issuer, operator or validator"));
            }
            let identity = Identity { name: name.to_string().into(), roles };
            if callers.insert(name, identity).is_some() {
                return Err(format!("the name in \"{entry}\" is listed twice: put its roles into one entry"));
            }
        }
        Ok(Self(callers))
    }

    /// Whether no caller authenticates with a certificate.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The caller whose certificate has these names. Its name is the first that is listed; its roles are those of all.
    pub fn identify(&self, names: &[CertificateName]) -> Option<Identity> {
        let mut listed = names.iter().filter_map(|name| self.0.get(name));
        let first = listed.next()?;
        let roles = listed.fold(first.roles, |roles, other| roles.union(other.roles));
        Some(Identity { name: Arc::clone(&first.name), roles })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identify(entries: &[&str], names: &[CertificateName]) -> Option<(String, Vec<&'static str>)> {
        let identity = Certificates::parse(entries).unwrap().identify(names)?;
        Some((identity.name.to_string(), identity.roles.names().collect()))
    }

    #[test]
    fn names_must_match_exactly() {
        let entries =
            ["spiffe://prod/web validator", "dns:Gateway.internal validator issuer", "uri:urn:x admin"];
        let uri = |uri: &str| CertificateName::Uri(uri.into());
        let dns = CertificateName::dns;
        assert_eq!(
            identify(&entries, &[uri("spiffe://prod/web")]),
            Some(("spiffe://prod/web".into(), vec!["validator"]))
        );
        assert_eq!(
            identify(&entries, &[dns("GATEWAY.internal")]),
            Some(("dns:gateway.internal".into(), vec!["issuer", "validator"]))
        );
        assert_eq!(identify(&entries, &[uri("urn:x")]), Some(("uri:urn:x".into(), vec!["admin"])));
        for other in [
            uri("spiffe://prod/web/"),
            uri("spiffe://prod/WEB"),
            uri("spiffe://prod/we"),
            uri("gateway.internal"),
            uri("dns:gateway.internal"),
            dns("spiffe://prod/web"),
            dns("internal"),
            dns("a.gateway.internal"),
            dns("*.internal"),
        ] {
            assert_eq!(identify(&entries, std::slice::from_ref(&other)), None, "{other:?}");
        }
        assert_eq!(identify(&entries, &[]), None);
    }

    #[test]
    fn the_roles_of_every_listed_name_count_and_the_first_names_the_caller() {
        let entries = ["dns:a validator", "dns:b issuer"];
        let names = ["x", "b", "a"].map(CertificateName::dns);
        assert_eq!(identify(&entries, &names), Some(("dns:b".into(), vec!["issuer", "validator"])));
    }

    #[test]
    fn errors_say_what_is_wrong_with_an_entry() {
        for (entries, expected) in [
            (&["web validator"][..], "must be dns:<name>"),
            (&[""], "must be dns:<name>"),
            (&["dns: validator"], "must be one or more"),
            (&["dns:*.internal validator"], "is a wildcard"),
            (&["dns:a"], "names no role"),
            (&["dns:a root"], "\"root\" in \"dns:a root\" is not a role"),
            (&["dns:a validator", "dns:A issuer"], "listed twice"),
            (&["spiffe://prod/\u{e9} validator"], "printable ASCII"),
        ] {
            let error = Certificates::parse(entries).unwrap_err();
            assert!(error.contains(expected), "{entries:?}: {error}");
        }
    }
}
