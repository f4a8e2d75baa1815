//! Schemas that are small enough for a context window.

use rmcp::model::JsonObject;
use schemars::JsonSchema;
use serde_json::{Value, json};

use crate::control::schema::{schema_of, schema_of_output};

/// The schema of an input as a tool shows it: what the fields say of themselves, and nothing that only validators of
/// other languages need.
pub(super) fn compact<T: JsonSchema + ?Sized>() -> JsonObject {
    let mut schema = schema_of::<T>().to_value();
    trim(&mut schema, 0, DESCRIBED);
    if schema.to_string().len() > LARGE_INPUT {
        shorten(&mut schema);
    }
    object(schema)
}

/// Makes the schema of an input with very many fields shorter: what is in a field is told by its name, by the first
/// words about it, and by what the gateway answers to a wrong one.
fn shorten(schema: &mut Value) {
    let Some(fields) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for field in fields.values_mut().filter_map(Value::as_object_mut) {
        for name in ["properties", "required", "items", "additionalProperties", "default"] {
            field.remove(name);
        }
        if let Some(Value::Array(choices)) = field.get("anyOf") {
            let kinds: Vec<_> = choices.iter().filter_map(|choice| choice.get("type").cloned()).collect();
            if kinds.len() == choices.len() {
                field.insert("type".to_owned(), kinds.into());
                field.remove("anyOf");
            }
        }
        if let Some(Value::String(text)) = field.get_mut("description")
            && let Some(end) = [": ", "; ", ". "].iter().filter_map(|mark| text.find(mark)).min()
        {
            text.truncate(end);
        }
    }
}

/// A larger schema of an input is shortened, in bytes.
const LARGE_INPUT: usize = 6 * 1024;

/// The schema of a result: what has which type. What it means stands in the names. Of large ones it is only said that
/// they are objects: a model sees one when it has called the tool.
pub(super) fn of_result<T: JsonSchema + ?Sized>() -> JsonObject {
    let mut schema = schema_of_output::<T>().to_value();
    trim(&mut schema, 0, 0);
    if schema.to_string().len() > LARGE {
        schema = if is_object(&schema) { json!({ "type": "object" }) } else { json!({}) };
    }
    if !is_object(&schema) {
        schema = json!({ "type": "object", "properties": { ITEMS: schema }, "required": [ITEMS] });
    }
    object(schema)
}

/// What the protocol wants results to be: objects. Lists and texts stand in one.
pub(super) fn wrapped(output: Value) -> Value {
    match output {
        object @ Value::Object(_) => object,
        other => json!({ ITEMS: other }),
    }
}

/// Where what is no object stands.
const ITEMS: &str = "result";

/// A larger schema of a result is left out, in bytes.
const LARGE: usize = 1024;

/// How deep descriptions are kept: those of the fields of an input, not those of what is in them.
const DESCRIBED: usize = 1;

fn is_object(schema: &Value) -> bool {
    // What may be one of several is an object when all of them are.
    ["anyOf", "oneOf"].into_iter().find_map(|name| schema.get(name)?.as_array()).map_or_else(
        || schema.get("type").is_some_and(|kind| kind == "object") || schema.get("properties").is_some(),
        |choices| choices.iter().all(is_object),
    )
}

fn object(schema: Value) -> JsonObject {
    let Value::Object(mut object) = schema else { return JsonObject::new() };
    // The protocol wants an object, also for who takes nothing.
    object.entry("type").or_insert_with(|| Value::from("object"));
    object
}

fn trim(schema: &mut Value, depth: usize, described: usize) {
    let Some(object) = schema.as_object_mut() else { return };
    for name in ["$schema", "title", "format", "minimum", "maximum", "examples"] {
        object.remove(name);
    }
    if object.get("default").is_some_and(Value::is_null) {
        object.remove("default");
    }
    // The tool says what the input as a whole is for.
    if depth == 0 || depth > described {
        object.remove("description");
        object.remove("default");
    }
    if let Some(Value::String(text)) = object.get_mut("description")
        && let Some(end) = text.find(". ").or_else(|| text.find(".\n"))
    {
        text.truncate(end + 1);
    }
    for name in ["properties", "$defs"] {
        if let Some(Value::Object(fields)) = object.get_mut(name) {
            fields.values_mut().for_each(|field| trim(field, depth + 1, described));
        }
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(name) {
            trim(inner, depth + 1, described);
        }
    }
    for name in ["anyOf", "oneOf", "allOf"] {
        if let Some(Value::Array(choices)) = object.get_mut(name) {
            choices.iter_mut().for_each(|choice| trim(choice, depth + 1, described));
        }
    }
}
