//! What becomes of what labels ask for: decided from the containers and documents that are there. Pure.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Labelled, Wish};
use crate::config::{Config, Entity, HostPattern, NodeName, Proxy, Service, ServiceName, Target, field};
use crate::docker::Policy;

/// What became of a host that the labels of a container ask for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Claim {
    /// The container.
    pub container: String,
    /// The host; the whole label where that can't be read.
    pub host: String,
    /// The service that was made for it.
    pub service: Option<ServiceName>,
    /// What became of it.
    pub state: ClaimState,
    /// Why.
    pub reason: Option<String>,
}

/// What became of a host that labels ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClaimState {
    /// It is there.
    Made,
    /// It is about to be made or changed.
    Pending,
    /// Its container does not run: the host answers 503, or is not made yet.
    Stopped,
    /// It is not made.
    Refused,
    /// Its container is gone, and it goes soon.
    Leaving,
}

/// What a decision is made from.
pub(crate) struct Facts<'a> {
    pub(crate) config: &'a Config,
    pub(crate) node: &'a NodeName,
    /// The issuer's host: nobody else gets that.
    pub(crate) issuer: &'a str,
    pub(crate) policy: &'a Policy,
    pub(crate) seen: &'a [Labelled],
    /// The markers of containers that have been gone for long enough.
    pub(crate) over: &'a BTreeSet<String>,
}

/// What has to be written, and what is told.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Decision {
    pub(crate) claims: Vec<Claim>,
    pub(crate) makes: Vec<Make>,
    pub(crate) goings: Vec<Going>,
}

/// Documents that are made or changed together. Those that are new have no version.
#[derive(Debug, PartialEq)]
pub(crate) struct Make {
    pub(crate) marker: String,
    /// The service that the hosts name, and whether it has to be written.
    pub(crate) service: (Service, bool),
    pub(crate) proxies: Vec<Proxy>,
}

/// Documents that go.
#[derive(Debug, PartialEq)]
pub(crate) struct Going {
    pub(crate) marker: String,
    pub(crate) proxies: Vec<HostPattern>,
    pub(crate) services: Vec<ServiceName>,
}

impl Decision {
    /// Whether all is as it shall be.
    pub(crate) const fn is_idle(&self) -> bool {
        self.makes.is_empty() && self.goings.is_empty()
    }
}

/// What stands in documents that the labels of a container of a node made.
fn marker(node: &NodeName, container: &str) -> String {
    format!("{node}/{container}")
}

/// All of a node in a configuration.
pub(crate) fn markers(config: &Config, node: &NodeName) -> BTreeSet<String> {
    let prefix = marker(node, "");
    let proxies = config.proxies.values().filter_map(|proxy| proxy.labelled_by.as_ref());
    let services = config.services.values().filter_map(|service| service.labelled_by.as_ref());
    proxies.chain(services).filter(|marker| marker.starts_with(&prefix)).cloned().collect()
}

/// Decides.
pub(crate) fn decide(facts: &Facts<'_>) -> Decision {
    let mut decision = Decision::default();
    let mut seen: Vec<_> = facts.seen.iter().collect();
    seen.sort_by(|one, other| (one.created, &one.container).cmp(&(other.created, &other.container)));
    let mut given = BTreeMap::new();
    for one in seen {
        facts.decide_one(one, &mut given, &mut decision);
    }
    for marker in markers(facts.config, facts.node) {
        let container = marker.split_once('/').map_or("", |(_, container)| container);
        if !facts.seen.iter().any(|one| one.container == container) {
            facts.decide_gone(&marker, container, &mut decision);
        }
    }
    decision.claims.sort();
    decision
}

impl Facts<'_> {
    fn decide_one<'a>(
        &self,
        one: &'a Labelled,
        given: &mut BTreeMap<HostPattern, &'a str>,
        decision: &mut Decision,
    ) {
        let marker = marker(self.node, &one.container);
        let claim = |host: &str, state, reason: Option<String>| Claim {
            container: one.container.clone(),
            host: host.to_owned(),
            service: None,
            state,
            reason,
        };
        let wish = match &one.wish {
            Ok(wish) => wish,
            Err(reason) => {
                decision.claims.push(claim(&one.asks, ClaimState::Refused, Some(reason.clone())));
                decision.goings.extend(self.going(&marker, |_| true, true));
                return;
            }
        };
        if !one.runs {
            // What is there stays as it is: what it asks for counts when it runs.
            let reason = format!("the container is {}", one.state);
            decision.claims.extend(wish.hosts.iter().map(|host| Claim {
                service: self.has(&marker, host).then(|| wish.service.clone()),
                ..claim(host.as_str(), ClaimState::Stopped, Some(reason.clone()))
            }));
            return;
        }
        let before = match self.service_before(&marker, wish) {
            Ok(before) => before,
            Err(reason) => {
                let refused =
                    |host: &HostPattern| claim(host.as_str(), ClaimState::Refused, Some(reason.clone()));
                decision.claims.extend(wish.hosts.iter().map(refused));
                decision.goings.extend(self.going(&marker, |_| true, false));
                return;
            }
        };
        let mut granted = Vec::new();
        for host in &wish.hosts {
            match self.refusal(&marker, host, given) {
                Some(reason) => {
                    decision.claims.push(claim(host.as_str(), ClaimState::Refused, Some(reason)));
                }
                None => {
                    given.insert(host.clone(), &one.container);
                    granted.push(host);
                }
            }
        }
        decision.goings.extend(self.going(&marker, |host| !granted.contains(&host), granted.is_empty()));
        if granted.is_empty() {
            return;
        }
        let service = self.service(&marker, &one.container, wish);
        let service = before.map_or_else(|| service.clone(), |before| like(service.clone(), before));
        let is_changed = before != Some(&service);
        let mut proxies = Vec::new();
        for host in granted {
            let before = self.config.proxies.get(host).map(|proxy| &**proxy);
            let proxy = proxy(&marker, host, wish);
            let proxy = before.map_or_else(|| proxy.clone(), |before| like(proxy.clone(), before));
            let changes = before != Some(&proxy);
            let state = if changes || is_changed { ClaimState::Pending } else { ClaimState::Made };
            decision
                .claims
                .push(Claim { service: Some(wish.service.clone()), ..claim(host.as_str(), state, None) });
            proxies.extend(changes.then_some(proxy));
        }
        if is_changed || !proxies.is_empty() {
            decision.makes.push(Make { marker, service: (service, is_changed), proxies });
        }
    }

    /// What the labels of a container made that is gone.
    fn decide_gone(&self, marker: &str, container: &str, decision: &mut Decision) {
        let hosts: Vec<_> = self.hosts_of(marker).collect();
        let service = self.services_of(marker).next().cloned();
        let names: Vec<&str> =
            if hosts.is_empty() { vec![""] } else { hosts.iter().map(|host| host.as_str()).collect() };
        decision.claims.extend(names.into_iter().map(|host| Claim {
            container: container.to_owned(),
            host: host.to_owned(),
            service: service.clone(),
            state: ClaimState::Leaving,
            reason: Some("no container of this name has labels of ours any more".to_owned()),
        }));
        if self.over.contains(marker) {
            decision.goings.extend(self.going(marker, |_| true, true));
        }
    }

    /// The hosts that labels have made and that go, and its services where they do.
    fn going(&self, marker: &str, goes: impl Fn(&HostPattern) -> bool, all: bool) -> Option<Going> {
        let proxies: Vec<_> = self.hosts_of(marker).filter(|host| goes(host)).cloned().collect();
        let services: Vec<_> = self.services_of(marker).filter(|_| all).cloned().collect();
        let marker = marker.to_owned();
        (!proxies.is_empty() || !services.is_empty()).then_some(Going { marker, proxies, services })
    }

    fn hosts_of(&self, marker: &str) -> impl Iterator<Item = &HostPattern> {
        let proxies = self.config.proxies.values();
        proxies
            .filter(move |proxy| proxy.labelled_by.as_deref() == Some(marker))
            .map(|proxy| &proxy.proxy_hostname)
    }

    fn services_of(&self, marker: &str) -> impl Iterator<Item = &ServiceName> {
        let services = self.config.services.values();
        services
            .filter(move |service| service.labelled_by.as_deref() == Some(marker))
            .map(|service| &service.service_name)
    }

    fn has(&self, marker: &str, host: &HostPattern) -> bool {
        self.config.proxies.get(host).is_some_and(|proxy| proxy.labelled_by.as_deref() == Some(marker))
    }

    /// The service that the labels have made before; or why its name is not free.
    fn service_before(&self, marker: &str, wish: &Wish) -> Result<Option<&Service>, String> {
        let name = &wish.service;
        let other = "give the container another name";
        if self.config.externals.contains_key(name) {
            return Err(format!("there is an external service {name}: {other}"));
        }
        match self.config.services.get(name) {
            None => Ok(None),
            Some(service) if service.deleting => Err(format!("the service {name} is being deleted")),
            Some(service) => match &service.labelled_by {
                Some(by) if by == marker => Ok(Some(service)),
                Some(by) => Err(format!("the container {by} has made the service {name}: {other}")),
                None => Err(format!("there is a service {name} that no label made: {other}")),
            },
        }
    }

    /// Why a container does not get a host.
    fn refusal(
        &self,
        marker: &str,
        host: &HostPattern,
        given: &BTreeMap<HostPattern, &str>,
    ) -> Option<String> {
        if host.as_str() == self.issuer {
            return Some("this is the host of the authorization server".to_owned());
        }
        if let Err(reason) = self.policy.check_label_host(host.as_str()) {
            return Some(reason.to_owned());
        }
        match self.config.proxies.get(host).map(|proxy| &proxy.labelled_by) {
            Some(Some(by)) if by == marker => None,
            Some(Some(by)) => Some(format!("the container {by} has it")),
            Some(None) => Some("there is a host of this name that no label made".to_owned()),
            None => given.get(host).map(|first| format!("the container {first} was first")),
        }
    }

    fn service(&self, marker: &str, container: &str, wish: &Wish) -> Service {
        let mut fields = json!({
            "service_name": wish.service,
            "container": container,
            "node": self.node,
            "labelled_by": marker,
        });
        if let Some(port) = wish.port {
            fields["internal_port"] = Value::from(port);
        }
        if let Some(network) = &wish.network {
            fields["network"] = Value::from(network.as_str());
        }
        field::read(&fields).expect("every other field has a default")
    }
}

fn proxy(marker: &str, host: &HostPattern, wish: &Wish) -> Proxy {
    Proxy {
        auth_enabled: wish.auth,
        labelled_by: Some(marker.to_owned()),
        ..Proxy::new(host, &Target::Service(wish.service.clone()))
    }
}

/// A document as it shall be, with the stamps of the one before.
fn like<T: Entity>(mut next: T, before: &T) -> T {
    let mut before = before.clone();
    let (stamps, known) = (next.stamps_mut(), before.stamps_mut());
    *stamps.created_by = known.created_by.take();
    *stamps.created_at = *known.created_at;
    *stamps.updated_at = *known.updated_at;
    *stamps.config_version = *known.config_version;
    next
}

#[cfg(test)]
mod tests;
