//! Whether people can sign in, and why not.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use portcullis_layers::HostName;
use portcullis_layers::auth::KeySet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::host_of;
use super::noted;
use crate::config::certificate::CertStatus;
use crate::config::{Config, Proxy};
use crate::control::operation::get;
use crate::control::{Access, Context, Control, Endpoint, Error, Operation, Surface};
use crate::oauth::{AuthorizationServer, Claims};

/// How long the store may take to answer.
const PING: Duration = Duration::from_secs(2);

/// How far back a login is looked for.
const LOOK_BACK: Duration = Duration::from_secs(30 * 24 * 3600);

/// A login within this time is recent.
const RECENT: Duration = Duration::from_secs(24 * 3600);

/// Adds the operation.
pub fn register(surface: &mut impl Surface) {
    surface.add::<OauthHealth>();
}

/// A check and what it found.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Check {
    /// Whether all is well.
    pub ok: bool,
    /// What is the matter, or how it is.
    pub detail: String,
}

impl Check {
    fn of(found: Result<String, String>) -> Self {
        let ok = found.is_ok();
        let (Ok(detail) | Err(detail)) = found;
        Self { ok, detail }
    }
}

/// All checks.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Checks {
    /// The store answers.
    pub store: Check,
    /// The issuer's host is set up and enabled.
    pub auth_proxy_configured: Check,
    /// A certificate for it is valid.
    pub certificate_valid: Check,
    /// The issuer answers this node with its metadata, over the network, where clients look for it. What is found
    /// counts for ten seconds. Clients elsewhere may see something else.
    pub oauth_server_reachable: Check,
    /// The issuer's metadata can be published.
    pub oauth_metadata_valid: Check,
    /// There is a key to sign with, and a set of keys to publish.
    pub rsa_keys_available: Check,
    /// What is published has the key that signs.
    pub jwks_endpoint: Check,
    /// A token that is signed now passes this node's verifier.
    pub token_validation: Check,
    /// There is an app at GitHub for hosts that have none of their own.
    pub github_app: Check,
    /// Somebody has signed in within a day. No fault if nobody has.
    pub recent_activity: Check,
}

/// The host of the authorization server.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AuthProxy {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_hostname: Option<HostName>,
    /// `enabled`, `disabled` or `missing`.
    pub status: &'static str,
    /// Whether a certificate for it is valid.
    pub certificate_valid: bool,
}

/// Whether people can sign in.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OauthHealthReport {
    /// `healthy`, `degraded` or `unhealthy`: nobody gets a token.
    pub status: &'static str,
    /// The issuer.
    pub issuer: String,
    /// What was looked at.
    pub checks: Checks,
    /// When somebody was last let in, in the last 30 days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_successful_auth: Option<Timestamp>,
    /// The host of the authorization server.
    pub auth_proxy: AuthProxy,
}

/// Show whether people can sign in, and if not, why.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct OauthHealth {}

impl Operation for OauthHealth {
    const NAME: &'static str = "oauth_health";
    const COMMAND: &'static [&'static str] = &["oauth", "health"];
    const HTTP: Endpoint = get("/oauth/health");
    const SCOPE: Access = Access::Admin;
    type Output = OauthHealthReport;

    async fn run(self, control: &Control, _: &Context) -> Result<OauthHealthReport, Error> {
        let server = control.oauth()?;
        let now = Timestamp::now();
        let reached = matches!(tokio::time::timeout(PING, control.store.ping()).await, Ok(Ok(())));
        let store = if reached { Ok("it answers".to_owned()) } else { Err("it does not answer".to_owned()) };
        // A report must not fail because the store does: then it is about what this node knows.
        let config = match reached {
            true => control.config().await?,
            false => control.mirror.known().map(|view| Arc::clone(&view.config)).unwrap_or_default(),
        };
        let host = issuer_host(server);
        let proxy = host.as_ref().and_then(|host| config.proxy_of(host));
        let certificate = certificate(&config, host.as_ref(), proxy.map(|proxy| &**proxy), now);
        let last = if reached { last_login(control).await? } else { None };
        let (configured, status) = match proxy {
            Some(proxy) if proxy.enabled => (Ok("it is enabled".to_owned()), "enabled"),
            Some(_) => (Err("it is disabled".to_owned()), "disabled"),
            None => (Err("there is no proxy for the issuer's host".to_owned()), "missing"),
        };
        let certificate_valid = certificate.is_ok();
        let checks = Checks {
            store: Check::of(store),
            auth_proxy_configured: Check::of(configured),
            certificate_valid: Check::of(certificate),
            oauth_server_reachable: Check::of(reachable(control, server).await),
            oauth_metadata_valid: Check::of(metadata(server)),
            rsa_keys_available: Check::of(keys(server)),
            jwks_endpoint: Check::of(published(server)),
            token_validation: Check::of(validation(server, now)),
            github_app: Check::of(match server.apps.global() {
                Ok(app) => Ok(format!("{} is used", app.client_id())),
                Err(error) => Err(error.to_string()),
            }),
            recent_activity: Check::of(activity(last, now)),
        };
        Ok(OauthHealthReport {
            status: status_of(&checks),
            issuer: server.issuer.as_str().to_owned(),
            checks,
            last_successful_auth: last,
            auth_proxy: AuthProxy { proxy_hostname: host, status, certificate_valid },
        })
    }
}

const fn status_of(checks: &Checks) -> &'static str {
    let vital = checks.store.ok
        && checks.auth_proxy_configured.ok
        && checks.rsa_keys_available.ok
        && checks.jwks_endpoint.ok
        && checks.token_validation.ok;
    let rest = checks.certificate_valid.ok
        && checks.oauth_server_reachable.ok
        && checks.oauth_metadata_valid.ok
        && checks.github_app.ok;
    match (vital, rest) {
        (true, true) => "healthy",
        (true, false) => "degraded",
        (false, _) => "unhealthy",
    }
}

/// The host of the issuer.
pub(super) fn issuer_host(server: &AuthorizationServer) -> Option<HostName> {
    host_of(server.issuer.as_str())
}

/// A certificate that would serve the issuer's host.
fn certificate(
    config: &Config,
    host: Option<&HostName>,
    proxy: Option<&Proxy>,
    now: Timestamp,
) -> Result<String, String> {
    let (Some(host), Some(proxy)) = (host, proxy) else { return Err("there is no host for one".to_owned()) };
    let covers = |domains: &[crate::config::HostPattern]| domains.iter().any(|domain| domain.covers(host));
    let serving = config.certificates.values().filter(|one| match &proxy.cert_name {
        Some(name) => *name == one.cert_name,
        None => covers(&one.domains),
    });
    let mut why = "no certificate covers the host: it serves one that nobody trusts";
    for one in serving {
        match one.status_at(now) {
            CertStatus::Active | CertStatus::Replacing if covers(&one.domains) => {
                return Ok(match one.expires_at {
                    Some(end) => format!("{} is valid until {end}", one.cert_name),
                    None => format!("{} is valid", one.cert_name),
                });
            }
            CertStatus::Expired => why = "the certificate has expired",
            CertStatus::Active | CertStatus::Replacing => why = "the certificate does not cover the host",
            CertStatus::Pending | CertStatus::Failed => why = "the certificate was not issued yet",
        }
    }
    Err(why.to_owned())
}

async fn reachable(control: &Control, server: &AuthorizationServer) -> Result<String, String> {
    match &control.probes {
        Some(probes) => probes.issuer(&server.issuer).await,
        None => Err("this node calls nobody".to_owned()),
    }
}

fn metadata(server: &AuthorizationServer) -> Result<String, String> {
    let document: serde_json::Value =
        serde_json::from_slice(&server.metadata.to_json()).map_err(|error| error.to_string())?;
    if document["issuer"] == server.issuer.as_str() {
        Ok("it names the issuer".to_owned())
    } else {
        Err("it names another issuer".to_owned())
    }
}

fn keys(server: &AuthorizationServer) -> Result<String, String> {
    let keys = server.keys();
    keys.key_set().map_err(|error| error.to_string())?;
    Ok(format!("{} signs, {} verify", keys.active().id(), keys.records().len()))
}

fn published(server: &AuthorizationServer) -> Result<String, String> {
    let keys = server.keys();
    let set = KeySet::from_jwks(&keys.jwks().to_string()).map_err(|error| error.to_string())?;
    if set.ids().any(|id| id == Some(keys.active().id())) {
        Ok(format!("{} keys are published", set.ids().count()))
    } else {
        Err("the key that signs is not published".to_owned())
    }
}

/// Signs a token that is good for nothing, and has it verified.
fn validation(server: &AuthorizationServer, now: Timestamp) -> Result<String, String> {
    let audience = [server.issuer.endpoint("/.portcullis/health")];
    let life = Duration::from_secs(60);
    let claims = Claims::new(server.issuer.as_str(), "health", "health", &audience, &[], life, now)
        .map_err(|error| error.to_string())?;
    let token = server.keys().mint(&claims);
    match server.verifier.verify(&token) {
        Ok(_) => Ok("a token that was just signed is good".to_owned()),
        Err(error) => Err(format!("a token that was just signed is refused: {error}")),
    }
}

fn activity(last: Option<Timestamp>, now: Timestamp) -> Result<String, String> {
    match last {
        Some(last) if now.duration_since(last).unsigned_abs() <= RECENT => Ok(format!("at {last}")),
        Some(last) => Err(format!("not since {last}")),
        None => Err("not in the last 30 days".to_owned()),
    }
}

async fn last_login(control: &Control) -> Result<Option<Timestamp>, Error> {
    let mut last = None;
    noted::scan(control, noted::since(LOOK_BACK), |event| {
        if event.success && matches!(&*event.event_type, "auth_complete" | "device_complete") {
            last = event.at();
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })
    .await?;
    Ok(last)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::oauth::testing::{Given, given};
    use crate::control::proxies::UpdateProxy;
    use crate::oauth::authorization_server::Event;
    use crate::store::{Expect, Key, Kind, Write};

    async fn certified(given: &Given, expires_at: &str) {
        let value = json!({
            "cert_name": "auth", "domains": ["*.example.com"], "status": "active",
            "fullchain_pem": "chain", "expires_at": expires_at,
        });
        let key = Key::new(Kind::Certificate, "auth");
        given
            .control
            .store
            .commit(vec![Write::Put { key, value, expect: Expect::Any }])
            .await
            .expect("stored");
    }

    #[tokio::test]
    async fn a_report_says_what_is_missing() {
        let given = given().await;
        let report = given.ask::<OauthHealth>(json!({})).await;
        assert_eq!(
            (&report["status"], &report["auth_proxy"]["status"]),
            (&json!("unhealthy"), &json!("missing"))
        );
        for fine in
            ["store", "oauth_metadata_valid", "rsa_keys_available", "jwks_endpoint", "token_validation"]
        {
            assert_eq!(report["checks"][fine]["ok"], true, "{fine}: {report}");
        }
        assert_eq!(report.get("last_successful_auth"), None);

        given.proxy("auth.example.com").await;
        certified(&given, "2020-01-01T00:00:00Z").await;
        let report = given.ask::<OauthHealth>(json!({})).await;
        assert_eq!(report["status"], "degraded");
        assert_eq!(report["checks"]["certificate_valid"]["detail"], "the certificate has expired");
        certified(&given, "2999-01-01T00:00:00Z").await;
        given.note(&[Event { kind: "auth_complete", ..Event::default() }]).await;
        let report = given.ask::<OauthHealth>(json!({})).await;
        assert_eq!(report["checks"]["certificate_valid"]["ok"], true, "{report}");
        assert_eq!(report["auth_proxy"]["certificate_valid"], true);
        assert_eq!(report["checks"]["recent_activity"]["ok"], true, "{report}");
        assert!(report["last_successful_auth"].is_string(), "{report}");
        assert_eq!(report["status"], "degraded", "nobody has set an app at GitHub up: {report}");

        let disable = json!({ "proxy_hostname": "auth.example.com", "enabled": false });
        given.ask::<UpdateProxy>(disable).await;
        let report = given.ask::<OauthHealth>(json!({})).await;
        assert_eq!(
            (&report["status"], &report["auth_proxy"]["status"]),
            (&json!("unhealthy"), &json!("disabled"))
        );
    }

    #[tokio::test]
    async fn a_token_that_this_node_would_refuse_is_found() {
        let given = given().await;
        let foreign = crate::oauth::SigningKey::generate();
        let keys = crate::oauth::Keys::ensure_active(
            &*given.control.store,
            &given.control.vault,
            Some(foreign),
            Timestamp::now(),
            Timestamp::now(),
        );
        given.server.replace_keys(std::sync::Arc::new(keys.await.expect("keys")));
        let report = given.ask::<OauthHealth>(json!({})).await;
        assert_eq!(report["checks"]["token_validation"]["ok"], false, "{report}");
        assert_eq!(report["status"], "unhealthy");
    }
}
