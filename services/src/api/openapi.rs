//! The OpenAPI 3.1 document, from the same list as everything else.

use http::Method;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::problem::Problem;
use super::{stream, table};
use crate::control::{Access, Endpoint, Operation, Surface, register};

/// The document of everything that the API has.
pub fn document() -> Value {
    let mut document = OpenApi::new();
    register(&mut document);
    document.add_stream();
    document.into_value()
}

/// Collects operations into a document.
#[derive(Debug)]
pub struct OpenApi {
    generator: SchemaGenerator,
    paths: Map<String, Value>,
}

impl Default for OpenApi {
    fn default() -> Self {
        Self::new()
    }
}

impl OpenApi {
    /// A document without operations.
    pub fn new() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        });
        Self { generator: settings.into_generator(), paths: Map::new() }
    }

    /// The document.
    pub fn into_value(mut self) -> Value {
        let problem = self.generator.subschema_for::<Problem>();
        let schemas = self.generator.take_definitions(true);
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "portcullis",
                "version": env!("CARGO_PKG_VERSION"),
                "description": "The management API. The same paths answer under /api/v1, with and without a slash at the end.",
            },
            "servers": [{ "url": "/" }, { "url": "/api/v1" }],
            "paths": self.paths,
            "components": {
                "schemas": schemas,
                "responses": {
                    "Problem": {
                        "description": "The operation was refused",
                        "content": { "application/problem+json": { "schema": problem } },
                    },
                },
                "securitySchemes": {
                    "token": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" },
                },
            },
        })
    }

    fn add_endpoint<O: Operation>(&mut self, endpoint: &Endpoint, alias: bool) {
        let input = O::json_schema(&mut self.generator);
        let output = self.generator.subschema_for::<O::Output>();
        let input = input.as_value();
        let help = input.get("description").and_then(Value::as_str).unwrap_or_default();
        let mut properties = input.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
        let mut required: Vec<String> = input
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect();

        let template = endpoint.template();
        let mut parameters = Vec::new();
        for name in path_names(&template) {
            let schema = properties.remove(name).unwrap_or_else(|| json!({ "type": "string" }));
            required.retain(|other| other != name);
            parameters.push(parameter("path", name, schema, true));
        }
        let mut body = None;
        if endpoint.writes() && endpoint.method != Method::DELETE {
            if !properties.is_empty() {
                let schema = json!({ "type": "object", "properties": properties, "required": required });
                let content = json!({ "application/json": { "schema": schema } });
                body = Some(json!({ "required": !required.is_empty(), "content": content }));
            }
        } else {
            parameters.extend(properties.into_iter().map(|(name, schema)| {
                let needed = required.contains(&name);
                parameter("query", &name, schema, needed)
            }));
        }

        let mut operation = json!({
            "operationId": if alias { format!("{}_{}", O::NAME, suffix(endpoint)) } else { O::NAME.to_owned() },
            "summary": help.split(['.', ':']).next().unwrap_or_default(),
            "description": description(help, O::COMMAND),
            "tags": [tag(O::COMMAND, endpoint)],
            "parameters": parameters,
            "responses": {
                endpoint.status.to_string(): {
                    "description": "Done",
                    "content": { "application/json": { "schema": output } },
                },
                "default": { "$ref": "#/components/responses/Problem" },
            },
            "security": security(O::SCOPE),
        });
        if alias {
            operation["deprecated"] = Value::Bool(endpoint.method == O::HTTP.method);
        }
        if let Some(body) = body {
            operation["requestBody"] = body;
        }
        self.insert(&template, &endpoint.method, operation);
    }

    /// The twin of a list that answers with a text table.
    fn add_table<O: Operation>(&mut self, path: &str) {
        let mut operation = self.paths[&O::HTTP.template()]["get"].clone();
        operation["operationId"] = format!("{}_formatted", O::NAME).into();
        operation["summary"] = format!("{} as a table", text_of(&operation, "summary")).into();
        let help = text_of(&operation, "description").split("\n\n").next().unwrap_or_default().to_owned();
        operation["description"] = format!(
            "{help}\n\nAs a text table, CSV or JSON. On the command line: `portcullis {} --format table`",
            O::COMMAND.join(" ")
        )
        .into();
        if let Some(parameters) = operation["parameters"].as_array_mut() {
            parameters.push(table::parameter());
        }
        let content = &mut operation["responses"][O::HTTP.status.to_string()]["content"];
        for kind in ["text/plain", "text/csv"] {
            content[kind] = json!({ "schema": { "type": "string" } });
        }
        self.insert(path, &Method::GET, operation);
    }

    /// The followers, which are no operations: they have no end.
    pub fn add_stream(&mut self) {
        #[cfg(feature = "docker")]
        {
            let operation = super::service_logs::describe(&mut self.generator);
            self.insert(super::service_logs::PATH, &Method::GET, operation);
            if let Some(stats) = self.paths.get_mut(super::service_stats::PATH) {
                super::service_stats::describe(&mut stats["get"]);
            }
        }
        let operation = stream::describe(&mut self.generator);
        self.insert(stream::PATH, &Method::GET, operation);
    }

    fn insert(&mut self, path: &str, method: &Method, operation: Value) {
        let item = self.paths.entry(path).or_insert_with(|| json!({}));
        item[method.as_str().to_ascii_lowercase()] = operation;
    }
}

fn text_of<'a>(operation: &'a Value, name: &str) -> &'a str {
    operation[name].as_str().unwrap_or_default()
}

impl Surface for OpenApi {
    fn add<O: Operation>(&mut self) {
        self.add_endpoint::<O>(&O::HTTP, false);
        for alias in O::ALIASES {
            self.add_endpoint::<O>(alias, true);
        }
        if let Some(table) = O::TABLE {
            self.add_table::<O>(table.path);
        }
    }
}

/// What an operation does, and how it is called where there is a command for it.
fn description(help: &str, command: &[&str]) -> String {
    if command.is_empty() {
        return help.to_owned();
    }
    format!("{help}\n\nOn the command line: `portcullis {}`", command.join(" "))
}

/// The noun that an operation is listed under.
fn tag<'a>(command: &[&'a str], endpoint: &Endpoint) -> &'a str {
    let segment = || endpoint.path.split('/').find(|segment| !segment.is_empty()).unwrap_or_default();
    command.first().copied().unwrap_or_else(segment)
}

/// Tells the aliases of an operation apart.
fn suffix(endpoint: &Endpoint) -> String {
    let words = endpoint.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    std::iter::once(endpoint.method.as_str()).chain(words).collect::<Vec<_>>().join("_").to_ascii_lowercase()
}

/// The names in a path template.
fn path_names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
}

pub(super) fn parameter(place: &str, name: &str, mut schema: Value, required: bool) -> Value {
    let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
    json!({
        "name": name,
        "in": place,
        "required": required,
        "description": description.unwrap_or_default(),
        "schema": schema,
    })
}

pub(super) fn security(access: Access) -> Value {
    match access {
        Access::Public => json!([]),
        Access::Anyone | Access::User | Access::Admin => json!([{ "token": access.scopes() }]),
    }
}
