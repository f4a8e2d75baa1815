//! `login` and `logout`: the token in the profile.

use std::path::Path;

use clap::{Arg, ArgMatches, Command};
use http::Method;
use serde_json::{Value, json};

use super::client::{Client, Gateway};
use super::output::Format;
use super::profile::Profiles;
use super::{Failure, call, print_text, send};

/// The commands of this file.
pub(crate) fn commands() -> [Command; 2] {
    let setup = Arg::new("setup").long("setup").required(true).value_name("TOKEN");
    [
        Command::new("login")
            .about("Exchange a setup token for an admin token, and keep that in the profile")
            .arg(setup.help("The token that `serve` printed, or `portcullis setup-token`; `-` reads it from standard input")),
        Command::new("logout").about("Forget the token of the profile"),
    ]
}

/// One of the commands of this file, as it was asked for.
pub(crate) enum Login {
    Setup(String),
    Logout,
}

impl Login {
    /// Recognises the commands of this file.
    pub(crate) fn of(matches: &ArgMatches) -> Option<Self> {
        match matches.subcommand()? {
            ("login", below) => below.get_one::<String>("setup").cloned().map(Self::Setup),
            ("logout", _) => Some(Self::Logout),
            _ => None,
        }
    }

    /// Does what was asked for.
    pub(crate) async fn run(
        self,
        client: Client,
        profiles: &mut Profiles,
        name: &str,
        path: &Path,
        format: Format,
    ) -> Result<(), Failure> {
        let profile = profiles.profiles.entry(name.to_owned()).or_default();
        let said = match self {
            Self::Logout => {
                profile.token = None;
                json!({ "profile": name, "status": "logged out" })
            }
            Self::Setup(token) => {
                let token = if token == "-" { read_line()? } else { token };
                let request = call(Method::POST, "/setup", Some(json!({ "token": token.trim() })));
                let answer = send(&Client { token: None, ..clone(&client) }, &request).await?.json();
                let Some(access_token) = answer.get("token").and_then(Value::as_str) else {
                    return Err(Failure::Render("it has no token".to_owned()));
                };
                profile.token = Some(access_token.into());
                if let Gateway::Url(url) = &client.gateway {
                    profile.base_url = Some(url.to_string());
                }
                profile.cacert.clone_from(&client.cacert);
                json!({ "profile": name, "status": "logged in", "expires_at": answer["expires_at"] })
            }
        };
        profiles.write(path)?;
        print_text(&format.render(&said).map_err(|error| Failure::Render(error.to_string()))?);
        Ok(())
    }
}

fn clone(client: &Client) -> Client {
    Client {
        gateway: client.gateway.clone(),
        token: client.token.clone(),
        timeout: client.timeout,
        cacert: client.cacert.clone(),
    }
}

fn read_line() -> std::io::Result<String> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(line)
}
