//! Containers that somebody else made: found by their names, watched, and never touched.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bollard::models::{ContainerInspectResponse, EventMessage};
use futures_util::{StreamExt, TryStreamExt};

use super::engine::{Error, Result};
use super::labels::{self, Labelled};
use super::observe::{self, Container};
use super::{Docker, Policy, spec};
use crate::config::service::DEFAULT_PORT;
use crate::config::{Service, ServiceName};

/// So many containers are looked at at a time.
const AT_ONCE: usize = 16;

/// What is there of a service's container.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) container: Option<Container>,
    /// Why requests can't go there.
    pub(super) trouble: Option<String>,
}

/// What is there of all services of this node that are of such containers, and may be.
pub(super) async fn look<'a>(
    docker: &Docker,
    services: impl Iterator<Item = &'a Arc<Service>>,
) -> Result<BTreeMap<ServiceName, Found>> {
    let ours = |service: &&Arc<Service>| {
        service.container.is_some()
            && !service.deleting
            && service.node.as_ref().is_none_or(|node| *node == docker.owner.node)
            && docker.policy.check_container(service).is_ok()
    };
    let services: Vec<_> = services.filter(ours).cloned().collect();
    let looks = services.into_iter().map(|service| async move {
        let found = find(docker, &service).await?;
        Ok((service.service_name.clone(), found))
    });
    futures_util::stream::iter(looks).buffer_unordered(AT_ONCE).try_collect().await
}

/// All containers of others whose labels ask for hosts, where that is allowed.
pub(super) async fn labelled(docker: &Docker) -> Result<Vec<Labelled>> {
    if !docker.policy.labels {
        return Ok(Vec::new());
    }
    let looks = docker.engine.labelled(labels::HOST).await?.into_iter().map(|id| async move {
        match docker.engine.inspect(&id).await {
            Ok(found) => Ok(Labelled::of(&found)),
            // It went in between.
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    });
    let found: Vec<_> = futures_util::stream::iter(looks).buffer_unordered(AT_ONCE).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

async fn find(docker: &Docker, service: &Service) -> Result<Found> {
    let Some(name) = &service.container else { return Ok(Found::default()) };
    match docker.engine.inspect(name).await {
        // Engines find containers by the beginnings of their ids, too.
        Ok(found) if observe::name_of(&found) == Some(name) => Ok(Found::of(found, service, &docker.policy)),
        Ok(_) | Err(Error::NotFound(_)) => Ok(Found {
            container: None,
            trouble: Some(format!("there is no container {name:?} on this engine")),
        }),
        Err(error @ (Error::Unreachable { .. } | Error::Late)) => Err(error),
        Err(error) => Ok(Found { container: None, trouble: Some(error.to_string()) }),
    }
}

/// Why requests can't go to the container of a service.
pub(crate) async fn trouble(docker: &Docker, service: &Service) -> Result<Option<String>> {
    Ok(find(docker, service).await?.trouble)
}

impl Found {
    fn of(found: ContainerInspectResponse, service: &Service, policy: &Policy) -> Self {
        let labels = found.config.as_ref().and_then(|config| config.labels.as_ref());
        if labels.is_some_and(spec::is_made_here) {
            let trouble = "portcullis made this container for a service of its own: name that one instead";
            return Self { container: None, trouble: Some(trouble.to_owned()) };
        }
        let (ip, trouble) = match ip(&found, service, policy) {
            Ok(ip) => (ip, None),
            Err(trouble) => (None, Some(trouble)),
        };
        let port = service.internal_port.or_else(|| labels::exposed(&found)).unwrap_or(DEFAULT_PORT);
        let address = ip.map(|ip| SocketAddr::new(ip, port));
        Self { container: Container::seen(found, service.service_name.clone(), address), trouble }
    }
}

/// The address of a container; none while it does not run. Else why it can have none.
fn ip(
    found: &ContainerInspectResponse,
    service: &Service,
    policy: &Policy,
) -> std::result::Result<Option<IpAddr>, String> {
    let mode = found.host_config.as_ref().and_then(|host| host.network_mode.as_deref()).unwrap_or_default();
    if matches!(mode, "host" | "none") || mode.starts_with("container:") {
        return Err(format!(
            "the container has no address of its own, because its network is `{mode}`: expected one on a network of \
             containers"
        ));
    }
    let networks = found.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    let networks: BTreeMap<_, _> = networks.into_iter().flatten().collect();
    let names = || networks.keys().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    let wanted = service.network.as_ref();
    let endpoint = match (wanted, networks.len()) {
        (Some(wanted), _) => networks.get(wanted).copied().ok_or_else(|| {
            let names = if networks.is_empty() { "none".to_owned() } else { names() };
            format!("the container is not on the network `{wanted}`: it is on {names}")
        })?,
        (None, 0) => return Err("the container is on no network".to_owned()),
        (None, 1) => networks.values().next().copied().ok_or_else(String::new)?,
        (None, _) => networks.get(&policy.network).copied().ok_or_else(|| {
            format!(
                "the container is on several networks ({}), and `{}` is none of them: say which one in {}",
                names(),
                policy.network,
                match service.labelled_by {
                    Some(_) => "its label `portcullis.network`",
                    None => "the field `network`",
                }
            )
        })?,
    };
    Ok(observe::ip(endpoint))
}

/// Which containers of others are watched: by their names and ids.
#[derive(Debug, Default)]
pub(super) struct Watch(HashSet<String>);

impl Watch {
    /// Those of the last look.
    pub(super) fn of(
        services: &BTreeMap<ServiceName, Arc<Service>>,
        found: &BTreeMap<ServiceName, Found>,
    ) -> Self {
        let names = found.keys().filter_map(|name| services.get(name)?.container.clone());
        let ids = found.values().filter_map(|one| Some(one.container.as_ref()?.id.clone()));
        Self(names.chain(ids).collect())
    }

    /// Whether an event is about one of them, one of ours, or one whose labels make hosts.
    pub(super) fn concerns(&self, event: &EventMessage, docker: &Docker) -> bool {
        let Some(actor) = &event.actor else { return false };
        let attribute = |name: &str| actor.attributes.as_ref()?.get(name).map(String::as_str);
        let owner = &docker.owner;
        let is_ours = attribute(spec::DEPLOYMENT) == Some(&owner.deployment)
            && attribute(spec::NODE) == Some(owner.node.as_str());
        let is_labelled = docker.policy.labels && attribute(labels::HOST).is_some();
        let old_name = attribute("oldName").map(|name| name.trim_start_matches('/'));
        let mut names =
            [actor.id.as_deref(), attribute("name"), old_name, attribute("container")].into_iter();
        is_ours || is_labelled || names.any(|name| name.is_some_and(|name| self.0.contains(name)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Entity;

    fn of(mode: &str, networks: &Value, more: Value) -> Found {
        let mut fields = json!({ "service_name": "web", "container": "web-1" });
        let (Value::Object(fields), Value::Object(more)) = (&mut fields, more) else { panic!("objects") };
        fields.extend(more);
        let service = Service::from_fields(std::mem::take(fields)).expect("a service");
        let found = json!({
            "Id": "abc", "Name": "/web-1", "HostConfig": { "NetworkMode": mode },
            "NetworkSettings": { "Networks": networks },
            "Config": { "Image": "web:1", "ExposedPorts": { "9000/tcp": {}, "53/udp": {}, "3000/tcp": {} } },
            "State": { "Status": "running" },
        });
        let found = serde_json::from_value(found).expect("an answer of the engine");
        Found::of(found, &service, &Policy::default())
    }

    fn on(address: &str) -> Value {
        json!({ "IPAddress": address })
    }

    #[test]
    fn the_address_is_on_the_network_that_can_be_reached() {
        let address = |found: Found| found.container.expect("seen").address.expect("an address").to_string();
        let only = json!({ "shop": on("10.0.0.2") });
        assert_eq!(address(of("shop", &only, json!({}))), "10.0.0.2:3000");
        assert_eq!(address(of("shop", &only, json!({ "internal_port": 81 }))), "10.0.0.2:81");
        let ours = json!({ "a": on("10.0.0.2"), "portcullis": on("10.0.1.2") });
        assert_eq!(address(of("a", &ours, json!({}))), "10.0.1.2:3000");
        assert_eq!(address(of("a", &ours, json!({ "network": "a" }))), "10.0.0.2:3000");
    }

    #[test]
    fn without_an_address_the_reason_is_told() {
        let several = json!({ "a": on("10.0.0.2"), "b": on("10.0.1.2") });
        for (mode, networks, more, says) in [
            ("a", several.clone(), json!({}), "the field `network`"),
            ("a", several.clone(), json!({ "labelled_by": "main/web-1" }), "`portcullis.network`"),
            ("a", several, json!({ "network": "c" }), "it is on a, b"),
            ("host", json!({ "host": on("") }), json!({}), "`host`"),
            ("none", json!({ "none": on("") }), json!({}), "`none`"),
            ("container:abc", json!({}), json!({}), "`container:abc`"),
            ("a", json!({}), json!({}), "no network"),
        ] {
            let trouble = of(mode, &networks, more.clone()).trouble.expect("refused");
            assert!(trouble.contains(says), "{mode} {more}: {trouble}");
        }
        // It does not run.
        let stopped = of("a", &json!({ "a": on("") }), json!({}));
        assert!(stopped.trouble.is_none() && stopped.container.expect("seen").address.is_none());
    }
}
