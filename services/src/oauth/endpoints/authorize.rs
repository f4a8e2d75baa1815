//! The authorization endpoint (OAuth 2.1, section 4.1.1): who asks, and what for.

use bytes::Bytes;
use http::{Method, Response};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::ExposeSecret;

use super::code::{Signed, answer, is_trusted};
use super::{Asked, unavailable, upstream};
use crate::oauth::audiences::{AudienceHost, Audiences};
use crate::oauth::authorization_server::Event;
use crate::oauth::clients::{Client, GrantType, LookupError};
use crate::oauth::github::App;
use crate::oauth::login::{Ask, Purpose};
use crate::oauth::server::cookies;
use crate::oauth::server::error::{ErrorCode, OAuthError};
use crate::oauth::server::metadata::path;
use crate::oauth::server::params::Params;
use crate::oauth::server::redirect::{RedirectTarget, see_other};
use crate::oauth::server::request::{AuthorizeRequest, Requester};
use crate::oauth::server::resource::{Resource, requested};
use crate::oauth::server::scope::Scopes;
use crate::oauth::sessions::Session;
use crate::oauth::state::Identity;

/// `GET` or `POST` (OpenID Connect Core 1.0, section 3.1.2.1).
pub(super) async fn authorize(asked: Asked) -> Response<Bytes> {
    let params = match asked.method {
        Method::GET => asked.query(),
        Method::POST => asked.form(),
        _ => return Asked::method_not_allowed("GET, POST"),
    };
    let params = match params {
        Ok(params) => params,
        Err(error) => return asked.error_page(&error),
    };
    if !asked.is_at_issuer() {
        return elsewhere(&asked, &params).await;
    }
    if let Err(wait) = asked.server.limits.logins.count(asked.client, asked.now) {
        return asked.error_page(&OAuthError::too_many(wait));
    }
    let (client, requester) = match requester(&asked, &params).await {
        Ok(known) => known,
        Err(error) => {
            let client_id = params.get("client_id").ok().flatten();
            asked.server.note(&Event { client_id, ..asked.event("auth_request", Some(&error)) });
            return asked.error_page(&error);
        }
    };
    let target = requester.target(asked.server.issuer.as_str());
    match ask(&asked, &params, &client, requester).await {
        Ok(outcome) => outcome,
        Err(error) => {
            asked
                .server
                .note(&Event { client_id: Some(&client.id), ..asked.event("auth_request", Some(&error)) });
            target.error(&error)
        }
    }
}

/// On a host that acts for the issuer, the request is for the resource that the host is.
async fn elsewhere(asked: &Asked, params: &Params) -> Response<Bytes> {
    if asked.method == Method::POST {
        return Asked::method_not_allowed("GET");
    }
    let mut location = asked.server.issuer.endpoint(path::AUTHORIZE);
    location.push('?');
    location.push_str(&asked.query);
    if params.all("resource").is_empty() {
        let audiences = match asked.server.audiences().await {
            Ok(audiences) => audiences,
            Err(error) => return asked.error_page(&unavailable(&error)),
        };
        if let Some(own) = asked.acting_host().and_then(|host| audiences.of_host(host)) {
            let separator = if asked.query.is_empty() { "" } else { "&" };
            let own = utf8_percent_encode(&own.resource, NON_ALPHANUMERIC);
            location.push_str(&format!("{separator}resource={own}"));
        }
    }
    see_other(&location)
}

/// The client, once it is known that the redirect URI is its own. An error is for a page: there is nobody to
/// redirect to.
async fn requester(asked: &Asked, params: &Params) -> Result<(Client, Requester), OAuthError> {
    let requester = Requester::parse(params)?;
    let client = find_client(asked, &requester.client_id).await?;
    if client.redirect(&requester.redirect_uri).is_none() {
        let why = "redirect_uri is not one that the client has registered";
        return Err(OAuthError::new(ErrorCode::InvalidRedirectUri, why));
    }
    Ok((client, requester))
}

/// A client by its id.
pub(super) async fn find_client(asked: &Asked, id: &str) -> Result<Client, OAuthError> {
    asked.may_look_up(id).map_err(OAuthError::too_many)?;
    match asked.server.clients.find(id, asked.now).await {
        Ok(Some(client)) => Ok(client),
        Ok(None) => {
            Err(OAuthError::new(ErrorCode::InvalidClient, "the client is not known here: register it anew"))
        }
        Err(LookupError::Document(error)) => {
            Err(OAuthError::new(ErrorCode::InvalidClient, error.to_string()))
        }
        Err(LookupError::Store(error)) => Err(unavailable(&error)),
    }
}

/// Reads the rest of the request, and asks or answers. An error goes back to the client.
async fn ask(
    asked: &Asked,
    params: &Params,
    client: &Client,
    requester: Requester,
) -> Result<Response<Bytes>, OAuthError> {
    let request = AuthorizeRequest::parse(params)?;
    if !client.may(GrantType::AuthorizationCode) {
        let why = "the client may not use the authorization code grant";
        return Err(OAuthError::new(ErrorCode::UnauthorizedClient, why));
    }
    let audiences = asked.server.audiences().await.map_err(|error| unavailable(&error))?;
    let (resources, scopes) = wanted(asked, &audiences, client, &request.resources, request.scope.as_ref())?;
    let prompt = request.prompt;
    let ask = Ask {
        client_id: requester.client_id,
        redirect_uri: requester.redirect_uri,
        state: requester.state,
        challenge: request.challenge,
        resources,
        scopes,
        nonce: request.nonce,
        ask_again: prompt.consent,
        login_hint: request.login_hint,
        choose_account: prompt.select_account,
    };
    let hosts = found(&audiences, &ask.resources)?;
    let session = current_session(asked).await?.filter(|session| {
        let age = asked.now.duration_since(session.created_at).as_secs();
        let recent = request.max_age.is_none_or(|max| i64::try_from(max).is_ok_and(|max| age <= max));
        recent
            && !prompt.login
            && !prompt.select_account
            && asked.can_judge(&audiences, &hosts, &session.identity)
    });
    match session {
        Some(session) => answer(asked, &audiences, client, ask, Signed::Before(&session), prompt.none).await,
        None if prompt.none => Err(OAuthError::new(ErrorCode::LoginRequired, "the user has to sign in")),
        // Whoever asks in its own deployment's name needs no page before GitHub's.
        None if is_trusted(client, &ask.redirect_uri) => {
            Ok(upstream::begin(asked, &audiences, Purpose::Client { ask: Box::new(ask), approved: false })
                .await?)
        }
        // Before GitHub is asked anything: who has signed in there would be sent on without seeing a page.
        None => super::consent::show(asked, client, ask, None).await,
    }
}

/// What a request is for: resources in our spelling, and the scopes among those asked for that mean something there
/// and that the client may ask.
pub(super) fn wanted(
    asked: &Asked,
    audiences: &Audiences,
    client: &Client,
    resources: &[String],
    scope: Option<&Scopes>,
) -> Result<(Vec<String>, Scopes), OAuthError> {
    let identity_only = scope.is_some_and(Scopes::has_openid);
    let implied = audiences.implied(asked.acting_host(), identity_only);
    let known = |resource: &Resource| audiences.find(resource).map(|found| found.resource);
    let resources = requested(resources, known, implied.as_ref().map(|implied| implied.resource.as_str()))?;
    let hosts = found(audiences, &resources)?;
    let ceiling = client.metadata.scope.as_deref().map(Scopes::parse).transpose()?;
    let scopes = match scope {
        Some(asked_for) => {
            let meant = asked_for.only(|scope| hosts.iter().any(|host| host.knows(scope)));
            if meant.is_empty() && !asked_for.is_empty() {
                let why = "none of the scopes means anything at this resource";
                return Err(OAuthError::new(ErrorCode::InvalidScope, why));
            }
            meant.permitted(ceiling.as_ref())?
        }
        None => {
            let usual: Vec<String> = hosts.iter().flat_map(AudienceHost::usual_scopes).collect();
            let usual = Scopes::parse(&usual.join(" "))?;
            match &ceiling {
                Some(ceiling) if !ceiling.is_empty() => usual.only(|scope| ceiling.contains(scope)),
                _ => usual,
            }
        }
    };
    Ok((resources, scopes))
}

/// The hosts of resources that were found before: one may be gone by now.
pub(super) fn found(audiences: &Audiences, resources: &[String]) -> Result<Vec<AudienceHost>, OAuthError> {
    let find = |resource: &String| {
        let gone = || OAuthError::new(ErrorCode::InvalidTarget, "the resource is not known here");
        audiences.find(&Resource::parse(resource)?).ok_or_else(gone)
    };
    resources.iter().map(find).collect()
}

/// The session of the browser at the issuer.
pub(super) async fn current_session(asked: &Asked) -> Result<Option<Session>, OAuthError> {
    let Some(secret) = cookies::read(&asked.headers, cookies::SESSION) else { return Ok(None) };
    let found = asked.server.sessions.find(secret.expose_secret(), asked.now).await;
    match found.map_err(|error| unavailable(&error))? {
        // An account that was renamed since, or whose login a list means for another one, has to sign in again.
        Some(session) if !asked.owns_login(&session.identity).await? => Ok(None),
        found => Ok(found),
    }
}

impl Asked {
    /// Whether enough is known of somebody to decide about these hosts.
    pub(super) fn can_judge(
        &self,
        audiences: &Audiences,
        hosts: &[AudienceHost],
        identity: &Identity,
    ) -> bool {
        let global = self.server.apps.global().ok();
        let global = global.as_ref().map(App::client_id);
        audiences.can_judge(identity)
            && hosts.iter().all(|host| Audiences::knows_groups_of(host, identity, global))
    }

    /// An event of this request.
    pub(super) fn event<'a>(&'a self, kind: &'static str, error: Option<&'a OAuthError>) -> Event<'a> {
        Event {
            kind,
            error: error.map(|error| error.code().as_str()),
            detail: error.map(OAuthError::description),
            client_ip: self.client,
            host: self.host.as_ref().map(|host| host.name.as_str()),
            ..Event::default()
        }
    }
}

/// Where the answer of an ask goes, as a type that says that it was checked.
pub(super) fn target_of(asked: &Asked, ask: &Ask) -> RedirectTarget {
    ask.target(asked.server.issuer.as_str())
}
