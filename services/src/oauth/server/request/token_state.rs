//! Introspection (RFC 7662, section 2.1) and revocation (RFC 7009, section 2.1).

use secrecy::SecretString;

use super::secret;
use crate::oauth::server::error::OAuthError;
use crate::oauth::server::params::Params;

/// What a token is, as its holder believes: where to look first, never a reason to say no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenTypeHint {
    /// `access_token`.
    AccessToken,
    /// `refresh_token`.
    RefreshToken,
}

/// The question whether a token is good.
#[derive(Debug, Clone)]
pub struct IntrospectRequest {
    /// The token.
    pub token: SecretString,
    /// What it is, as far as the hint is one that we know.
    pub hint: Option<TokenTypeHint>,
}

/// The wish that a token be good no more.
#[derive(Debug, Clone)]
pub struct RevokeRequest {
    /// The token.
    pub token: SecretString,
    /// What it is, as far as the hint is one that we know.
    pub hint: Option<TokenTypeHint>,
}

impl IntrospectRequest {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// `invalid_request` when there is no token, or more than one.
    pub fn parse(params: &Params) -> Result<Self, OAuthError> {
        let (token, hint) = parse(params)?;
        Ok(Self { token, hint })
    }
}

impl RevokeRequest {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// `invalid_request` when there is no token, or more than one.
    pub fn parse(params: &Params) -> Result<Self, OAuthError> {
        let (token, hint) = parse(params)?;
        Ok(Self { token, hint })
    }
}

fn parse(params: &Params) -> Result<(SecretString, Option<TokenTypeHint>), OAuthError> {
    let hint = match params.get("token_type_hint")? {
        Some("access_token") => Some(TokenTypeHint::AccessToken),
        Some("refresh_token") => Some(TokenTypeHint::RefreshToken),
        _ => None,
    };
    Ok((secret(params, "token")?, hint))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;
    use crate::oauth::server::error::ErrorCode;

    #[test]
    fn a_hint_helps_and_never_hinders() {
        for (form, hint) in [
            ("token=t", None),
            ("token=t&token_type_hint=access_token", Some(TokenTypeHint::AccessToken)),
            ("token=t&token_type_hint=refresh_token", Some(TokenTypeHint::RefreshToken)),
            ("token=t&token_type_hint=pct", None),
        ] {
            let params = Params::parse(form.as_bytes()).expect(form);
            let (introspect, revoke) = (IntrospectRequest::parse(&params), RevokeRequest::parse(&params));
            assert_eq!(introspect.as_ref().expect(form).hint, hint, "{form}");
            assert_eq!(introspect.expect(form).token.expose_secret(), "t", "{form}");
            assert_eq!(revoke.expect(form).hint, hint, "{form}");
        }
    }

    #[test]
    fn there_must_be_one_token() {
        for form in ["", "token=", "token=a&token=b", "token=a&token_type_hint=x&token_type_hint=y"] {
            let params = Params::parse(form.as_bytes()).expect(form);
            let error = IntrospectRequest::parse(&params).expect_err(form);
            assert_eq!(error.code(), ErrorCode::InvalidRequest, "{form}");
            assert!(RevokeRequest::parse(&params).is_err(), "{form}");
        }
    }
}
