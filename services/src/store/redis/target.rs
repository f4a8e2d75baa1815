//! Which Redis: a server, a master that sentinels know, or a cluster.

use std::fmt;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterConfig};
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline,
    RedisError, RedisFuture, RedisResult, TlsCertificates, TlsMode, Value,
};
use secrecy::{ExposeSecret, SecretString};

use super::Options;

/// The port of sentinels.
const SENTINEL_PORT: u16 = 26379;

/// Where to connect to, and with which credentials. It shows addresses only.
pub(super) enum Target {
    Server(Box<Client>),
    Sentinels(Box<Sentinels>),
    Cluster(Box<ClusterClient>),
}

pub(super) struct Sentinels {
    addresses: Vec<ConnectionAddr>,
    /// The name by which they know the master.
    master: String,
    database: i64,
    credentials: Credentials,
    sentinel_credentials: Credentials,
    tls: bool,
    certificates: Option<TlsCertificates>,
}

#[derive(Default)]
struct Credentials {
    username: Option<String>,
    password: Option<SecretString>,
}

/// Why the address of Redis can't be used. The address is not shown: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// It has no scheme.
    #[error(
        "the Redis URL has no scheme: expected redis://HOST:PORT, rediss://, unix:, redis+sentinel:// or redis+cluster://"
    )]
    NoScheme,
    /// Its scheme is none of Redis.
    #[error(
        "the Redis URL has the scheme {scheme:?}: expected redis, rediss, unix, redis+sentinel, \
         rediss+sentinel, redis+cluster or rediss+cluster"
    )]
    Scheme {
        /// Its scheme.
        scheme: String,
    },
    /// A sentinel URL names no master.
    #[error("the Redis URL names no master: expected redis+sentinel://HOST:PORT,HOST:PORT/MASTER")]
    NoMaster,
    /// A part of it is wrong.
    #[error("the Redis URL can't be used")]
    Part(#[source] RedisError),
    /// The prefix of keys is wrong.
    #[error("the Redis key prefix {prefix:?} is not made of letters, digits and `-_.:`")]
    Prefix {
        /// It.
        prefix: String,
    },
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(client) => write!(f, "{}", client.get_connection_info().addr()),
            Self::Sentinels(sentinels) => {
                write!(f, "{:?} of", sentinels.master)?;
                sentinels.addresses.iter().try_for_each(|address| write!(f, " {address}"))
            }
            Self::Cluster(_) => f.write_str("cluster"),
        }
    }
}

impl Target {
    /// Reads the URL; connects to nothing.
    pub(super) fn new(options: &Options) -> Result<Self, UrlError> {
        let url = options.url.expose_secret().trim();
        let (scheme, rest) = match url.split_once(':') {
            Some((scheme, rest)) if is_scheme(scheme) => (scheme, rest),
            _ => return Err(UrlError::NoScheme),
        };
        let certificates =
            options.ca.clone().map(|ca| TlsCertificates { client_tls: None, root_cert: Some(ca) });
        match scheme {
            "redis" | "rediss" | "valkey" | "valkeys" | "unix" | "redis+unix" | "valkey+unix" => {
                Self::server(with_password(url, options)?, certificates)
            }
            "redis+cluster" => Self::cluster(&Nodes::parse(rest, false)?, options, None),
            "rediss+cluster" => Self::cluster(&Nodes::parse(rest, true)?, options, certificates),
            "redis+sentinel" => Self::sentinels(&Nodes::parse(rest, false)?, options, None),
            "rediss+sentinel" => Self::sentinels(&Nodes::parse(rest, true)?, options, certificates),
            scheme => Err(UrlError::Scheme { scheme: scheme.to_owned() }),
        }
    }

    fn server(info: ConnectionInfo, certificates: Option<TlsCertificates>) -> Result<Self, UrlError> {
        let info = info.set_tcp_settings(tcp_settings());
        let client = match (info.addr(), certificates) {
            (ConnectionAddr::TcpTls { .. }, certificates) => {
                install_crypto();
                match certificates {
                    Some(certificates) => Client::build_with_tls(info, certificates),
                    None => Client::open(info),
                }
            }
            _ => Client::open(info),
        };
        client.map(Box::new).map(Self::Server).map_err(UrlError::Part)
    }

    fn cluster(
        nodes: &Nodes<'_>,
        options: &Options,
        certificates: Option<TlsCertificates>,
    ) -> Result<Self, UrlError> {
        let urls: Result<Vec<_>, _> = nodes.urls("0", 6379).map(|url| with_password(&url, options)).collect();
        // Our own deadline bounds all attempts together; within it, few are better than none.
        let mut builder = ClusterClient::builder(urls?)
            .retries(3)
            .tcp_settings(tcp_settings())
            .connection_timeout(options.timeout)
            .response_timeout(options.timeout)
            .overall_response_timeout(None);
        if nodes.tls {
            install_crypto();
            builder = builder.tls(TlsMode::Secure);
        }
        if let Some(certificates) = certificates {
            builder = builder.certs(certificates);
        }
        builder.build().map(Box::new).map(Self::Cluster).map_err(UrlError::Part)
    }

    fn sentinels(
        nodes: &Nodes<'_>,
        options: &Options,
        certificates: Option<TlsCertificates>,
    ) -> Result<Self, UrlError> {
        let mut path = nodes.path.trim_matches('/').split('/');
        let master = path.next().filter(|name| !name.is_empty()).ok_or(UrlError::NoMaster)?;
        let database = path.next().unwrap_or("0");
        let infos: Result<Vec<_>, _> =
            nodes.urls(database, SENTINEL_PORT).map(|url| with_password(&url, options)).collect();
        let infos = infos?;
        let settings = infos.first().ok_or(UrlError::NoScheme)?.redis_settings();
        if nodes.tls {
            install_crypto();
        }
        Ok(Self::Sentinels(Box::new(Sentinels {
            addresses: infos.iter().map(|info| info.addr().clone()).collect(),
            master: percent_decode_str(master).decode_utf8_lossy().into_owned(),
            database: settings.db(),
            credentials: Credentials {
                username: settings.username().map(str::to_owned),
                password: settings.password().map(SecretString::from),
            },
            sentinel_credentials: Credentials {
                username: nodes.parameter("sentinel_username"),
                password: nodes.parameter("sentinel_password").map(SecretString::from),
            },
            tls: nodes.tls,
            certificates,
        })))
    }

    /// A new connection on which an answer may take `patience`.
    pub(super) async fn connect(&self, patience: Duration) -> RedisResult<Connection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(patience))
            .set_response_timeout(Some(patience));
        match self {
            Self::Server(client) => {
                client.get_multiplexed_async_connection_with_config(&config).await.map(Connection::Server)
            }
            Self::Sentinels(sentinels) => {
                let mut client = sentinels.client()?;
                client.get_async_connection_with_config(&config).await.map(Connection::Server)
            }
            Self::Cluster(client) => {
                let config = ClusterConfig::new().set_response_timeout(patience);
                client.get_async_connection_with_config(config).await.map(Connection::Cluster)
            }
        }
    }
}

impl Sentinels {
    /// A client that asks anew who the master is.
    fn client(&self) -> RedisResult<redis::sentinel::SentinelClient> {
        let mut builder =
            SentinelClientBuilder::new(self.addresses.clone(), &self.master, SentinelServerType::Master)?
                .set_client_to_redis_db(self.database)
                .set_client_to_redis_tcp_settings(tcp_settings())
                .set_client_to_sentinel_tcp_settings(tcp_settings());
        if self.tls {
            builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
        }
        if let Some(certificates) = &self.certificates {
            builder = builder
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates.clone());
        }
        if let Some(username) = &self.credentials.username {
            builder = builder.set_client_to_redis_username(username);
        }
        if let Some(password) = &self.credentials.password {
            builder = builder.set_client_to_redis_password(password.expose_secret());
        }
        if let Some(username) = &self.sentinel_credentials.username {
            builder = builder.set_client_to_sentinel_username(username);
        }
        if let Some(password) = &self.sentinel_credentials.password {
            builder = builder.set_client_to_sentinel_password(password.expose_secret());
        }
        builder.build()
    }
}

/// A connection of either sort; clones share it.
#[derive(Clone)]
pub(super) enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Server(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Server(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Server(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// The parts of a URL with several hosts, which no URL parser takes.
struct Nodes<'a> {
    tls: bool,
    /// With its `@`, or empty.
    user: &'a str,
    hosts: &'a str,
    path: &'a str,
    query: &'a str,
}

impl<'a> Nodes<'a> {
    fn parse(rest: &'a str, tls: bool) -> Result<Self, UrlError> {
        let rest = rest.strip_prefix("//").ok_or(UrlError::NoScheme)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        Ok(Self { tls, user, hosts, path, query })
    }

    /// One URL for each host.
    fn urls(&self, database: &str, port: u16) -> impl Iterator<Item = String> {
        let scheme = if self.tls { "rediss" } else { "redis" };
        self.hosts.split(',').map(str::trim).filter(|host| !host.is_empty()).map(move |host| {
            // Colons in brackets are those of an IPv6 address.
            let has_port = host.rsplit(']').next().is_some_and(|tail| tail.contains(':'));
            let port = if has_port { String::new() } else { format!(":{port}") };
            format!("{scheme}://{}{host}{port}/{database}", self.user)
        })
    }

    fn parameter(&self, name: &str) -> Option<String> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        let value = pairs.into_iter().find(|(key, _)| *key == name)?.1;
        Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
    }
}

/// The address in a URL, with the separate password unless the URL has one.
fn with_password(url: &str, options: &Options) -> Result<ConnectionInfo, UrlError> {
    let info = url.into_connection_info().map_err(UrlError::Part)?;
    match &options.password {
        Some(password) if info.redis_settings().password().is_none() => {
            let settings = info.redis_settings().clone().set_password(password.expose_secret());
            Ok(info.set_redis_settings(settings))
        }
        _ => Ok(info),
    }
}

/// What RFC 3986 section 3.1 calls a scheme: anything else before a colon may be a password.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

fn tcp_settings() -> TcpSettings {
    // A command is one small write that waits for its answer.
    TcpSettings::default().set_nodelay(true)
}

/// The client library takes the process's TLS implementation, and panics if there is none.
fn install_crypto() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Losing a race means that there is one now.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Result<Target, UrlError> {
        Target::new(&Options { password: Some("separate".into()), ..Options::new(url.into()) })
    }

    #[test]
    fn all_kinds_of_addresses_are_understood() {
        for (url, shown) in [
            ("redis://127.0.0.1", "127.0.0.1:6379"),
            ("redis://:pw@127.0.0.1:7000/3", "127.0.0.1:7000"),
            ("rediss://user:pw@redis.example.com", "redis.example.com:6379"),
            ("unix:///run/redis.sock?pass=pw", "/run/redis.sock"),
            ("redis+sentinel://:pw@one,two:7001,[::1]/main/2", "\"main\" of one:26379 two:7001 ::1:26379"),
            ("rediss+sentinel://one/main?sentinel_password=pw", "\"main\" of one:26379"),
            ("redis+cluster://:pw@one,two:7001", "cluster"),
            ("rediss+cluster://one:1,two:2/", "cluster"),
        ] {
            let shown_now = format!("{:?}", target(url).expect(url));
            assert_eq!(shown_now, shown, "{url}");
        }
    }

    #[test]
    fn the_separate_password_fills_in_for_a_missing_one() {
        let password = |url: &str| match target(url).expect(url) {
            Target::Server(client) => {
                client.get_connection_info().redis_settings().password().map(str::to_owned)
            }
            Target::Sentinels(sentinels) => {
                assert!(sentinels.sentinel_credentials.password.is_none());
                sentinels.credentials.password.map(|password| password.expose_secret().to_owned())
            }
            Target::Cluster(_) => None,
        };
        assert_eq!(password("redis://one").as_deref(), Some("separate"));
        assert_eq!(password("redis://:own@one").as_deref(), Some("own"));
        assert_eq!(password("redis+sentinel://one/main").as_deref(), Some("separate"));
        assert_eq!(password("redis+sentinel://:o%20n@one/main").as_deref(), Some("o n"));
    }

    #[test]
    fn bad_addresses_are_refused_without_showing_them() {
        for url in [
            "",
            "secret",
            "secret@host:1",
            "http://secret@host",
            "redis://secret:secret@host:99999999",
            "redis://:secret@",
            "redis://:secret@host/secret",
            "redis+sentinel://:secret@host",
            "redis+sentinel:host",
            "redis+cluster://:secret@",
            "redis+cluster://",
            "rediss://:secret@host/0#what",
        ] {
            let error = target(url).expect_err(url);
            let shown = format!("{error} {error:?} {:?}", std::error::Error::source(&error));
            assert!(!shown.contains("secret"), "{url}: {shown}");
        }
    }
}
