//! Path templates of `google.api.http`: `/v1/accounts/{user_id}:unlock`, `/v1/callers/{name=**}`.

use http_path_template::{Grammar, PathTemplate, Segment};
use percent_encoding::percent_decode_str;

/// A template of paths.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Template {
    parts: Vec<Part>,
    verb: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    /// One segment, for a field.
    Segment(String),
    /// All further segments, for a field.
    Rest(String),
}

/// The values of fields in a path.
pub(super) type Captures = Vec<(String, String)>;

impl Template {
    pub(super) fn parse(template: &str) -> Result<Self, String> {
        let parsed = PathTemplate::parse(template, Grammar::default());
        let parsed = parsed.map_err(|error| format!("{template}: {error}"))?;
        let part = |segment: &Segment<'_>| match segment {
            Segment::Literal(text) => Ok(Part::Literal((*text).to_owned())),
            Segment::Variable(variable) => {
                let field = variable.field_path().to_owned();
                match variable.segments().collect::<Vec<_>>().as_slice() {
                    [Segment::Single] => Ok(Part::Segment(field)),
                    [Segment::Rest] => Ok(Part::Rest(field)),
                    _ => Err(format!("{template}: only * and ** are supported in a variable")),
                }
            }
            _ => Err(format!("{template}: a wildcard needs a variable")),
        };
        let parts = parsed.segments().iter().map(part).collect::<Result<_, _>>()?;
        Ok(Self { parts, verb: parsed.verb().map(str::to_owned) })
    }

    /// Whether a path must end with a verb such as `:unlock`.
    pub(super) fn has_verb(&self) -> bool {
        self.verb.is_some()
    }

    /// Matches a path that is still percent-encoded, and returns the decoded values of the fields.
    pub(super) fn match_path(&self, path: &str) -> Option<Captures> {
        let path = match &self.verb {
            Some(verb) => path.strip_suffix(verb.as_str())?.strip_suffix(':')?,
            None => path,
        };
        let mut rest = Some(path.strip_prefix('/')?);
        let mut captures = Vec::new();
        for part in &self.parts {
            let left = rest?;
            let (segment, after) = match (part, left.split_once('/')) {
                (Part::Rest(_), _) | (_, None) => (left, None),
                (_, Some((segment, after))) => (segment, Some(after)),
            };
            rest = after;
            match part {
                Part::Literal(text) if *text == segment => {}
                Part::Literal(_) => return None,
                Part::Segment(field) | Part::Rest(field) => captures.push((field.clone(), decode(segment)?)),
            }
        }
        rest.is_none().then_some(captures)
    }
}

/// Decodes a value, which must not be empty.
fn decode(text: &str) -> Option<String> {
    let decoded = percent_decode_str(text).decode_utf8().ok()?;
    (!decoded.is_empty()).then(|| decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(template: &str, path: &str) -> Option<Vec<String>> {
        let captures = Template::parse(template).unwrap().match_path(path)?;
        Some(captures.into_iter().map(|(field, value)| format!("{field}={value}")).collect())
    }

    #[test]
    fn a_template_matches_whole_segments_and_its_verb() {
        let of = |values: &[&str]| Some(values.iter().map(|value| (*value).to_owned()).collect());
        for (template, path, expected) in [
            ("/v1/login", "/v1/login", of(&[])),
            ("/v1/login", "/v1/login/", None),
            ("/v1/login", "/v1/Login", None),
            ("/v1/login", "v1/login", None),
            ("/v1/accounts/{user_id}", "/v1/accounts/a%2Fb%20c", of(&["user_id=a/b c"])),
            ("/v1/accounts/{user_id}", "/v1/accounts/", None),
            ("/v1/accounts/{user_id}", "/v1/accounts/a/b", None),
            ("/v1/accounts/{user_id}", "/v1/accounts/%ff", None),
            ("/v1/accounts/{user_id}:unlock", "/v1/accounts/7:unlock", of(&["user_id=7"])),
            ("/v1/accounts/{user_id}:unlock", "/v1/accounts/a:b:unlock", of(&["user_id=a:b"])),
            ("/v1/accounts/{user_id}:unlock", "/v1/accounts/7%3Aunlock", None),
            ("/v1/accounts/{user_id}:unlock", "/v1/accounts/:unlock", None),
            ("/v1/accounts:find", "/v1/accounts:find", of(&[])),
            ("/v1/accounts/{user_id}/sessions:end", "/v1/accounts/7/sessions:end", of(&["user_id=7"])),
            ("/v1/callers/{name=**}", "/v1/callers/prod/web", of(&["name=prod/web"])),
            ("/v1/callers/{name=**}", "/v1/callers/", None),
            ("/v1/callers/{name=**}", "/v1/callers", None),
        ] {
            assert_eq!(captured(template, path), expected, "{template} {path}");
        }
    }

    #[test]
    fn templates_that_are_not_supported_are_errors() {
        for template in ["v1", "/v1/*", "/v1/{name=users/*}", "/v1/{name"] {
            assert!(Template::parse(template).is_err(), "{template}");
        }
    }
}
