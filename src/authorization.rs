//! Makes the authorization server of the settings.

use std::sync::Arc;

use portcullis_layers::forward::Client;
use portcullis_services::config::access::Site;
use portcullis_services::logs::Writers;
use portcullis_services::mirror::Mirror;
use portcullis_services::oauth::authorization_server::{self, AuthorizationServer};
use portcullis_services::oauth::clients::registration;
use portcullis_services::oauth::clients::{AssertionIssuer, Guard};
use portcullis_services::oauth::github::{Apps, Github};
use portcullis_services::oauth::server::Issuer;
use portcullis_services::oauth::server::metadata::path;
use portcullis_services::oauth::{Keys, Revocations, grants, sessions};
use portcullis_services::vault::Vault;

use crate::daemon::DaemonError;
use crate::settings::{OAuth, Registration, Settings};
use crate::verifiers::Verifiers;

/// What the authorization server is made of beside the settings.
pub(crate) struct Parts<'a> {
    pub(crate) mirror: &'a Mirror,
    pub(crate) vault: &'a Arc<Vault>,
    pub(crate) site: &'a Site,
    pub(crate) client: &'a Client,
    pub(crate) keys: &'a Arc<Keys>,
    pub(crate) revocations: &'a Arc<Revocations>,
    pub(crate) verifiers: &'a Arc<Verifiers>,
    pub(crate) writers: &'a Writers,
    /// What [`fetch_ca`] has read.
    pub(crate) ca: Option<Arc<str>>,
}

/// The authorization server of a deployment.
pub(crate) fn build(settings: &Settings, parts: &Parts<'_>) -> Result<Arc<AuthorizationServer>, DaemonError> {
    let oauth = &settings.oauth;
    let wrong = |variable, detail: String| DaemonError::Setting { variable, detail };
    let issuer = Issuer::parse(&parts.site.issuer).map_err(|error| {
        let variable = if settings.identity.oauth_issuer.is_some() { "OAUTH_ISSUER" } else { "BASE_DOMAIN" };
        wrong(variable, format!("{:?}: {error}", parts.site.issuer))
    })?;
    let assertion_issuers = assertion_issuers(oauth, &issuer)?;
    let app = oauth.github_app().map_err(|error| wrong("GITHUB_CLIENT_SECRET", error.to_string()))?;
    let github = Github::new(parts.client, oauth.github(parts.ca.clone()));
    let github = github.map_err(|error| wrong("GITHUB_URL", error.to_string()))?;
    let server = AuthorizationServer::new(authorization_server::Parts {
        mirror: parts.mirror.clone(),
        vault: Arc::clone(parts.vault),
        site: parts.site.clone(),
        revocations: Arc::clone(parts.revocations),
        keys: Arc::clone(parts.keys),
        verifier: parts.verifiers.own(),
        github,
        apps: Apps::new(Arc::clone(parts.mirror.store()), Arc::clone(parts.vault), app),
        guard: Guard::new(parts.client.clone(), parts.ca.clone(), oauth.fetch_exceptions()),
        writers: parts.writers.clone(),
        settings: authorization_server::Settings { assertion_issuers, ..of(oauth, &issuer) },
        issuer,
    });
    let judge = Arc::<Verifiers>::clone(parts.verifiers);
    Ok(Arc::new(server.judged_by(judge)))
}

/// The authorities that are trusted for what is fetched, where the deployment names some.
pub(crate) fn fetch_ca(oauth: &OAuth) -> Result<Option<Arc<str>>, DaemonError> {
    let Some(file) = &oauth.fetch_ca else { return Ok(None) };
    let read = std::fs::read_to_string(file).map_err(|error| DaemonError::Setting {
        variable: "PORTCULLIS_OAUTH_FETCH_CA",
        detail: format!("{}: {error}", file.display()),
    });
    Ok(Some(read?.into()))
}

/// The issuers whose assertions about users are taken, from their file.
fn assertion_issuers(oauth: &OAuth, own: &Issuer) -> Result<Vec<AssertionIssuer>, DaemonError> {
    let Some(file) = &oauth.assertion_issuers else { return Ok(Vec::new()) };
    let wrong =
        |detail: String| DaemonError::Setting { variable: "PORTCULLIS_OAUTH_ASSERTION_ISSUERS", detail };
    if !oauth.assertion_grants {
        // Whoever names issuers means them to be heard.
        return Err(wrong("it has no effect without PORTCULLIS_OAUTH_ASSERTION_GRANTS=true".to_owned()));
    }
    let of_file = |error: &dyn std::fmt::Display| wrong(format!("{}: {error}", file.display()));
    let json = std::fs::read_to_string(file).map_err(|error| of_file(&error))?;
    AssertionIssuer::read_list(&json, own.as_str()).map_err(|error| of_file(&error))
}

fn of(oauth: &OAuth, issuer: &Issuer) -> authorization_server::Settings {
    let registration = registration::Settings {
        idle: oauth.client_lifetime.0,
        ..registration::Settings::new(issuer.endpoint(path::REGISTER))
    };
    authorization_server::Settings {
        tokens: grants::Lifetimes {
            access: oauth.access_token_lifetime,
            idle: oauth.grant_idle,
            absolute: oauth.refresh_token_lifetime,
            window: oauth.refresh_window,
        },
        sessions: sessions::Lifetimes { idle: oauth.session_idle, absolute: oauth.session_lifetime },
        host_session: oauth.host_session_lifetime,
        login: oauth.session_timeout,
        groups: oauth.groups_lifetime.0,
        registration: (oauth.registration == Registration::Open).then_some(registration),
        assertion_grants: oauth.assertion_grants,
        assertion_issuers: Vec::new(),
    }
}
