//! What the layers learn of a connection and of a request.
//!
//! Facts travel with the value, as small named types. A request carries one extension, the
//! [`RequestContext`], and one [`Arc<Conn>`] in it that all requests of a connection share:
//! an extension for each fact would cost an allocation each. Every field has one writer.

mod mcp_call;

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method};
use smol_str::SmolStr;

use crate::check::Check;
use crate::names::HostName;

pub use self::mcp_call::{McpCall, Outcome, Verdict};

/// The address of the client as far as we believe it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddr(pub SocketAddr);

impl ClientAddr {
    /// The address without the port, an IPv4-mapped IPv6 address as IPv4.
    pub const fn ip(&self) -> IpAddr {
        self.0.ip().to_canonical()
    }
}

impl ClientAddr {
    /// Who shares a limit where nobody is known: an IPv4 address, or the /64 of an IPv6 address, which one machine has
    /// for itself.
    pub const fn network(&self) -> IpAddr {
        match self.ip() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::V6(std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            v4 @ IpAddr::V4(_) => v4,
        }
    }
}

/// What the TLS handshake settled. Written by the `tls` layer.
#[derive(Debug, Clone)]
pub struct TlsInfo {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The server name that the client asked for (RFC 6066, section 3).
    pub sni: Option<HostName>,
    /// The protocol that ALPN settled, `h2` or `http/1.1` (RFC 7301); `None` when the client offered none.
    pub alpn: Option<&'static str>,
    /// The names of the certificate that was served.
    pub names: CertNames,
}

/// The names that a certificate covers: exact ones and `*.parent`.
#[derive(Debug, Clone, Default)]
pub struct CertNames(pub Arc<[SmolStr]>);

impl CertNames {
    /// Whether the certificate is good for this host. A wildcard stands for exactly one label (RFC 9525, section 6.3).
    pub fn cover(&self, host: &HostName) -> bool {
        self.0.iter().any(|name| match name.strip_prefix("*.") {
            Some(parent) => host.parent() == Some(parent),
            None => name == host.as_str(),
        })
    }
}

/// What is known of a connection; every request on it shares one.
#[derive(Debug)]
pub struct Conn {
    /// The address that the client connected to.
    pub local: SocketAddr,
    /// The other end of the socket.
    pub peer: SocketAddr,
    /// Whom we believe at connection level: the peer, or what PROXY protocol said.
    pub client: ClientAddr,
    /// `None` on a plain connection.
    pub tls: Option<TlsInfo>,
    /// `client` as a header value, made once and shared by every request that forwards it.
    pub client_header: HeaderValue,
}

impl Conn {
    /// Collects the facts of a connection.
    pub fn new(local: SocketAddr, peer: SocketAddr, client: ClientAddr, tls: Option<TlsInfo>) -> Self {
        let client_header =
            HeaderValue::try_from(client.ip().to_string()).expect("an address is a valid header value");
        Self { local, peer, client, tls, client_header }
    }

    /// `https` on a TLS connection, else `http`.
    pub const fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// Everything the layers know of one request.
///
/// `serve` inserts it; a layer that is used alone inserts an empty one ([`RequestContext::of`]).
#[derive(Debug, Clone, Default)]
pub struct RequestContext {
    /// Written by `serve`; read by access log, normalize, forwarded, allowlist.
    pub conn: Option<Arc<Conn>>,
    /// Written by the access log (or whoever stands outermost); read by respond, forward.
    pub id: Option<RequestId>,
    /// The client behind trusted proxies. Written by normalize; read by forwarded, allowlist, access log. `None`: that of the connection.
    pub client: Option<ClientAddr>,
    /// The scheme that a trusted proxy says the client used, `http` or `https`. Written by normalize;
    /// read by https redirect, forwarded. `None`: that of the connection.
    pub scheme: Option<&'static str>,
    /// Written by normalize; read by hosts, auth, resource metadata, forwarded.
    pub host: Option<HostName>,
    /// Written by route; read by the route dispatcher, access log, headers.
    pub route: Option<RouteMatch>,
    /// Written by auth; read by allowlist, headers and the control plane.
    pub principal: Option<Arc<Principal>>,
    /// Whether anybody may make this request: an excepted path, or a host that only takes note of who calls.
    /// Written by auth; read by allowlist, which then looks at networks only.
    pub open: bool,
    /// What was asked for. Written by auth; read by forward, for what outlives a change of the rules about it.
    pub asked: Option<Asked>,
    /// Which configuration the request was looked up in, or the one before. Written by hosts; read by forward,
    /// for what outlives a change.
    pub revision: u64,
    /// Created by the access log, filled in by route, auth, respond and forward. `None` when nobody logs.
    pub facts: Option<Arc<Facts>>,
}

impl RequestContext {
    /// The context of a request, inserted empty when no layer outside has done so.
    pub fn of(extensions: &mut http::Extensions) -> &mut Self {
        extensions.get_or_insert_default()
    }

    /// The context of a request, if a layer outside has made one.
    ///
    /// One function for all who ask, for its code is in the cache then.
    #[inline(never)]
    pub fn get(extensions: &http::Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// The context of a new request on a connection, in extensions that an earlier request has left, where there are any.
    pub fn begin(conn: &Arc<Conn>, extensions: &mut http::Extensions) {
        if extensions.is_empty()
            && let Some(left) = LEFT.with_borrow_mut(Vec::pop)
        {
            *extensions = left;
        }
        Self::of(extensions).conn = Some(Arc::clone(conn));
    }

    /// The client as far as we believe it: behind trusted proxies, else of the connection.
    pub fn client_addr(&self) -> Option<ClientAddr> {
        self.client.or_else(|| self.conn.as_ref().map(|conn| conn.client))
    }

    /// The scheme that the client used: by a trusted proxy's word, else that of the connection to us.
    pub fn scheme(&self) -> &'static str {
        self.scheme.unwrap_or_else(|| self.conn.as_ref().map_or("http", |conn| conn.scheme()))
    }

    /// Whether the client's connection to us is encrypted.
    pub fn is_tls(&self) -> bool {
        self.conn.as_ref().is_some_and(|conn| conn.tls.is_some())
    }
}

/// What a request asks for, as rules about methods and paths see it.
#[derive(Clone, PartialEq, Eq)]
pub struct Asked {
    method: Method,
    // The request's own bytes: a path of its own would be an allocation for each request.
    path: PathAndQuery,
}

impl Asked {
    /// What this method and path ask for.
    pub const fn new(method: Method, path: PathAndQuery) -> Self {
        Self { method, path }
    }

    /// The method.
    pub const fn method(&self) -> &Method {
        &self.method
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.path.path()
    }

    /// The same without the request's bytes, for who keeps it long.
    #[must_use]
    pub fn detached(&self) -> Self {
        // A part of a valid path is valid.
        let path = self.path().parse().unwrap_or_else(|_| PathAndQuery::from_static("/"));
        Self { method: self.method.clone(), path }
    }
}

impl fmt::Debug for Asked {
    // A query may have secrets in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path())
    }
}

/// How many extensions a thread keeps for further requests.
const LEFT_AT_MOST: usize = 64;

thread_local! {
    static LEFT: RefCell<Vec<http::Extensions>> = const { RefCell::new(Vec::new()) };
}

/// The extensions of a request that is over: three allocations that the next one on this thread need not make again.
#[derive(Debug, Default)]
pub struct Leaving(http::Extensions);

impl Leaving {
    /// Takes them; they are put aside when this is dropped.
    pub const fn new(extensions: http::Extensions) -> Self {
        Self(extensions)
    }

    /// The context of the request.
    pub fn context(&mut self) -> &mut RequestContext {
        RequestContext::of(&mut self.0)
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        // Anything else in there would become a fact of another request.
        if self.0.len() == 1
            && let Some(context) = self.0.get_mut::<RequestContext>()
        {
            *context = RequestContext::default();
            let extensions = std::mem::take(&mut self.0);
            // A thread that ends has no list any more, and needs none.
            let _ended = LEFT.try_with(|left| {
                if let Ok(mut left) = left.try_borrow_mut()
                    && left.len() < LEFT_AT_MOST
                {
                    left.push(extensions);
                }
            });
        }
    }
}

/// Our own id of a request: a random prefix per worker and a counter, 32 hexadecimal digits as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(pub u64, pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0, self.1)
    }
}

impl RequestId {
    /// The id as a header value.
    pub fn to_header(self) -> HeaderValue {
        // Pieces of one block: every request has two of them, and each alone would be an allocation.
        let text = BLOCK.with_borrow_mut(|block| {
            if block.capacity() < ID_LENGTH {
                block.reserve(IDS_OF_A_BLOCK * ID_LENGTH);
            }
            block.extend_from_slice(&self.digits());
            block.split().freeze()
        });
        HeaderValue::from_maybe_shared(text).expect("hexadecimal digits are a valid header value")
    }

    /// The id as text, without the formatting machinery.
    pub fn digits(self) -> [u8; ID_LENGTH] {
        let mut text = [0; ID_LENGTH];
        let (first, second) = text.split_at_mut(ID_LENGTH / 2);
        first.copy_from_slice(&hexadecimal(self.0));
        second.copy_from_slice(&hexadecimal(self.1));
        text
    }
}

/// A number as sixteen hexadecimal digits, eight of them made at once.
pub(crate) fn hexadecimal(number: u64) -> [u8; 16] {
    const ONES: u64 = u64::MAX / 255;
    let digits = |half: u64| {
        // Four bits to a byte, in their order.
        let half = (half << 16 | half) & 0x0000_ffff_0000_ffff;
        let half = (half << 8 | half) & 0x00ff_00ff_00ff_00ff;
        let half = (half << 4 | half) & (ONES * 0x0f);
        // From ten on they are letters.
        let letters = (half + ONES * 6) >> 4 & ONES;
        (half + ONES * u64::from(b'0') + letters * u64::from(b'a' - b'0' - 10)).to_be_bytes()
    };
    let mut text = [0; 16];
    text[..8].copy_from_slice(&digits(number >> 32));
    text[8..].copy_from_slice(&digits(number & u64::from(u32::MAX)));
    text
}

/// The length of a request id as text.
pub const ID_LENGTH: usize = 32;

/// A header that is kept for long keeps its block, which therefore is small.
const IDS_OF_A_BLOCK: usize = 64;

thread_local! {
    static BLOCK: RefCell<BytesMut> = RefCell::default();
}

/// The route that matched.
#[derive(Debug, Clone)]
pub struct RouteMatch {
    /// The route's id, as in configuration and logs.
    pub id: SmolStr,
    /// Its place in the host's route table.
    pub index: usize,
}

/// Who is calling: what a verified token says, its scopes cut down to what the host's lists give this user now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Principal {
    /// `iss`.
    pub issuer: SmolStr,
    /// Whether the issuer is another one than the deployment's own: plain names on lists don't mean its users.
    pub foreign: bool,
    /// `sub`: for people GitHub's numeric id, for named tokens `service:NAME`.
    pub subject: SmolStr,
    /// The login name, for people; equal to `subject` for named tokens.
    pub username: Option<SmolStr>,
    /// The e-mail address, if the token has one.
    pub email: Option<SmolStr>,
    /// The display name, if the token has one.
    pub name: Option<SmolStr>,
    /// Groups or organisations, if the token has any.
    pub groups: Vec<SmolStr>,
    /// The scopes that hold on this host.
    pub scopes: Vec<SmolStr>,
    /// `client_id` (or `azp`).
    pub client_id: Option<SmolStr>,
    /// `aud`.
    pub audience: Vec<SmolStr>,
    /// `jti`.
    pub token_id: Option<SmolStr>,
    /// `exp`, seconds since 1970.
    pub expires_at: u64,
    /// The id of the key that has signed the token, if the issuer's key has one.
    pub key_id: Option<SmolStr>,
}

impl Principal {
    /// The login, or the subject of who has none, as it can stand beside names of all issuers: that of a user of
    /// another issuer is `ISSUER/NAME`, as lists of users have it, because anybody may be `alice` there.
    pub fn full_name(&self) -> Cow<'_, str> {
        self.of_issuer(self.username.as_ref().unwrap_or(&self.subject))
    }

    /// The subject, in the same form.
    pub fn full_subject(&self) -> Cow<'_, str> {
        self.of_issuer(&self.subject)
    }

    fn of_issuer<'a>(&self, name: &'a str) -> Cow<'a, str> {
        if !self.foreign {
            return Cow::Borrowed(name);
        }
        let issuer = self.issuer.strip_suffix('/').unwrap_or(&self.issuer);
        // Else `b/c` of `https://a` would read as `c` of `https://a/b`.
        Cow::Owned(format!("{issuer}/{}", name.replace('%', "%25").replace('/', "%2F")))
    }

    /// Whether a scope holds.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|held| held == scope)
    }
}

/// What the layers below the access log learned, for its record. Each fact is written once and without a lock.
///
/// The outermost layer gives the request away and would never see what inner layers inserted
/// into it; so it keeps one end of this and puts the other into the [`RequestContext`].
#[derive(Debug, Default)]
pub struct Facts {
    /// By normalize.
    pub host: OnceLock<HostName>,
    /// By normalize: the client behind trusted proxies, where it is another than the connection's.
    pub client: OnceLock<ClientAddr>,
    /// By route.
    pub route: OnceLock<SmolStr>,
    /// By auth.
    pub principal: OnceLock<Arc<Principal>>,
    /// By respond: the code of the rejection that was answered, e.g. `insufficient_scope`.
    pub code: OnceLock<&'static str>,
    /// By respond: the internal cause, for the log only.
    pub cause: OnceLock<String>,
    /// By respond, and by who judges requests to other hosts: the check of who asks that has failed.
    pub check: OnceLock<Check>,
    /// By who judges requests to other hosts: the host that this one was about.
    pub about: OnceLock<HostName>,
    /// By forward: the upstream that was asked first.
    pub upstream: OnceLock<SmolStr>,
    /// By forward, where more than one was asked: how many, and which one was the last.
    pub retried: OnceLock<(u32, SmolStr)>,
    /// By forward, in microseconds plus one: the time from the call until the upstream's response head; 0 is unset.
    pub upstream_micros: AtomicU64,
    /// By forward: bytes of the request body that went to the upstream.
    pub received: AtomicU64,
    /// By mcp: the call that the request is, where it is one. Empty for good when the record has been made: whoever comes
    /// later finds that out, and has to tell of the call by other means.
    pub call: OnceLock<Option<Box<McpCall>>>,
}

impl Facts {
    /// Notes how long the upstream took to send its response head.
    pub fn set_upstream_time(&self, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX - 1);
        self.upstream_micros.store(micros + 1, Ordering::Relaxed);
    }

    /// How long the upstream took to send its response head, if it did.
    pub fn upstream_time(&self) -> Option<Duration> {
        self.upstream_micros.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_micros)
    }
}

/// The bytes that went through a tunnel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TunnelEnd {
    /// From the client.
    pub received: u64,
    /// To the client.
    pub sent: u64,
}

/// Put into the extensions of a response that starts a tunnel (101, or 2xx to CONNECT), so that
/// the access log can write its record when the tunnel ends and not when the empty body does.
#[derive(Clone, Default)]
pub struct OnTunnelEnd(Arc<Mutex<Option<Callback>>>);

type Callback = Box<dyn FnOnce(TunnelEnd) + Send>;

impl OnTunnelEnd {
    /// Sets what is to run when the tunnel ends. Called by the access log.
    pub fn set(&self, callback: impl FnOnce(TunnelEnd) + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(callback));
    }

    /// Runs the callback, once. Called by the tunnel's task.
    pub fn end(&self, end: TunnelEnd) {
        let callback = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(callback) = callback {
            callback(end);
        }
    }
}

impl fmt::Debug for OnTunnelEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnTunnelEnd")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_certificate_covers_one_label() {
        let names = CertNames(["*.example.com".into(), "example.com".into()].into());
        for (host, covered) in [
            ("a.example.com", true),
            ("example.com", true),
            ("a.b.example.com", false),
            ("example.org", false),
        ] {
            assert_eq!(names.cover(&host.parse().expect("valid")), covered, "{host}");
        }
    }

    #[test]
    fn a_user_of_another_issuer_never_has_the_name_of_one_of_ours() {
        let own = Principal { username: Some("alice".into()), subject: "1".into(), ..Principal::default() };
        assert_eq!((&*own.full_name(), &*own.full_subject()), ("alice", "1"));
        let of = |issuer: &str, name: &str| {
            let principal = Principal {
                issuer: issuer.into(),
                foreign: true,
                username: Some(name.into()),
                ..Principal::default()
            };
            principal.full_name().into_owned()
        };
        assert_eq!(of("https://idp.example/", "alice"), "https://idp.example/alice");
        assert_ne!(of("https://a", "b/c"), of("https://a/b", "c"));
        assert_ne!(of("https://a", "b/c"), of("https://a", "b%2Fc"));
    }

    #[test]
    fn what_a_request_leaves_behind_holds_nothing_of_it() {
        let address = "192.0.2.1:1".parse().expect("valid");
        let conn = Arc::new(Conn::new(address, address, ClientAddr(address), None));
        let mut extensions = http::Extensions::new();
        let context = RequestContext::of(&mut extensions);
        context.principal = Some(Arc::default());
        context.open = true;
        drop(Leaving::new(extensions));
        let mut next = http::Extensions::new();
        RequestContext::begin(&conn, &mut next);
        assert_eq!(next.len(), 1);
        let context = RequestContext::of(&mut next);
        assert!(context.principal.is_none() && !context.open && context.conn.is_some());

        // What anybody else has put there goes away with the request.
        next.insert("a fact of this request");
        drop(Leaving::new(next));
        let mut third = http::Extensions::new();
        RequestContext::begin(&conn, &mut third);
        assert!(third.get::<&str>().is_none() && third.len() == 1);
    }

    #[test]
    fn a_request_id_is_32_hexadecimal_digits() {
        let id = RequestId(1, 255);
        assert_eq!(id.to_string(), "000000000000000100000000000000ff");
        assert_eq!(id.to_header(), id.to_string().as_str());
    }
}
