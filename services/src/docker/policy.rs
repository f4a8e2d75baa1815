//! What operators let services be, beside what no service may ever be.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use portcullis_layers::glob;

use crate::config::Service;
use crate::config::service::{Source, Volume};

/// The settings that say what services may be.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The images that may run; none: all.
    pub images: Vec<ImagePattern>,
    /// Whether an image must be named by its digest.
    pub digests: bool,
    /// The folders of the engine's machine that may be mounted, and what is below them.
    pub paths: Vec<PathBuf>,
    /// Capabilities beyond [`USUAL_CAPABILITIES`].
    pub capabilities: Vec<String>,
    /// The network that services join.
    pub network: String,
    /// Further networks that they may join.
    pub networks: Vec<String>,
    /// Where build contexts are.
    pub contexts: PathBuf,
    /// The most processes of a container.
    pub pids: i64,
    /// How large a log file of a container grows, and how many are kept.
    pub log: (String, u32),
    /// The volumes of the engine that services may mount although portcullis did not make them.
    pub volumes: Vec<String>,
    /// What a build may use.
    pub build: BuildLimits,
    /// How long a new container may take until it is ready.
    pub start: Duration,
    /// How long an old container may still answer what it was asked before.
    pub drain: Duration,
    /// How long a container may take to end before it is killed.
    pub stop: Duration,
    /// The sockets of engines: nothing may mount them, or a folder that they are in.
    pub sockets: Vec<PathBuf>,
    /// Whether services may be of containers that somebody else made.
    pub adopt: bool,
    /// Whether labels of such containers make hosts.
    pub labels: bool,
    /// Which hosts labels may make; none: all but the issuer's.
    pub label_hosts: Vec<HostRule>,
}

/// What a build may use: a Dockerfile runs whatever it says.
#[derive(Debug, Clone, Copy)]
pub struct BuildLimits {
    /// The memory of each of its steps, in bytes; 0: all there is. The client of the engine counts to 2 GiB.
    pub memory: u64,
    /// The processors of each of its steps.
    pub cpus: f64,
    /// How long it may take in all.
    pub time: Duration,
    /// Whether the engine may fetch what an ADD names.
    pub urls: bool,
}

impl Default for BuildLimits {
    fn default() -> Self {
        Self { memory: 2 << 30, cpus: 2.0, time: Duration::from_secs(1800), urls: false }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            images: Vec::new(),
            digests: false,
            paths: Vec::new(),
            capabilities: Vec::new(),
            network: "portcullis".to_owned(),
            networks: Vec::new(),
            contexts: "contexts".into(),
            pids: 512,
            log: ("10m".to_owned(), 3),
            volumes: Vec::new(),
            build: BuildLimits::default(),
            start: Duration::from_secs(60),
            drain: Duration::from_secs(10),
            stop: Duration::from_secs(10),
            sockets: vec!["/var/run/docker.sock".into(), "/run/docker.sock".into()],
            adopt: false,
            labels: false,
            label_hosts: Vec::new(),
        }
    }
}

/// What stock images need to change users and to listen on low ports.
pub const USUAL_CAPABILITIES: [&str; 7] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"];

/// Capabilities that are as good as being root on the engine's machine: no setting allows them.
pub const NEVER: [&str; 10] = [
    "ALL",
    "BPF",
    "DAC_READ_SEARCH",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "PERFMON",
    "SYS_ADMIN",
    "SYS_MODULE",
    "SYS_PTRACE",
    "SYS_RAWIO",
];

/// A folder of the machine that a container mounts.
#[derive(Debug, Clone)]
pub struct Mounted {
    /// The service that the container is of.
    pub service: String,
    /// The folder.
    pub path: String,
    /// Whether the container can't write it.
    pub read_only: bool,
}

/// Why policy refuses a service: which field, and which setting would have to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {detail}")]
pub struct Refusal {
    /// The field of the service.
    pub field: String,
    /// What stands there.
    pub value: String,
    /// Which policy refuses it, and what would be right.
    pub detail: String,
}

impl Refusal {
    fn new(field: impl Into<String>, value: impl fmt::Display, detail: impl Into<String>) -> Self {
        Self { field: field.into(), value: value.to_string(), detail: detail.into() }
    }
}

impl Policy {
    /// Whether there are images that may not run.
    pub const fn judges_images(&self) -> bool {
        self.digests || !self.images.is_empty()
    }

    /// Whether an image may run.
    pub fn check_image(&self, image: &str) -> Result<(), Refusal> {
        if self.digests && !has_digest(image) {
            let detail = "PORTCULLIS_DOCKER_REQUIRE_DIGEST asks for a digest: expected `NAME@sha256:…`";
            return Err(Refusal::new("image", image, detail));
        }
        // Engines take these for the ids of images, whatever the images are called.
        let name = image.strip_prefix("sha256:").unwrap_or(image);
        if self.judges_images() && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let detail = "may be the id of an image: expected a name with a tag or a registry, e.g. `library/NAME:TAG`";
            return Err(Refusal::new("image", image, detail));
        }
        if !self.images.is_empty() && !self.images.iter().any(|pattern| pattern.matches(image)) {
            let allowed: Vec<_> = self.images.iter().map(|pattern| pattern.0.as_str()).collect();
            let detail = format!("PORTCULLIS_DOCKER_IMAGES allows {} only", allowed.join(", "));
            return Err(Refusal::new("image", image, detail));
        }
        Ok(())
    }

    /// Whether a service may be of a container that somebody else made.
    pub fn check_container(&self, service: &Service) -> Result<(), Refusal> {
        let Some(container) = &service.container else { return Ok(()) };
        match (self.adopt, &service.labelled_by) {
            (true, _) => Ok(()),
            (false, Some(_)) if self.labels => Ok(()),
            (false, Some(_)) => {
                let detail = "PORTCULLIS_DOCKER_LABELS is off: labels of containers make nothing";
                Err(Refusal::new("container", container, detail))
            }
            (false, None) => {
                let detail =
                    "PORTCULLIS_DOCKER_ADOPT is off: services are of containers that are made here only";
                Err(Refusal::new("container", container, detail))
            }
        }
    }

    /// Whether there may be services of containers that somebody else made.
    pub const fn watches_others(&self) -> bool {
        self.adopt || self.labels
    }

    /// Whether labels may make a host.
    pub fn check_label_host(&self, host: &str) -> Result<(), &'static str> {
        if self.label_hosts.is_empty() || self.label_hosts.iter().any(|rule| rule.matches(host)) {
            return Ok(());
        }
        Err("PORTCULLIS_DOCKER_LABEL_HOSTS does not allow this host")
    }

    /// Whether a path of the engine's machine may be mounted.
    pub fn check_path(&self, field: &str, path: &str) -> Result<(), Refusal> {
        let wanted = Path::new(path);
        let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let is_below = |socket: &Path| {
            let (real, socket_real) = (real(wanted), real(socket));
            socket.starts_with(wanted)
                || wanted.starts_with(socket)
                || socket_real.starts_with(&real)
                || real.starts_with(&socket_real)
        };
        if self.sockets.iter().any(|socket| is_below(socket)) {
            let detail = "the engine's socket is never mounted: it is as good as being root there";
            return Err(Refusal::new(field, path, detail));
        }
        if !self.paths.iter().any(|allowed| wanted.starts_with(allowed)) {
            let detail =
                "PORTCULLIS_DOCKER_MOUNTS does not allow this folder: expected one below it, or a volume";
            return Err(Refusal::new(field, path, detail));
        }
        Ok(())
    }

    /// The same for what the paths of a service stand for by now, beside the other services of the engine: what stands
    /// below a folder that somebody can write could become a link to anywhere, at any time.
    pub fn check_mounts<'a>(
        &self,
        service: &'a Service,
        others: impl IntoIterator<Item = &'a Service>,
        mounted: &'a [Mounted],
    ) -> Result<(), Refusal> {
        let own = folders(service);
        for (field, folder) in &own {
            self.check_links(field, &folder.path)?;
        }
        let others = others.into_iter().filter(|other| other.service_name != service.service_name);
        // Also what containers mount that no document wants any more, or that are of other nodes.
        let mounted = mounted.iter().map(|one| Folder::of(&one.service, one.path.clone(), one.read_only));
        let others = others.flat_map(folders).map(|(_, folder)| folder);
        let others: Vec<_> = others.chain(mounted).collect();
        for (at, (field, folder)) in own.iter().enumerate() {
            let rest =
                own.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, (_, folder))| folder);
            for other in rest.chain(&others) {
                if let Some(detail) = folder.conflict(other) {
                    return Err(Refusal::new(field, &folder.path, detail));
                }
            }
        }
        Ok(())
    }

    /// Whether a volume of the engine that is there already, and was not made for a service, may be mounted.
    pub fn check_volume(&self, field: &str, name: &str) -> Result<(), Refusal> {
        if self.volumes.iter().any(|pattern| glob::matches(pattern, name)) {
            return Ok(());
        }
        let detail = "this volume was not made for services, and PORTCULLIS_DOCKER_VOLUMES does not allow it: expected \
                      another name";
        Err(Refusal::new(field, name, detail))
    }

    /// The same for what a path stands for when it is a link on this machine.
    fn check_links(&self, field: &str, path: &str) -> Result<(), Refusal> {
        match std::fs::canonicalize(path) {
            Ok(real) if real != Path::new(path) => {
                // A link that the operator has named himself is good.
                let named = self.paths.iter().filter_map(|allowed| std::fs::canonicalize(allowed).ok());
                let socket = self.sockets.iter().any(|socket| {
                    let socket = std::fs::canonicalize(socket).unwrap_or_else(|_| socket.clone());
                    socket.starts_with(&real) || real.starts_with(&socket)
                });
                if socket || !named.into_iter().any(|allowed| real.starts_with(allowed)) {
                    let detail =
                        format!("leads to {}, which PORTCULLIS_DOCKER_MOUNTS does not allow", real.display());
                    return Err(Refusal::new(field, path, detail));
                }
                Ok(())
            }
            Ok(_) => Ok(()),
            // The engine's machine may be another one: what stands below a folder there nobody here can tell, but a folder
            // that the operator has named is what it is.
            Err(_) if self.paths.iter().any(|allowed| Path::new(allowed) == Path::new(path)) => Ok(()),
            Err(error) => {
                let detail = format!(
                    "can't be looked at here ({error}): expected a folder that is in PORTCULLIS_DOCKER_MOUNTS itself"
                );
                Err(Refusal::new(field, path, detail))
            }
        }
    }

    /// The name of a capability that a service may have.
    pub fn check_capability(&self, field: &str, name: &str) -> Result<String, Refusal> {
        let plain = capability(name);
        if NEVER.contains(&plain.as_str()) {
            let detail =
                "this capability is never given: it is as good as being root on the engine's machine";
            return Err(Refusal::new(field, name, detail));
        }
        let usual = USUAL_CAPABILITIES.contains(&plain.as_str());
        if !usual && !self.capabilities.iter().any(|allowed| capability(allowed) == plain) {
            let detail = "PORTCULLIS_DOCKER_CAPABILITIES does not allow this capability";
            return Err(Refusal::new(field, name, detail));
        }
        Ok(plain)
    }

    /// Whether a network may be joined.
    pub fn check_network(&self, field: &str, name: &str) -> Result<(), Refusal> {
        if ["host", "none", "default", "bridge"].contains(&name) || name.contains(':') {
            let detail = "this is no network of containers: services never use that of their machine, or one without \
                          names";
            return Err(Refusal::new(field, name, detail));
        }
        if name != self.network && !self.networks.iter().any(|allowed| allowed == name) {
            let detail = format!("PORTCULLIS_DOCKER_NETWORKS does not allow it, beside `{}`", self.network);
            return Err(Refusal::new(field, name, detail));
        }
        Ok(())
    }

    /// A folder below the one for build contexts, as it is written; links are looked at when it is read.
    pub fn context(&self, folder: Option<&str>) -> Result<PathBuf, Refusal> {
        let folder = folder.unwrap_or(".");
        let plain = Path::new(folder)
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !plain {
            let detail = "expected a folder below PORTCULLIS_DOCKER_CONTEXTS, without `..`";
            return Err(Refusal::new("build_context", folder, detail));
        }
        Ok(self.contexts.join(folder))
    }
}

/// A folder of the machine that a service mounts.
struct Folder<'a> {
    service: &'a str,
    path: String,
    /// What it stands for, as far as that can be told here.
    real: PathBuf,
    read_only: bool,
}

impl<'a> Folder<'a> {
    fn of(service: &'a str, path: String, read_only: bool) -> Self {
        let real = std::fs::canonicalize(&path).unwrap_or_else(|_| path.clone().into());
        Self { service, path, real, read_only }
    }
    /// Why this one and another can't be mounted at the same time.
    fn conflict(&self, other: &Self) -> Option<String> {
        let below = |one: &Self, other: &Self| one.real != other.real && one.real.starts_with(&other.real);
        let Self { service, path, .. } = other;
        if below(self, other) && !other.read_only {
            return Some(format!(
                "is below {path}, which the service {service} can write: expected the same folder, or one beside it"
            ));
        }
        (below(other, self) && !self.read_only).then(|| {
            format!("the service {service} mounts {path} below it: expected a folder beside that, or `:ro`")
        })
    }
}

/// The folders that a service mounts, with their fields.
fn folders(service: &Service) -> Vec<(String, Folder<'_>)> {
    let folder = |(index, text): (usize, &String)| match text.parse() {
        Ok(Volume { source: Source::Path(path), read_only, .. }) => {
            Some((format!("volumes[{index}]"), Folder::of(service.service_name.as_str(), path, read_only)))
        }
        _ => None,
    };
    service.volumes.iter().enumerate().filter_map(folder).collect()
}

fn capability(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    name.strip_prefix("CAP_").map_or_else(|| name.clone(), str::to_owned)
}

fn has_digest(image: &str) -> bool {
    image
        .rsplit_once("@sha256:")
        .is_some_and(|(_, digest)| digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A pattern of images, such as `nginx:*` or `ghcr.io/owner/*`: `*` stands for any characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePattern(String);

impl FromStr for ImagePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() || text.chars().any(|one| one.is_whitespace() || one.is_control()) {
            return Err(format!("{text:?} is no pattern of images: write e.g. nginx:* or ghcr.io/owner/*"));
        }
        Ok(Self(full(text)))
    }
}

impl ImagePattern {
    /// Whether an image is one of these. Short names stand for Docker Hub, as for the engine.
    fn matches(&self, image: &str) -> bool {
        let image = full(image);
        let (Some((registry, name)), Some((wanted, pattern))) =
            (image.split_once('/'), self.0.split_once('/'))
        else {
            return false;
        };
        // The name of a registry ends where that of an image begins.
        is_like(wanted, registry) && is_like(pattern, name)
    }
}

/// A pattern of host names, such as `*.apps.example.com`: `*` stands for any characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRule(String);

impl FromStr for HostRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim().trim_end_matches('.').to_ascii_lowercase();
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || b".-_*".contains(&byte);
        if text.is_empty() || text.len() > 253 || !text.bytes().all(fine) {
            return Err(format!("{text:?} is no pattern of hosts: write e.g. *.apps.example.com"));
        }
        Ok(Self(text))
    }
}

impl HostRule {
    /// Whether a host, in lower case, is one of these.
    fn matches(&self, host: &str) -> bool {
        is_like(&self.0, host)
    }
}

/// Whether a text is what a pattern says, in which `*` stands for any characters.
fn is_like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let parts: Vec<_> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// An image with its registry, and with its tag where it has neither tag nor digest.
fn full(image: &str) -> String {
    let (first, _) = image.split_once('/').unwrap_or(("", image));
    let named = first.contains(['.', ':', '*']) || first == "localhost";
    let registry = match (named, first.is_empty()) {
        (true, _) => String::new(),
        (false, true) => "docker.io/library/".to_owned(),
        (false, false) => "docker.io/".to_owned(),
    };
    let last = image.rsplit('/').next().unwrap_or(image);
    let tag = if last.contains([':', '@', '*']) { "" } else { ":latest" };
    format!("{registry}{image}{tag}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_the_engine_means() {
        let matches = |pattern: &str, image: &str| {
            let pattern: ImagePattern = pattern.parse().expect("a pattern");
            pattern.matches(image)
        };
        for (pattern, image, expected) in [
            ("nginx:*", "nginx:1.27", true),
            ("nginx:*", "nginx", true),
            ("nginx:*", "docker.io/library/nginx:1", true),
            ("nginx:*", "evil.example/nginx:1", false),
            ("nginx:*", "owner/nginx:1", false),
            ("nginx", "nginx:latest", true),
            ("nginx", "nginx:1", false),
            ("node:*-alpine", "node:22-alpine", true),
            ("node:*-alpine", "node:22", false),
            ("ghcr.io/owner/*", "ghcr.io/owner/app:1", true),
            ("ghcr.io/owner/*", "ghcr.io/owner2/app:1", false),
            ("owner/*", "owner/app", true),
            ("*.example.com/*", "a.example.com/app:1", true),
            ("*.example.com/*", "evil.test/a.example.com/app:1", false),
            ("*/app:1", "a.test/app:1", true),
            ("*/app:1", "a.test/b/app:1", false),
        ] {
            assert_eq!(matches(pattern, image), expected, "{pattern} {image}");
        }
    }

    #[test]
    fn what_others_can_write_holds_no_mounts() {
        let service = |name: &str, volumes: &[&str]| {
            let fields = serde_json::json!({ "service_name": name, "image": "web:1", "volumes": volumes });
            let fields = fields.as_object().cloned().expect("an object");
            <Service as crate::config::Entity>::from_fields(fields).expect("a service")
        };
        let policy = Policy {
            paths: ["/srv/a", "/srv/a/in", "/srv/ab"].map(PathBuf::from).into(),
            ..Policy::default()
        };
        let check = |own: &[&str], others: &[&str]| {
            let (own, other) = (service("own", own), service("other", others));
            policy.check_mounts(&own, [&other, &own], &[]).map_err(|refusal| refusal.to_string())
        };
        for (own, others) in [
            (&["/srv/a:/a"][..], &["/srv/a:/a"][..]),
            (&["/srv/ab:/a"], &["/srv/a:/a"]),
            (&["/srv/a/in:/a:ro"], &["/srv/a:/a:ro", "data:/d"]),
            (&["/srv/a:/a:ro", "/srv/a/in:/b"], &[]),
        ] {
            assert_eq!(check(own, others), Ok(()), "{own:?} {others:?}");
        }
        for (own, others, expected) in [
            (
                &["/srv/a/in:/a:ro"][..],
                &["/srv/a:/a"][..],
                "volumes[0]: is below /srv/a, which the service other",
            ),
            (&["/srv/a:/a"], &["/srv/a/in:/a"], "volumes[0]: the service other mounts /srv/a/in below it"),
            (&["data:/d", "/srv/a:/a", "/srv/a/in:/b"], &[], "volumes[1]: the service own mounts"),
        ] {
            let told = check(own, others).expect_err("refused");
            assert!(told.starts_with(expected), "{told}");
        }
    }

    #[test]
    fn labels_make_the_hosts_that_are_allowed() {
        let rules = ["*.apps.example.com", "Shop.example.com"].map(|rule| rule.parse().expect("a pattern"));
        let policy = Policy { label_hosts: rules.into(), ..Policy::default() };
        for (host, allowed) in [
            ("a.apps.example.com", true),
            ("a.b.apps.example.com", true),
            ("shop.example.com", true),
            ("apps.example.com", false),
            ("shop.example.com.evil.test", false),
            ("evilapps.example.com", false),
        ] {
            assert_eq!(policy.check_label_host(host).is_ok(), allowed, "{host}");
        }
        assert!(Policy::default().check_label_host("any.test").is_ok());
        assert!("a b".parse::<HostRule>().is_err() && "".parse::<HostRule>().is_err());
    }
}
