//! A configuration turned into what requests are served from: hosts and certificates, at one revision.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use portcullis_layers::HostName;
use portcullis_layers::hosts::HostTable;
use portcullis_layers::tls::{CertificateTable, Certificates, Certified};
use portcullis_services::config::proxy::HttpsRedirect;
use portcullis_services::config::resolve::{EffectiveHost, resolve};
use portcullis_services::config::{
    CertName, Certificate, Config, Entity, FieldError, HostPattern, Problem, Proxy,
};
use portcullis_services::store::{Document, Kind, Revision};
use portcullis_services::vault::Vault;
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::runtime::Runtime;
use crate::self_signed::FALLBACK;
use crate::stack::{GlobalLeaves, HostStack};

/// Everything that requests are served from. Immutable: a change makes another one.
#[derive(Debug)]
pub struct Snapshot {
    /// Which state of the store this is; `None` before the first.
    pub revision: Option<Revision>,
    /// The hosts.
    pub hosts: HostTable<Arc<HostStack>>,
    /// What is wrong with the configuration. Each problem disables only what it is about.
    pub problems: Vec<Problem>,
    /// The certificates by name, with the version of their documents.
    pub certificates: BTreeMap<CertName, (u64, Arc<Certified>)>,
    table: CertificateTable,
    fallback: Option<Arc<Certified>>,
    globals: Option<Arc<GlobalLeaves>>,
}

/// What the store held, read.
#[derive(Debug)]
pub struct Loaded {
    /// The state of the store.
    pub revision: Revision,
    /// The configuration.
    pub config: Config,
    secrets: HashMap<String, Value>,
}

impl Loaded {
    /// Reads what the store holds.
    pub fn new(revision: Revision, documents: Vec<Document>) -> Self {
        let (secrets, documents): (Vec<_>, Vec<_>) =
            documents.into_iter().partition(|document| document.key.kind == Kind::Secret);
        let secrets = secrets.into_iter().map(|document| (document.key.id, document.value)).collect();
        Self { revision, config: Config::parse(documents), secrets }
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            revision: None,
            hosts: HostTable::new(),
            problems: Vec::new(),
            certificates: BTreeMap::new(),
            table: CertificateTable::new(None),
            fallback: None,
            globals: None,
        }
    }
}

impl Snapshot {
    /// Builds the snapshot of a configuration. What did not change since `previous` is reused; a host
    /// that can't be built keeps the stack that it had.
    pub fn build(loaded: &Loaded, runtime: &Arc<Runtime>, previous: &Self) -> Self {
        let config = &loaded.config;
        let mut problems = config.problems.clone();
        let resolved =
            resolve(config, runtime.timeouts, previous.globals.as_ref().map(|globals| globals.source()));
        problems.extend(resolved.problems);
        let certificates = open_certificates(loaded, &runtime.vault, previous, &mut problems);
        let fallback = open_fallback(loaded, &runtime.vault).or_else(|| previous.fallback.clone());
        let mut table = CertificateTable::new(fallback.clone());
        let mut hosts = HostTable::new();
        let globals = resolved
            .hosts
            .first()
            .map(|host| GlobalLeaves::build(&host.globals, runtime, previous.globals.as_ref()))
            .or_else(|| previous.globals.clone());
        for host in resolved.hosts {
            let certificate = certificate_of(&host.proxy, config, &certificates);
            if host.proxy.enable_https {
                let pattern = host.proxy.proxy_hostname.as_str();
                // Host patterns were checked when they were read.
                let _checked = match &certificate {
                    Some(certified) => table.serve(pattern, Arc::clone(certified)),
                    None => table.claim(pattern),
                };
            }
            let redirect = match host.proxy.https_redirect {
                HttpsRedirect::On => true,
                HttpsRedirect::Off => false,
                HttpsRedirect::Auto => host.proxy.enable_https && certificate.is_some(),
            };
            let Ok(pattern) = host.proxy.proxy_hostname.as_str().parse() else { continue };
            let before = previous.hosts.get_pattern(&pattern);
            if let Some(stack) = stack(host, redirect, globals.as_ref(), runtime, before, &mut problems) {
                hosts.insert(pattern, stack);
            }
        }
        runtime.retain_verifiers(config.proxies.values());
        Self {
            revision: Some(loaded.revision.clone()),
            hosts,
            problems,
            certificates,
            table,
            fallback,
            globals,
        }
    }

    /// The certificate for a handshake.
    pub fn certificate(&self, sni: Option<&HostName>) -> Option<Arc<Certified>> {
        self.table.certificate(sni)
    }

    /// Closes the tunnels and event streams whose host is gone in `next`, or does not let them in any more.
    pub fn retire(&self, next: &Self, runtime: &Runtime) -> usize {
        runtime.client.tunnels().close_where(|stream| {
            let Some(host) = &stream.host else { return false };
            match (self.hosts.get(host), next.hosts.get(host)) {
                (None, _) | (_, None) => true,
                (Some(before), Some(now)) if Arc::ptr_eq(before, now) => false,
                (Some(before), Some(now)) => !now.allows(stream, host, before),
            }
        })
    }
}

fn stack(
    host: EffectiveHost,
    redirect: bool,
    globals: Option<&Arc<GlobalLeaves>>,
    runtime: &Arc<Runtime>,
    before: Option<&Arc<HostStack>>,
    problems: &mut Vec<Problem>,
) -> Option<Arc<HostStack>> {
    if let Some(before) = before
        && before.is(&host, redirect)
    {
        return Some(Arc::clone(before));
    }
    let key = host.proxy.key();
    match HostStack::build(host, redirect, Arc::clone(globals?), Arc::clone(runtime)) {
        Ok(stack) => Some(Arc::new(stack)),
        Err(error) => {
            problems.push(Problem::new(&key, &FieldError::bare("", error.to_string())));
            before.cloned()
        }
    }
}

fn open_certificates(
    loaded: &Loaded,
    vault: &Vault,
    previous: &Snapshot,
    problems: &mut Vec<Problem>,
) -> BTreeMap<CertName, (u64, Arc<Certified>)> {
    let mut opened = BTreeMap::new();
    for (name, certificate) in &loaded.config.certificates {
        let version = certificate.config_version;
        if let Some((before, certified)) = previous.certificates.get(name)
            && *before == version
        {
            opened.insert(name.clone(), (version, Arc::clone(certified)));
            continue;
        }
        let Some(chain) = &certificate.fullchain_pem else { continue };
        match open(chain, &Certificate::secret_id(name), loaded, vault) {
            Ok(certified) => {
                opened.insert(name.clone(), (version, Arc::new(certified)));
            }
            Err(detail) => problems.push(Problem::new(&certificate.key(), &FieldError::bare("", detail))),
        }
    }
    opened
}

fn open(chain: &str, secret: &str, loaded: &Loaded, vault: &Vault) -> Result<Certified, String> {
    let sealed = loaded.secrets.get(secret).ok_or("its private key is not in the store")?;
    let key = vault.open(secret, sealed).map_err(|error| error.to_string())?;
    Certified::from_pem(chain.as_bytes(), key.expose_secret()).map_err(|error| error.to_string())
}

/// The certificate for hosts that have none yet, and for clients that name none.
fn open_fallback(loaded: &Loaded, vault: &Vault) -> Option<Arc<Certified>> {
    let opened = vault.open(FALLBACK, loaded.secrets.get(FALLBACK)?).ok()?;
    let pair: Value = serde_json::from_slice(opened.expose_secret()).ok()?;
    let part = |name: &str| pair.get(name).and_then(Value::as_str).map(str::as_bytes);
    let certified = Certified::from_pem(part("chain")?, part("key")?).ok()?;
    Some(Arc::new(certified.as_fallback()))
}

/// The certificate that a host names, or else the one that covers it and lasts longest.
fn certificate_of(
    proxy: &Proxy,
    config: &Config,
    opened: &BTreeMap<CertName, (u64, Arc<Certified>)>,
) -> Option<Arc<Certified>> {
    if let Some((_, certified)) = proxy.cert_name.as_ref().and_then(|name| opened.get(name)) {
        return Some(Arc::clone(certified));
    }
    let now = Timestamp::now().as_second();
    let covers = |pattern: &HostPattern, name: &CertName| {
        config.certificates.get(name).is_some_and(|certificate| certificate.covers(pattern))
    };
    opened
        .iter()
        .filter(|(name, (_, certified))| certified.not_after > now && covers(&proxy.proxy_hostname, name))
        .max_by_key(|(_, (_, certified))| certified.not_after)
        .map(|(_, (_, certified))| Arc::clone(certified))
}
