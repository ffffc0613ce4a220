//! Fields that a message in JSON gives twice.
//!
//! The parsers of most languages refuse them. `prost-reflect` takes the last value, whereas a filter in front of the server
//! may have taken the first one.

use std::{collections::HashSet, fmt};

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use tonic::Status;

use super::message;
use crate::grpc::status;

/// Checks that every field is given once, by one of its names, and at most one field of each `oneof`. All other errors
/// are left to the decoder.
pub(super) fn check<'de, D>(descriptor: &MessageDescriptor, deserializer: D) -> Result<(), Status>
where
    D: Deserializer<'de, Error = serde_json::Error>,
{
    let (mut track, mut found) = (serde_path_to_error::Track::new(), None);
    let tracked = serde_path_to_error::Deserializer::new(deserializer, &mut track);
    let seed = Walk { kind: Some(Kind::Message(descriptor.clone())), found: &mut found };
    let Err(_) = seed.deserialize(tracked) else { return Ok(()) };
    let Some((name, problem)) = found else { return Ok(()) };
    let path = track.path();
    let is_nested = path.iter().next().is_some();
    let field = if is_nested { format!("{path}.{name}") } else { name };
    Err(status::invalid_message(&field, problem))
}

/// Reads a value of this kind. The kind is unknown below a field that does not exist.
struct Walk<'a> {
    kind: Option<Kind>,
    /// The name of the wrong field, and what is wrong.
    found: &'a mut Option<(String, String)>,
}

/// Returns whether the value is not null: a field that is null is not set.
impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<bool, A::Error> {
        while values.next_element_seed(Walk { kind: self.kind.clone(), found: self.found })?.is_some() {}
        Ok(true)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<bool, A::Error> {
        let message = match self.kind {
            Some(Kind::Message(message)) => Some(message),
            _ => None,
        };
        // The keys of a map are not fields.
        let values = message.as_ref().filter(|message| message.is_map_entry());
        let values = values.map(MessageDescriptor::map_entry_value_field);
        let (mut keys, mut fields, mut set) = (HashSet::new(), HashSet::new(), Vec::<FieldDescriptor>::new());
        while let Some(key) = entries.next_key::<String>()? {
            let field = match (&message, &values) {
                (Some(message), None) => message::field(message, &key),
                _ => None,
            };
            let is_first = match &field {
                Some(field) => fields.insert(field.number()),
                None => keys.insert(key.clone()),
            };
            if !is_first {
                *self.found = Some((key, "is given twice".into()));
                return Err(A::Error::custom("a field is given twice"));
            }
            let kind = field.as_ref().or(values.as_ref()).map(FieldDescriptor::kind);
            let is_set = entries.next_value_seed(Walk { kind, found: self.found })?;
            let Some(field) = field.filter(|_| is_set) else { continue };
            if let Some(oneof) = field.containing_oneof() {
                let is_other = |other: &&FieldDescriptor| other.containing_oneof().as_ref() == Some(&oneof);
                if let Some(other) = set.iter().find(is_other) {
                    let problem = format!("cannot be combined with {}", other.json_name());
                    *self.found = Some((key, problem));
                    return Err(A::Error::custom("two fields of a oneof are given"));
                }
                set.push(field);
            }
        }
        Ok(true)
    }
}
