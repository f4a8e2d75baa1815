//! What the endpoints are asked, read from [`Params`] into types: pure, bounded,
//! and without a look at any client or grant.

mod authorize;
mod device;
pub mod pkce;
mod token;
mod token_state;

pub use authorize::{AuthorizeRequest, Prompt, Requester};
pub use device::DeviceRequest;
pub use token::{TokenExchange, TokenRequest};
pub use token_state::{IntrospectRequest, RevokeRequest, TokenTypeHint};

use secrecy::SecretString;

use super::error::{ErrorCode, OAuthError};
use super::params::{Params, ParamsError};
use super::scope::Scopes;

/// The longest client id and redirect URI: a client id may be the URL of a document.
const MAX_URI: usize = 2_048;

fn invalid_request(why: &'static str) -> OAuthError {
    OAuthError::new(ErrorCode::InvalidRequest, why)
}

/// A text of `max` bytes at most that is safe to keep and to show: no controls.
fn text(
    params: &Params,
    name: &'static str,
    max: usize,
    why: &'static str,
) -> Result<Option<String>, OAuthError> {
    let Some(value) = params.get(name)? else { return Ok(None) };
    if value.len() > max || value.chars().any(char::is_control) {
        return Err(invalid_request(why));
    }
    Ok(Some(value.to_owned()))
}

/// A client id or URI: printable ASCII without blanks.
fn graphic(value: &str, why: &'static str) -> Result<String, OAuthError> {
    if value.is_empty() || value.len() > MAX_URI || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(invalid_request(why));
    }
    Ok(value.to_owned())
}

fn secret(params: &Params, name: &'static str) -> Result<SecretString, ParamsError> {
    params.require(name).map(SecretString::from)
}

fn scopes(params: &Params) -> Result<Option<Scopes>, OAuthError> {
    Ok(params.get("scope")?.map(Scopes::parse).transpose()?)
}
