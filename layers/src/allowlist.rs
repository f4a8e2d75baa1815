//! Lets in only who and what is on a list: users, e-mail addresses, groups, client networks.
//!
//! Each kind of list that is configured must let the request in; a kind that is not configured is not
//! asked. An empty list lets nobody in, and so does an [`Allowlist`] with no list at all. Lists of
//! people need a principal: without one, nobody is let in.
//!
//! - *Users* are entries of [`Users`]: `*` is every authenticated person. A named token is let in only
//!   by its own entry `service:NAME`; that entry also stands for the e-mail and group lists, because
//!   a named token has neither.
//! - *E-mail addresses* are compared with patterns like `*@example.com` from their first to their last
//!   character, without regard to case. An address that has not exactly one `@` matches nothing.
//! - *Groups*: one in common is enough; those of our own issuer are compared without regard to case, as GitHub
//!   does with organisations and teams, those of other issuers exactly.
//! - *Networks* hold the client as far as we believe it, an IPv4-mapped address as IPv4.
//!
//! It authenticates nobody. A refusal is 403 without a challenge: a 401 would send clients into a
//! login loop that can't help them (RFC 9110, section 15.5.4).
//!
//! Where it stands: inside `auth`, which finds the principal, and inside `forwarded` or whoever knows
//! the client behind trusted proxies.
//!
//! ```
//! use portcullis_layers::allowlist::{Allowlist, AllowlistLayer};
//! use portcullis_layers::users::Users;
//! use portcullis_layers::{BoxError, Body, Principal, Rejection, RequestContext};
//! use std::sync::Arc;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # tokio_test::block_on(async {
//! let list = Allowlist { users: Some(Users::parse(["alice"])?), ..Allowlist::default() };
//! let service = ServiceBuilder::new().layer(AllowlistLayer::new(list)).service(service_fn(
//!     async |_: http::Request<Body>| Ok::<_, Rejection>(http::Response::new("hello")),
//! ));
//! for (name, welcome) in [("Alice", true), ("bob", false)] {
//!     let mut request = http::Request::new(Body::empty());
//!     let principal = Principal { username: Some(name.into()), ..Principal::default() };
//!     RequestContext::of(request.extensions_mut()).principal = Some(Arc::new(principal));
//!     assert_eq!(service.clone().oneshot(request).await.is_ok(), welcome);
//! }
//! # Ok::<_, BoxError>(())
//! # }).expect("served");
//! ```

use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::StatusCode;
use ipnet::IpNet;
use smol_str::SmolStr;
use tower_layer::Layer;
use tower_service::Service;

use crate::body::BoxError;
use crate::check::Check;
use crate::context::{Principal, RequestContext};
use crate::future::Gate;
use crate::glob;
use crate::rejection::Rejection;
use crate::users::Users;

/// Who may use a host or a route. `None` is "not asked", an empty list is "nobody".
#[derive(Debug, Clone, Default)]
pub struct Allowlist {
    /// Users by name.
    pub users: Option<Users>,
    /// E-mail addresses by pattern.
    pub emails: Option<Vec<EmailPattern>>,
    /// Groups by name.
    pub groups: Option<Vec<SmolStr>>,
    /// Networks of clients.
    pub networks: Option<Vec<IpNet>>,
}

impl Allowlist {
    /// Judges a caller.
    ///
    /// # Errors
    ///
    /// The first kind of list that does not let the caller in.
    pub fn check(&self, principal: Option<&Principal>, client: Option<IpAddr>) -> Result<(), AllowlistError> {
        let Self { users, emails, groups, networks } = self;
        if users.is_none() && emails.is_none() && groups.is_none() && networks.is_none() {
            return Err(AllowlistError::NoList);
        }
        self.check_network(client)?;
        if users.is_none() && emails.is_none() && groups.is_none() {
            return Ok(());
        }
        self.check_identity(principal.ok_or(AllowlistError::Anonymous)?)
    }

    /// Judges only who calls, not from where.
    ///
    /// # Errors
    ///
    /// The first kind of list that does not let the caller in.
    pub fn check_identity(&self, principal: &Principal) -> Result<(), AllowlistError> {
        let Self { users, emails, groups, .. } = self;
        let subject = || principal.subject.clone();
        if let Some(users) = users {
            if !users.contains(principal) {
                return Err(AllowlistError::User(subject()));
            }
            if users.names_service(principal) {
                return Ok(());
            }
        }
        if let Some(patterns) = emails {
            let email = principal.email.as_deref().unwrap_or_default();
            if !patterns.iter().any(|pattern| pattern.covers(email)) {
                return Err(AllowlistError::Email(subject()));
            }
        }
        if let Some(groups) = groups
            && !principal
                .groups
                .iter()
                .any(|own| groups.iter().any(|listed| is_group(listed, own, principal)))
        {
            return Err(AllowlistError::Group(subject()));
        }
        Ok(())
    }

    /// Judges only where a request comes from.
    ///
    /// # Errors
    ///
    /// When there is a list of networks and the client is in none of them.
    pub fn check_network(&self, client: Option<IpAddr>) -> Result<(), AllowlistError> {
        let Some(networks) = &self.networks else { return Ok(()) };
        let client = client.map(|address| address.to_canonical());
        if client.is_some_and(|address| networks.iter().any(|network| holds(network, address))) {
            return Ok(());
        }
        Err(AllowlistError::Network(client))
    }
}

/// Another issuer may tell groups apart by case.
fn is_group(listed: &str, own: &str, principal: &Principal) -> bool {
    if principal.foreign { listed == own } else { listed.eq_ignore_ascii_case(own) }
}

/// A network as it is meant: `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
pub(crate) fn holds(network: &IpNet, address: IpAddr) -> bool {
    match (network, address) {
        (IpNet::V6(v6), IpAddr::V4(v4)) => v6.contains(&v4.to_ipv6_mapped()) && v6.prefix_len() >= 96,
        _ => network.contains(&address),
    }
}

/// A pattern of e-mail addresses: `alice@example.com`, `*@example.com`, or `*` for any address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmailPattern {
    // Lower-cased, so that equal patterns compare as equal.
    local: SmolStr,
    domain: SmolStr,
}

/// A text that is no pattern of e-mail addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("e-mail pattern {0:?} has not exactly one '@' between a name and a domain")]
pub struct InvalidEmailPattern(pub String);

impl EmailPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// When it is neither `*` nor has exactly one `@` with something on both sides.
    pub fn parse(text: &str) -> Result<Self, InvalidEmailPattern> {
        let text = text.trim();
        let (local, domain) = if text == "*" { Some(("*", "*")) } else { split_address(text) }
            .ok_or_else(|| InvalidEmailPattern(text.to_owned()))?;
        Ok(Self { local: local.to_ascii_lowercase().into(), domain: domain.to_ascii_lowercase().into() })
    }

    /// Whether the pattern covers a whole address.
    pub fn covers(&self, email: &str) -> bool {
        split_address(email).is_some_and(|(local, domain)| {
            glob::matches_ignoring_case(&self.local, local)
                && glob::matches_ignoring_case(&self.domain, domain)
        })
    }
}

/// The two sides of an address with exactly one `@` and no blanks: what a quoted name could hide is not read.
fn split_address(text: &str) -> Option<(&str, &str)> {
    let (local, domain) = text.split_once('@')?;
    let fine = |side: &str| {
        !side.is_empty() && !side.chars().any(|c| c == '@' || c == '"' || c.is_whitespace() || c.is_control())
    };
    (fine(local) && fine(domain)).then_some((local, domain))
}

/// Adds [`AllowlistService`] to a stack.
#[derive(Debug, Clone)]
pub struct AllowlistLayer {
    list: Arc<Allowlist>,
}

impl AllowlistLayer {
    /// Lets in only whom the lists let in.
    pub fn new(list: impl Into<Arc<Allowlist>>) -> Self {
        Self { list: list.into() }
    }
}

impl<S> Layer<S> for AllowlistLayer {
    type Service = AllowlistService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AllowlistService { inner, list: Arc::clone(&self.list) }
    }
}

/// Lets in only who and what is on a list.
#[derive(Debug, Clone)]
pub struct AllowlistService<S> {
    inner: S,
    list: Arc<Allowlist>,
}

impl<S, B, R> Service<http::Request<B>> for AllowlistService<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = http::Response<R>;
    type Error = BoxError;
    type Future = Gate<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let context = RequestContext::of(request.extensions_mut());
        let client = context.client_addr().map(|client| client.ip());
        let outcome = if context.open {
            self.list.check_network(client)
        } else {
            self.list.check(context.principal.as_deref(), client)
        };
        match outcome {
            Ok(()) => Gate::pass(self.inner.call(request)),
            Err(error) => Gate::refuse(Rejection::from(error)),
        }
    }
}

/// Which kind of list did not let a request in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllowlistError {
    /// No list is configured.
    #[error("no list lets anybody in")]
    NoList,
    /// Nobody was authenticated.
    #[error("the lists name people and the request is anonymous")]
    Anonymous,
    /// The user is on no list.
    #[error("user {0:?} is not on the list")]
    User(SmolStr),
    /// The user has no address that a pattern covers.
    #[error("no e-mail pattern covers the address of user {0:?}")]
    Email(SmolStr),
    /// The user is in none of the groups.
    #[error("user {0:?} is in none of the groups")]
    Group(SmolStr),
    /// The client is in none of the networks, or not known.
    #[error("client {0:?} is in none of the networks")]
    Network(Option<IpAddr>),
}

impl From<AllowlistError> for Rejection {
    fn from(error: AllowlistError) -> Self {
        let detail = match error {
            AllowlistError::NoList | AllowlistError::Anonymous | AllowlistError::User(_) => {
                "User not authorized"
            }
            AllowlistError::Email(_) => "Email not authorized",
            AllowlistError::Group(_) => "Group not authorized",
            AllowlistError::Network(_) => "Network not authorized",
        };
        let rejection = Self::new(StatusCode::FORBIDDEN, "access_denied", detail);
        // Where somebody comes from says nothing about who it is.
        let is_about_users = !matches!(error, AllowlistError::Network(_));
        let rejection = if is_about_users { rejection.with_check(Check::User) } else { rejection };
        rejection.with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> Principal {
        Principal {
            subject: "1".into(),
            username: Some("alice".into()),
            email: Some("Alice@Example.com".into()),
            groups: vec!["staff".into(), "dev".into(), "acme/PLATFORM".into()],
            ..Principal::default()
        }
    }

    fn users(entries: &[&str]) -> Option<Users> {
        Some(Users::parse(entries).expect("valid"))
    }

    fn emails(patterns: &[&str]) -> Option<Vec<EmailPattern>> {
        Some(patterns.iter().map(|text| EmailPattern::parse(text).expect("valid")).collect())
    }

    fn networks(texts: &[&str]) -> Option<Vec<IpNet>> {
        Some(texts.iter().map(|text| text.parse().expect("valid")).collect())
    }

    #[test]
    fn every_configured_kind_must_let_the_request_in() {
        let default = Allowlist::default;
        let user = || AllowlistError::User("1".into());
        let email = || AllowlistError::Email("1".into());
        let group = || AllowlistError::Group("1".into());
        for (list, expected) in [
            (default(), Err(AllowlistError::NoList)),
            (Allowlist { users: users(&["ALICE"]), ..default() }, Ok(())),
            (Allowlist { users: users(&["*"]), ..default() }, Ok(())),
            (Allowlist { users: users(&[]), ..default() }, Err(user())),
            (Allowlist { users: users(&["bob"]), ..default() }, Err(user())),
            (Allowlist { emails: emails(&["*@example.com"]), ..default() }, Ok(())),
            (Allowlist { emails: emails(&[]), ..default() }, Err(email())),
            (
                Allowlist { users: users(&["alice"]), emails: emails(&["*@other.com"]), ..default() },
                Err(email()),
            ),
            (Allowlist { users: users(&["bob"]), emails: emails(&["*"]), ..default() }, Err(user())),
            (Allowlist { groups: Some(vec!["dev".into(), "ops".into()]), ..default() }, Ok(())),
            (Allowlist { groups: Some(vec!["Dev".into()]), ..default() }, Ok(())),
            (Allowlist { groups: Some(vec!["Acme/Platform".into()]), ..default() }, Ok(())),
            (Allowlist { groups: Some(vec!["acme/platform2".into()]), ..default() }, Err(group())),
            (Allowlist { groups: Some(vec!["acme".into()]), ..default() }, Err(group())),
            (Allowlist { groups: Some(vec![]), ..default() }, Err(group())),
            (Allowlist { users: users(&["*"]), networks: networks(&["10.0.0.0/8"]), ..default() }, Ok(())),
            (
                Allowlist { users: users(&["*"]), networks: networks(&["192.0.2.0/24"]), ..default() },
                Err(AllowlistError::Network(Some([10, 1, 2, 3].into()))),
            ),
            (
                Allowlist { networks: networks(&[]), ..default() },
                Err(AllowlistError::Network(Some([10, 1, 2, 3].into()))),
            ),
        ] {
            assert_eq!(list.check(Some(&alice()), Some([10, 1, 2, 3].into())), expected, "{list:?}");
        }
    }

    #[test]
    fn groups_of_another_issuer_differ_by_case() {
        let foreign = Principal { foreign: true, ..alice() };
        for (group, holds) in [("dev", true), ("Dev", false)] {
            let list = Allowlist { groups: Some(vec![group.into()]), ..Allowlist::default() };
            assert_eq!(list.check(Some(&foreign), None).is_ok(), holds, "{group}");
        }
    }

    #[test]
    fn lists_of_people_need_a_principal() {
        let list = Allowlist { users: users(&["*"]), ..Allowlist::default() };
        assert_eq!(list.check(None, None), Err(AllowlistError::Anonymous));
        let list = Allowlist { networks: networks(&["10.0.0.0/8"]), ..Allowlist::default() };
        assert_eq!(list.check(None, Some([10, 0, 0, 1].into())), Ok(()));
        assert_eq!(list.check(None, None), Err(AllowlistError::Network(None)));
    }

    #[test]
    fn a_named_token_needs_its_own_entry_and_no_address() {
        let token = Principal { subject: "service:ci".into(), ..Principal::default() };
        let list = Allowlist { users: users(&["*"]), ..Allowlist::default() };
        assert!(list.check(Some(&token), None).is_err());
        let list = Allowlist {
            users: users(&["service:ci"]),
            emails: emails(&["*@example.com"]),
            groups: Some(vec!["staff".into()]),
            ..Allowlist::default()
        };
        assert_eq!(list.check(Some(&token), None), Ok(()));
        let list = Allowlist { networks: networks(&["10.0.0.0/8"]), ..list };
        assert!(list.check(Some(&token), Some([192, 0, 2, 1].into())).is_err());
    }

    #[test]
    fn email_patterns_are_anchored() {
        for (pattern, email, covered) in [
            ("*@example.com", "a@example.com", true),
            ("*@example.com", "A@EXAMPLE.COM", true),
            ("*@Example.com", "a@example.com", true),
            ("*@example.com", "a@example.com.evil", false),
            ("*@example.com", "a@xexample.com", false),
            ("*@example.com", "a@examplexcom", false),
            ("*@example.com", "a@evil@example.com", false),
            ("*@example.com", "\"a@evil\"@example.com", false),
            ("*@example.com", "a b@example.com", false),
            ("*@example.com", "a\n@example.com", false),
            ("*@example.com", "@example.com", false),
            ("*@example.com", "example.com", false),
            ("*@example.com", "", false),
            ("*@*.example.com", "a@b.c.example.com", true),
            ("*@*.example.com", "a@example.com", false),
            ("a*z@example.com", "abcz@example.com", true),
            ("a*z@example.com", "abc@example.com", false),
            ("bob@example.com", "Bob@example.com", true),
            ("bob@example.com", "bobby@example.com", false),
            ("*", "a@b", true),
            ("*", "", false),
        ] {
            let parsed = EmailPattern::parse(pattern).expect("valid");
            assert_eq!(parsed.covers(email), covered, "{pattern} {email:?}");
        }
        for pattern in ["", "example.com", "@example.com", "a@", "a@b@c", "a b@c", "**"] {
            assert!(EmailPattern::parse(pattern).is_err(), "{pattern:?} was taken");
        }
    }

    #[test]
    fn networks_see_mapped_addresses_as_ipv4() {
        for (network, address, held) in [
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("::/0", "10.1.2.3", false),
            ("::/0", "2001:db8::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("0.0.0.0/0", "2001:db8::1", false),
        ] {
            let list = Allowlist { networks: networks(&[network]), ..Allowlist::default() };
            let address = address.parse().expect("valid");
            assert_eq!(list.check(None, Some(address)).is_ok(), held, "{network} {address}");
        }
    }

    #[test]
    fn a_refusal_is_403_without_a_challenge() {
        let rejection = Rejection::from(AllowlistError::User("1".into()));
        assert_eq!(rejection.status(), StatusCode::FORBIDDEN);
        assert_eq!((rejection.code(), rejection.check()), ("access_denied", Some(Check::User)));
        assert!(rejection.headers().is_empty());
        assert!(!rejection.detail().contains('1'), "the public text names the user");
    }
}
