//! The settings of the authorization server.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use portcullis_layers::HostName;
use portcullis_services::config::TargetUrl;
use portcullis_services::config::names::GithubClientId;
use portcullis_services::oauth::clients::ssrf::Exceptions;
use portcullis_services::oauth::github::{self, App, InvalidApp};
use portcullis_services::oauth::rotation::Policy;
use secrecy::SecretString;

use super::Network;

/// A day, in seconds.
const DAY: u64 = 24 * 60 * 60;

/// The longest time that a setting of seconds can have: ten years.
const DECADE: u64 = 3650 * DAY;

/// Where people sign in, how long what they get lives, and which clients may ask for it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Authorization server")]
pub struct OAuth {
    /// The client id of the GitHub app that people sign in through where a host has none of its own.
    #[arg(long, env = "GITHUB_CLIENT_ID", requires = "github_client_secret")]
    pub github_client_id: Option<GithubClientId>,

    /// The client secret of that app.
    #[arg(long, env = "GITHUB_CLIENT_SECRET", hide_env_values = true, requires = "github_client_id")]
    pub github_client_secret: Option<SecretString>,

    /// Where people sign in: GitHub, or a server of one's own.
    #[arg(long, env = "GITHUB_URL", default_value = github::GITHUB_URL)]
    pub github_url: TargetUrl,

    /// Where its API is. Default: api.github.com, or GITHUB_URL/api/v3 for a server of one's own.
    #[arg(long, env = "GITHUB_API_URL")]
    pub github_api_url: Option<TargetUrl>,

    /// Seconds that an access token lives.
    #[arg(long = "oauth-access-token-lifetime", env = "OAUTH_ACCESS_TOKEN_LIFETIME", default_value = "1800", value_parser = seconds::<1, DAY>)]
    pub access_token_lifetime: Duration,

    /// Seconds that a grant lives at most, however often its refresh token is used.
    #[arg(long = "oauth-refresh-token-lifetime", env = "OAUTH_REFRESH_TOKEN_LIFETIME", default_value = "31536000", value_parser = seconds::<1, DECADE>)]
    pub refresh_token_lifetime: Duration,

    /// Seconds after which a grant ends whose refresh token was not used.
    #[arg(long = "oauth-grant-idle", env = "PORTCULLIS_OAUTH_GRANT_IDLE", default_value = "7776000", value_parser = seconds::<1, DECADE>)]
    pub grant_idle: Duration,

    /// Seconds in which a used refresh token still yields the same successor, for clients of several processes; 0:
    /// each is good once.
    #[arg(long = "oauth-refresh-window", env = "PORTCULLIS_OAUTH_REFRESH_WINDOW", default_value = "30", value_parser = seconds::<0, 300>)]
    pub refresh_window: Duration,

    /// Seconds that a login may take.
    #[arg(long = "oauth-session-timeout", env = "OAUTH_SESSION_TIMEOUT", default_value = "600", value_parser = seconds::<1, 3600>)]
    pub session_timeout: Duration,

    /// Seconds after which a browser that does nothing has to sign in again.
    #[arg(long = "oauth-session-idle", env = "PORTCULLIS_OAUTH_SESSION_IDLE", default_value = "86400", value_parser = seconds::<1, DECADE>)]
    pub session_idle: Duration,

    /// Seconds after which a browser has to sign in again in any case.
    #[arg(long = "oauth-session-lifetime", env = "PORTCULLIS_OAUTH_SESSION_LIFETIME", default_value = "2592000", value_parser = seconds::<1, DECADE>)]
    pub session_lifetime: Duration,

    /// Seconds after which a protected host asks for a browser's session anew.
    #[arg(long = "oauth-host-session-lifetime", env = "PORTCULLIS_OAUTH_HOST_SESSION_LIFETIME", default_value = "43200", value_parser = seconds::<1, { 30 * DAY }>)]
    pub host_session_lifetime: Duration,

    /// Seconds after which an account's organisations and teams have to be learned anew, by signing in, where a list
    /// asks for them; 0: never.
    #[arg(long = "oauth-groups-lifetime", env = "PORTCULLIS_OAUTH_GROUPS_LIFETIME", default_value = "604800", value_parser = seconds_or_never)]
    pub groups_lifetime: OrNever,

    /// Seconds after which a client that registered itself and is not used has to register again; 0: never.
    #[arg(long = "oauth-client-lifetime", env = "OAUTH_CLIENT_LIFETIME", default_value = "7776000", value_parser = seconds_or_never)]
    pub client_lifetime: OrNever,

    /// Whether clients may register themselves (RFC 7591).
    #[arg(long = "oauth-registration", env = "PORTCULLIS_OAUTH_REGISTRATION", value_enum, default_value_t = Registration::Open)]
    pub registration: Registration,

    /// What may be fetched of clients although it is not public: HOST, ADDRESS or ADDRESS/BITS, each also with :PORT,
    /// which is then allowed beside 443. Comma-separated.
    #[arg(long = "oauth-fetch-allow", env = "PORTCULLIS_OAUTH_FETCH_ALLOW", value_delimiter = ',')]
    pub fetch_allow: Vec<FetchEntry>,

    /// File of certificates (PEM) to trust instead of the platform's when clients' documents and GITHUB_URL are called,
    /// and beside the platform's when `oauth health` calls the issuer.
    #[arg(long = "oauth-fetch-ca", env = "PORTCULLIS_OAUTH_FETCH_CA")]
    pub fetch_ca: Option<PathBuf>,

    /// Take assertions of other issuers (RFC 7523), and exchange tokens (RFC 8693).
    #[arg(
        long = "oauth-assertion-grants",
        env = "PORTCULLIS_OAUTH_ASSERTION_GRANTS",
        default_value_t = false
    )]
    pub assertion_grants: bool,

    /// File with the issuers whose assertions about users are taken: a JSON array of objects with issuer, and jwks or
    /// jwks_uri. Needs PORTCULLIS_OAUTH_ASSERTION_GRANTS.
    #[arg(long = "oauth-assertion-issuers", env = "PORTCULLIS_OAUTH_ASSERTION_ISSUERS")]
    pub assertion_issuers: Option<PathBuf>,

    /// Days after which another key signs tokens; 0: never by itself.
    #[arg(long = "oauth-key-age", env = "PORTCULLIS_OAUTH_KEY_AGE", default_value = "90", value_parser = days_or_never)]
    pub key_age: OrNever,
}

impl OAuth {
    /// The GitHub app of the deployment.
    ///
    /// # Errors
    ///
    /// When the secret can't be one.
    pub fn github_app(&self) -> Result<Option<App>, InvalidApp> {
        let pair = self.github_client_id.clone().zip(self.github_client_secret.clone());
        pair.map(|(id, secret)| App::new(id, secret)).transpose()
    }

    /// Where GitHub is; `ca` is what [`fetch_ca`](Self::fetch_ca) holds.
    pub fn github(&self, ca: Option<Arc<str>>) -> github::Settings {
        let settings = github::Settings::new(self.github_url.clone(), self.github_api_url.clone());
        github::Settings { ca, ..settings }
    }

    /// What may be fetched beside public addresses on port 443.
    pub fn fetch_exceptions(&self) -> Exceptions {
        let mut exceptions = Exceptions::default();
        for FetchEntry { place, port } in &self.fetch_allow {
            match place {
                Place::Network(network) => exceptions.networks.push(network.0),
                Place::Host(host) => exceptions.hosts.push(host.clone()),
            }
            exceptions.ports.extend(port);
        }
        exceptions
    }

    /// When signing keys rotate.
    pub fn key_policy(&self) -> Policy {
        Policy { age: self.key_age.0, longest_token: self.longest_token() }
    }

    /// How long a token lives at most that the authorization server makes: what a key signed must be good as long.
    pub fn longest_token(&self) -> Duration {
        self.access_token_lifetime.max(self.host_session_lifetime)
    }
}

/// Whether clients may register themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Registration {
    /// Anybody's may, within limits.
    Open,
    /// None may.
    Off,
}

/// A time; none where the setting is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrNever(pub Option<Duration>);

/// Something that may be fetched although it is not public.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchEntry {
    place: Place,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Network(Network),
    Host(HostName),
}

impl FetchEntry {
    fn read(place: &str, port: Option<u16>) -> Option<Self> {
        // An address is a network of one; in brackets, as in URLs, too.
        let bare = place.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(place);
        let place = match bare.parse() {
            Ok(network) => Place::Network(network),
            // What looks like a network and is none must not become the name of a host.
            Err(_) if place.contains('/') => return None,
            Err(_) => Place::Host(place.parse().ok()?),
        };
        Some(Self { place, port })
    }
}

impl FromStr for FetchEntry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let with_port = || {
            let (place, port) = text.rsplit_once(':')?;
            // Another colon is one of an address of IPv6, which needs its brackets here.
            if place.contains(':') && !place.ends_with(']') {
                return None;
            }
            let digits = Some(port).filter(|port| port.bytes().all(|b| b.is_ascii_digit()))?;
            Self::read(place, Some(digits.parse().ok().filter(|port| *port != 0)?))
        };
        Self::read(text, None).or_else(with_port).ok_or_else(|| {
            format!("{text:?} is neither HOST, ADDRESS nor ADDRESS/BITS, with :PORT or without")
        })
    }
}

pub(super) fn seconds<const LEAST: u64, const MOST: u64>(text: &str) -> Result<Duration, String> {
    whole::<LEAST, MOST>(text, "seconds").map(Duration::from_secs)
}

fn seconds_or_never(text: &str) -> Result<OrNever, String> {
    let seconds = whole::<0, DECADE>(text, "seconds")?;
    Ok(OrNever((seconds > 0).then(|| Duration::from_secs(seconds))))
}

fn days_or_never(text: &str) -> Result<OrNever, String> {
    let days = whole::<0, 3650>(text, "days")?;
    Ok(OrNever((days > 0).then(|| Duration::from_secs(days * DAY))))
}

fn whole<const LEAST: u64, const MOST: u64>(text: &str, unit: &str) -> Result<u64, String> {
    match text.trim().parse() {
        Ok(number) if (LEAST..=MOST).contains(&number) => Ok(number),
        _ => Err(format!("{text:?} is no whole number of {unit} between {LEAST} and {MOST}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;

    fn settings(arguments: &[&str]) -> Result<OAuth, String> {
        let read = Settings::of_arguments(arguments.iter().copied());
        read.map(|settings| settings.oauth).map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_word_the_defaults_hold() {
        let oauth = settings(&[]).expect("valid");
        assert!(oauth.github_app().expect("none").is_none());
        assert_eq!(oauth.github(None).api_url.to_string(), "https://api.github.com");
        assert_eq!(oauth.access_token_lifetime, Duration::from_secs(1800));
        assert_eq!(oauth.longest_token(), Duration::from_secs(12 * 3600));
        assert_eq!(oauth.key_age, OrNever(Some(Duration::from_secs(90 * DAY))));
        assert_eq!(oauth.client_lifetime, OrNever(Some(Duration::from_secs(90 * DAY))));
        assert_eq!(oauth.registration, Registration::Open);
        assert_eq!(oauth.fetch_exceptions(), Exceptions::default());
        assert!(!oauth.assertion_grants && oauth.assertion_issuers.is_none() && oauth.fetch_ca.is_none());
    }

    #[test]
    fn an_app_has_both_halves_and_shows_one() {
        let both = ["--github-client-id=Iv1.abc", "--github-client-secret=hush-hush"];
        let oauth = settings(&both).expect("valid");
        let app = oauth.github_app().expect("an app").expect("an app");
        assert_eq!(app.client_id(), "Iv1.abc");
        assert!(!format!("{oauth:?}{app:?}").contains("hush"));
        for one in both {
            let error = settings(&[one]).expect_err("half an app");
            assert!(error.contains("--github-client-") && !error.contains("hush"), "{error}");
        }
        assert!(settings(&["--github-client-id=a/b", "--github-client-secret=x"]).is_err());
        let blank = settings(&["--github-client-id=a", "--github-client-secret=two words"]).expect("read");
        assert!(!blank.github_app().expect_err("no secret").to_string().contains("two words"));
    }

    #[test]
    fn a_server_of_ones_own_has_its_api_below_it() {
        let oauth = settings(&["--github-url=https://git.example.com"]).expect("valid");
        let github = oauth.github(Some("pem".into()));
        assert_eq!(github.api_url.to_string(), "https://git.example.com/api/v3");
        assert_eq!(github.ca.as_deref(), Some("pem"));
        assert!(settings(&["--github-url=ftp://git.example.com"]).is_err());
    }

    #[test]
    fn times_have_bounds_and_some_may_be_never() {
        let never = settings(&["--oauth-client-lifetime=0", "--oauth-key-age=0", "--oauth-refresh-window=0"]);
        let never = never.expect("valid");
        assert_eq!((never.client_lifetime, never.key_age), (OrNever(None), OrNever(None)));
        assert_eq!(never.refresh_window, Duration::ZERO);
        for wrong in [
            "--oauth-access-token-lifetime=0",
            "--oauth-access-token-lifetime=86401",
            "--oauth-access-token-lifetime=1.5",
            "--oauth-refresh-window=301",
            "--oauth-session-timeout=-1",
            "--oauth-key-age=soon",
            "--oauth-registration=closed",
        ] {
            assert!(settings(&[wrong]).is_err(), "{wrong}");
        }
        let error = settings(&["--oauth-session-timeout=4000"]).expect_err("too long");
        assert!(error.contains("no whole number of seconds between 1 and 3600"), "{error}");
    }

    #[test]
    fn what_may_be_fetched_is_hosts_and_networks() {
        let list =
            "--oauth-fetch-allow=idp.internal,10.0.0.0/8, 127.0.0.1:8443,[::1]:9443,fd00::/8,c.test:8443";
        let exceptions = settings(&[list]).expect("valid").fetch_exceptions();
        let networks: Vec<_> = exceptions.networks.iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["10.0.0.0/8", "127.0.0.1/32", "::1/128", "fd00::/8"]);
        let hosts: Vec<_> = exceptions.hosts.iter().map(HostName::as_str).collect();
        assert_eq!(hosts, ["idp.internal", "c.test"]);
        assert_eq!(exceptions.ports, [8443, 9443, 8443]);
        for wrong in
            ["", "10.0.0.0/33", "a b", "c.test:0", "c.test:99999", "c.test:+1", "https://c.test", "::1:x"]
        {
            assert!(settings(&[&format!("--oauth-fetch-allow={wrong}")]).is_err(), "{wrong:?}");
        }
    }
}
