//! Labels of containers that somebody else made, and the hosts that they ask for. Pure.

use std::collections::HashMap;

use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum as State};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{observe, spec};
use crate::config::{HostPattern, ServiceName};

mod decide;

pub use decide::{Claim, ClaimState};
pub(crate) use decide::{Decision, Facts, Going, Make, decide, markers};

/// What the names of all our labels begin with.
const OURS: &str = "portcullis.";
/// The hosts that a container asks for, with commas.
pub(crate) const HOST: &str = "portcullis.host";
/// The port that it listens on.
const PORT: &str = "portcullis.port";
/// The network that its address is on.
const NETWORK: &str = "portcullis.network";
/// Whether people have to sign in.
const AUTH: &str = "portcullis.auth";

/// The most hosts of a container.
const MANY: usize = 16;

/// The longest that is told of a label.
const LONG: usize = 256;

/// The longest name of a service.
const LONGEST: usize = 63;

/// What the labels of a container ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) service: ServiceName,
    pub(crate) hosts: Vec<HostPattern>,
    pub(crate) port: Option<u16>,
    pub(crate) network: Option<String>,
    pub(crate) auth: bool,
}

/// All containers with labels.
#[derive(Debug, Clone, Default)]
pub(crate) struct Looked {
    /// When the engine was asked; `None` before the first time.
    pub(crate) at: Option<Instant>,
    pub(crate) containers: Vec<Labelled>,
}

/// A container with labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Labelled {
    /// What the engine calls it.
    pub(crate) container: String,
    /// Whether it has been started, and not ended since.
    pub(crate) runs: bool,
    /// What the engine says of it: `running`, `exited` and the like.
    pub(crate) state: String,
    /// When it was made: the first of two has what both want.
    pub(crate) created: Option<Timestamp>,
    /// What stands in [`HOST`].
    pub(crate) asks: String,
    /// What it asks for, or which label is wrong.
    pub(crate) wish: Result<Wish, String>,
}

impl Labelled {
    /// A container of somebody else that has labels of ours.
    pub(super) fn of(found: &ContainerInspectResponse) -> Option<Self> {
        let labels = found.config.as_ref()?.labels.as_ref()?;
        // Its image may have labels, too.
        if spec::is_made_here(labels) {
            return None;
        }
        let container = observe::name_of(found)?.to_owned();
        let asks = labels.get(HOST)?.chars().filter(|one| !one.is_control()).take(LONG).collect();
        let state = found.state.as_ref().and_then(|state| state.status).unwrap_or(State::EMPTY);
        Some(Self {
            runs: matches!(state, State::RUNNING | State::RESTARTING | State::PAUSED),
            state: state.as_ref().to_owned(),
            created: found.created.as_ref().and_then(|created| created.parse().ok()),
            wish: read(&container, labels),
            container,
            asks,
        })
    }
}

/// Reads the labels of a container.
fn read(container: &str, labels: &HashMap<String, String>) -> Result<Wish, String> {
    const KNOWN: [&str; 4] = [HOST, PORT, NETWORK, AUTH];
    let mut unknown: Vec<_> =
        labels.keys().filter(|name| name.starts_with(OURS) && !KNOWN.contains(&name.as_str())).collect();
    unknown.sort();
    if let Some(name) = unknown.first() {
        return Err(format!("`{name}` is no label of ours: expected {}", KNOWN.join(", ")));
    }
    let label = |name: &str| labels.get(name).map(|text| text.trim());
    let mut hosts = Vec::new();
    for text in label(HOST).unwrap_or_default().split(',').map(str::trim) {
        let host = host(text)?;
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    if hosts.len() > MANY {
        return Err(format!("`{HOST}` has {} hosts: expected up to {MANY}", hosts.len()));
    }
    let port = match label(PORT).map(|text| (text, text.parse::<u16>())) {
        None => None,
        Some((_, Ok(port))) if port > 0 => Some(port),
        Some((text, _)) => return Err(format!("`{PORT}` is {text:?}: expected a port, 1 to 65535")),
    };
    let auth = match label(AUTH) {
        None | Some("false") => false,
        Some("true") => true,
        Some(text) => return Err(format!("`{AUTH}` is {text:?}: expected `true` or `false`")),
    };
    let network = label(NETWORK).map(str::to_owned);
    if network.as_deref().is_some_and(str::is_empty) {
        return Err(format!("`{NETWORK}` is empty: expected the name of a network"));
    }
    Ok(Wish { service: service(container)?, hosts, port, network, auth })
}

fn host(text: &str) -> Result<HostPattern, String> {
    let wrong = |why: &str| format!("`{HOST}` has {text:?}: {why}");
    match text.parse::<HostPattern>() {
        Ok(host) if host.wildcard_parent().is_some() => {
            Err(wrong("expected a host without `*`: labels make no hosts for whole domains"))
        }
        Ok(host) if host.is_ip() => Err(wrong("expected a name, not an address")),
        Ok(host) => Ok(host),
        Err(_) => Err(wrong("expected a host name such as app.example.com")),
    }
}

/// The name of the service of a container: that of the container, as far as services can be called so.
fn service(container: &str) -> Result<ServiceName, String> {
    let name = container.replace('.', "-");
    let name = name.get(..LONGEST).unwrap_or(&name);
    name.parse().map_err(|error| format!("the container's name makes no name of a service: {error}"))
}

/// The first TCP port that a container exposes.
pub(super) fn exposed(found: &ContainerInspectResponse) -> Option<u16> {
    let ports = found.config.as_ref()?.exposed_ports.as_ref()?;
    ports.iter().filter_map(|text| text.strip_suffix("/tcp").unwrap_or(text).parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(labels: &[(&str, &str)]) -> Result<Wish, String> {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        read("shop.Web_1", &labels)
    }

    #[test]
    fn labels_say_hosts_port_network_and_auth() {
        let plain = of(&[("portcullis.host", "app.test"), ("com.example.x", "y")]).expect("good");
        assert_eq!((plain.port, plain.network.clone(), plain.auth), (None, None, false));
        assert_eq!((plain.service.as_str(), plain.hosts.len()), ("shop-web_1", 1));
        let all = of(&[
            ("portcullis.host", "app.test, WWW.app.test,app.test"),
            ("portcullis.port", "3000"),
            ("portcullis.network", "shop_default"),
            ("portcullis.auth", "true"),
        ]);
        let all = all.expect("good");
        let hosts: Vec<_> = all.hosts.iter().map(HostPattern::as_str).collect();
        assert_eq!(hosts, ["app.test", "www.app.test"]);
        assert_eq!((all.port, all.network.as_deref(), all.auth), (Some(3000), Some("shop_default"), true));
    }

    #[test]
    fn a_wrong_label_is_named() {
        const HOST: (&str, &str) = ("portcullis.host", "app.test");
        for (labels, says) in [
            (vec![HOST, ("portcullis.hots", "x")], "`portcullis.hots`"),
            (vec![HOST, ("portcullis.port", "http")], "`portcullis.port`"),
            (vec![HOST, ("portcullis.port", "0")], "`portcullis.port`"),
            (vec![HOST, ("portcullis.auth", "yes")], "`portcullis.auth`"),
            (vec![HOST, ("portcullis.network", " ")], "`portcullis.network`"),
            (vec![("portcullis.host", "")], "`portcullis.host`"),
            (vec![("portcullis.host", "a b")], "\"a b\""),
            (vec![("portcullis.host", "app.test,")], "\"\""),
            (vec![("portcullis.host", "*.app.test")], "without `*`"),
            (vec![("portcullis.host", "10.0.0.1")], "not an address"),
        ] {
            let wrong = of(&labels).expect_err("refused");
            assert!(wrong.contains(says), "{labels:?}: {wrong}");
        }
    }

    #[test]
    fn long_names_of_containers_are_cut() {
        let name = "x".repeat(100);
        assert_eq!(service(&name).expect("good").as_str().len(), LONGEST);
    }
}
