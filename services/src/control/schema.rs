//! What a schema says of a field, and the reading of a text as such a field: for flags and queries, which know only texts.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Number, Value};

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A number.
    Number,
    /// A text.
    Text,
    /// A list of texts.
    Texts,
    /// Texts by name.
    Pairs,
    /// Anything deeper: JSON.
    Json,
}

/// A field of an input.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
    /// Its documentation.
    pub help: String,
}

/// The schema of a type, without references to other schemas.
pub fn schema_of<T: JsonSchema + ?Sized>() -> Schema {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>()
}

/// The schema of what a type is written as: fields that may be left out are not required.
pub fn schema_of_output<T: JsonSchema + ?Sized>() -> Schema {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.for_serialize().into_generator().into_root_schema_for::<T>()
}

/// The fields of a type.
pub fn fields_of<T: JsonSchema + ?Sized>() -> Vec<Field> {
    fields(schema_of::<T>().as_value())
}

/// The fields of an object's schema.
pub fn fields(schema: &Value) -> Vec<Field> {
    let properties = schema.get("properties").and_then(Value::as_object);
    properties
        .into_iter()
        .flatten()
        .map(|(name, schema)| Field {
            name: name.clone(),
            kind: kind(schema),
            help: schema.get("description").and_then(Value::as_str).unwrap_or_default().to_owned(),
        })
        .collect()
}

/// What a schema's values are, `null` aside.
fn kind(schema: &Value) -> Kind {
    // `Option<T>` is `anyOf: [T, null]` when T is no plain type.
    for name in ["anyOf", "oneOf"] {
        if let Some(choices) = schema.get(name).and_then(Value::as_array) {
            let mut kinds = choices
                .iter()
                .filter(|choice| choice.get("type").and_then(Value::as_str) != Some("null"))
                .map(kind);
            let first = kinds.next().unwrap_or(Kind::Json);
            return if kinds.all(|kind| kind == first) { first } else { Kind::Json };
        }
    }
    let named = match schema.get("type") {
        Some(Value::String(name)) => Some(name.as_str()),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).find(|name| *name != "null"),
        _ => None,
    };
    match named {
        Some("boolean") => Kind::Bool,
        Some("integer" | "number") => Kind::Number,
        Some("string") => Kind::Text,
        Some("array") if schema.get("items").is_some_and(|items| kind(items) == Kind::Text) => Kind::Texts,
        Some("object") if is_map_of_texts(schema) => Kind::Pairs,
        None if schema.get("const").is_some_and(Value::is_string) || schema.get("enum").is_some() => {
            Kind::Text
        }
        _ => Kind::Json,
    }
}

fn is_map_of_texts(schema: &Value) -> bool {
    schema.get("properties").is_none()
        && schema
            .get("additionalProperties")
            .is_some_and(|values| values.is_object() && kind(values) == Kind::Text)
}

/// Reads texts as a field's value. `null` clears; lists take commas or repetition; maps take `NAME=VALUE`
/// or JSON. The complaint says what would be right.
pub fn read(kind: Kind, texts: &[String]) -> Result<Value, String> {
    match texts {
        [text] if text == "null" => Ok(Value::Null),
        _ => read_given(kind, texts),
    }
}

/// The same, where `null` is a text like any other.
pub fn read_given(kind: Kind, texts: &[String]) -> Result<Value, String> {
    let last = texts.last().map(String::as_str).unwrap_or_default();
    match kind {
        Kind::Bool => match last {
            "true" | "1" | "yes" | "on" => Ok(Value::Bool(true)),
            "false" | "0" | "no" | "off" => Ok(Value::Bool(false)),
            _ => Err("expected true or false".to_owned()),
        },
        Kind::Number => last.parse().map(Value::Number).map_err(|_| "expected a number".to_owned()),
        Kind::Text => Ok(Value::String(last.to_owned())),
        Kind::Texts if last.trim_start().starts_with('[') => json(last),
        Kind::Texts => Ok(texts
            .iter()
            .flat_map(|text| text.split(','))
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .map(Value::from)
            .collect()),
        Kind::Pairs if last.trim_start().starts_with('{') => json(last),
        Kind::Pairs => pairs(texts, |text| Value::from(text)),
        Kind::Json if last.trim_start().starts_with(['{', '[', '"']) => json(last),
        Kind::Json => pairs(texts, scalar),
    }
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}"))
}

fn pairs(texts: &[String], value: impl Fn(&str) -> Value) -> Result<Value, String> {
    let mut map = Map::new();
    for text in texts {
        let (name, text) = text.split_once('=').ok_or("expected NAME=VALUE, or JSON")?;
        map.insert(name.trim().to_owned(), value(text));
    }
    Ok(Value::Object(map))
}

fn scalar(text: &str) -> Value {
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" => Value::Null,
        _ => text.parse::<Number>().map_or_else(|_| Value::from(text), Value::Number),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::{Proxy, Route};

    #[test]
    fn schemas_tell_what_fields_hold() {
        let proxy = fields_of::<Proxy>();
        let route = fields_of::<Route>();
        let kind_of =
            |name: &str| proxy.iter().chain(&route).find(|field| field.name == name).map(|field| field.kind);
        for (name, kind) in [
            ("proxy_hostname", Kind::Text),
            ("target_url", Kind::Text),
            ("enabled", Kind::Bool),
            ("cert_name", Kind::Text),
            ("auth_mode", Kind::Text),
            ("upstream_proxy_protocol", Kind::Text),
            ("max_body_bytes", Kind::Number),
            ("custom_headers", Kind::Pairs),
            ("auth_required_users", Kind::Texts),
            ("auth_additional_params", Kind::Pairs),
            ("forward_authorization", Kind::Bool),
            ("upstream_tls", Kind::Json),
            ("trusted_issuers", Kind::Json),
            ("request_headers", Kind::Json),
            ("priority", Kind::Number),
            ("methods", Kind::Texts),
            ("target_type", Kind::Text),
        ] {
            assert_eq!(kind_of(name), Some(kind), "{name}");
        }
    }

    #[test]
    fn texts_become_values() {
        for (kind, texts, expected) in [
            (Kind::Bool, vec!["no"], json!(false)),
            (Kind::Number, vec!["12"], json!(12)),
            (Kind::Text, vec!["12"], json!("12")),
            (Kind::Text, vec!["null"], json!(null)),
            (Kind::Texts, vec!["a, b", "c"], json!(["a", "b", "c"])),
            (Kind::Texts, vec!["[\"a,b\"]"], json!(["a,b"])),
            (Kind::Pairs, vec!["a=1", "b=x=y"], json!({"a": "1", "b": "x=y"})),
            (Kind::Json, vec!["verify=false", "server_name=a"], json!({"verify": false, "server_name": "a"})),
            (Kind::Json, vec!["{\"a\": [1]}"], json!({"a": [1]})),
        ] {
            let texts: Vec<_> = texts.into_iter().map(str::to_owned).collect();
            assert_eq!(read(kind, &texts), Ok(expected), "{texts:?}");
        }
        for (kind, text) in
            [(Kind::Bool, "maybe"), (Kind::Number, "x"), (Kind::Pairs, "x"), (Kind::Json, "{")]
        {
            assert!(read(kind, &[text.to_owned()]).is_err(), "{text}");
        }
    }
}
