//! The token request, by grant type.

use secrecy::SecretString;

use super::{graphic, invalid_request, scopes, secret};
use crate::oauth::clients::GrantType;
use crate::oauth::server::error::{ErrorCode, OAuthError};
use crate::oauth::server::params::Params;
use crate::oauth::server::scope::Scopes;

/// What the token endpoint is asked. Secrets don't show in `Debug`.
#[derive(Debug, Clone)]
pub enum TokenRequest {
    /// Redeem a code.
    AuthorizationCode {
        /// The code.
        code: SecretString,
        /// Must be the one of the authorization request, where it is given (OAuth 2.1 leaves it out).
        redirect_uri: Option<String>,
        /// For [`Challenge::is_met_by`](super::pkce::Challenge::is_met_by).
        code_verifier: SecretString,
        /// Resources of the grant, or none for all of them.
        resources: Vec<String>,
    },
    /// Refresh a grant.
    RefreshToken {
        /// The token.
        refresh_token: SecretString,
        /// Scopes of the grant, or none for all of them.
        scope: Option<Scopes>,
        /// Resources of the grant, or none for all of them.
        resources: Vec<String>,
    },
    /// Ask whether the user of a device has decided.
    DeviceCode {
        /// The device's code.
        device_code: SecretString,
        /// Resources of the grant, or none for all of them.
        resources: Vec<String>,
    },
    /// A token for the client itself.
    ClientCredentials {
        /// The scopes.
        scope: Option<Scopes>,
        /// The resources.
        resources: Vec<String>,
    },
    /// A token for the subject of another issuer's assertion.
    JwtBearer {
        /// The assertion.
        assertion: SecretString,
        /// The scopes.
        scope: Option<Scopes>,
        /// The resources.
        resources: Vec<String>,
    },
    /// A token for a token.
    TokenExchange(Box<TokenExchange>),
}

/// A token exchange (RFC 8693, section 2.1).
#[derive(Debug, Clone)]
pub struct TokenExchange {
    /// The token of the one it is about.
    pub subject_token: SecretString,
    /// What that is.
    pub subject_token_type: String,
    /// The token of the one who acts, and what that is.
    pub actor: Option<(SecretString, String)>,
    /// What is wanted; an access token when it is not said.
    pub requested_token_type: Option<String>,
    /// Where it shall be used, by name.
    pub audiences: Vec<String>,
    /// Where it shall be used, by URI.
    pub resources: Vec<String>,
    /// The scopes.
    pub scope: Option<Scopes>,
}

impl TokenRequest {
    /// Reads a request. Which grants are served at all, and which the client may use, is not asked here.
    ///
    /// # Errors
    ///
    /// `unsupported_grant_type`, `invalid_scope`, and `invalid_request` for the rest.
    pub fn parse(params: &Params) -> Result<Self, OAuthError> {
        let grant = GrantType::parse(params.require("grant_type")?).ok_or_else(|| {
            OAuthError::new(ErrorCode::UnsupportedGrantType, "the grant type is not supported")
        })?;
        let resources = params.all("resource");
        Ok(match grant {
            GrantType::AuthorizationCode => Self::AuthorizationCode {
                code: secret(params, "code")?,
                redirect_uri: params
                    .get("redirect_uri")?
                    .map(|uri| graphic(uri, "redirect_uri is not valid"))
                    .transpose()?,
                code_verifier: secret(params, "code_verifier")?,
                resources,
            },
            GrantType::RefreshToken => Self::RefreshToken {
                refresh_token: secret(params, "refresh_token")?,
                scope: scopes(params)?,
                resources,
            },
            GrantType::DeviceCode => {
                Self::DeviceCode { device_code: secret(params, "device_code")?, resources }
            }
            GrantType::ClientCredentials => Self::ClientCredentials { scope: scopes(params)?, resources },
            GrantType::JwtBearer => {
                Self::JwtBearer { assertion: secret(params, "assertion")?, scope: scopes(params)?, resources }
            }
            GrantType::TokenExchange => {
                Self::TokenExchange(Box::new(TokenExchange::parse(params, resources)?))
            }
        })
    }

    /// The grant type.
    pub const fn grant_type(&self) -> GrantType {
        match self {
            Self::AuthorizationCode { .. } => GrantType::AuthorizationCode,
            Self::RefreshToken { .. } => GrantType::RefreshToken,
            Self::DeviceCode { .. } => GrantType::DeviceCode,
            Self::ClientCredentials { .. } => GrantType::ClientCredentials,
            Self::JwtBearer { .. } => GrantType::JwtBearer,
            Self::TokenExchange(_) => GrantType::TokenExchange,
        }
    }
}

impl TokenExchange {
    fn parse(params: &Params, resources: Vec<String>) -> Result<Self, OAuthError> {
        let token_type = |text: &str| graphic(text, "a token type is not valid");
        let actor = match (params.get("actor_token")?, params.get("actor_token_type")?) {
            (Some(token), Some(kind)) => Some((SecretString::from(token), token_type(kind)?)),
            (None, None) => None,
            _ => return Err(invalid_request("actor_token and actor_token_type stand together")),
        };
        Ok(Self {
            subject_token: secret(params, "subject_token")?,
            subject_token_type: token_type(params.require("subject_token_type")?)?,
            actor,
            requested_token_type: params.get("requested_token_type")?.map(token_type).transpose()?,
            audiences: params.all("audience"),
            resources,
            scope: scopes(params)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn parse(form: &str) -> Result<TokenRequest, OAuthError> {
        TokenRequest::parse(&Params::parse(form.as_bytes()).expect(form))
    }

    #[test]
    fn each_grant_is_read() {
        for (form, grant) in [
            ("grant_type=authorization_code&code=hush&code_verifier=hush", GrantType::AuthorizationCode),
            (
                "grant_type=authorization_code&code=hush&code_verifier=hush&redirect_uri=https://a/cb",
                GrantType::AuthorizationCode,
            ),
            ("grant_type=refresh_token&refresh_token=hush&scope=a", GrantType::RefreshToken),
            (
                "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code&device_code=hush",
                GrantType::DeviceCode,
            ),
            ("grant_type=client_credentials", GrantType::ClientCredentials),
            ("grant_type=urn:ietf:params:oauth:grant-type:jwt-bearer&assertion=hush", GrantType::JwtBearer),
            (
                "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token=hush&subject_token_type=t\
                 &actor_token=hush&actor_token_type=t&audience=a&audience=b",
                GrantType::TokenExchange,
            ),
        ] {
            let request = parse(form).expect(form);
            assert_eq!(request.grant_type(), grant, "{form}");
            assert!(!format!("{request:?}").contains("hush"), "{form}");
        }
        let form = "grant_type=refresh_token&refresh_token=r&scope=b+a&resource=https://a&resource=https://b";
        let TokenRequest::RefreshToken { refresh_token, scope, resources } = parse(form).expect(form) else {
            panic!("another grant");
        };
        assert_eq!(refresh_token.expose_secret(), "r");
        assert_eq!(scope, Some(Scopes::parse("b a").expect("valid")));
        assert_eq!(resources, ["https://a", "https://b"]);
    }

    #[test]
    fn each_fault_has_its_code() {
        for (form, code) in [
            ("", ErrorCode::InvalidRequest),
            ("grant_type=", ErrorCode::InvalidRequest),
            ("grant_type=password&username=u&password=p", ErrorCode::UnsupportedGrantType),
            ("grant_type=implicit", ErrorCode::UnsupportedGrantType),
            ("grant_type=Authorization_Code", ErrorCode::UnsupportedGrantType),
            ("grant_type=refresh_token&grant_type=refresh_token", ErrorCode::InvalidRequest),
            ("grant_type=authorization_code", ErrorCode::InvalidRequest),
            ("grant_type=authorization_code&code=c", ErrorCode::InvalidRequest),
            ("grant_type=authorization_code&code=c&code_verifier=", ErrorCode::InvalidRequest),
            ("grant_type=authorization_code&code=c&code=d&code_verifier=v", ErrorCode::InvalidRequest),
            (
                "grant_type=authorization_code&code=c&code_verifier=v&redirect_uri=a%20b",
                ErrorCode::InvalidRequest,
            ),
            ("grant_type=refresh_token", ErrorCode::InvalidRequest),
            ("grant_type=refresh_token&refresh_token=r&scope=%22", ErrorCode::InvalidScope),
            ("grant_type=urn:ietf:params:oauth:grant-type:device_code", ErrorCode::InvalidRequest),
            ("grant_type=urn:ietf:params:oauth:grant-type:jwt-bearer", ErrorCode::InvalidRequest),
            (
                "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token=t",
                ErrorCode::InvalidRequest,
            ),
            (
                "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token=t&subject_token_type=t\
                 &actor_token=x",
                ErrorCode::InvalidRequest,
            ),
        ] {
            assert_eq!(parse(form).expect_err(form).code(), code, "{form}");
        }
    }
}
