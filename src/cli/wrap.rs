//! `mcp wrap`: a local MCP server that speaks over standard input and output, as a host of the gateway.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use clap::{ArgMatches, Args, Command, FromArgMatches, value_parser};
use http::{Method, StatusCode};
use portcullis_layers::HostName;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::call::Call;
use super::client::Client;
use super::{Failure, send};
use crate::wrap::{Settings, serve};

/// The noun of the commands.
pub(super) const NOUN: &str = "mcp";

/// Serve an MCP server that speaks over standard input and output over HTTP, one process for each session; with --host as
/// a protected host of the gateway.
#[derive(Debug, Args)]
pub(super) struct Wrap {
    /// The address to listen on; port 0: any that is free.
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0))]
    listen: SocketAddr,

    /// The path of the server.
    #[arg(long, value_name = "PATH", default_value = "/mcp")]
    path: String,

    /// The host of the gateway to serve it on: made if it is not there, with login and for nobody but those on its lists;
    /// else led here.
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
        let listener = TcpListener::bind(self.listen).await;
        let listener =
            listener.map_err(|error| Failure::Wrap(format!("can't listen on {}: {error}", self.listen)))?;
        let local = listener.local_addr()?;
        let settings = Settings {
            command: self.command.clone(),
            path: self.path.clone(),
            token: token.clone(),
            max_sessions: self.sessions.into(),
            idle: Duration::from_secs(self.idle),
            start: Duration::from_secs(self.start),
        };
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        // The gateway may look at what it leads to at once.
        let serving = tokio::spawn(serve(listener, settings, stop));
        println!("serving http://{local}{}", self.path);
        match &self.host {
            Some(host) => {
                self.publish(client, host, local, &token).await?;
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

    /// Leads a host of the gateway here, and gives it the token.
    async fn publish(
        &self,
        client: &Client,
        host: &HostName,
        local: SocketAddr,
        token: &SecretString,
    ) -> Result<(), Failure> {
        let target = self.advertise.clone().unwrap_or_else(|| format!("http://{local}"));
        let path = format!("/proxy/targets/{host}");
        let shown = client.send(Method::GET, &path, None).await?;
        // Rules that somebody has made for the host stay.
        let mut mcp = shown.json()["mcp"].as_object().cloned().unwrap_or_default();
        mcp.insert("credentials".to_owned(), "shared".into());
        mcp.insert("credential_header".to_owned(), "authorization".into());
        let led = json!({ "target_url": target, "mcp": mcp });
        if shown.status == StatusCode::NOT_FOUND {
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

async fn call(client: &Client, method: Method, path: &str, body: Value) -> Result<(), Failure> {
    send(client, &Call { method, path: path.to_owned(), body: Some(body) }).await.map(drop)
}
