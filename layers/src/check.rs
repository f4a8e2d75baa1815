//! Which question about who asks, and with what, a request has failed.

/// The check that has refused a request. Its name is stable: logs have it, and so have events of an authorization server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Check {
    /// Whether a token can be read at all (RFC 7515, section 5.2, up to the signature).
    Decode,
    /// Whether there is a token, and whether it is good now: signature, issuer, life time, revocation.
    Token,
    /// Whether the token was made for this resource (RFC 8707).
    Audience,
    /// Whether it has the scopes that the request needs.
    Scope,
    /// Whether the lists let its user in.
    User,
}

impl Check {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Decode => "jwt_decode",
            Self::Token => "token_validation",
            Self::Audience => "audience_check",
            Self::Scope => "scope_check",
            Self::User => "user_check",
        }
    }
}
