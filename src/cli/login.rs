//! `login` and `logout`: the tokens in the profile.

use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command};
use http::Method;
use serde_json::{Value, json};

use super::client::{Client, Gateway};
use super::oauth::{self, session};
use super::output::Format;
use super::profile::Profiles;
use super::{Failure, call, print_text, send};

/// The commands of this file.
pub(crate) fn commands() -> [Command; 2] {
    let switch = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    let setup = Arg::new("setup").long("setup").value_name("TOKEN").conflicts_with_all([
        "device",
        "no-browser",
        "scope",
    ]);
    let scope = Arg::new("scope").long("scope").value_name("SCOPE").action(ArgAction::Append);
    [
        Command::new("login")
            .about("Log in at a gateway, and keep the tokens in the profile")
            .after_help(
                "With a browser on this machine the answer comes back over a loopback port; without one, or with \
                 --device, a code is entered in a browser anywhere. Tokens are renewed as long as they are used.",
            )
            .arg(setup.help("Exchange a setup token for an admin token instead: the one that `serve` printed, or `portcullis setup-token`; `-` reads it from standard input"))
            .arg(switch("device").help("Sign in with a browser elsewhere (RFC 8628)"))
            .arg(switch("no-browser").help("Open no browser: only print the URL").conflicts_with("device"))
            .arg(scope.help("What to ask for [default: what the gateway names, else admin, user and mcp]")),
        Command::new("logout").about("Revoke the login of the profile, and forget its tokens"),
    ]
}

/// One of the commands of this file, as it was asked for.
pub(crate) enum Login {
    Setup(String),
    SignIn(oauth::Options),
    Logout,
}

impl Login {
    /// Recognises the commands of this file.
    pub(crate) fn of(matches: &ArgMatches) -> Option<Self> {
        match matches.subcommand()? {
            ("login", below) => Some(match below.get_one::<String>("setup") {
                Some(token) => Self::Setup(token.clone()),
                None => Self::SignIn(oauth::Options {
                    device: below.get_flag("device"),
                    no_browser: below.get_flag("no-browser"),
                    scopes: below
                        .get_many::<String>("scope")
                        .map(|scopes| scopes.map(String::as_str).collect::<Vec<_>>().join(" ")),
                }),
            }),
            ("logout", _) => Some(Self::Logout),
            _ => None,
        }
    }

    /// Does what was asked for.
    pub(crate) async fn run(
        self,
        client: Client,
        name: &str,
        path: &Path,
        format: Format,
    ) -> Result<(), Failure> {
        let said = match self {
            Self::Setup(token) => set_up(&client, token, name, path).await?,
            Self::SignIn(options) => sign_in(&client, &options, name, path).await?,
            Self::Logout => log_out(&client, name, path).await?,
        };
        print_text(&format.render(&said).map_err(|error| Failure::Render(error.to_string()))?);
        Ok(())
    }
}

async fn set_up(client: &Client, token: String, name: &str, path: &Path) -> Result<Value, Failure> {
    let token = if token == "-" { read_line()? } else { token };
    let request = call(Method::POST, "/setup", Some(json!({ "token": token.trim() })));
    let answer = send(&Client { token: None, ..client.clone() }, &request).await?.json();
    let Some(access_token) = answer.get("token").and_then(Value::as_str) else {
        return Err(Failure::Render("it has no token".to_owned()));
    };
    Profiles::change(path, name, |profile| {
        profile.token = Some(access_token.into());
        profile.session = None;
        if let Gateway::Url(url) = &client.gateway {
            profile.base_url = Some(url.to_string());
        }
        profile.cacert.clone_from(&client.cacert);
    })
    .await?;
    Ok(json!({ "profile": name, "status": "logged in", "expires_at": answer["expires_at"] }))
}

async fn sign_in(
    client: &Client,
    options: &oauth::Options,
    name: &str,
    path: &Path,
) -> Result<Value, Failure> {
    let Gateway::Url(url) = &client.gateway else { return Err(Failure::NoLogin) };
    let session = oauth::log_in(&client.web(), url, options).await?;
    let said = json!({
        "profile": name,
        "status": "logged in",
        "issuer": session.issuer,
        "resource": session.resource,
        "scopes": session.scope.split(' ').collect::<Vec<_>>(),
        "expires_at": session.expires_at,
        "renews_itself": session.refresh_token.is_some(),
    });
    let mut before = None;
    Profiles::change(path, name, |profile| {
        profile.token = None;
        before = profile.session.replace(session);
        profile.base_url = Some(url.to_string());
        profile.cacert.clone_from(&client.cacert);
    })
    .await?;
    // It would go on at the gateway, with nobody knowing its tokens.
    if let Some(before) = before
        && let Err(error) = session::revoke(&client.web(), &before).await
    {
        eprintln!("warning: the login before this one could not be revoked: {error}");
    }
    Ok(said)
}

/// Forgets the tokens in any case; whether the gateway has done so is said.
async fn log_out(client: &Client, name: &str, path: &Path) -> Result<Value, Failure> {
    let mut session = None;
    Profiles::change(path, name, |profile| {
        profile.token = None;
        session = profile.session.take();
    })
    .await?;
    let mut said = json!({ "profile": name, "status": "logged out" });
    if let Some(session) = session {
        let revoked = session::revoke(&client.web(), &session).await;
        said["revoked"] = json!(matches!(revoked, Ok(true)));
        if let Err(error) = revoked {
            eprintln!(
                "warning: the tokens are forgotten here, but could not be revoked at {}: {error}",
                session.issuer
            );
        }
    }
    Ok(said)
}

fn read_line() -> std::io::Result<String> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(line)
}
