//! All settings of the daemon: one field each, from a flag or the environment.
//!
//! `.env.example` lists every variable; a test compares the two.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, FromArgMatches};
use ipnet::IpNet;
use secrecy::SecretString;

mod acme;
mod acme_dns;
mod docker;
mod oauth;

pub use self::acme::Acme;
pub use self::acme_dns::{AcmeDns, AcmeDnsProvider, AcmeDnsResolver, InvalidAcmeDns, InvalidAcmeDnsResolver};
pub use self::docker::Docker;
pub use self::oauth::{FetchEntry, OAuth, OrNever, Registration};

/// The name of the admin socket in the data folder.
pub const SOCKET: &str = "admin.sock";

/// What `portcullis serve` reads from its flags and its environment.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    #[command(flatten)]
    pub listen: Listen,
    #[command(flatten)]
    pub storage: Storage,
    #[command(flatten)]
    pub identity: Identity,
    #[command(flatten)]
    pub oauth: OAuth,
    #[command(flatten)]
    pub acme: Acme,
    #[command(flatten)]
    pub acme_dns: AcmeDns,
    #[command(flatten)]
    pub docker: Docker,
    #[command(flatten)]
    pub limits: Limits,
    #[command(flatten)]
    pub logging: Logging,
}

/// Addresses, ports and who stands in front.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Listening")]
pub struct Listen {
    /// Address to listen on; `::` also takes IPv4 connections.
    #[arg(long, env = "SERVER_HOST", default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    pub server_host: IpAddr,

    /// Port for plain HTTP; 0 takes any free port.
    #[arg(long, env = "HTTP_PORT", default_value_t = 80)]
    pub http_port: u16,

    /// Port for HTTPS; 0 takes any free port.
    #[arg(long, env = "HTTPS_PORT", default_value_t = 443)]
    pub https_port: u16,

    /// The HTTPS port that clients see, where it is another than HTTPS_PORT: in redirects, metadata and audiences.
    #[arg(long, env = "PORTCULLIS_PUBLIC_HTTPS_PORT")]
    pub public_https_port: Option<u16>,

    /// Worker threads; 0 means one for each core.
    #[arg(long, env = "PORTCULLIS_WORKERS", default_value_t = 0, value_parser = number::<0, 1024>)]
    pub workers: usize,

    /// Networks whose connections start with a PROXY protocol header (v1 or v2). It is then required from them and
    /// never read from anybody else. Comma-separated, e.g. 10.0.0.0/8,fd00::/8.
    #[arg(long, env = "PROXY_PROTOCOL_TRUSTED", value_delimiter = ',')]
    pub proxy_protocol_trusted: Vec<Network>,

    /// Networks of reverse proxies whose X-Forwarded-For is believed, from right to left. Comma-separated.
    #[arg(long, env = "PORTCULLIS_TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Vec<Network>,

    /// Address for Prometheus metrics at /metrics, e.g. 127.0.0.1:9464; absent: none.
    #[arg(long, env = "PORTCULLIS_METRICS_ADDR")]
    pub metrics_addr: Option<SocketAddr>,
}

/// Where configuration, keys and logs live.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Storage")]
pub struct Storage {
    /// Folder of the embedded store, the secret key, the admin socket and the last applied configuration.
    #[arg(long, env = "PORTCULLIS_DATA", default_value = "data")]
    pub data: PathBuf,

    /// Use this Redis instead of the embedded store: redis://, rediss://, redis+sentinel:// or redis+cluster://.
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    pub redis_url: Option<SecretString>,

    /// The password of Redis, where REDIS_URL has none.
    #[arg(long, env = "REDIS_PASSWORD", hide_env_values = true)]
    pub redis_password: Option<SecretString>,

    /// Seals the secrets in the store: at least 32 characters. Required with Redis; otherwise made on first start.
    #[arg(long, env = "PORTCULLIS_SECRET_KEY", hide_env_values = true)]
    pub secret_key: Option<SecretString>,
}

/// The issuer, who is who, and the fallback certificate.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Identity")]
pub struct Identity {
    /// The domain below which defaults are made, e.g. auth.DOMAIN.
    #[arg(long, env = "BASE_DOMAIN", default_value = "localhost")]
    pub base_domain: String,

    /// The issuer of this deployment's tokens: one, for ever. Default: https://auth.BASE_DOMAIN
    #[arg(long, env = "OAUTH_ISSUER")]
    pub oauth_issuer: Option<String>,

    /// Start although the store belongs to another issuer; tokens of that one are no longer good.
    #[arg(long, env = "PORTCULLIS_ACCEPT_NEW_ISSUER", default_value_t = false)]
    pub accept_new_issuer: bool,

    /// Users with scope admin where a host has no list of its own. Comma-separated logins; `*` is refused here.
    #[arg(long, env = "OAUTH_ADMIN_USERS", value_delimiter = ',')]
    pub oauth_admin_users: Vec<String>,

    /// Users with scope user where a host has no list of its own. Comma-separated; `*` means everybody who signed in.
    #[arg(long, env = "OAUTH_USER_USERS", value_delimiter = ',')]
    pub oauth_user_users: Vec<String>,

    /// Users with scope mcp where a host has no list of its own. Comma-separated; `*` means everybody who signed in.
    #[arg(long, env = "OAUTH_MCP_USERS", value_delimiter = ',')]
    pub oauth_mcp_users: Vec<String>,

    /// Overrides OAUTH_ADMIN_USERS on the host `localhost`, where the API is.
    #[arg(long, env = "OAUTH_LOCALHOST_ADMIN_USERS", value_delimiter = ',')]
    pub oauth_localhost_admin_users: Option<Vec<String>>,

    /// Overrides OAUTH_USER_USERS on the host `localhost`.
    #[arg(long, env = "OAUTH_LOCALHOST_USER_USERS", value_delimiter = ',')]
    pub oauth_localhost_user_users: Option<Vec<String>>,

    /// Overrides OAUTH_MCP_USERS on the host `localhost`.
    #[arg(long, env = "OAUTH_LOCALHOST_MCP_USERS", value_delimiter = ',')]
    pub oauth_localhost_mcp_users: Option<Vec<String>>,

    /// The key that signs tokens: a PEM (RSA, 2048 bits or more) in base64. Default: made and sealed on first start.
    #[arg(long, env = "OAUTH_JWT_PRIVATE_KEY_B64", hide_env_values = true)]
    pub oauth_jwt_private_key_b64: Option<SecretString>,

    /// `loopback`: a request from this machine to the API needs no token. Dangerous behind a local reverse proxy.
    #[arg(long, env = "PORTCULLIS_LOCAL_ADMIN", value_enum, default_value_t = LocalAdmin::Off)]
    pub local_admin: LocalAdmin,

    /// Common name of the self-signed fallback certificate.
    #[arg(long, env = "SELF_SIGNED_CN", default_value = "localhost")]
    pub self_signed_cn: String,

    /// Days that the fallback certificate is good for.
    #[arg(long, env = "SELF_SIGNED_DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub self_signed_days: u32,

    /// Key of the fallback certificate.
    #[arg(long, env = "PORTCULLIS_SELF_SIGNED_KEY", value_enum, default_value_t = KeyKind::Ecdsa)]
    pub self_signed_key: KeyKind,

    /// Size of RSA keys that we make, in bits.
    #[arg(long, env = "RSA_KEY_SIZE", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(2048..=4096))]
    pub rsa_key_size: u32,
}

/// Time and size limits.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Seconds until an upstream must have accepted a connection.
    #[arg(long, env = "PROXY_CONNECT_TIMEOUT", default_value = "30", value_parser = seconds)]
    pub proxy_connect_timeout: Duration,

    /// Seconds until the upstream's response head must have arrived. Bodies and tunnels may take longer.
    #[arg(long, env = "PROXY_REQUEST_TIMEOUT", default_value = "120", value_parser = seconds)]
    pub proxy_request_timeout: Duration,

    /// Seconds without any progress of a body, in either direction, before it is given up.
    #[arg(long, env = "PORTCULLIS_BODY_IDLE_TIMEOUT", default_value = "60", value_parser = seconds)]
    pub body_idle_timeout: Duration,

    /// Seconds that a client has for a TLS handshake, a PROXY protocol header or a request head.
    #[arg(long, env = "PORTCULLIS_HEAD_TIMEOUT", default_value = "10", value_parser = seconds)]
    pub head_timeout: Duration,

    /// Seconds that an idle keep-alive connection stays open.
    #[arg(long, env = "PORTCULLIS_KEEP_ALIVE_TIMEOUT", default_value = "60", value_parser = seconds)]
    pub keep_alive_timeout: Duration,

    /// Largest request body in bytes; a host can set its own.
    #[arg(long, env = "PORTCULLIS_MAX_BODY", default_value_t = 1 << 30)]
    pub max_body: u64,

    /// Largest request head in bytes.
    #[arg(long, env = "PORTCULLIS_MAX_HEAD", default_value_t = 32 * 1024, value_parser = number::<1024, 1_048_576>)]
    pub max_head: usize,

    /// Most connections at a time; further ones wait in the kernel.
    #[arg(long, env = "PORTCULLIS_MAX_CONNECTIONS", default_value_t = 50_000, value_parser = number::<1, 10_000_000>)]
    pub max_connections: usize,

    /// Seconds that requests and tunnels have to end after SIGTERM.
    #[arg(long, env = "PORTCULLIS_SHUTDOWN_GRACE", default_value = "25", value_parser = seconds)]
    pub shutdown_grace: Duration,
}

/// What is logged, and how long it is kept.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logging")]
pub struct Logging {
    /// TRACE, DEBUG, INFO, WARN or ERROR; can be changed at run time, also for single components.
    #[arg(long, env = "LOG_LEVEL", default_value = "INFO")]
    pub log_level: String,

    /// How diagnostics look on standard error.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Days that request and diagnostic logs are kept.
    #[arg(long, env = "LOG_TTL_DAYS", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub log_ttl_days: u32,

    /// Most entries that a log keeps; the oldest go first.
    #[arg(long, env = "PORTCULLIS_LOG_MAX_ENTRIES", default_value_t = 1_000_000, value_parser = number::<1, { usize::MAX }>)]
    pub log_max_entries: usize,

    /// Bytes of requests, and as many of calls of MCP servers, that each worker holds back while the store is away, and a
    /// quarter of other logs; more are dropped and counted.
    #[arg(long, env = "PORTCULLIS_LOG_BUFFER", default_value_t = 16 << 20)]
    pub log_buffer: usize,

    /// Response header with the request's id.
    #[arg(long, env = "LOG_CORRELATION_ID_HEADER", default_value = "X-Correlation-ID", value_parser = header_name)]
    pub log_correlation_id_header: String,

    /// Whether responses carry the request's id.
    #[arg(long, env = "LOG_INCLUDE_CORRELATION_ID_RESPONSE", default_value_t = true, action = clap::ArgAction::Set)]
    pub log_include_correlation_id_response: bool,
}

/// Who may use the API without a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LocalAdmin {
    /// Nobody but whoever may open the admin socket.
    Off,
    /// Also requests from a loopback address that show no sign of a proxy.
    Loopback,
}

/// The kind of a key that we make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum KeyKind {
    /// ECDSA on P-256: fast.
    Ecdsa,
    /// RSA, of `RSA_KEY_SIZE` bits: for old clients.
    Rsa,
}

/// How diagnostics look on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One line for people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Settings {
    /// The settings of arguments alone, whatever the environment says: for programs that have the daemon inside.
    ///
    /// # Errors
    ///
    /// When an argument is unknown, or its value can't be parsed.
    pub fn of_arguments<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<Self, clap::Error> {
        let command = Self::augment_args(clap::Command::new("serve")).no_binary_name(true);
        let command = command.mut_args(|arg| arg.env(None::<&str>));
        Self::from_arg_matches(&command.try_get_matches_from(arguments)?)
    }

    /// The issuer: as set, else of the base domain.
    pub fn issuer(&self) -> String {
        match &self.identity.oauth_issuer {
            Some(issuer) => issuer.trim_end_matches('/').to_owned(),
            None => format!("https://auth.{}{}", self.identity.base_domain, self.port_suffix()),
        }
    }

    /// The HTTPS port that clients see.
    pub fn public_https_port(&self) -> u16 {
        self.listen.public_https_port.unwrap_or(self.listen.https_port)
    }

    /// `:PORT` in public URLs, or nothing for 443.
    pub fn port_suffix(&self) -> String {
        match self.public_https_port() {
            443 => String::new(),
            port => format!(":{port}"),
        }
    }

    /// The number of worker threads.
    pub fn workers(&self) -> usize {
        match self.listen.workers {
            0 => std::thread::available_parallelism().map_or(1, Into::into),
            workers => workers,
        }
    }

    /// Folder-relative path of the admin socket.
    pub fn socket(&self) -> PathBuf {
        self.storage.data.join(SOCKET)
    }
}

/// A network, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(pub IpNet);

impl std::str::FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        text.parse()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
            .map(Self)
            .map_err(|_| format!("{text:?} is no network: write an address or ADDRESS/BITS, e.g. 10.0.0.0/8"))
    }
}

/// A number within bounds, for what clap has no ranges for.
fn number<const LEAST: usize, const MOST: usize>(text: &str) -> Result<usize, String> {
    match text.trim().parse() {
        Ok(number) if (LEAST..=MOST).contains(&number) => Ok(number),
        _ => Err(format!("{text:?} is no number between {LEAST} and {MOST}")),
    }
}

fn header_name(text: &str) -> Result<String, String> {
    match http::HeaderName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("{text:?} is no name of a header")),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.trim().parse::<f64>() {
        Ok(number) if (0.001..=31_536_000.0).contains(&number) => Ok(Duration::from_secs_f64(number)),
        _ => Err(format!("{text:?} is no number of seconds between 0.001 and 31536000")),
    }
}
