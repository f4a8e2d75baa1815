//! OAuth from the client's side: logging in, staying logged in, and looking at how a host answers to clients.
//!
//! | file | is about |
//! | --- | --- |
//! | `discovery.rs` | from a gateway's URL to its authorization server (RFC 9728, RFC 8414) |
//! | `code.rs`, `callback.rs`, `browser.rs` | the authorization code flow over a loopback port (RFC 8252) |
//! | `device.rs` | the device flow (RFC 8628) |
//! | `tokens.rs` | the token and the revocation endpoint |
//! | `session.rs` | the tokens of a login, kept in a profile and renewed in time |
//! | `status.rs` | `oauth status` |
//! | `doctor/` | `oauth doctor` |

mod browser;
mod callback;
mod code;
mod device;
mod discovery;
mod doctor;
pub(crate) mod session;
mod status;
mod tokens;

use std::path::Path;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use http::Uri;
use portcullis_services::oauth::authorization_server::CLI_CLIENT;

use self::discovery::Discovered;
use self::session::Session;
use self::tokens::Tokens;
use super::Failure;
use super::client::{Client, ClientError};
use super::output::Format;
use super::web::Web;

/// The noun of the commands here. Operations of the gateway may have it, too.
pub(crate) const NOUN: &str = "oauth";

/// How long a user may take to sign in: as long as the gateway waits.
const PATIENCE: Duration = Duration::from_secs(600);

/// The scopes of the gateway's own API: what is asked for when neither the user nor the gateway names any. The gateway
/// gives those of them that its lists give to the user.
const SCOPES: &str = "admin user mcp";

/// Adds the commands of this module to their noun.
pub(crate) fn extend(noun: Command) -> Command {
    let status =
        Command::new("status").about("Show who is logged in, until when, and whether the gateway agrees");
    let doctor = doctor::Options::augment_args(Command::new("doctor"))
        .about("Check a protected host as real clients would, and say which would fail, and why");
    noun.subcommands([status, doctor])
}

/// The noun, where no operation has it.
pub(crate) fn noun() -> Command {
    let about = "The authorization server, and logins at it";
    Command::new(NOUN).about(about).subcommand_required(true).arg_required_else_help(true)
}

/// One of the commands of this module, as it was asked for.
pub(crate) enum Asked {
    Status,
    Doctor(doctor::Options),
}

impl Asked {
    /// Recognises the commands of this module.
    pub(crate) fn of(matches: &ArgMatches) -> Result<Option<Self>, clap::Error> {
        Ok(match matches.subcommand_matches(NOUN).and_then(ArgMatches::subcommand) {
            Some(("status", _)) => Some(Self::Status),
            Some(("doctor", below)) => {
                let mut options = doctor::Options::from_arg_matches(below)?;
                options.token_named = matches.value_source(super::TOKEN) == Some(ValueSource::CommandLine);
                Some(Self::Doctor(options))
            }
            _ => None,
        })
    }

    /// Does what was asked for.
    pub(crate) async fn run(
        self,
        client: Client,
        profile: &str,
        path: &Path,
        format: Format,
    ) -> Result<(), Failure> {
        match self {
            Self::Status => status::run(client, profile, path, format).await,
            Self::Doctor(options) => doctor::run(&client, options, format).await,
        }
    }
}

/// How to log in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// On another device.
    pub(crate) device: bool,
    /// Without opening a browser.
    pub(crate) no_browser: bool,
    /// For which scopes.
    pub(crate) scopes: Option<String>,
}

/// Logs in at a gateway, known by its URL only.
pub(crate) async fn log_in(web: &Web, gateway: &Uri, options: &Options) -> Result<Session, LoginError> {
    let found = discovery::discover(web, gateway).await?;
    let scopes = options.scopes.clone().or_else(|| found.scopes.clone());
    let scopes = scopes.unwrap_or_else(|| SCOPES.to_owned());
    let browser = (!options.no_browser).then(browser::find).flatten();
    let elsewhere = options.device || (browser.is_none() && !options.no_browser);
    let tokens = if elsewhere {
        device::flow(web, &found, &scopes).await?
    } else {
        code::flow(web, &found, &scopes, browser.as_ref()).await?
    };
    Ok(session_of(found, tokens, scopes))
}

fn session_of(found: Discovered, tokens: Tokens, scopes: String) -> Session {
    Session {
        issuer: found.server.issuer,
        client_id: CLI_CLIENT.to_owned(),
        resource: found.resource,
        token_endpoint: found.server.token_endpoint,
        revocation_endpoint: found.server.revocation_endpoint,
        expires_at: tokens.expires_at,
        // RFC 6749, section 5.1: absent where they are those that were asked for.
        scope: tokens.scope.unwrap_or(scopes),
        access_token: tokens.access_token,
        refresh_token: tokens.refresh_token,
    }
}

/// Why nobody was logged in, or is no longer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(
        "{url} does not ask for a login, but answers {status}: is it a gateway's API? Else: portcullis login --base-url URL"
    )]
    NoChallenge { url: String, status: u16 },
    #[error("{url}: {detail}")]
    Document { url: String, detail: String },
    #[error(
        "the gateway calls itself {resource}, which is not {asked}: portcullis login --base-url {resource}"
    )]
    Elsewhere { resource: String, asked: String },
    #[error("the authorization server calls itself {said:?}, but the gateway named {named:?}")]
    Issuer { said: String, named: String },
    #[error("the authorization server offers no {0}")]
    Lacks(&'static str),
    #[error("the authorization server refused: {}", .0)]
    Refused(#[from] tokens::OAuthError),
    #[error("the answer came from another authorization server than the one that was asked")]
    MixedUp,
    #[error("nobody signed in within {} minutes", PATIENCE.as_secs() / 60)]
    TooLate,
    #[error("the login has ended: {0}: portcullis login")]
    Ended(tokens::OAuthError),
    #[error("no port of this machine can take the browser's answer: try --device")]
    Listen(#[source] std::io::Error),
}
