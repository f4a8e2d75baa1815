//! Inputs that are a whole document, or a merge patch of one: their fields are those of the entity,
//! so that flags, schemas and checks come from one place.

use std::fmt;
use std::marker::PhantomData;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::Error;
use super::schema::{self, Field, Kind};
use crate::config::{Entity, FieldError, SERVER_SET, field};

/// All fields of a new entity; those with a default may be left out.
pub struct New<T>(pub Map<String, Value>, PhantomData<fn() -> T>);

/// A JSON merge patch (RFC 7396) of an entity: absent keeps, `null` clears.
pub struct Changes<T>(pub Map<String, Value>, PhantomData<fn() -> T>);

impl<T> From<Map<String, Value>> for New<T> {
    fn from(fields: Map<String, Value>) -> Self {
        Self(fields, PhantomData)
    }
}

impl<T> From<Map<String, Value>> for Changes<T> {
    fn from(fields: Map<String, Value>) -> Self {
        Self(fields, PhantomData)
    }
}

impl<T: Entity> New<T> {
    /// The entity, checked by itself. Server-set fields are refused by name.
    pub fn build(&self) -> Result<T, Error> {
        let set_by_server = SERVER_SET.iter().filter_map(|name| {
            let value = self.0.get(*name).filter(|value| !value.is_null())?;
            Some(FieldError::new(*name, value.clone(), "is set by the server: leave it out"))
        });
        let set_elsewhere = T::ELSEWHERE.iter().filter_map(|(name, operation)| {
            self.0.get(*name).filter(|value| !value.is_null())?;
            Some(elsewhere(name, operation))
        });
        let problems: Vec<_> = set_by_server.chain(set_elsewhere).collect();
        if !problems.is_empty() {
            return Err(Error::Invalid(problems));
        }
        let mut fields = Map::new();
        field::merge(&mut fields, &self.0);
        T::from_fields(fields).map_err(Error::Invalid)
    }
}

impl<T: Entity> Changes<T> {
    /// The entity after the change, checked by itself.
    pub fn apply(&self, current: &T) -> Result<T, Error> {
        let mut patch = self.0.clone();
        field::rename(&mut patch, T::ALIASES).map_err(Error::invalid)?;
        field::lower_keys(&mut patch, T::HEADERS);
        let mut fields = current.fields();
        let id = [T::ID];
        for name in SERVER_SET.iter().chain(&id) {
            // What was read may be sent back whole, but not changed.
            let Some(value) = patch.remove(*name) else { continue };
            let present = fields.get(*name).unwrap_or(&Value::Null);
            if *name == "config_version" && value != *present {
                return Err(Error::Conflict(format!(
                    "{} {:?} is at version {present}, not {value}: read it again",
                    T::NOUN,
                    current.id()
                )));
            }
            if value != *present {
                let detail = if *name == T::ID {
                    "is its name, which can't be changed"
                } else {
                    "is set by the server"
                };
                return Err(Error::invalid(FieldError::new(*name, value, detail)));
            }
        }
        for (name, operation) in T::ELSEWHERE {
            let Some(value) = patch.remove(*name) else { continue };
            if value != *fields.get(*name).unwrap_or(&Value::Null) {
                return Err(Error::invalid(elsewhere(name, operation)));
            }
        }
        field::merge(&mut fields, &patch);
        fields.retain(|_, value| !value.is_null());
        T::from_fields(fields).map_err(Error::Invalid)
    }
}

fn elsewhere(name: &str, operation: &str) -> FieldError {
    FieldError::bare(name, format!("is set by the operation {operation}: leave it out"))
}

/// Whether callers may set a field of an entity that is there.
fn is_settable<T: Entity>(name: &str) -> bool {
    !SERVER_SET.contains(&name) && T::ELSEWHERE.iter().all(|(elsewhere, _)| *elsewhere != name)
}

/// The schema of a patch: every settable field, none required, each may be `null`.
fn patch_schema<T: Entity>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = T::json_schema(generator);
    schema.remove("required");
    schema.remove("description");
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.retain(|name, _| is_settable::<T>(name) && name != T::ID);
        for property in properties.values_mut() {
            *property = nullable(property.take());
        }
    }
    schema
}

fn nullable(mut schema: Value) -> Value {
    let Some(object) = schema.as_object_mut() else { return schema };
    object.remove("default");
    if let Some(Value::String(name)) = object.get("type") {
        let both = json!([name, "null"]);
        object.insert("type".to_owned(), both);
        return schema;
    }
    if object.contains_key("type") || object.contains_key("anyOf") {
        return schema;
    }
    let description = object.remove("description");
    let mut either = json!({ "anyOf": [schema, { "type": "null" }] });
    if let Some(description) = description {
        either["description"] = description;
    }
    either
}

/// The schema of a new entity: every settable field.
fn new_schema<T: Entity>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = T::json_schema(generator);
    schema.remove("description");
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.retain(|name, _| is_settable::<T>(name));
    }
    let required: Vec<_> = T::REQUIRED.iter().filter(|name| !T::GENERATED.contains(name)).collect();
    schema.insert("required".to_owned(), json!(required));
    schema
}

fn kebab(name: &str) -> String {
    name.replace('_', "-")
}

/// The settable fields of an entity, its name first when it is to be given.
fn settable<T: Entity>(with_id: bool) -> Vec<Field> {
    let mut fields = schema::fields_of::<T>();
    fields.retain(|field| is_settable::<T>(&field.name) && (with_id || field.name != T::ID));
    fields
}

/// Flags that the older command line called otherwise.
const FLAG_ALIASES: [(&str, &str); 6] = [
    ("preserve-host-header", "preserve-host"),
    ("required-users", "users"),
    ("required-emails", "emails"),
    ("required-groups", "groups"),
    ("allowed-scopes", "scopes"),
    ("allowed-audiences", "audiences"),
];

/// Adds an argument for each field: those of `positional` by place, the others as flags.
fn augment(mut command: Command, fields: Vec<Field>, positional: &[&str]) -> Command {
    for (place, name) in positional.iter().enumerate() {
        let help = fields.iter().find(|field| field.name == *name).map(|field| field.help.clone());
        command = command.arg(
            Arg::new((*name).to_owned())
                .help(help.unwrap_or_default())
                .value_name(name.to_ascii_uppercase())
                .required(true)
                .index(place + 1),
        );
    }
    for field in fields.into_iter().filter(|field| !positional.contains(&field.name.as_str())) {
        let long = kebab(&field.name);
        let arg = Arg::new(field.name.clone()).long(long.clone()).help(field.help);
        let arg = match field.kind {
            Kind::Bool => {
                arg.num_args(0..=1).require_equals(true).default_missing_value("true").value_name("BOOL")
            }
            Kind::Number => arg.value_name("NUMBER"),
            Kind::Text => arg.value_name("TEXT"),
            Kind::Texts => arg.action(ArgAction::Append).value_name("A,B"),
            Kind::Pairs => arg.action(ArgAction::Append).value_name("NAME=VALUE|JSON"),
            Kind::Json => arg.action(ArgAction::Append).value_name("JSON|NAME=VALUE"),
        };
        let alias = FLAG_ALIASES.iter().find(|(flag, _)| *flag == long).map(|(_, alias)| *alias);
        if field.kind == Kind::Bool {
            let no = Arg::new(no_id(&field.name)).long(format!("no-{long}")).hide(true);
            let no = no.action(ArgAction::SetTrue).conflicts_with(field.name.clone());
            command = command.arg(match alias {
                _ if long == "enabled" => no.alias("disabled"),
                Some(alias) => no.alias(format!("no-{alias}")),
                None => no,
            });
        }
        command = command.arg(match alias {
            Some(alias) => arg.alias(alias),
            None => arg,
        });
    }
    command
}

fn no_id(name: &str) -> String {
    format!("no_{name}")
}

/// Reads what [`augment`] added.
fn from_matches(matches: &ArgMatches, fields: Vec<Field>) -> Result<Map<String, Value>, clap::Error> {
    let mut map = Map::new();
    for field in fields {
        if field.kind == Kind::Bool && matches.get_flag(&no_id(&field.name)) {
            map.insert(field.name, Value::Bool(false));
            continue;
        }
        let Some(texts) = matches.get_many::<String>(&field.name) else { continue };
        let failed = |detail: &dyn fmt::Display| {
            clap::Error::raw(ErrorKind::InvalidValue, format!("--{}: {detail}\n", kebab(&field.name)))
        };
        let texts: Result<Vec<_>, _> = texts.map(|text| super::secret::text_or_file(text)).collect();
        let texts = texts.map_err(|error| failed(&error))?;
        let value = schema::read(field.kind, &texts).map_err(|error| failed(&error))?;
        map.insert(field.name, value);
    }
    Ok(map)
}

impl<T: Entity> clap::Args for New<T> {
    fn augment_args(command: Command) -> Command {
        augment(command, settable::<T>(true), T::ARGUMENTS)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<T: Entity> clap::FromArgMatches for New<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        from_matches(matches, settable::<T>(true)).map(Into::into)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.extend(from_matches(matches, settable::<T>(true))?);
        Ok(())
    }
}

impl<T: Entity> clap::Args for Changes<T> {
    fn augment_args(command: Command) -> Command {
        augment(command, settable::<T>(false), &[])
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<T: Entity> clap::FromArgMatches for Changes<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        from_matches(matches, settable::<T>(false)).map(Into::into)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.extend(from_matches(matches, settable::<T>(false))?);
        Ok(())
    }
}

/// The fields of a struct of another module, which knows no command line.
pub struct Form<T>(pub Map<String, Value>, PhantomData<fn() -> T>);

impl<T: DeserializeOwned> Form<T> {
    /// The struct; unknown fields are refused by name when it does so.
    pub fn read(&self) -> Result<T, Error> {
        field::read(&Value::Object(self.0.clone())).map_err(Error::invalid)
    }
}

impl<T: JsonSchema> clap::Args for Form<T> {
    fn augment_args(command: Command) -> Command {
        augment(command, schema::fields_of::<T>(), &[])
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<T: JsonSchema> clap::FromArgMatches for Form<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        from_matches(matches, schema::fields_of::<T>()).map(|fields| Self(fields, PhantomData))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.extend(from_matches(matches, schema::fields_of::<T>())?);
        Ok(())
    }
}

impl<T> fmt::Debug for Form<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.0).finish()
    }
}

impl<T> Serialize for Form<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Form<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(|fields| Self(fields, PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Form<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = T::json_schema(generator);
        schema.remove("description");
        schema
    }
}

impl<T> fmt::Debug for New<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.0).finish()
    }
}

impl<T> fmt::Debug for Changes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.0).finish()
    }
}

impl<T> Serialize for New<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<T> Serialize for Changes<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for New<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(Into::into)
    }
}

impl<'de, T> Deserialize<'de> for Changes<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(Into::into)
    }
}

impl<T: Entity> JsonSchema for New<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("New{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        new_schema::<T>(generator)
    }
}

impl<T: Entity> JsonSchema for Changes<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("{}Changes", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        patch_schema::<T>(generator)
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;
    use crate::config::{Proxy, Route};

    fn flags<A: Args + FromArgMatches>(line: &str) -> Result<A, clap::Error> {
        let command = A::augment_args(Command::new("test").no_binary_name(true));
        A::from_arg_matches(&command.try_get_matches_from(line.split(' ').filter(|word| !word.is_empty()))?)
    }

    #[test]
    fn flags_become_fields() {
        let new: New<Proxy> = flags(
            "app.example.com http://10.0.0.5 --no-enable-http --preserve-host=false --custom-headers X-A=b \
             --auth-required-users octocat,service:ci --max-body-bytes 10 --upstream-tls verify=false",
        )
        .expect("valid");
        assert_eq!(
            Value::Object(new.0.clone()),
            json!({
                "proxy_hostname": "app.example.com", "target_url": "http://10.0.0.5", "enable_http": false,
                "preserve_host_header": false, "custom_headers": { "X-A": "b" }, "max_body_bytes": 10,
                "auth_required_users": ["octocat", "service:ci"], "upstream_tls": { "verify": false },
            })
        );
        assert!(new.build().is_ok());
        let changes: Changes<Route> =
            flags("--priority 500 --disabled --methods GET,POST --description null").expect("valid");
        assert_eq!(
            Value::Object(changes.0),
            json!({ "priority": 500, "enabled": false, "methods": ["GET", "POST"], "description": null })
        );
        assert!(flags::<Changes<Route>>("--prio 1").is_err());
        assert!(flags::<New<Route>>("/api url").is_err());
    }

    #[test]
    fn server_set_fields_are_refused_by_name() {
        let new = New::<Proxy>::from(Map::from_iter([("created_by".to_owned(), json!("me"))]));
        let Err(Error::Invalid(errors)) = new.build() else { panic!("must be refused") };
        assert_eq!(errors[0].field, "created_by");
    }

    #[test]
    fn a_patch_may_repeat_what_it_can_not_change() {
        let current =
            Proxy::new(&"a.example".parse().expect("valid"), &"http://10.0.0.5".parse().expect("valid"));
        let whole = Changes::<Proxy>::from(current.fields());
        assert_eq!(whole.apply(&current).expect("nothing changes"), current);
        for (field, value) in [("proxy_hostname", json!("b.example")), ("created_by", json!("me"))] {
            let changes = Changes::<Proxy>::from(Map::from_iter([(field.to_owned(), value)]));
            let Err(Error::Invalid(errors)) = changes.apply(&current) else {
                panic!("{field} must be refused")
            };
            assert_eq!(errors[0].field, field);
        }
        let stale = Changes::<Proxy>::from(Map::from_iter([("config_version".to_owned(), json!(7))]));
        assert!(matches!(stale.apply(&current), Err(Error::Conflict(_))));
    }
}
