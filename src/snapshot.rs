//! A configuration turned into what requests are served from: hosts and certificates, at one revision.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use portcullis_layers::HostName;
use portcullis_layers::forward::LiveStream;
use portcullis_layers::hosts::HostTable;
use portcullis_layers::tls::{CertificateTable, Certificates, Certified};
use portcullis_services::acme::needs;
use portcullis_services::acme::on_demand::Noted;
use portcullis_services::config::proxy::HttpsRedirect;
use portcullis_services::config::resolve::{Around, EffectiveHost, Globals, Previous, resolve};
use portcullis_services::config::view::View;
use portcullis_services::config::{
    CertName, Certificate, Config, Entity, FieldError, HostPattern, Problem, Serving,
};
use portcullis_services::store::{Key, Kind, Revision};
use portcullis_services::vault::Vault;
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::on_demand::{self, Uses};
use crate::runtime::Runtime;
use crate::self_signed::FALLBACK;
use crate::stack::{GlobalLeaves, HostStack};

/// Everything that requests are served from. Immutable: a change makes another one.
#[derive(Debug)]
pub struct Snapshot {
    /// What it was made of; `None` before the first.
    pub view: Option<Arc<View>>,
    /// The configuration in it, with what is in force of the one before.
    pub config: Arc<Config>,
    /// How many were served before this one.
    pub serial: u64,
    /// Up to which change it knows where services are.
    pub services: u64,
    /// The hosts.
    pub hosts: HostTable<Arc<HostStack>>,
    /// What is wrong with the configuration. Each problem disables only what it is about.
    pub problems: Vec<Problem>,
    /// The certificates by name.
    pub certificates: BTreeMap<CertName, Arc<Certified>>,
    table: CertificateTable,
    on_demand: Uses,
    fallback: Option<Arc<Certified>>,
    globals: Option<Arc<GlobalLeaves>>,
    /// When a certificate ends that is served now.
    until: Option<Timestamp>,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            view: None,
            config: Arc::default(),
            serial: 0,
            services: 0,
            hosts: HostTable::new(),
            problems: Vec::new(),
            certificates: BTreeMap::new(),
            table: CertificateTable::new(None),
            on_demand: Uses::new(),
            fallback: None,
            globals: None,
            until: None,
        }
    }
}

impl Snapshot {
    /// Builds the snapshot of a configuration. What did not change since `previous` is reused; a host
    /// that can't be built keeps the stack that it had.
    pub fn build(view: Arc<View>, runtime: &Arc<Runtime>, previous: &Self) -> Self {
        let serial = previous.serial + 1;
        let mut config = Arc::clone(&view.config);
        if !config.lost.is_empty() {
            Arc::make_mut(&mut config).keep_last_good(&previous.config.routes);
        }
        let mut problems = config.problems.clone();
        let services = runtime.services.current();
        let around = Around { limits: runtime.timeouts, services: &services.addresses };
        let resolved = resolve(&config, around, previous);
        problems.extend(resolved.problems);
        let certificates = open_certificates(&view, &runtime.vault, previous, &mut problems);
        let fallback = open_fallback(&view, &runtime.vault, previous).or_else(|| previous.fallback.clone());
        let mut table = CertificateTable::new(fallback.clone());
        let mut hosts = HostTable::new();
        let globals = resolved
            .hosts
            .first()
            .map(|host| GlobalLeaves::build(&host.globals, runtime, previous.globals.as_ref()))
            .or_else(|| previous.globals.clone());
        let end = |one: &Certificate| {
            let certified = certificates.get(&one.cert_name)?;
            Timestamp::from_second(certified.not_after).ok()
        };
        let serving = Serving::of(&config, end, Timestamp::now());
        let until = serving.until();
        for host in resolved.hosts {
            let certificate = serving.certificate(&host.proxy);
            let certificate = certificate.and_then(|one| certificates.get(&one.cert_name)).cloned();
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
            let built = stack(host, (redirect, serial), globals.as_ref(), runtime, before, &mut problems);
            if let Some(stack) = built {
                hosts.insert(pattern, stack);
            }
        }
        let on_demand = on_demand::serve(&config, &certificates, &mut table, &previous.on_demand);
        runtime.verifiers.retain(config.proxies.values().map(|proxy| &**proxy));
        Self {
            view: Some(view),
            config,
            serial,
            services: services.serial,
            hosts,
            problems,
            certificates,
            table,
            on_demand,
            fallback,
            globals,
            until,
        }
    }

    /// Whether what serves was decided too long ago: a certificate has ended since.
    pub fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until <= Timestamp::now())
    }

    /// Which state of the store this is; `None` before the first.
    pub fn revision(&self) -> Option<&Revision> {
        Some(&self.view.as_ref()?.revision)
    }

    /// How many hosts are not switched off.
    pub fn enabled_hosts(&self) -> usize {
        self.hosts.iter().filter(|(_, host)| host.effective.proxy.enabled).count()
    }

    /// The certificate for a handshake.
    pub fn certificate(&self, sni: Option<&HostName>) -> Option<Arc<Certified>> {
        self.table.certificate(sni)
    }

    /// For a name that is served with a certificate that was made on demand: when that was noted.
    pub fn on_demand(&self, name: &HostName) -> Option<&Arc<Noted>> {
        self.on_demand.get(name)
    }

    /// Whether a name without a certificate may have one, as far as its wildcard host says.
    pub fn may_have_certificate(&self, name: &HostName) -> bool {
        needs::wildcard_of(name, &self.config).is_some()
    }

    /// Closes the tunnels and event streams whose host is gone in `next`, or does not let them in any more.
    pub fn retire(&self, next: &Self, runtime: &Runtime) -> usize {
        runtime.client.tunnels().close_where(|stream| {
            let Some(host) = &stream.host else { return false };
            match (self.hosts.get(host), next.hosts.get(host)) {
                (None, _) | (_, None) => true,
                (Some(before), Some(now)) if Arc::ptr_eq(before, now) => false,
                (Some(_), Some(now)) => !now.allows(stream, host),
            }
        })
    }

    /// Whether a tunnel or event stream may begin whose request was let in some time ago: its host may have
    /// changed since, or be gone.
    pub fn admits(&self, stream: &LiveStream) -> bool {
        let Some(host) = &stream.host else { return true };
        self.hosts.get(host).is_some_and(|now| now.serial <= stream.revision || now.allows(stream, host))
    }
}

/// What did not change is the same object as before.
impl Previous for Snapshot {
    fn globals(&self) -> Option<&Globals> {
        self.globals.as_ref().map(|globals| globals.source())
    }

    fn host(&self, pattern: &HostPattern) -> Option<&Arc<EffectiveHost>> {
        Some(&self.hosts.get_pattern(&pattern.as_str().parse().ok()?)?.effective)
    }
}

fn stack(
    host: Arc<EffectiveHost>,
    (redirect, serial): (bool, u64),
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
    match HostStack::build(host, redirect, serial, Arc::clone(globals?), Arc::clone(runtime)) {
        Ok(stack) => Some(Arc::new(stack)),
        Err(error) => {
            problems.push(Problem::new(&key, &FieldError::bare("", error.to_string())));
            before.cloned()
        }
    }
}

fn open_certificates(
    view: &View,
    vault: &Vault,
    previous: &Snapshot,
    problems: &mut Vec<Problem>,
) -> BTreeMap<CertName, Arc<Certified>> {
    let mut opened = BTreeMap::new();
    for (name, certificate) in &view.config.certificates {
        let secret = Certificate::secret_id(name);
        if let (Some(before), Some(certified)) = (&previous.view, previous.certificates.get(name))
            && view.has_same(before, &certificate.key())
            && view.has_same(before, &Key::new(Kind::Secret, secret.as_str()))
        {
            opened.insert(name.clone(), Arc::clone(certified));
            continue;
        }
        let Some(chain) = &certificate.fullchain_pem else { continue };
        match open(chain, &secret, view, vault) {
            Ok(certified) => {
                let certified = match previous.certificates.get(name) {
                    Some(before) => certified.sharing_staple_of(before),
                    None => certified,
                };
                opened.insert(name.clone(), Arc::new(certified));
            }
            Err(detail) => problems.push(Problem::new(&certificate.key(), &FieldError::bare("", detail))),
        }
    }
    opened
}

fn open(chain: &str, secret: &str, view: &View, vault: &Vault) -> Result<Certified, String> {
    let sealed = view.secret(secret).ok_or("its private key is not in the store")?;
    let key = vault.open(secret, &sealed).map_err(|error| error.to_string())?;
    Certified::from_pem(chain.as_bytes(), key.expose_secret()).map_err(|error| error.to_string())
}

/// The certificate for hosts that have none yet, and for clients that name none.
fn open_fallback(view: &View, vault: &Vault, previous: &Snapshot) -> Option<Arc<Certified>> {
    if let (Some(before), Some(certified)) = (&previous.view, &previous.fallback)
        && view.has_same(before, &Key::new(Kind::Secret, FALLBACK))
    {
        return Some(Arc::clone(certified));
    }
    let opened = vault.open(FALLBACK, &view.secret(FALLBACK)?).ok()?;
    let pair: Value = serde_json::from_slice(opened.expose_secret()).ok()?;
    let part = |name: &str| pair.get(name).and_then(Value::as_str).map(str::as_bytes);
    let certified = Certified::from_pem(part("chain")?, part("key")?).ok()?;
    Some(Arc::new(certified.as_fallback()))
}
