//! The measured constants, each with its source.

use serde_json::Value;

/// A measured number, with where it comes from.
pub(crate) struct Constant {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: String,
    pub(crate) source: String,
}

/// The numbers in `constants.json`.
pub(crate) struct Constants(Vec<Constant>);

impl Constants {
    pub(crate) fn load() -> Self {
        let values: Vec<Value> = serde_json::from_str(include_str!("constants.json")).unwrap();
        let text = |value: &Value, key: &str| value[key].as_str().unwrap().to_owned();
        Self(
            values
                .iter()
                .map(|value| Constant {
                    name: text(value, "name"),
                    value: value["value"].as_f64().unwrap(),
                    unit: text(value, "unit"),
                    source: text(value, "source"),
                })
                .collect(),
        )
    }

    pub(crate) fn get(&self, name: &str) -> f64 {
        let constant = self.0.iter().find(|constant| constant.name == name);
        constant.unwrap_or_else(|| panic!("constants.json has no {name}")).value
    }

    pub(crate) fn all(&self) -> &[Constant] {
        &self.0
    }
}
