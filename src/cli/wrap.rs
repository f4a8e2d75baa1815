//! `mcp wrap`: a local MCP server that speaks over standard input and output, as a host of the gateway.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};
use http::{Method, StatusCode};
use portcullis_layers::HostName;
use portcullis_services::config::proxy::mcp::USUAL_ENDPOINT;
use portcullis_services::control::commands::Commands;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::call::Call;
use super::client::Client;
use super::{Failure, send};
use crate::wrap::{Program, Settings, serve};

/// The noun of the commands.
pub(super) const NOUN: &str = "mcp";

/// What our own variables begin with.
const OURS: &str = "PORTCULLIS_";

/// Serve an MCP server that speaks over standard input and output over HTTP, one process for each session; with --host as
/// a protected host of the gateway. It gets the environment without portcullis' own variables and those of .env.
#[derive(Debug, Args)]
pub(super) struct Wrap {
    /// The address to listen on; port 0: any that is free.
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0))]
    listen: SocketAddr,

    /// The path of the server.
    #[arg(long, value_name = "PATH", default_value = "/mcp")]
    path: String,

    /// The host of the gateway to serve it on: made if it is not there, with login and for nobody but those on its lists;
    /// else led here, if it has login and its MCP server at the same path.
    #[arg(long, value_name = "NAME")]
    host: Option<HostName>,

    /// Where the gateway finds this machine, where that is not the address that is listened on.
    #[arg(long, value_name = "URL", requires = "host")]
    advertise: Option<String>,

    /// A file with the token that callers must bring; without it, and without --host, one is made and printed.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// How many sessions there are at a time, each with a process.
    #[arg(long, value_name = "COUNT", default_value_t = 32, value_parser = value_parser!(u16).range(1..=4096))]
    sessions: u16,

    /// Seconds until a session that nobody uses ends.
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, value_parser = value_parser!(u64).range(1..=604_800))]
    idle: u64,

    /// Seconds until a process must have answered at its start.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u64).range(1..=3600))]
    start: u64,

    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// The commands of the noun.
pub(super) fn noun() -> Command {
    Command::new(NOUN)
        .about("MCP servers of this machine")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Wrap::augment_args(Command::new("wrap")))
}

/// Whether this command was given.
pub(super) fn is_asked(matches: &ArgMatches) -> bool {
    matches.subcommand_name() == Some(NOUN)
}

impl Wrap {
    /// The command, if this one was given.
    pub(super) fn of(matches: &ArgMatches) -> Result<Option<Self>, clap::Error> {
        let Some((NOUN, below)) = matches.subcommand() else { return Ok(None) };
        let Some(("wrap", leaf)) = below.subcommand() else { return Ok(None) };
        Self::from_arg_matches(leaf).map(Some)
    }

    /// Serves until it is told to stop.
    pub(super) async fn run(self, client: &Client) -> Result<(), Failure> {
        if !self.path.starts_with('/') || self.path.contains(['{', '}', '?', '#', ' ']) {
            return Err(Failure::Wrap(format!("--path {:?}: expected a path such as /mcp", self.path)));
        }
        let (token, made) = self.token()?;
        let found = match &self.host {
            Some(host) => self.look(client, host).await?,
            None => None,
        };
        let listener = TcpListener::bind(self.listen).await;
        let listener =
            listener.map_err(|error| Failure::Wrap(format!("can't listen on {}: {error}", self.listen)))?;
        let local = listener.local_addr()?;
        let program = Program { command: self.command.clone(), without: ours().into_iter().collect() };
        let settings = Settings {
            program: Arc::new(program),
            path: self.path.clone(),
            token: token.clone(),
            max_sessions: self.sessions.into(),
            idle: Duration::from_secs(self.idle),
            start: Duration::from_secs(self.start),
        };
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // Whoever is started by `nohup` goes on when the terminal closes.
        let mut hangup = if is_deaf_to_hangups() { None } else { Some(signal(SignalKind::hangup())?) };
        let stop = async move {
            let closed = async {
                match &mut hangup {
                    Some(hangup) => drop(hangup.recv().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = closed => {}
            }
        };
        // The gateway may look at what it leads to at once.
        let serving = tokio::spawn(serve(listener, settings, stop));
        println!("serving http://{local}{}", self.path);
        match &self.host {
            Some(host) => {
                self.publish(client, host, found.as_ref(), local, &token).await?;
                println!("https://{host}{} leads here", self.path);
            }
            None if made => println!("token {}", token.expose_secret()),
            None => {}
        }
        serving.await.map_err(|error| Failure::Wrap(error.to_string()))??;
        Ok(())
    }

    /// The token that callers bring, and whether it was made just now.
    fn token(&self) -> Result<(SecretString, bool), Failure> {
        if let Some(path) = &self.token_file {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Failure::Wrap(format!("--token-file {}: {error}", path.display())))?;
            let text = text.trim();
            if text.len() < 16 || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                let text =
                    format!("--token-file {}: expected 16 or more characters without blanks", path.display());
                return Err(Failure::Wrap(text));
            }
            return Ok((text.into(), false));
        }
        let mut bytes = [0; 32];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Failure::Wrap("there is no randomness".to_owned()))?;
        Ok((BASE64_URL_SAFE_NO_PAD.encode(bytes).into(), true))
    }

    /// What the gateway has of a host, if anything. Refused where it would lead everybody here, or nobody.
    async fn look(&self, client: &Client, host: &HostName) -> Result<Option<Value>, Failure> {
        let shown = client.send(Method::GET, &format!("/proxy/targets/{host}"), None).await?;
        if shown.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if !shown.status.is_success() {
            return Err(Failure::Refused(shown));
        }
        let found = shown.json();
        match unfit(&found, &self.path) {
            Some(why) => Err(Failure::Wrap(format!("--host {host}: {why}"))),
            None => Ok(Some(found)),
        }
    }

    /// Leads a host of the gateway here, and gives it the token.
    async fn publish(
        &self,
        client: &Client,
        host: &HostName,
        found: Option<&Value>,
        local: SocketAddr,
        token: &SecretString,
    ) -> Result<(), Failure> {
        let target = self.advertise.clone().unwrap_or_else(|| format!("http://{local}"));
        let path = format!("/proxy/targets/{host}");
        // Rules that somebody has made for the host stay.
        let mcp = found.and_then(|found| found["mcp"].as_object());
        let mut mcp = mcp.cloned().unwrap_or_default();
        mcp.insert("credentials".to_owned(), "shared".into());
        mcp.insert("credential_header".to_owned(), "authorization".into());
        let led = json!({ "target_url": target, "mcp": mcp });
        if found.is_none() {
            let mut fields = led;
            fields["proxy_hostname"] = host.as_str().into();
            fields["auth_enabled"] = true.into();
            fields["resource_endpoint"] = Value::from(self.path.as_str());
            fields["resource_scopes"] = json!(["mcp"]);
            call(client, Method::POST, "/proxy/targets/", fields).await?;
        } else {
            call(client, Method::PATCH, &path, led).await?;
        }
        let credential = format!("Bearer {}", token.expose_secret());
        let credential = json!({ "credential": credential, "shared": true });
        call(client, Method::PUT, &format!("{path}/upstream-credential"), credential).await
    }
}

/// Why a host that is there can't lead here.
fn unfit(host: &Value, path: &str) -> Option<String> {
    if host["enabled"] == false {
        return Some("it is switched off: expected `enabled`".to_owned());
    }
    if host["auth_enabled"] != true || host["auth_mode"] == "passthrough" {
        let text = "everybody could call the program there: expected a host with login (`auth_enabled`, and `auth_mode` \
                    other than `passthrough`)";
        return Some(text.to_owned());
    }
    let endpoint = host["resource_endpoint"].as_str().unwrap_or(USUAL_ENDPOINT);
    let below = path.strip_prefix(endpoint.trim_end_matches('/'));
    if below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        return None;
    }
    Some(format!(
        "its MCP server is at {endpoint}, and --path is {path}: expected the same (`resource_endpoint`)"
    ))
}

/// What a program that is not ours has no business with: variables that our options are set by, those that are called as
/// ours are, and what is in the environment because of `.env`.
fn ours() -> BTreeSet<OsString> {
    let mut ours = BTreeSet::new();
    of_options(&super::command(&Commands::new()), &mut ours);
    let is_ours = |name: &OsStr| name.as_encoded_bytes().starts_with(OURS.as_bytes());
    ours.extend(std::env::vars_os().map(|(name, _)| name).filter(|name| is_ours(name)));
    if let Ok(file) = dotenvy::dotenv_iter() {
        let from_file = file.flatten().filter(|(name, value)| {
            // Where there is another value, somebody has set that on purpose.
            std::env::var_os(name).is_some_and(|set| set == OsStr::new(value))
        });
        ours.extend(from_file.map(|(name, _)| name.into()));
    }
    ours
}

fn of_options(command: &Command, ours: &mut BTreeSet<OsString>) {
    ours.extend(command.get_arguments().filter_map(Arg::get_env).map(OsStr::to_owned));
    for below in command.get_subcommands() {
        of_options(below, ours);
    }
}

/// Whether whoever has started us wants us to survive the end of the terminal (proc(5), `SigIgn`).
fn is_deaf_to_hangups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

async fn call(client: &Client, method: Method, path: &str, body: Value) -> Result<(), Failure> {
    send(client, &Call { method, path: path.to_owned(), body: Some(body) }).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_leads_everybody_or_nobody_here_is_refused() {
        let host = |more: Value| {
            let mut host = json!({ "enabled": true, "auth_enabled": true, "auth_mode": "forward" });
            host.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            host
        };
        for (more, path, why) in [
            (json!({}), "/mcp", None),
            (json!({ "resource_endpoint": "/tools" }), "/tools", None),
            (json!({ "resource_endpoint": "/" }), "/mcp", None),
            (json!({ "resource_endpoint": "/mcp/" }), "/mcp", None),
            (json!({ "resource_endpoint": null }), "/tools", Some("/mcp")),
            (json!({ "resource_endpoint": "/tools" }), "/mcp", Some("/tools")),
            (json!({ "resource_endpoint": "/tools" }), "/toolsmith", Some("/tools")),
            (json!({ "auth_enabled": false }), "/mcp", Some("auth_enabled")),
            (json!({ "auth_mode": "passthrough" }), "/mcp", Some("passthrough")),
            (json!({ "enabled": false }), "/mcp", Some("switched off")),
        ] {
            let said = unfit(&host(more.clone()), path);
            assert_eq!(said.is_some(), why.is_some(), "{more} {path}: {said:?}");
            assert!(why.is_none_or(|why| said.is_some_and(|said| said.contains(why))), "{more} {path}");
        }
    }

    #[test]
    fn what_our_options_are_set_by_is_ours() {
        let mut ours = BTreeSet::new();
        of_options(&super::super::command(&Commands::new()), &mut ours);
        for name in ["OAUTH_ACCESS_TOKEN", "GITHUB_CLIENT_SECRET", "REDIS_URL", "PORTCULLIS_SECRET_KEY"] {
            assert!(ours.contains(OsStr::new(name)), "{name}");
        }
        for name in ["PATH", "HOME", "GITHUB_TOKEN"] {
            assert!(!ours.contains(OsStr::new(name)), "{name}");
        }
    }
}
