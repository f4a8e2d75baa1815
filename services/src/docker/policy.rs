//! What operators let services be, beside what no service may ever be.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

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
    /// How long a new container may take until it is ready.
    pub start: Duration,
    /// How long an old container may still answer what it was asked before.
    pub drain: Duration,
    /// How long a container may take to end before it is killed.
    pub stop: Duration,
    /// The sockets of engines: nothing may mount them, or a folder that they are in.
    pub sockets: Vec<PathBuf>,
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
            start: Duration::from_secs(60),
            drain: Duration::from_secs(10),
            stop: Duration::from_secs(10),
            sockets: vec!["/var/run/docker.sock".into(), "/run/docker.sock".into()],
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
    /// Whether an image may run.
    pub fn check_image(&self, image: &str) -> Result<(), Refusal> {
        if self.digests && !has_digest(image) {
            let detail = "PORTCULLIS_DOCKER_REQUIRE_DIGEST asks for a digest: expected `NAME@sha256:…`";
            return Err(Refusal::new("image", image, detail));
        }
        if !self.images.is_empty() && !self.images.iter().any(|pattern| pattern.matches(image)) {
            let allowed: Vec<_> = self.images.iter().map(|pattern| pattern.0.as_str()).collect();
            let detail = format!("PORTCULLIS_DOCKER_IMAGES allows {} only", allowed.join(", "));
            return Err(Refusal::new("image", image, detail));
        }
        Ok(())
    }

    /// Whether a path of the engine's machine may be mounted.
    pub fn check_path(&self, field: &str, path: &str) -> Result<(), Refusal> {
        let wanted = Path::new(path);
        if self.sockets.iter().any(|socket| socket.starts_with(wanted) || wanted.starts_with(socket)) {
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

    /// The same for what the paths of a service stand for by now.
    pub fn check_mounts(&self, service: &Service) -> Result<(), Refusal> {
        for (index, text) in service.volumes.iter().enumerate() {
            if let Ok(Volume { source: Source::Path(path), .. }) = text.parse() {
                self.check_links(&format!("volumes[{index}]"), &path)?;
            }
        }
        Ok(())
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
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = image.strip_prefix(first) else { return false };
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
        ] {
            assert_eq!(matches(pattern, image), expected, "{pattern} {image}");
        }
    }
}
