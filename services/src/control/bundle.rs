//! The configuration as one document: export and import.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::logs::{LEVELS, check_levels};
use super::system::ACCEPTED_STORE;
use super::{Context, Control, Error, Managed};
use crate::config::tools::McpTools;
use crate::config::{
    self, Certificate, Config, External, FieldError, Port, Proxy, Resource, Route, Service, Token, field,
};
use crate::oauth::Keys;
use crate::oauth::github::SealedApp;
use crate::oauth::keys::SIGNING_KEY;
use crate::store::{Document, Expect, Key, Kind, Write};

/// The fields of one document.
type Fields = Map<String, Value>;

/// A configuration as one document. Fields that are at their defaults may be left out.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Bundle {
    /// The proxies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub proxies: Vec<Fields>,
    /// The routes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Fields>,
    /// The certificates, without their keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Fields>,
    /// The upstreams that are registered by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub externals: Vec<Fields>,
    /// What nodes run in containers, without the values of secret variables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Fields>,
    /// The ports of machines that lead to them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Fields>,
    /// The registry of protected resources.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<Fields>,
    /// What is known of named tokens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<Fields>,
    /// The settings that nodes share.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, Value>,
    /// The OAuth clients that administrators set up, with the hashes of their secrets.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub clients: BTreeMap<String, Value>,
    /// The public signing keys.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, Value>,
    /// Sealed secrets.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Value>,
}

/// Settings that say which deployment and which store this is: another one has its own.
const IDENTITY: [&str; 2] = ["issuer", ACCEPTED_STORE];

impl Bundle {
    /// Collects documents, as they are: also those that can't be read, so that a backup loses nothing.
    pub(super) fn of(documents: Vec<Document>, secrets: bool, tokens: bool) -> Self {
        let mut bundle = Self::default();
        for Document { key: Key { kind, id }, value, .. } in documents {
            let list = match kind {
                Kind::Proxy => &mut bundle.proxies,
                Kind::Route => &mut bundle.routes,
                Kind::Certificate => &mut bundle.certificates,
                Kind::External => &mut bundle.externals,
                Kind::Service => &mut bundle.services,
                Kind::Port => &mut bundle.ports,
                Kind::Resource => &mut bundle.resources,
                Kind::Token if tokens => &mut bundle.tokens,
                // The pointer to the signing key is of no use without the key.
                Kind::Setting if !IDENTITY.contains(&id.as_str()) && (secrets || id != SIGNING_KEY) => {
                    bundle.settings.insert(id, value);
                    continue;
                }
                Kind::Client if secrets => {
                    bundle.clients.insert(id, value);
                    continue;
                }
                Kind::Key if secrets => {
                    bundle.keys.insert(id, value);
                    continue;
                }
                Kind::Secret if secrets => {
                    bundle.secrets.insert(id, value);
                    continue;
                }
                Kind::Token | Kind::Client | Kind::Setting | Kind::Key | Kind::Secret => continue,
            };
            if let Value::Object(fields) = value {
                list.push(fields);
            }
        }
        bundle
    }

    /// Reads a bundle, or the export that holds one.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        // JSON is YAML, too, but its complaints are better.
        let value = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}"))
        } else {
            serde_norway::from_str(text).map_err(|error| format!("is no YAML: {error}"))
        };
        let value: Value = value.map_err(|detail| FieldError::bare("config", detail))?;
        config::field::read(value.get("config").unwrap_or(&value))
    }
}

/// What an import did, or would do.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Import {
    /// Whether nothing was changed, because it was a test.
    pub dry_run: bool,
    /// What was created.
    pub created: Vec<String>,
    /// What was replaced.
    pub updated: Vec<String>,
    /// What was there already, just so.
    pub unchanged: Vec<String>,
    /// What was left as it was.
    pub skipped: Vec<String>,
}

/// One document of an import.
struct Item {
    place: String,
    key: Key,
    value: Value,
}

/// Imports a bundle in one commit. Everything is checked, against what is there too, before anything is stored.
pub(super) async fn import(
    control: &Control,
    ctx: &Context,
    bundle: &Bundle,
    force: bool,
    skip_existing: bool,
    dry_run: bool,
) -> Result<Import, Error> {
    let mut problems = Vec::new();
    let mut items = Vec::new();
    gather::<Proxy>("proxies", &bundle.proxies, &mut items, &mut problems);
    gather::<Route>("routes", &bundle.routes, &mut items, &mut problems);
    gather::<Certificate>("certificates", &bundle.certificates, &mut items, &mut problems);
    gather::<External>("externals", &bundle.externals, &mut items, &mut problems);
    gather::<Service>("services", &bundle.services, &mut items, &mut problems);
    gather::<Port>("ports", &bundle.ports, &mut items, &mut problems);
    gather::<Resource>("resources", &bundle.resources, &mut items, &mut problems);
    gather::<Token>("tokens", &bundle.tokens, &mut items, &mut problems);
    for (section, kind, all) in [
        ("settings", Kind::Setting, &bundle.settings),
        ("clients", Kind::Client, &bundle.clients),
        ("keys", Kind::Key, &bundle.keys),
        ("secrets", Kind::Secret, &bundle.secrets),
    ] {
        for (id, value) in all {
            let place = format!("{section}.{id}");
            if kind == Kind::Secret && control.vault.open(id, value).is_err() {
                let detail = "can't be opened with this deployment's secret key: expected one that it sealed";
                problems.push(FieldError::bare(place.clone(), detail));
            }
            if kind == Kind::Setting
                && let Err(error) = check_setting(id, value)
            {
                problems.push(error.within(&place));
            }
            items.push(Item { place, key: Key::new(kind, id), value: value.clone() });
        }
    }
    refuse_twins(&items, &mut problems);
    if !problems.is_empty() {
        return Err(Error::Invalid(problems));
    }
    ctx.progress.report(format!("{} documents are readable", items.len()));

    let (_, stored) = control.store.load().await?;
    let stored: BTreeMap<Key, Document> =
        stored.into_iter().map(|document| (document.key.clone(), document)).collect();
    let existing: Vec<_> = items.iter().filter(|item| stored.contains_key(&item.key)).collect();
    if !force && !skip_existing && !existing.is_empty() {
        let names: Vec<_> = existing.iter().map(|item| item.key.to_string()).collect();
        return Err(Error::Conflict(format!(
            "these exist already: {}; force to replace them, or skip existing ones",
            names.join(", ")
        )));
    }

    let mut done = Import { dry_run, ..Import::default() };
    let mut writes = Vec::new();
    let mut next = stored.clone();
    let mut written = Vec::new();
    for item in items {
        let name = item.key.to_string();
        let expect = match stored.get(&item.key) {
            Some(present) if present.value == item.value => {
                done.unchanged.push(name);
                continue;
            }
            Some(_) if skip_existing => {
                done.skipped.push(name);
                continue;
            }
            Some(present) => {
                done.updated.push(name);
                Expect::Version(present.version)
            }
            None => {
                done.created.push(name);
                Expect::Absent
            }
        };
        let Item { place, key, value } = item;
        next.insert(key.clone(), Document { key: key.clone(), version: 1, value: value.clone() });
        written.push((place, key.clone()));
        writes.push(Write::Put { key, value, expect });
    }
    check_whole(control, next, &written)?;
    if !dry_run && !writes.is_empty() {
        ctx.progress.report(format!("{} documents are written", writes.len()));
        control.commit(writes).await?;
    }
    Ok(done)
}

/// Checks a setting as the operation does that writes it. One that nobody reads is a mistake.
fn check_setting(id: &str, value: &Value) -> Result<(), FieldError> {
    match id {
        LEVELS => check_levels(value),
        // It is checked with the keys: see `check_whole`.
        SIGNING_KEY => Ok(()),
        _ if McpTools::host_of(id).is_some() => field::read::<McpTools>(value).map(drop),
        _ if IDENTITY.contains(&id) => {
            Err(FieldError::bare("", "belongs to one deployment and is never imported: leave it out"))
        }
        _ => Err(FieldError::bare("", format!("is no setting: expected `{LEVELS}` or `{SIGNING_KEY}`"))),
    }
}

/// Reads the documents of a section.
fn gather<T: Managed>(section: &str, all: &[Fields], items: &mut Vec<Item>, problems: &mut Vec<FieldError>) {
    for (index, fields) in all.iter().enumerate() {
        let place = format!("{section}[{index}]");
        let mut fields = fields.clone();
        fields.retain(|_, value| !value.is_null());
        match T::from_fields(fields) {
            Ok(mut entity) => {
                // Who made it when is part of a backup; where there is nothing of it, now is the time.
                entity.stamps_mut().created_at.get_or_insert_with(Timestamp::now);
                items.push(Item { place, key: entity.key(), value: entity.stored() });
            }
            Err(errors) => problems.extend(errors.into_iter().map(|error| error.within(&place))),
        }
    }
}

fn refuse_twins(items: &[Item], problems: &mut Vec<FieldError>) {
    let mut seen: BTreeMap<&Key, &str> = BTreeMap::new();
    for item in items {
        if let Some(first) = seen.insert(&item.key, &item.place) {
            problems.push(FieldError::bare(item.place.clone(), format!("has the same name as {first}")));
        }
    }
}

/// Checks what would be written against the configuration that there would be.
fn check_whole(
    control: &Control,
    documents: BTreeMap<Key, Document>,
    written: &[(String, Key)],
) -> Result<(), Error> {
    let secrets: BTreeMap<String, Value> = documents
        .values()
        .filter(|document| document.key.kind == Kind::Secret)
        .map(|document| (document.key.id.clone(), document.value.clone()))
        .collect();
    let documents: Vec<Document> = documents.into_values().collect();
    let mut problems = Vec::new();
    // A key that does not sign would leave all nodes without one.
    if let Some((place, _)) = written.iter().find(|(_, key)| key.kind == Kind::Key || key.id == SIGNING_KEY)
        && let Err(error) = Keys::load(&documents, &control.vault, Timestamp::now())
    {
        problems
            .push(FieldError::bare(place.clone(), format!("{error}: expected a key with its sealed secret")));
    }
    let config = Config::parse(documents);
    for (place, key) in written {
        let id = key.id.as_str();
        let outcome = match key.kind {
            Kind::Proxy => examine::<Proxy>(control, &config, id)
                .and_then(|()| check_github_app(control, &config, id, &secrets)),
            Kind::Route => examine::<Route>(control, &config, id),
            Kind::External => examine::<External>(control, &config, id),
            Kind::Service => examine::<Service>(control, &config, id),
            Kind::Port => examine::<Port>(control, &config, id).and_then(|()| {
                let open = config
                    .ports
                    .get(id)
                    .is_none_or(|port| !port.require_token || secrets.contains_key(&port.secret_id()));
                let detail =
                    "has no token: expected its sealed token among the secrets, or no `require_token`";
                if open { Ok(()) } else { Err(Error::invalid(FieldError::bare("require_token", detail))) }
            }),
            Kind::Resource => examine::<Resource>(control, &config, id),
            Kind::Token => examine::<Token>(control, &config, id),
            Kind::Certificate => examine::<Certificate>(control, &config, id).and_then(|()| {
                let held = config.certificates.get(id);
                // One that was not issued yet has none.
                if held.is_some_and(|one| {
                    one.fullchain_pem.is_none()
                        || secrets.contains_key(&Certificate::secret_id(&one.cert_name))
                }) {
                    return Ok(());
                }
                let detail = "has no key: expected its sealed key among the secrets";
                Err(Error::invalid(FieldError::bare("", detail)))
            }),
            Kind::Setting | Kind::Client | Kind::Key | Kind::Secret => Ok(()),
        };
        match outcome {
            Ok(()) => {}
            Err(Error::Invalid(errors)) => {
                problems.extend(errors.into_iter().map(|error| error.within(place)));
            }
            Err(error) => problems.push(FieldError::bare(place.clone(), error.to_string())),
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Invalid(problems)) }
}

/// The secret of a proxy's GitHub app must be there, and of that app.
fn check_github_app(
    control: &Control,
    config: &Config,
    id: &str,
    secrets: &BTreeMap<String, Value>,
) -> Result<(), Error> {
    let proxy = config.proxies.get(id);
    let Some((proxy, client_id)) = proxy.and_then(|proxy| Some((proxy, proxy.github_client_id.as_ref()?)))
    else {
        return Ok(());
    };
    let name = Proxy::github_secret_id(&proxy.proxy_hostname);
    let opened = secrets.get(&name).and_then(|sealed| control.vault.open(&name, sealed).ok());
    let app = opened.and_then(|opened| SealedApp::read(opened.expose_secret()));
    if app.is_some_and(|app| app.client_id == *client_id) {
        return Ok(());
    }
    let detail = "has no secret: expected the sealed secret of this app among the secrets";
    Err(Error::invalid(FieldError::bare("github_client_id", detail)))
}

fn examine<T: Managed>(control: &Control, config: &Config, id: &str) -> Result<(), Error> {
    match T::find(config, id) {
        Some(entity) => control.examine(entity, config).map(drop),
        None => Err(Error::internal(format!("{id} was read, but can't be found"))),
    }
}
