//! The standard variables of OpenTelemetry. A setting of Latchkey takes precedence over them.

use toml::{Table, Value};

/// The values of the variables that are set.
#[derive(Debug, Default)]
pub(super) struct StandardVariables {
    endpoint: String,
    service_name: String,
    resource_attributes: String,
    is_disabled: bool,
}

impl StandardVariables {
    pub(super) fn read(&mut self, name: &str, value: &str) {
        let value = value.trim();
        match name {
            "OTEL_EXPORTER_OTLP_ENDPOINT" => value.clone_into(&mut self.endpoint),
            "OTEL_SERVICE_NAME" => value.clone_into(&mut self.service_name),
            "OTEL_RESOURCE_ATTRIBUTES" => value.clone_into(&mut self.resource_attributes),
            "OTEL_SDK_DISABLED" => self.is_disabled = value.eq_ignore_ascii_case("true"),
            _ => {}
        }
    }

    /// Fills in the settings that are empty.
    pub(super) fn apply(self, settings: &mut Table) {
        let Some(Value::Table(otlp)) = settings.get_mut("otlp") else { return };
        let attributes = self.resource_attributes.split(',').map(str::trim);
        let attributes: Vec<_> = attributes.filter(|text| !text.is_empty()).map(Value::from).collect();
        let endpoint = if self.is_disabled { String::new() } else { self.endpoint };
        let values = [
            ("endpoint", endpoint.into()),
            ("service_name", self.service_name.into()),
            ("resource_attributes", attributes.into()),
        ];
        for (key, value) in values {
            match otlp.get_mut(key) {
                Some(Value::String(text)) if !text.is_empty() => {}
                Some(Value::Array(items)) if !items.is_empty() => {}
                Some(setting) => *setting = value,
                None => {}
            }
        }
    }
}
