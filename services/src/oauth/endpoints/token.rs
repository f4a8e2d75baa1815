//! The token endpoint (OAuth 2.1, section 3.2), by grant type.

use bytes::Bytes;
use http::Response;
use secrecy::ExposeSecret;

use super::answer::{self, Login};
use super::checks::PKCE_VALIDATION;
use super::client_request::post;
use super::wanted::found;
use super::{Asked, assertion_grant, client_credentials, device, exchange, redemption, refresh, unavailable};
use crate::oauth::authorization_server::Event;
use crate::oauth::clients::GrantType;
use crate::oauth::grants;
use crate::oauth::server::error::{ErrorCode, OAuthError};
use crate::oauth::server::params::Params;
use crate::oauth::server::request::TokenRequest;

/// `POST`.
pub(super) async fn token(asked: Asked) -> Response<Bytes> {
    served(&asked, &GrantType::ALL).await
}

/// `POST /device/token`: where older clients redeem device codes. RFC 8628 has no such endpoint.
pub(super) async fn device_token(asked: Asked) -> Response<Bytes> {
    served(&asked, &[GrantType::DeviceCode]).await
}

async fn served(asked: &Asked, grants: &[GrantType]) -> Response<Bytes> {
    post(asked, "token_exchange", async |asked, params, client| {
        let request = TokenRequest::parse(params).map_err(|error| {
            if !lacks_verifier(params) {
                return error;
            }
            let about = Event { client_id: Some(&client.id), ..Event::default() };
            asked.failed(PKCE_VALIDATION, error, about)
        })?;
        let grant = request.grant_type();
        if !grants.contains(&grant) || !asked.server.settings.serve(grant) {
            return Err(OAuthError::new(ErrorCode::UnsupportedGrantType, "not served here"));
        }
        if !client.may(grant) {
            let why = "the client may not use this grant type";
            return Err(OAuthError::new(ErrorCode::UnauthorizedClient, why));
        }
        let audiences = asked.server.audiences().await.map_err(|error| unavailable(&error))?;
        let (issued, login) = match request {
            TokenRequest::AuthorizationCode { code, redirect_uri, code_verifier, resources } => {
                let proof = redemption::Proof {
                    code: code.expose_secret(),
                    redirect_uri: redirect_uri.as_deref(),
                    verifier: code_verifier.expose_secret(),
                };
                redemption::redeem(asked, &audiences, client, proof, &resources).await?
            }
            TokenRequest::RefreshToken { refresh_token, scope, resources } => {
                let token = refresh_token.expose_secret();
                (
                    refresh::refresh(asked, &audiences, client, token, scope.as_ref(), &resources).await?,
                    Login::default(),
                )
            }
            TokenRequest::ClientCredentials { scope, resources } => (
                client_credentials::issue(asked, &audiences, client, scope.as_ref(), &resources).await?,
                Login::default(),
            ),
            TokenRequest::DeviceCode { device_code, resources } => {
                device::redeem(asked, &audiences, client, device_code.expose_secret(), &resources).await?
            }
            TokenRequest::JwtBearer { assertion, scope, resources } => {
                let assertion = assertion.expose_secret();
                let scope = scope.as_ref();
                (
                    assertion_grant::issue(asked, &audiences, client, assertion, scope, &resources).await?,
                    Login::default(),
                )
            }
            TokenRequest::TokenExchange(request) => {
                exchange::issue(asked, &audiences, client, &request).await?
            }
        };
        // They were looked up before anything was used up.
        let hosts = found(&audiences, &issued.access.resources)?;
        asked.server.note(&Event {
            resources: &issued.access.resources,
            client_id: Some(&client.id),
            subject: Some(&issued.grant.subject),
            username: issued.access.username.as_deref(),
            ..asked.event(
                if grant == GrantType::RefreshToken { "token_refresh" } else { "token_exchange" },
                None,
            )
        });
        answer::of(asked, &issued, &hosts, login)
    })
    .await
}

/// Whether a code comes without the verifier that it needs (OAuth 2.1, section 4.1.3).
fn lacks_verifier(params: &Params) -> bool {
    let given = |name| params.require(name).is_ok();
    let grant = params.get("grant_type").ok().flatten();
    grant == Some(GrantType::AuthorizationCode.as_str()) && given("code") && !given("code_verifier")
}

/// The code of a grant's error.
pub(super) fn grant_error(error: &grants::Error) -> OAuthError {
    let code = match error {
        grants::Error::Invalid
        | grants::Error::Replayed { .. }
        | grants::Error::SessionEnded
        | grants::Error::Taken => ErrorCode::InvalidGrant,
        grants::Error::Full { retry_after } => return OAuthError::too_many(*retry_after),
        grants::Error::Scope => ErrorCode::InvalidScope,
        grants::Error::Target => ErrorCode::InvalidTarget,
        grants::Error::Store(error) => return unavailable(error),
    };
    OAuthError::new(code, error.to_string())
}
