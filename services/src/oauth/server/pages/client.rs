//! Who asks and what for, as the pages show it.

use super::text::{bounded, is_mixed};
use crate::oauth::server::scope::{self, Scopes};

/// The longest name of a client that is shown.
const MAX_NAME: usize = 80;

/// The longest address that is shown. Its beginning is what matters.
const MAX_ADDRESS: usize = 120;

/// How a client came to be known. It decides how much its words are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientKind {
    /// An administrator entered it.
    Registered,
    /// It registered itself (RFC 7591): anybody can, under any name.
    Dynamic,
    /// Its id is the URL of a document about it: the host of the URL answers for it.
    Document,
}

/// A client that asks.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Its name, as it says.
    pub name: Option<&'a str>,
    /// Its id.
    pub id: &'a str,
    /// How it came to be known.
    pub kind: ClientKind,
    /// Where the answer goes; none for devices.
    pub redirect_uri: Option<&'a str>,
}

/// What a client asks for.
#[derive(Debug, Clone, Copy)]
pub struct Rights<'a> {
    /// The scopes.
    pub scopes: &'a Scopes,
    /// Which of them the user has allowed before, at all of the resources.
    pub allowed: &'a [String],
    /// The resources.
    pub resources: &'a [String],
}

/// What the template shows of a client.
pub(super) struct ClientView {
    pub(super) name: String,
    pub(super) origin: String,
    pub(super) target: Option<String>,
    pub(super) warnings: Vec<&'static str>,
}

/// What the template shows of rights: scopes that are new apart from those that were allowed before.
pub(super) struct RightsView {
    pub(super) resources: Vec<String>,
    pub(super) scopes: Vec<ScopeView>,
    pub(super) allowed: Vec<ScopeView>,
}

pub(super) struct ScopeView {
    pub(super) name: String,
    pub(super) meaning: Option<&'static str>,
}

impl Client<'_> {
    pub(super) fn view(&self) -> ClientView {
        let id = bounded(self.id, MAX_ADDRESS);
        let name = self.name.map(|name| bounded(name, MAX_NAME)).filter(|name| !name.is_empty());
        let place = self.redirect_uri.map(Place::of);
        let mut warnings = Vec::new();
        if self.kind == ClientKind::Dynamic {
            warnings.push(
                "This application registered itself. Its name is its own claim, and nobody has checked it.",
            );
        }
        if name.as_deref().is_some_and(is_mixed) {
            warnings.push("The name mixes alphabets, so it may look like another one.");
        }
        match place {
            Some(Place::Loopback(_)) => warnings.push(
                "The answer goes to a program on this computer. Any program that runs here can ask in this name: \
                 approve only if you have just started it.",
            ),
            Some(Place::App(_)) => warnings.push(
                "The answer goes to an app on this device. Another app may have taken its place: approve only if \
                 you have just started it.",
            ),
            Some(Place::Host(_)) | None => {}
        }
        ClientView {
            name: name.unwrap_or_else(|| id.clone()),
            origin: match self.kind {
                ClientKind::Registered => format!("{id} (registered by an administrator)"),
                ClientKind::Dynamic => format!("{id} (registered itself)"),
                ClientKind::Document => bounded(host_of(self.id).unwrap_or(&id), MAX_ADDRESS),
            },
            target: self.redirect_uri.map(place_of),
            warnings,
        }
    }
}

impl Rights<'_> {
    pub(super) fn view(&self) -> RightsView {
        let view = |name: &str| ScopeView { name: name.to_owned(), meaning: scope::meaning(name) };
        let is_allowed = |name: &&str| self.allowed.iter().any(|allowed| allowed == name);
        let (allowed, scopes): (Vec<&str>, Vec<&str>) = self.scopes.iter().partition(is_allowed);
        RightsView {
            resources: self.resources.iter().map(|resource| bounded(resource, MAX_ADDRESS)).collect(),
            scopes: scopes.into_iter().map(view).collect(),
            allowed: allowed.into_iter().map(view).collect(),
        }
    }
}

/// Where a URL leads, as a text for people.
pub(super) fn place_of(url: &str) -> String {
    match Place::of(url) {
        Place::Host(place) | Place::Loopback(place) | Place::App(place) => bounded(&place, MAX_ADDRESS),
    }
}

/// What kind of place a text leads to, as browsers read it. It is no judgement of what may be registered, which is
/// [`redirect::Place`](crate::oauth::clients::redirect::Place): a page shows any text, with its port, and warns of a
/// program on this computer where in doubt (`a.localhost`).
enum Place {
    /// A site.
    Host(String),
    /// A program on the same machine.
    Loopback(String),
    /// An app that has taken a scheme for itself (RFC 8252, section 7.1).
    App(String),
}

impl Place {
    fn of(uri: &str) -> Self {
        match host_of(uri) {
            Some(host) if is_loopback(host) => Self::Loopback(host.to_owned()),
            Some(host) => Self::Host(host.to_owned()),
            None => Self::App(format!("{}:", uri.split(':').next().unwrap_or_default())),
        }
    }
}

/// Host and port of a web address, as browsers read it: what stands before an `@` is no host, and a `\` is
/// a `/`.
fn host_of(uri: &str) -> Option<&str> {
    let (scheme, rest) = uri.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
        return None;
    }
    let authority = rest.split(['/', '?', '#', '\\']).next()?;
    Some(authority.rsplit_once('@').map_or(authority, |(_, host)| host))
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let host = host.to_ascii_lowercase();
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client<'a>(kind: ClientKind, id: &'a str, redirect_uri: &'a str) -> Client<'a> {
        Client { name: Some("App"), id, kind, redirect_uri: Some(redirect_uri) }
    }

    #[test]
    fn the_target_is_what_a_browser_would_go_to() {
        for (uri, target, warned) in [
            ("https://claude.ai/api/cb", "claude.ai", false),
            ("https://claude.ai:8443/cb", "claude.ai:8443", false),
            ("https://claude.ai@evil.example/cb", "evil.example", false),
            ("https://evil.example\\@claude.ai/cb", "evil.example", false),
            ("http://127.0.0.1:33418/", "127.0.0.1:33418", true),
            ("http://127.8.0.1/cb", "127.8.0.1", true),
            ("http://[::1]:8080/cb", "[::1]:8080", true),
            ("http://[::ffff:127.0.0.1]/cb", "[::ffff:127.0.0.1]", true),
            ("http://LocalHost:6274/cb", "LocalHost:6274", true),
            ("http://localhost.evil.example/cb", "localhost.evil.example", false),
            ("https://127.0.0.1.evil.example/", "127.0.0.1.evil.example", false),
            ("cursor://claude.ai/cb", "cursor:", true),
            ("com.example.app:/cb", "com.example.app:", true),
        ] {
            let view = client(ClientKind::Registered, "c", uri).view();
            assert_eq!(view.target.as_deref(), Some(target), "{uri}");
            assert_eq!(!view.warnings.is_empty(), warned, "{uri}");
        }
    }

    #[test]
    fn a_name_is_worth_as_much_as_who_vouches_for_it() {
        let site = "https://app.example/cb";
        for (kind, id, origin, warnings) in [
            (ClientKind::Registered, "backend", "backend (registered by an administrator)", 0),
            (ClientKind::Dynamic, "client_1", "client_1 (registered itself)", 1),
            (ClientKind::Document, "https://claude.ai/oauth/metadata", "claude.ai", 0),
        ] {
            let view = client(kind, id, site).view();
            assert_eq!((view.origin.as_str(), view.warnings.len()), (origin, warnings));
        }
        let spoofed =
            Client { name: Some("\u{421}laude"), ..client(ClientKind::Document, "https://evil/c", site) };
        assert_eq!(spoofed.view().warnings.len(), 1);
        let nameless =
            Client { name: Some(" \u{200b}"), ..client(ClientKind::Document, "https://evil/c", site) };
        assert_eq!(nameless.view().name, "https://evil/c");
    }
}
