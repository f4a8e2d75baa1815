//! What an authority says of itself in its directory (RFC 8555, section 7.1.1).

use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use portcullis_layers::Body;
use portcullis_layers::forward::Client;
use serde::Deserialize;
use smol_str::SmolStr;

use super::caa::Issuer;
use super::report::Check;
use crate::acme::failure::chain;
use crate::acme::policy::Authority;
use crate::config::TargetUrl;
use crate::outbound::{Limits, Outbound};

/// A directory is small, and asked for often.
const LIMITS: Limits = Limits { time: Duration::from_secs(10), body: 64 * 1024 };

/// An authority has a handful of names at most.
const NAMES: usize = 16;

const CHECK: &str = "authority";

#[derive(Debug, Deserialize)]
struct Directory {
    #[serde(rename = "newOrder")]
    new_order: String,
    #[serde(default)]
    meta: Meta,
}

#[derive(Debug, Default, Deserialize)]
struct Meta {
    #[serde(default, rename = "caaIdentities")]
    caa_identities: Vec<String>,
}

/// By which names CAA records mean an authority, and whether it answers.
pub(super) async fn ask(client: &Client, authority: &Authority) -> (Issuer, Check) {
    let directory = authority.directory.to_string();
    let (identities, check) = match read(client, authority).await {
        Ok(found) => {
            let identities: Vec<_> = found.meta.caa_identities.into_iter().take(NAMES).collect();
            let names = if identities.is_empty() {
                "does not say what CAA records call it".to_owned()
            } else {
                format!("is {} to CAA records", identities.join(", "))
            };
            (identities, Check::ok(CHECK, format!("{directory} answers, and {names}")))
        }
        Err(error) => {
            let advice =
                "may this gateway call it? Look at ACME_DIRECTORY_URL, PORTCULLIS_ACME_CA and firewalls";
            (Vec::new(), Check::fail(CHECK, format!("{directory}: {error}"), advice))
        }
    };
    (Issuer { directory, identities, account: None }, check)
}

async fn read(client: &Client, authority: &Authority) -> Result<Directory, String> {
    let server = TargetUrl { path: SmolStr::default(), ..authority.directory.clone() };
    let server =
        Outbound::new(client, &server, authority.ca.clone(), LIMITS).map_err(|error| chain(&error))?;
    let path = authority.directory.path.as_str();
    let request =
        Request::get(if path.is_empty() { "/" } else { path }).header(header::ACCEPT, "application/json");
    let request = request.body(Body::from(Bytes::new())).map_err(|error| error.to_string())?;
    let answer = server.send(request).await.map_err(|error| chain(&error))?;
    if !answer.status.is_success() {
        return Err(format!("it answers {}", answer.status));
    }
    serde_json::from_slice::<Directory>(&answer.body)
        .ok()
        .filter(|directory| !directory.new_order.is_empty())
        .ok_or_else(|| "what answers there is no ACME server".to_owned())
}
