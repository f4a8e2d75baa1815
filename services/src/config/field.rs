//! Reading documents and inputs so that every complaint names the field, its value and what would be right.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The longest text that is repeated in a complaint.
const MAX_ECHO: usize = 200;

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct FieldError {
    /// Where, with dots between levels, e.g. `cors.origins[0]`. Empty: the document as a whole.
    pub field: String,
    /// What stands there; `null` when nothing does, or when it is secret.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub value: Value,
    /// What is wrong, and what would be right.
    pub detail: String,
}

impl FieldError {
    /// A complaint about a field.
    pub fn new(field: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), value: shortened(value.into()), detail: detail.into() }
    }

    /// A complaint whose value must not be repeated, or does not matter.
    pub fn bare(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), value: Value::Null, detail: detail.into() }
    }

    /// The same complaint, one level further out.
    #[must_use]
    pub fn within(mut self, parent: &str) -> Self {
        self.field = match self.field.as_str() {
            "" => parent.to_owned(),
            field if field.starts_with('[') => format!("{parent}{field}"),
            field => format!("{parent}.{field}"),
        };
        self
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        if !self.value.is_null() {
            write!(f, "{}: ", self.value)?;
        }
        f.write_str(&self.detail)
    }
}

impl std::error::Error for FieldError {}

/// Reads a value of a type; the complaint names the field that does not fit.
pub fn read<T: DeserializeOwned>(value: &Value) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let detail = error.inner().to_string();
        let unknown = detail.starts_with("unknown field `").then(|| detail.split('`').nth(1)).flatten();
        let mut field = if path == "." { String::new() } else { path };
        // The tracker names the parent when it is the name itself that does not fit.
        if let Some(name) = unknown
            && field != name
            && !field.ends_with(&format!(".{name}"))
        {
            field = if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") };
        }
        if field.is_empty()
            && let Some(name) =
                detail.starts_with("missing field `").then(|| detail.split('`').nth(1)).flatten()
        {
            field = name.to_owned();
        }
        let found = if is_secret(&field) { Value::Null } else { at(value, &field) };
        FieldError::new(field, found, detail)
    })
}

/// Whether a field's value must never be repeated, whatever stands in it.
fn is_secret(field: &str) -> bool {
    ["private_key", "secret", "token", "password"].iter().any(|word| field.contains(word))
}

/// The value under a path as [`FieldError::field`] has it.
fn at(value: &Value, field: &str) -> Value {
    let mut current = value;
    for step in field.split(['.', '[']).filter(|step| !step.is_empty()) {
        let next = match step.strip_suffix(']') {
            Some(index) => index.parse().ok().and_then(|index: usize| current.get(index)),
            None => current.get(step),
        };
        match next {
            Some(next) => current = next,
            None => return Value::Null,
        }
    }
    current.clone()
}

fn shortened(value: Value) -> Value {
    match value {
        // A key in the wrong field is a key all the same.
        Value::String(text) if text.contains("PRIVATE KEY") => Value::Null,
        Value::String(text) if text.len() > MAX_ECHO => {
            let end = (0..=MAX_ECHO).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            Value::String(format!("{}…", &text[..end]))
        }
        // A whole subtree says less than its name.
        Value::Object(_) | Value::Array(_) => Value::Null,
        other => other,
    }
}

/// Applies a JSON merge patch (RFC 7396): absent keeps, `null` clears, objects merge.
pub fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => {
                target.remove(name);
            }
            Value::Object(inner) => {
                let slot = target.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
                if !slot.is_object() {
                    *slot = Value::Object(Map::new());
                }
                if let Value::Object(slot) = slot {
                    merge(slot, inner);
                }
            }
            other => {
                target.insert(name.clone(), other.clone());
            }
        }
    }
}

/// Writes the keys of the objects at these JSON pointers in lower case: a patch must find what is there.
pub fn lower_keys(map: &mut Map<String, Value>, pointers: &[&str]) {
    for pointer in pointers {
        let mut segments = pointer.split('/').skip(1);
        let found = segments.next().and_then(|name| map.get_mut(name));
        let found = segments.fold(found, |at, name| at?.get_mut(name));
        if let Some(Value::Object(object)) = found {
            *object = std::mem::take(object)
                .into_iter()
                .map(|(name, value)| (name.to_ascii_lowercase(), value))
                .collect();
        }
    }
}

/// Renames old field names to today's. Both at once are a complaint, unless they agree.
pub fn rename(map: &mut Map<String, Value>, aliases: &[(&str, &str)]) -> Result<(), FieldError> {
    for (old, new) in aliases {
        let Some(value) = map.remove(*old) else { continue };
        if map.get(*new).is_some_and(|present| *present != value) {
            let detail = format!("is the old name of {new}, which has another value: give one of them");
            return Err(FieldError::new(*old, value, detail));
        }
        map.insert((*new).to_owned(), value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_of_headers_are_the_same_in_every_case() {
        let mut map = json!({ "a": { "X-A": null }, "b": { "set": { "X-B": "C" } }, "X": 1 });
        let Value::Object(map) = &mut map else { panic!("an object") };
        lower_keys(map, &["/a", "/b/set", "/c", "/X/set"]);
        assert_eq!(
            *map,
            *json!({ "a": { "x-a": null }, "b": { "set": { "x-b": "C" } }, "X": 1 }).as_object().unwrap()
        );
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[allow(dead_code, reason = "read by the deserialiser only")]
        inner: Vec<Inner>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[allow(dead_code, reason = "read by the deserialiser only")]
        port: u16,
    }

    #[test]
    fn complaints_name_the_field_and_its_value() {
        for (value, field, found) in [
            (json!({"inner": [{"port": 1}, {"port": 70000}]}), "inner[1].port", json!(70000)),
            (json!({"inner": [{"port": 1, "prot": 2}]}), "inner[0].prot", json!(2)),
            (json!({"inner": [], "outer": "x"}), "outer", json!("x")),
            (json!({}), "inner", Value::Null),
        ] {
            let error = read::<Outer>(&value).expect_err("must be refused");
            assert_eq!((error.field.as_str(), &error.value), (field, &found), "{value}: {error}");
        }
    }

    #[test]
    fn a_merge_patch_follows_the_table_of_rfc_7396() {
        for (target, patch, expected) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": "foo"}), json!({"a": {"b": {"c": null}}}), json!({"a": {"b": {}}})),
        ] {
            let (Value::Object(mut target), Value::Object(patch)) = (target, patch) else {
                panic!("the table holds objects");
            };
            merge(&mut target, &patch);
            assert_eq!(Value::Object(target), expected);
        }
    }

    #[test]
    fn old_names_are_renamed_unless_they_contradict() {
        let mut map = Map::from_iter([("hostname".to_owned(), json!("a.example"))]);
        rename(&mut map, &[("hostname", "proxy_hostname")]).expect("no contradiction");
        assert_eq!(map.get("proxy_hostname"), Some(&json!("a.example")));
        map.insert("hostname".to_owned(), json!("b.example"));
        assert_eq!(
            rename(&mut map, &[("hostname", "proxy_hostname")]).expect_err("contradicts").field,
            "hostname"
        );
    }
}
