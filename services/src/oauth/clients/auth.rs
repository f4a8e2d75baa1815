//! How clients prove who they are at the token, introspection and revocation endpoints
//! (RFC 6749, section 2.3; RFC 7523, section 2.2).

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use http::HeaderValue;
use http::header::{AUTHORIZATION, HeaderMap};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};

use super::assertion::{ASSERTION_TYPE, AssertionError, Assertions};
use super::metadata::AuthMethod;
use super::{Client, Clients, LookupError};

/// The longest client id, and the longest secret.
const MAX_TEXT: usize = 1024;

/// What of a form concerns the client. Each may come once, which is the reader's to see to.
#[derive(Clone, Copy, Default)]
pub struct Form<'a> {
    /// `client_id`.
    pub client_id: Option<&'a str>,
    /// `client_secret`.
    pub client_secret: Option<&'a str>,
    /// `client_assertion_type`.
    pub client_assertion_type: Option<&'a str>,
    /// `client_assertion`.
    pub client_assertion: Option<&'a str>,
}

impl fmt::Debug for Form<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Form").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

/// Who a request says to be from, and how it shows that.
#[derive(Debug, Clone)]
pub struct Credentials {
    client_id: String,
    proof: Proof,
}

#[derive(Clone)]
enum Proof {
    None,
    /// The second is the secret as it came, not decoded.
    Basic {
        secret: SecretString,
        raw: SecretString,
        raw_id: String,
    },
    Post(SecretString),
    Assertion(String),
}

/// Why a client is refused.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// There are two proofs, or parts of one.
    #[error("{0}")]
    Request(&'static str),
    /// No client, no proof, or a wrong one. All of that looks alike.
    #[error("client authentication failed")]
    Client {
        /// Why, for logs.
        #[source]
        reason: Refusal,
    },
    /// It can't be told at the moment.
    #[error("clients can not be looked up at the moment")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a client was refused, for logs.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The request names no client.
    #[error("the request names no client")]
    Unnamed,
    /// The header can't be read.
    #[error("the Authorization header is no valid Basic header")]
    Header,
    /// There is no such client.
    #[error("the client is not known")]
    Unknown,
    /// Its document can't be used.
    #[error("the client can not be looked up")]
    Lookup(#[source] LookupError),
    /// It has to prove itself in another way.
    #[error("the client has to use {}", .0.as_str())]
    Method(AuthMethod),
    /// The secret is wrong.
    #[error("the client secret is wrong")]
    Secret,
    /// The assertion is not good.
    #[error("the client assertion is not good")]
    Assertion(#[source] AssertionError),
}

impl AuthError {
    const fn client(reason: Refusal) -> Self {
        Self::Client { reason }
    }
}

impl Credentials {
    /// Whether the client proves itself by a signed assertion (RFC 7523, section 2.2).
    pub const fn is_assertion(&self) -> bool {
        matches!(self.proof, Proof::Assertion(_))
    }

    /// Reads who a request says to be from. Exactly one way of proving it may be used (RFC 6749, section 2.3).
    ///
    /// # Errors
    ///
    /// When no client is named, or there is more than one proof.
    pub fn read(headers: &HeaderMap, form: Form<'_>) -> Result<Self, AuthError> {
        // Some clients without a secret send an empty one.
        let secret = form.client_secret.filter(|secret| !secret.is_empty());
        let assertion = form.client_assertion.filter(|assertion| !assertion.is_empty());
        let mut lines = headers.get_all(AUTHORIZATION).into_iter();
        let header = lines.next();
        if lines.next().is_some() {
            return Err(AuthError::Request("there must be one Authorization header at most"));
        }
        if usize::from(header.is_some()) + usize::from(secret.is_some()) + usize::from(assertion.is_some())
            > 1
        {
            return Err(AuthError::Request("the client must authenticate in one way only"));
        }
        let named = form.client_id.filter(|id| !id.is_empty());
        let credentials = match (header, secret, assertion) {
            (Some(header), ..) => {
                let basic = basic(header).ok_or_else(|| AuthError::client(Refusal::Header))?;
                if named.is_some_and(|id| id != basic.client_id && !basic.came_as(id)) {
                    return Err(AuthError::Request("client_id differs from the Authorization header"));
                }
                basic
            }
            (None, Some(secret), _) => {
                let client_id = named.ok_or(AuthError::client(Refusal::Unnamed))?.to_owned();
                Self { client_id, proof: Proof::Post(secret.into()) }
            }
            (None, None, Some(assertion)) => {
                if form.client_assertion_type != Some(ASSERTION_TYPE) {
                    return Err(AuthError::Request("client_assertion_type is missing or not known"));
                }
                let claimed = Assertions::claimed_client(assertion);
                let claimed =
                    claimed.ok_or(AuthError::client(Refusal::Assertion(AssertionError::Malformed)))?;
                // RFC 7521, section 4.2.
                if named.is_some_and(|id| id != claimed) {
                    return Err(AuthError::Request("client_id differs from the assertion"));
                }
                Self { client_id: claimed, proof: Proof::Assertion(assertion.to_owned()) }
            }
            (None, None, None) => {
                let client_id = named.ok_or(AuthError::client(Refusal::Unnamed))?.to_owned();
                Self { client_id, proof: Proof::None }
            }
        };
        if credentials.client_id.len() > MAX_TEXT {
            return Err(AuthError::client(Refusal::Unknown));
        }
        Ok(credentials)
    }

    /// The client that the request says to be from.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Whether a client that proves itself by a header wrote its id like that.
    fn came_as(&self, id: &str) -> bool {
        matches!(&self.proof, Proof::Basic { raw_id, .. } if raw_id == id)
    }
}

/// Tells whether clients are who they say.
#[derive(Debug)]
pub struct Authenticator {
    clients: Arc<Clients>,
    assertions: Arc<Assertions>,
}

impl Authenticator {
    /// Knows these clients, and verifies their assertions.
    pub const fn new(clients: Arc<Clients>, assertions: Arc<Assertions>) -> Self {
        Self { clients, assertions }
    }

    /// The client, if it proves who it is in the way that it has to; a public one only names itself.
    ///
    /// # Errors
    ///
    /// See [`AuthError`].
    pub async fn authenticate(&self, credentials: &Credentials, now: Timestamp) -> Result<Client, AuthError> {
        let refused = AuthError::client;
        let client = match self.clients.find(&credentials.client_id, now).await {
            Ok(found) => found.ok_or_else(|| refused(Refusal::Unknown))?,
            Err(error @ LookupError::Document(_)) => return Err(refused(Refusal::Lookup(error))),
            Err(error @ LookupError::Store(_)) => return Err(AuthError::Unavailable(Box::new(error))),
        };
        let method = client.metadata.token_endpoint_auth_method;
        let fits = |used: AuthMethod| {
            method == used || (client.any_secret_method && method.has_secret() && used.has_secret())
        };
        let secret_is = |secret: &SecretString| {
            client.secret.as_ref().is_some_and(|hashed| hashed.matches(secret.expose_secret()))
        };
        match &credentials.proof {
            Proof::None if fits(AuthMethod::None) => Ok(client),
            Proof::Basic { secret, raw, .. } if fits(AuthMethod::ClientSecretBasic) => {
                let right = secret_is(secret) | secret_is(raw);
                if right { Ok(client) } else { Err(refused(Refusal::Secret)) }
            }
            Proof::Post(secret) if fits(AuthMethod::ClientSecretPost) => {
                if secret_is(secret) {
                    Ok(client)
                } else {
                    Err(refused(Refusal::Secret))
                }
            }
            Proof::Assertion(assertion) if fits(AuthMethod::PrivateKeyJwt) => {
                match self.assertions.verify(&client, assertion, now).await {
                    Ok(()) => Ok(client),
                    Err(AssertionError::Store(error)) => Err(AuthError::Unavailable(Box::new(error))),
                    // The client may well be who it says: it must not register anew because of this.
                    Err(error) if error.is_busy() => Err(AuthError::Unavailable(Box::new(error))),
                    Err(error) => Err(refused(Refusal::Assertion(error))),
                }
            }
            _ => Err(refused(Refusal::Method(method))),
        }
    }
}

/// RFC 7617, section 2, and RFC 6749, section 2.3.1: id and secret are form-encoded, which some clients leave out.
fn basic(header: &HeaderValue) -> Option<Credentials> {
    let (scheme, encoded) = header.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("Basic") || encoded.len() > 4 * MAX_TEXT {
        return None;
    }
    let text = String::from_utf8(BASE64.decode(encoded.trim()).ok()?).ok()?;
    // What is not encoded may have colons: the id of a client that is a URL, but such a client has no secret.
    let (raw_id, raw) = text.split_once(':')?;
    let client_id = form_decode(raw_id)?;
    if client_id.is_empty() {
        return None;
    }
    // A secret that was not encoded may have a percent sign that starts nothing.
    let secret = form_decode(raw).unwrap_or_else(|| raw.to_owned());
    let proof = Proof::Basic { secret: secret.into(), raw: raw.into(), raw_id: raw_id.to_owned() };
    Some(Credentials { client_id, proof })
}

/// `application/x-www-form-urlencoded`.
fn form_decode(text: &str) -> Option<String> {
    percent_decode_str(&text.replace('+', " ")).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Basic { .. } => "Basic",
            Self::Post(_) => "Post",
            Self::Assertion(_) => "Assertion",
        })
    }
}

#[cfg(test)]
mod tests;
