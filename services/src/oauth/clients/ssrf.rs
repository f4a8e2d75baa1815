//! Fetches documents from URLs that strangers choose, without letting them reach what only we can.
//!
//! The name is looked up first, and the fetch is refused unless *every* address is a public one; the
//! connection then goes to an address that was checked, so that a second answer of the resolver
//! changes nothing. Redirects and environment proxies are not followed, time and size are bounded, and only JSON
//! is read. What is fetched is not trusted for coming from there: that is the caller's to judge.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use ipnet::IpNet;
use portcullis_layers::forward::{
    Balancing, Client, Forward, InvalidTarget, Protocol, Scheme, Target, Timeouts, TlsOptions, Upstream,
};
use portcullis_layers::{Body, BoxError, HostName};
use smol_str::SmolStr;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// From looking the name up until the last byte.
const LIMIT: Duration = Duration::from_secs(5);

/// Documents in use have more than the 5 kB of the draft.
const MAX_BODY: usize = 64 * 1024;

/// The longest URL.
const MAX_URL: usize = 1024;

/// How many fetches run at once: strangers can cause them.
const AT_ONCE: usize = 32;

/// How many of them go to the same host: none is to be flooded from here, nor may one that is slow hold all turns.
const AT_ONCE_EACH: usize = 4;

/// Hosts that are told apart at a time. Others share a place, and nobody can choose with whom.
const PLACES: usize = 1024;

/// How many of a name's addresses are tried.
const MAX_ADDRESSES: usize = 4;

/// Some servers refuse requests that don't say who asks.
const USER_AGENT: &str = concat!("portcullis/", env!("CARGO_PKG_VERSION"));

/// An `https` URL without user information and fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpsUrl {
    text: String,
    host: HostName,
    port: u16,
    target: Uri,
}

/// A text that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an https URL of at most {MAX_URL} characters, without user and fragment")]
pub struct InvalidUrl;

impl HttpsUrl {
    /// The URL, as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host.
    pub const fn host(&self) -> &HostName {
        &self.host
    }

    /// The path, as it was written.
    pub fn path(&self) -> &str {
        self.target.path()
    }
}

impl FromStr for HttpsUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let rest = text.strip_prefix("https://").ok_or(InvalidUrl)?;
        if text.len() > MAX_URL
            || !text.bytes().all(|byte| byte.is_ascii_graphic())
            || text.contains(['#', '\\', '<', '>', '"', '`', '{', '}', '|', '^'])
        {
            return Err(InvalidUrl);
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err(InvalidUrl);
        }
        let colon = authority.rfind(':').filter(|colon| authority.rfind(']').is_none_or(|end| end < *colon));
        let (host, port) = match colon {
            Some(colon) => {
                let digits = &authority[colon + 1..];
                let port = digits.parse().ok().filter(|port| *port != 0 && !digits.starts_with('+'));
                (&authority[..colon], port.ok_or(InvalidUrl)?)
            }
            None => (authority, 443),
        };
        let host = host.parse().map_err(|_| InvalidUrl)?;
        let target = if target.starts_with('/') { target.parse() } else { format!("/{target}").parse() };
        Ok(Self { text: text.to_owned(), host, port, target: target.map_err(|_| InvalidUrl)? })
    }
}

/// What may be fetched beside public addresses on port 443: for tests, and for clients of one's own network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exceptions {
    /// Networks whose addresses count as public.
    pub networks: Vec<IpNet>,
    /// Hosts that may have any address.
    pub hosts: Vec<HostName>,
    /// Further ports.
    pub ports: Vec<u16>,
}

/// Why a document was not fetched. For logs: it says what there is in networks that only we can look into. What the
/// server at the other end can choose is not repeated.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A port that is not the usual one.
    #[error("port {0} is not allowed, only 443")]
    Port(u16),
    /// The name has no address.
    #[error("the name of the host was not found")]
    Resolve(#[source] std::io::Error),
    /// An address that is not public.
    #[error("the host has an address that is not public")]
    NotPublic,
    /// The call can't be set up.
    #[error("the host can't be called")]
    Setup(#[source] InvalidTarget),
    /// No connection, no TLS, or no HTTP.
    #[error("the host did not answer")]
    Call(#[source] BoxError),
    /// Too slow, or too many fetches wait.
    #[error("there was no whole answer within {LIMIT:?}")]
    Slow,
    /// Redirects are among them.
    #[error("the host answered {} instead of 200", .0.as_u16())]
    Status(StatusCode),
    /// Something else than JSON.
    #[error("the answer is not declared as JSON")]
    ContentType,
    /// Too long.
    #[error("the answer is longer than {MAX_BODY} bytes")]
    TooLong,
    /// Not whole.
    #[error("the answer broke off")]
    BrokeOff(#[source] BoxError),
}

/// A good answer.
#[derive(Debug)]
pub enum Answer {
    /// A document.
    Document {
        /// Its bytes.
        body: Bytes,
        /// What it may be asked for again by.
        etag: Option<HeaderValue>,
        /// How long it is good, if that is said; zero if it must not be kept.
        max_age: Option<Duration>,
    },
    /// The document that was known is still the one (RFC 9110, section 15.4.5).
    NotModified {
        /// For how much longer.
        max_age: Option<Duration>,
    },
}

/// Fetches. One for a process, so that the number of fetches at once is bounded.
#[derive(Debug)]
pub struct Guard {
    client: Client,
    ca: Option<Arc<str>>,
    exceptions: Exceptions,
    turns: Arc<Semaphore>,
    hasher: RandomState,
    hosts: Vec<Arc<Semaphore>>,
}

/// The right to call a host. Whoever waits for its host holds nothing that others wait for.
#[derive(Debug)]
struct Turn {
    _host: OwnedSemaphorePermit,
    _any: OwnedSemaphorePermit,
}

impl Guard {
    /// Calls with this client. Certificates must be good for the platform's authorities, or for those
    /// in `ca` (PEM) alone.
    pub fn new(client: Client, ca: Option<Arc<str>>, exceptions: Exceptions) -> Self {
        let hosts = (0..PLACES).map(|_| Arc::new(Semaphore::new(AT_ONCE_EACH))).collect();
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        Self { client, ca, exceptions, turns, hasher: RandomState::new(), hosts }
    }

    /// Fetches a document, or learns that the one with this tag still is what is there.
    ///
    /// # Errors
    ///
    /// See [`FetchError`].
    pub async fn get(&self, url: &HttpsUrl, etag: Option<&HeaderValue>) -> Result<Answer, FetchError> {
        if url.port != 443 && !self.exceptions.ports.contains(&url.port) {
            return Err(FetchError::Port(url.port));
        }
        let fetch = async {
            let addresses = self.addresses(url).await?;
            self.call(url, &addresses, etag).await
        };
        tokio::time::timeout(LIMIT, fetch).await.map_err(|_| FetchError::Slow)?
    }

    async fn turn(&self, host: &HostName) -> Result<Turn, FetchError> {
        let own = Arc::clone(&self.hosts[self.place(host)]);
        let host = own.acquire_owned().await.map_err(|_| FetchError::Slow)?;
        let any = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| FetchError::Slow)?;
        Ok(Turn { _host: host, _any: any })
    }

    #[expect(clippy::cast_possible_truncation, reason = "the remainder is smaller than a usize")]
    fn place(&self, host: &HostName) -> usize {
        (self.hasher.hash_one(host.as_str()) % PLACES as u64) as usize
    }

    /// The addresses that may be connected to.
    async fn addresses(&self, url: &HttpsUrl) -> Result<Vec<SocketAddr>, FetchError> {
        let host = url.host.as_str();
        let bare = host.trim_matches(['[', ']']).to_owned();
        let found = match bare.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, url.port)],
            Err(_) => {
                let turn = self.turn(&url.host).await?;
                let port = url.port;
                // A lookup can't be called off: its turn ends with it, not with those who wait for it.
                let lookup = tokio::spawn(async move {
                    let found = tokio::net::lookup_host((bare, port)).await.map(Vec::from_iter);
                    drop(turn);
                    found
                });
                let found =
                    lookup.await.map_err(|error| FetchError::Resolve(std::io::Error::other(error)))?;
                found.map_err(FetchError::Resolve)?
            }
        };
        self.judge(&url.host, found)
    }

    fn judge(&self, host: &HostName, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, FetchError> {
        if found.is_empty() {
            return Err(FetchError::Resolve(std::io::ErrorKind::NotFound.into()));
        }
        let excepted = |address: &IpAddr| {
            self.exceptions.hosts.contains(host)
                || self.exceptions.networks.iter().any(|network| network.contains(address))
        };
        if !found.iter().all(|found| is_public(found.ip()) || excepted(&found.ip())) {
            return Err(FetchError::NotPublic);
        }
        Ok(found)
    }

    async fn call(
        &self,
        url: &HttpsUrl,
        addresses: &[SocketAddr],
        etag: Option<&HeaderValue>,
    ) -> Result<Answer, FetchError> {
        let _turn = self.turn(&url.host).await?;
        let upstreams =
            addresses.iter().take(MAX_ADDRESSES).map(|address| self.pinned(url, *address)).collect();
        let target = Target {
            upstreams,
            balancing: Balancing::default(),
            preserve_host: true,
            timeouts: TIMEOUTS,
            protected: Vec::new(),
        };
        let forward =
            Forward::new(&self.client, target, CancellationToken::new()).map_err(FetchError::Setup)?;
        let response = forward.send(request(url, etag)).await.map_err(FetchError::Call)?;
        let headers = response.headers();
        let max_age = max_age(headers);
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED if etag.is_some() => return Ok(Answer::NotModified { max_age }),
            other => return Err(FetchError::Status(other)),
        }
        if !is_json(headers) {
            return Err(FetchError::ContentType);
        }
        let etag = headers.get(header::ETAG).filter(|tag| tag.len() <= 256).cloned();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() { FetchError::TooLong } else { FetchError::BrokeOff(error) }
        })?;
        Ok(Answer::Document { body: body.to_bytes(), etag, max_age })
    }

    /// An address that was checked, with the certificate of the name.
    fn pinned(&self, url: &HttpsUrl, address: SocketAddr) -> Upstream {
        let host = match address.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Upstream {
            scheme: Scheme::Https,
            host: host.parse().expect("an address is a host"),
            port: address.port(),
            base_path: SmolStr::default(),
            weight: 1,
            tls: TlsOptions { verify: true, ca: self.ca.clone(), server_name: Some(url.host.clone()) },
            protocol: Protocol::Http1,
            proxy_header: None,
        }
    }
}

/// Short enough that a second address has its chance.
const TIMEOUTS: Timeouts = Timeouts { connect: Duration::from_secs(2), head: LIMIT, body_idle: Some(LIMIT) };

fn request(url: &HttpsUrl, etag: Option<&HeaderValue>) -> http::Request<Body> {
    let mut request = http::Request::new(Body::empty());
    *request.uri_mut() = url.target.clone();
    let authority = if url.port == 443 { url.host.to_string() } else { format!("{}:{}", url.host, url.port) };
    let headers = request.headers_mut();
    headers.insert(header::HOST, authority.try_into().expect("a host and a port are a valid value"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, application/jwk-set+json"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    if let Some(etag) = etag {
        headers.insert(header::IF_NONE_MATCH, etag.clone());
    }
    request
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(value)) = headers.get(header::CONTENT_TYPE).map(HeaderValue::to_str) else { return false };
    let kind = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// RFC 9111, sections 4.2.1 and 5.2.2. What must not be kept or not be used unasked has no age at all.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let texts = |name| headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let mut longest = None;
    for directive in texts(header::CACHE_CONTROL).flat_map(|value| value.split(',')).map(str::trim) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        if name.eq_ignore_ascii_case("no-store") || name.eq_ignore_ascii_case("no-cache") {
            return Some(Duration::ZERO);
        }
        if name.eq_ignore_ascii_case("max-age") && longest.is_none() {
            longest = value.trim_matches('"').parse().ok();
        }
    }
    let age: u64 = texts(header::AGE).next().and_then(|age| age.trim().parse().ok()).unwrap_or(0);
    longest.map(|longest: u64| Duration::from_secs(longest.saturating_sub(age)))
}

/// Whether an address is one of the public internet, going by the IANA registries of special-purpose
/// addresses (RFC 6890). Addresses that lead into IPv4 by some translation are not: what they reach depends
/// on the network that we are in.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !SPECIAL_V4.iter().any(|(network, bits)| within_v4(address, *network, *bits)),
        // All that is assigned is below 2000::/3: so loopback, unique local, link-local, multicast,
        // IPv4-mapped and -compatible, NAT64 (64:ff9b::/96, 64:ff9b:1::/48) and discard-only are out.
        IpAddr::V6(address) => {
            within_v6(address, GLOBAL_V6, 3)
                && !SPECIAL_V6.iter().any(|(network, bits)| within_v6(address, *network, *bits))
        }
    }
}

const SPECIAL_V4: [(Ipv4Addr, u32); 17] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    // The host's agent of a large cloud: a public address that means the machine itself.
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    // 6to4 relays (RFC 7526).
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
    (Ipv4Addr::BROADCAST, 32),
];

const GLOBAL_V6: Ipv6Addr = Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0);

const SPECIAL_V6: [(Ipv6Addr, u32); 4] = [
    // Protocol assignments: Teredo, benchmarking, ORCHID among them.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    // 6to4.
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    // Documentation (RFC 9637).
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

fn within_v4(address: Ipv4Addr, network: Ipv4Addr, bits: u32) -> bool {
    (address.to_bits() ^ network.to_bits()).leading_zeros() >= bits
}

fn within_v6(address: Ipv6Addr, network: Ipv6Addr, bits: u32) -> bool {
    (address.to_bits() ^ network.to_bits()).leading_zeros() >= bits
}

#[cfg(test)]
mod tests;
