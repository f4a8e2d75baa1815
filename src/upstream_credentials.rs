//! Gives an upstream the credential that it knows its callers by, in place of anything that a client has sent.

use std::sync::Arc;

use http::header::{AUTHORIZATION, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;
use portcullis_layers::body::BoxFuture;
use portcullis_layers::{BoxError, HttpService, Principal, Rejection, Request, RequestContext, Response};
use portcullis_services::config::Proxy;
use portcullis_services::config::proxy::mcp::McpCredentials;
use portcullis_services::credentials::Credentials;
use portcullis_services::oauth::upstream_tokens::{Found, HostTokens};
use secrecy::ExposeSecret;

use crate::runtime::Runtime;

/// Whose credentials, and where they stand.
#[derive(Debug, Clone)]
pub(crate) struct UpstreamCredentials {
    whose: Whose,
    header: HeaderName,
}

#[derive(Debug, Clone)]
enum Whose {
    Shared(Arc<Credentials>),
    Users(Arc<Credentials>),
    Github(HostTokens),
}

/// What a host's upstream gets; `None`: nothing of its own.
pub(crate) fn layer(runtime: &Runtime, proxy: &Proxy) -> Result<Option<UpstreamCredentials>, BoxError> {
    let Some(mcp) = &proxy.mcp else { return Ok(None) };
    let kept = || {
        let host = proxy.proxy_hostname.clone();
        Arc::new(Credentials::new(runtime.mirror.clone(), Arc::clone(&runtime.vault), host))
    };
    let whose = match mcp.credentials {
        McpCredentials::None => return Ok(None),
        McpCredentials::Shared => Whose::Shared(kept()),
        McpCredentials::User => Whose::Users(kept()),
        McpCredentials::Github => Whose::Github(runtime.github_tokens.of_host(proxy)),
    };
    Ok(Some(UpstreamCredentials { whose, header: mcp.credential_header.as_str().parse()? }))
}

impl UpstreamCredentials {
    /// In front of the upstream.
    pub(crate) fn layer(self, inner: HttpService) -> HttpService {
        HttpService::from_fn(move |request| self.call(request, &inner))
    }

    fn call(&self, mut request: Request, inner: &HttpService) -> BoxFuture<Result<Response, BoxError>> {
        let credential = match RequestContext::get(request.extensions()) {
            Some(context) => self.of(context),
            None => Err(nobody()),
        };
        match credential {
            Ok(credential) => {
                request.headers_mut().insert(self.header.clone(), credential);
                inner.call(request)
            }
            Err(rejection) => Box::pin(std::future::ready(Err((*rejection).into()))),
        }
    }

    fn of(&self, context: &RequestContext) -> Result<HeaderValue, Box<Rejection>> {
        // Open paths, and hosts that let pass whoever comes, lead here, too.
        let caller = context.principal.as_deref().ok_or_else(nobody)?;
        match &self.whose {
            Whose::Shared(kept) => kept.shared().ok_or_else(|| {
                let detail = "There is no credential for this server: an admin can keep one for it.";
                Box::new(Rejection::new(StatusCode::BAD_GATEWAY, MISSING, detail))
            }),
            Whose::Users(kept) => kept.of(caller).ok_or_else(|| {
                let detail =
                    "You have no credential for this server: keep one with `portcullis proxy credential set`.";
                Box::new(Rejection::new(StatusCode::FORBIDDEN, MISSING, detail))
            }),
            Whose::Github(tokens) => self.of_github(tokens, context, caller),
        }
    }

    fn of_github(
        &self,
        tokens: &HostTokens,
        context: &RequestContext,
        caller: &Principal,
    ) -> Result<HeaderValue, Box<Rejection>> {
        let host = context.host.as_ref().ok_or_else(nobody)?;
        let token = match tokens.find(host, &caller.full_subject(), Timestamp::now()) {
            Found::Token(token) => token,
            Found::None => {
                let detail = "No token of GitHub's is kept for you here: sign in again, by this client or with a browser.";
                return Err(Box::new(Rejection::new(StatusCode::FORBIDDEN, MISSING, detail)));
            }
            Found::Unread => {
                let detail =
                    "GitHub's tokens for this server have not been read so far: try again in a moment.";
                let rejection =
                    Rejection::new(StatusCode::SERVICE_UNAVAILABLE, "upstream_credential_unread", detail);
                return Err(Box::new(rejection.with_header(RETRY_AFTER, HeaderValue::from_static("1"))));
            }
        };
        // RFC 6750, section 2.1. Other headers have no schemes.
        let value = if self.header == AUTHORIZATION {
            HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))
        } else {
            HeaderValue::try_from(token.expose_secret())
        };
        let mut value = value.map_err(|error| Box::new(Rejection::of(error)))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// The code of refusals for want of a credential.
const MISSING: &str = "no_upstream_credential";

/// A credential is nobody's who is not known.
fn nobody() -> Box<Rejection> {
    let detail = "This server gets a credential for each call, and it is not known who calls: sign in first.";
    Box::new(Rejection::new(StatusCode::FORBIDDEN, MISSING, detail))
}
