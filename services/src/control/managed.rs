//! Entities that operations create, change and delete: reading, complete checks, and commits that
//! hold only if nothing they rely on has changed.

use std::borrow::{Borrow, Cow};
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::{Context, Control, Error};
use crate::config::{
    Builtin, Certificate, Config, Entity, External, FieldError, Port, Proxy, Resource, Route, Service,
    Target, Token,
};
use crate::store::{Expect, Key, Write};

/// How often a change that lost a race is tried again on what won it.
const ATTEMPTS: usize = 4;

/// An entity in the configuration.
pub trait Managed: Entity {
    /// It among all.
    fn find<'a>(config: &'a Config, id: &str) -> Option<&'a Self>;

    /// All of them, by name.
    fn all(config: &Config) -> Vec<Self>;

    /// What only the deployment as a whole can tell: the issuer, entities that exclude each other.
    fn check(&self, control: &Control, config: &Config) -> Result<(), Error> {
        let _ = (control, config);
        Ok(())
    }

    /// The container whose labels made it: then they alone change it.
    fn labelled_by(&self) -> Option<&str> {
        None
    }
}

/// Whether a caller's `If-Match` holds.
fn check_match<T: Managed>(ctx: &Context, current: &T, version: u64) -> Result<(), Error> {
    match ctx.if_match {
        Some(expected) if expected != version => {
            Err(Error::Stale { what: T::NOUN, id: current.id(), expected, actual: version })
        }
        _ => Ok(()),
    }
}

pub(super) fn checks(keys: Vec<Key>) -> impl Iterator<Item = Write> {
    keys.into_iter().map(|key| Write::Check { key, expect: Expect::Present })
}

/// Notes who creates an entity now.
pub(super) fn sign<T: Entity>(entity: &mut T, ctx: &Context) {
    let stamps = entity.stamps_mut();
    *stamps.created_by = ctx.caller.name().map(Cow::into_owned);
    *stamps.created_at = Some(Timestamp::now());
}

/// The step that stores an entity as it is now.
pub(super) fn put<T: Entity>(entity: &T, expect: Expect) -> Write {
    Write::Put { key: entity.key(), value: entity.stored(), expect }
}

/// The step that changes an entity, provided that nobody else has since it was read.
pub(super) fn replace<T: Entity>(entity: &T) -> Write {
    put(entity, Expect::Version(entity.version()))
}

/// The step that deletes an entity, provided that nobody else has changed it since it was read.
pub(super) fn remove<T: Entity>(entity: &T) -> Write {
    Write::Delete { key: entity.key(), expect: Expect::Version(entity.version()) }
}

impl Control {
    /// All entities of a type.
    pub(super) async fn list<T: Managed>(&self) -> Result<Vec<T>, Error> {
        let documents = self.store.list(T::KIND).await?;
        Ok(T::all(&Config::parse(documents)))
    }

    /// One entity.
    pub(super) async fn get<T: Managed>(&self, id: &str) -> Result<T, Error> {
        let document = self.store.get(&Key::new(T::KIND, id)).await?;
        let document = document.ok_or_else(|| not_found::<T>(id))?;
        crate::config::parse(document).map_err(|errors| unreadable::<T>(id, &errors))
    }

    /// Stores a new entity; `more` are steps of the same commit.
    pub(super) async fn create<T: Managed>(
        &self,
        ctx: &Context,
        mut entity: T,
        more: Vec<Write>,
    ) -> Result<T, Error> {
        sign(&mut entity, ctx);
        let view = self.mirror.latest().await?;
        let key = entity.key();
        if view.contains(&key) {
            return Err(exists(&entity));
        }
        let mut writes = vec![put(&entity, Expect::Absent)];
        writes.extend(checks(self.examine(&entity, &view.config)?));
        writes.extend(more);
        match self.commit(writes).await {
            Err(Error::Conflict(_)) if self.store.get(&key).await?.is_some() => return Err(exists(&entity)),
            outcome => outcome?,
        };
        *entity.stamps_mut().config_version = 1;
        Ok(entity)
    }

    /// Changes an entity: `change` gets it and all others, and returns it as it is to be. It may run
    /// more than once, when somebody else changes it at the same time.
    pub(super) async fn edit<T: Managed>(
        &self,
        ctx: &Context,
        id: &str,
        change: impl Fn(T, &Config) -> Result<T, Error> + Send + Sync,
    ) -> Result<T, Error> {
        self.edit_with(ctx, id, |entity, config| Ok((change(entity, config)?, Vec::new()))).await
    }

    /// Changes an entity; `change` also returns further steps of the same commit.
    pub(super) async fn edit_with<T: Managed>(
        &self,
        ctx: &Context,
        id: &str,
        change: impl Fn(T, &Config) -> Result<(T, Vec<Write>), Error> + Send + Sync,
    ) -> Result<T, Error> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (config, current) = self.read::<T>(id, attempt).await?;
            let version = current.version();
            check_match(ctx, &current, version)?;
            if let Some(container) = current.labelled_by() {
                return Err(Error::Conflict(format!(
                    "the {} {id:?} is made by the labels of the container {container}: change those, and make the \
                     container again",
                    T::NOUN
                )));
            }
            let (mut next, also) = change(current.clone(), &config)?;
            if next == current && also.is_empty() {
                return Ok(current);
            }
            let problems = next.problems();
            if !problems.is_empty() {
                return Err(Error::Invalid(problems));
            }
            *next.stamps_mut().updated_at = Some(Timestamp::now());
            let mut writes = vec![put(&next, Expect::Version(version))];
            writes.extend(checks(self.examine(&next, &config)?));
            writes.extend(also);
            match self.commit(writes).await {
                Ok(_) => {
                    *next.stamps_mut().config_version = version + 1;
                    return Ok(next);
                }
                Err(Error::Conflict(_)) if attempt < ATTEMPTS && ctx.if_match.is_none() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The configuration, and one entity of it as it is stored now: somebody may have written it by hand. Who
    /// has lost a race trusts nothing that is known already.
    async fn read<T: Managed>(&self, id: &str, attempt: usize) -> Result<(Arc<Config>, T), Error> {
        let view = if attempt == 1 { self.mirror.latest().await? } else { self.mirror.load().await? };
        Ok((Arc::clone(&view.config), self.get(id).await?))
    }

    /// Deletes an entity: `also` gets it and all others, and returns further steps of the same commit,
    /// or why it must stay.
    pub(super) async fn delete<T: Managed>(
        &self,
        ctx: &Context,
        id: &str,
        also: impl Fn(&T, &Config) -> Result<Vec<Write>, Error> + Send + Sync,
    ) -> Result<T, Error> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (config, current) = self.read::<T>(id, attempt).await?;
            check_match(ctx, &current, current.version())?;
            let mut writes = vec![remove(&current)];
            writes.extend(also(&current, &config)?);
            match self.commit(writes).await {
                Ok(_) => return Ok(current),
                Err(Error::Conflict(_)) if attempt < ATTEMPTS && ctx.if_match.is_none() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Checks an entity against all others; the keys are what it relies on.
    pub(super) fn examine<T: Managed>(&self, entity: &T, config: &Config) -> Result<Vec<Key>, Error> {
        let mut problems = Vec::new();
        let keys = entity.references(config, &mut problems);
        match entity.check(self, config) {
            Ok(()) => {}
            Err(Error::Invalid(more)) => problems.extend(more),
            Err(error) => return Err(error),
        }
        if problems.is_empty() { Ok(keys) } else { Err(Error::Invalid(problems)) }
    }
}

fn exists<T: Entity>(entity: &T) -> Error {
    Error::Conflict(format!(
        "there is already a {} {:?}: update it, or choose another name",
        T::NOUN,
        entity.id()
    ))
}

pub(super) fn not_found<T: Entity>(id: &str) -> Error {
    Error::NotFound { what: T::NOUN, id: id.to_owned() }
}

fn unreadable<T: Entity>(id: &str, errors: &[FieldError]) -> Error {
    let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
    Error::Conflict(format!(
        "the stored {} {id:?} can't be read ({}): repair or replace it by an import",
        T::NOUN,
        errors.join("; ")
    ))
}

fn among<'a, K: Ord + Borrow<str>, T>(all: &'a BTreeMap<K, Arc<T>>, id: &str) -> Option<&'a T> {
    all.get(id).map(|one| &**one)
}

fn owned<K, T: Clone>(all: &BTreeMap<K, Arc<T>>) -> Vec<T> {
    all.values().map(|one| T::clone(one)).collect()
}

/// Refuses names that stand for operations in paths: nobody could ask for what has one.
pub(super) fn forbid_operation(field: &str, name: &str, operations: &[&str]) -> Result<(), Error> {
    if operations.contains(&name) {
        let detail = "is the name of an operation: choose another one";
        return Err(Error::invalid(FieldError::new(field, name, detail)));
    }
    Ok(())
}

impl Managed for Proxy {
    fn labelled_by(&self) -> Option<&str> {
        self.labelled_by.as_deref()
    }

    fn find<'a>(config: &'a Config, id: &str) -> Option<&'a Self> {
        among(&config.proxies, id)
    }

    fn all(config: &Config) -> Vec<Self> {
        owned(&config.proxies)
    }

    fn check(&self, control: &Control, _: &Config) -> Result<(), Error> {
        forbid_operation("proxy_hostname", self.proxy_hostname.as_str(), &["formatted"])?;
        let issuer = control.issuer();
        let mut problems = Vec::new();
        if let Some(host) = &self.auth_proxy
            && *host != issuer.host
        {
            problems.push(FieldError::new(
                "auth_proxy",
                host.as_str(),
                format!(
                    "the authorization server of this deployment is {}: expected that, or no such field",
                    issuer.host
                ),
            ));
        }
        if self.target_url == Target::Builtin(Builtin::OAuth)
            && self.proxy_hostname.as_str() != issuer.host.as_str()
        {
            problems.push(FieldError::new(
                "target_url",
                self.target_url.to_string(),
                format!(
                    "is for the issuer's own host, {}: expected a URL or another built-in target",
                    issuer.host
                ),
            ));
        }
        if let Some(other) = &self.oauth_server_issuer
            && other.trim_end_matches('/') != issuer.to_string()
        {
            problems.push(FieldError::new(
                "oauth_server_issuer",
                other.as_str(),
                format!("the issuer of this deployment is {issuer}: expected that, or no such field"),
            ));
        }
        if problems.is_empty() { Ok(()) } else { Err(Error::Invalid(problems)) }
    }
}

impl Managed for Route {
    fn find<'a>(config: &'a Config, id: &str) -> Option<&'a Self> {
        among(&config.routes, id)
    }

    fn all(config: &Config) -> Vec<Self> {
        owned(&config.routes)
    }

    fn check(&self, _: &Control, config: &Config) -> Result<(), Error> {
        forbid_operation("route_id", self.route_id.as_str(), &["explain", "formatted"])?;
        match config.routes.values().find(|other| self.collides(other)) {
            Some(other) => Err(Error::Conflict(format!(
                "the route {:?} has the same pattern, priority and methods for the same hosts: change the priority",
                other.route_id.as_str()
            ))),
            None => Ok(()),
        }
    }
}

impl Managed for Certificate {
    fn find<'a>(config: &'a Config, id: &str) -> Option<&'a Self> {
        among(&config.certificates, id)
    }

    fn all(config: &Config) -> Vec<Self> {
        owned(&config.certificates)
    }
}

impl Managed for External {
    fn find<'a>(config: &'a Config, id: &str) -> Option<&'a Self> {
        among(&config.externals, id)
    }

    fn all(config: &Config) -> Vec<Self> {
        owned(&config.externals)
    }

    fn check(&self, _: &Control, config: &Config) -> Result<(), Error> {
        forbid_operation("service_name", self.service_name.as_str(), &["formatted"])?;
        match config.services.get(&self.service_name) {
            Some(_) => Err(shared_name("Docker service", self.service_name.as_str())),
            None => Ok(()),
        }
    }
}

impl Managed for Service {
    fn labelled_by(&self) -> Option<&str> {
        self.labelled_by.as_deref()
    }

    fn find<'a>(config: &'a Config, id: &str) -> Option<&'a Self> {
        among(&config.services, id)
    }

    fn all(config: &Config) -> Vec<Self> {
        owned(&config.services)
    }

    fn check(&self, _: &Control, config: &Config) -> Result<(), Error> {
        let taken = ["formatted", "external", "unified", "ports", "cleanup", "labels"];
        forbid_operation("service_name", self.service_name.as_str(), &taken)?;
        match config.externals.get(&self.service_name) {
            Some(_) => Err(shared_name("external service", self.service_name.as_str())),
            None => Ok(()),
        }
    }
}

/// Hosts and routes name both kinds of services, so that a name means one of them.
fn shared_name(what: &str, name: &str) -> Error {
    Error::Conflict(format!("there is already a {what} {name:?}: choose another name"))
}

impl Managed for Port {
    fn find<'a>(config: &'a Config, id: &str) -> Option<&'a Self> {
        among(&config.ports, id)
    }

    fn all(config: &Config) -> Vec<Self> {
        owned(&config.ports)
    }

    fn check(&self, _: &Control, config: &Config) -> Result<(), Error> {
        let same = |other: &&Arc<Self>| {
            other.service_name == self.service_name
                && other.port_name == self.port_name
                && other.id() != self.id()
        };
        match config.ports.values().find(same) {
            // Where one moves to another number, it is still there under the one before.
            Some(other) if other.created_at != self.created_at => Err(Error::Conflict(format!(
                "{} has a port {} already: {}",
                self.service_name,
                self.port_name,
                other.id()
            ))),
            _ => Ok(()),
        }
    }
}

impl Managed for Resource {
    fn find<'a>(config: &'a Config, id: &str) -> Option<&'a Self> {
        among(&config.resources, id)
    }

    fn all(config: &Config) -> Vec<Self> {
        owned(&config.resources)
    }
}

impl Managed for Token {
    fn find<'a>(config: &'a Config, id: &str) -> Option<&'a Self> {
        among(&config.tokens, id)
    }

    fn all(config: &Config) -> Vec<Self> {
        owned(&config.tokens)
    }
}
