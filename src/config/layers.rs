//! Overlays the defaults with a file and the environment.

use toml::{Table, Value};

use super::{CacheSize, ConfigError, check::Errors, service_links::is_service_link};

/// Environment variables with the prefix of the configuration that belong to the command line.
const NOT_SETTINGS: [&str; 7] =
    ["CONFIG", "SERVER", "TOKEN", "KEY_FILE", "CA_FILE", "CERTIFICATE_FILE", "CERTIFICATE_KEY_FILE"];

/// The section with a section for each slot, whose keys are [`SLOT_KEYS`] of the section `session`.
const SLOT: &str = "slot";

const SLOT_KEYS: [&str; 5] = ["idle_timeout", "absolute_timeout", "limit", "on_limit", "victim"];

/// The keys of a slot, with defaults that show their types.
fn slot_defaults(defaults: &Table) -> Table {
    let session = defaults.get("session").and_then(Value::as_table);
    let known = session.into_iter().flatten().filter(|(key, _)| SLOT_KEYS.contains(&key.as_str()));
    known.map(|(key, default)| (key.clone(), default.clone())).collect()
}

/// Overlays `settings` with `overlay`. `defaults` defines the keys and their types. Keys with errors are left out.
pub(super) fn merge(settings: &mut Table, defaults: &Table, overlay: Table, path: &str, errors: &mut Errors) {
    for (key, value) in overlay {
        let name = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let Some(default) = defaults.get(&key) else {
            errors.add(unknown(&name, defaults).0);
            continue;
        };
        match (default, value) {
            (Value::Table(_), Value::Table(slots)) if name == SLOT => {
                let slot_defaults = Value::Table(slot_defaults(defaults));
                let Some(Value::Table(settings)) = settings.get_mut(&key) else { continue };
                for (slot, rules) in slots {
                    settings.entry(&slot).or_insert_with(|| Value::Table(Table::new()));
                    let known = Table::from_iter([(slot.clone(), slot_defaults.clone())]);
                    merge(settings, &known, Table::from_iter([(slot, rules)]), SLOT, errors);
                }
            }
            (Value::Table(defaults), Value::Table(overlay)) => {
                if let Some(Value::Table(settings)) = settings.get_mut(&key) {
                    merge(settings, defaults, overlay, &name, errors);
                }
            }
            (default, value) if default.same_type(&value) || is_auto(default) && value.is_integer() => {
                settings.insert(key, value);
            }
            (Value::Float(_), Value::Integer(number)) => {
                settings.insert(key, Value::Float(i32::try_from(number).map_or(f64::INFINITY, f64::from)));
            }
            (default, value) => {
                errors.add(format!("{name} must be {}, not {}", describe(default), describe(&value)));
            }
        }
    }
}

/// Overlays `settings` with an environment variable, if it has the prefix of the configuration.
pub(super) fn overlay_variable(
    settings: &mut Table,
    defaults: &Table,
    variable: &str,
    value: &str,
) -> Result<(), ConfigError> {
    let Some(name) = variable.strip_prefix("LATCHKEY_") else { return Ok(()) };
    if NOT_SETTINGS.contains(&name) {
        return Ok(());
    }
    let lower = name.to_ascii_lowercase();
    let (section, key) = lower.split_once("__").unwrap_or(("", &lower));
    let slots = slot_defaults(defaults);
    let (path, known): (Vec<&str>, _) = match (section, key.rsplit_once("__")) {
        ("", _) => (vec![key], Some(defaults)),
        (SLOT, Some((slot, key))) => (vec![SLOT, slot, key], Some(&slots)),
        _ => (vec![section, key], defaults.get(section).and_then(Value::as_table)),
    };
    let default = known.zip(path.last()).and_then(|(known, key)| known.get(*key));
    let Some(default) = default.filter(|default| !default.is_table()) else {
        if is_service_link(name, value) {
            return Ok(());
        }
        return Err(ConfigError(format!(
            "the environment variable {variable} is not a configuration key: use LATCHKEY_<SECTION>__<KEY>, with the keys of `latchkey serve --print-defaults`"
        )));
    };
    if value.is_empty() {
        // An empty variable counts as not set, because templates often leave variables empty.
        return Ok(());
    }
    let parsed = match default {
        Value::Integer(_) => value.parse().ok().map(Value::Integer),
        Value::Boolean(_) => value.parse().ok().map(Value::Boolean),
        Value::Float(_) => value.parse().ok().map(Value::Float),
        Value::Array(_) => Some(Value::Array(
            value.split(',').map(str::trim).filter(|item| !item.is_empty()).map(Value::from).collect(),
        )),
        default if is_auto(default) => {
            Some(value.parse().map_or_else(|_| Value::String(value.to_owned()), Value::Integer))
        }
        _ => Some(Value::String(value.to_owned())),
    };
    let parsed = parsed.ok_or_else(|| {
        ConfigError(format!("{variable} must be {}, not \"{}\"", describe(default), value.escape_debug()))
    })?;
    let nested = |value, key: &&str| Value::Table(Table::from_iter([((*key).to_owned(), value)]));
    match path.iter().rev().fold(parsed, nested) {
        Value::Table(overlay) => {
            let mut errors = Errors::default();
            merge(settings, defaults, overlay, "", &mut errors);
            errors.0.into_iter().next().map_or(Ok(()), Err)
        }
        _ => Ok(()),
    }
}

/// Whether a setting with this default may be a whole number instead. The type of the setting refuses what it is not.
fn is_auto(default: &Value) -> bool {
    default.as_str() == Some(CacheSize::AUTO)
}

fn unknown(name: &str, known: &Table) -> ConfigError {
    let known: Vec<_> = known.keys().map(String::as_str).collect();
    ConfigError(format!("{name} is not a configuration key; expected one of: {}", known.join(", ")))
}

fn describe(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a section",
    }
}

/// Returns each key that differs from its default, alone in a copy of the defaults.
pub(super) fn differences(settings: &Table, defaults: &Table) -> Vec<(Vec<String>, Table)> {
    let mut found = Vec::new();
    for (key, value) in settings {
        match (value, defaults.get(key)) {
            (Value::Table(section), Some(Value::Table(known))) => {
                for (mut path, section) in differences(section, known) {
                    path.insert(0, key.clone());
                    let mut all = defaults.clone();
                    all.insert(key.clone(), Value::Table(section));
                    found.push((path, all));
                }
            }
            (value, default) if default != Some(value) => {
                let mut all = defaults.clone();
                all.insert(key.clone(), value.clone());
                found.push((vec![key.clone()], all));
            }
            _ => {}
        }
    }
    found
}

/// Sets a key to its default, or removes it if it has none.
pub(super) fn reset(settings: &mut Table, defaults: &Table, path: &[String]) {
    let Some((key, rest)) = path.split_first() else { return };
    match (settings.get_mut(key), defaults.get(key)) {
        (Some(Value::Table(section)), Some(Value::Table(known))) if !rest.is_empty() => {
            reset(section, known, rest);
        }
        (_, Some(default)) => drop(settings.insert(key.clone(), default.clone())),
        (_, None) => drop(settings.remove(key)),
    }
}
