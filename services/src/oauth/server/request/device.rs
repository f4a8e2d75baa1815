//! The device authorization request (RFC 8628, section 3.1). The client is in the credentials.

use super::scopes;
use crate::oauth::server::error::OAuthError;
use crate::oauth::server::params::Params;
use crate::oauth::server::scope::Scopes;

/// What a device asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRequest {
    /// The scopes.
    pub scope: Option<Scopes>,
    /// The resources (RFC 8707), as given.
    pub resources: Vec<String>,
}

impl DeviceRequest {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// `invalid_scope`, and `invalid_request` when the scopes are given twice.
    pub fn parse(params: &Params) -> Result<Self, OAuthError> {
        Ok(Self { scope: scopes(params)?, resources: params.all("resource") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::server::error::ErrorCode;

    #[test]
    fn a_device_asks_for_scopes_and_resources() {
        let parse = |form: &str| DeviceRequest::parse(&Params::parse(form.as_bytes()).expect(form));
        assert_eq!(parse("client_id=c"), Ok(DeviceRequest { scope: None, resources: vec![] }));
        let request = parse("scope=a+b&resource=https://a&resource=https://b").expect("valid");
        assert_eq!(request.scope.map(|scope| scope.to_string()).as_deref(), Some("a b"));
        assert_eq!(request.resources, ["https://a", "https://b"]);
        assert_eq!(parse("scope=%22").expect_err("refused").code(), ErrorCode::InvalidScope);
        assert_eq!(parse("scope=a&scope=a").expect_err("refused").code(), ErrorCode::InvalidRequest);
    }
}
