//! What a client says about itself (RFC 7591, section 2), read from a registration, a client ID
//! metadata document or the configuration, and what of it is in effect.
//!
//! Unknown members are ignored and `null` is the same as absent. Grants and response types that we
//! lack are left out, because clients list all they could use; what decides over security is refused
//! when it is not understood. Nothing here is trusted: names are for showing, after escaping.

use portcullis_layers::auth::KeySet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::redirect::{self, InvalidRedirectUri, Place, RedirectUri};
use super::ssrf::HttpsUrl;

/// The longest body of a registration.
pub const MAX_BODY: usize = 16 * 1024;

/// As much of a name as a consent page can show.
const MAX_NAME: usize = 80;
const MAX_TEXT: usize = 256;
const MAX_SCOPE: usize = 2048;
const MAX_LIST: usize = 64;
const MAX_CONTACTS: usize = 10;

/// How a client proves itself at the token endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMethod {
    /// Not at all: a public client.
    None,
    /// Its secret in an `Authorization` header (RFC 6749, section 2.3.1).
    ClientSecretBasic,
    /// Its secret in the body.
    ClientSecretPost,
    /// A signed assertion (RFC 7523, section 2.2).
    PrivateKeyJwt,
}

impl AuthMethod {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::None, Self::ClientSecretBasic, Self::ClientSecretPost, Self::PrivateKeyJwt];

    /// The name in metadata.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ClientSecretBasic => "client_secret_basic",
            Self::ClientSecretPost => "client_secret_post",
            Self::PrivateKeyJwt => "private_key_jwt",
        }
    }

    /// Whether the client needs a secret.
    pub const fn has_secret(self) -> bool {
        matches!(self, Self::ClientSecretBasic | Self::ClientSecretPost)
    }
}

/// What a client may send to the token endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GrantType {
    /// A code from the authorization endpoint.
    #[serde(rename = "authorization_code")]
    AuthorizationCode,
    /// A refresh token.
    #[serde(rename = "refresh_token")]
    RefreshToken,
    /// A device code (RFC 8628).
    #[serde(rename = "urn:ietf:params:oauth:grant-type:device_code")]
    DeviceCode,
    /// Nothing but the client itself.
    #[serde(rename = "client_credentials")]
    ClientCredentials,
    /// An assertion about a user (RFC 7523).
    #[serde(rename = "urn:ietf:params:oauth:grant-type:jwt-bearer")]
    JwtBearer,
    /// Another token (RFC 8693).
    #[serde(rename = "urn:ietf:params:oauth:grant-type:token-exchange")]
    TokenExchange,
}

impl GrantType {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::AuthorizationCode,
        Self::RefreshToken,
        Self::DeviceCode,
        Self::ClientCredentials,
        Self::JwtBearer,
        Self::TokenExchange,
    ];

    /// The grant of a name on the wire.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|grant| grant.as_str() == text)
    }

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationCode => "authorization_code",
            Self::RefreshToken => "refresh_token",
            Self::DeviceCode => "urn:ietf:params:oauth:grant-type:device_code",
            Self::ClientCredentials => "client_credentials",
            Self::JwtBearer => "urn:ietf:params:oauth:grant-type:jwt-bearer",
            Self::TokenExchange => "urn:ietf:params:oauth:grant-type:token-exchange",
        }
    }
}

/// Who vouches for what a client says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Nobody: anybody may register.
    Registration,
    /// The host that serves the document.
    Document,
    /// An administrator.
    Configuration,
}

impl Source {
    /// Grants that act without a user are for clients that an administrator knows.
    fn grants(self) -> &'static [GrantType] {
        match self {
            Self::Registration | Self::Document => &GrantType::ALL[..3],
            Self::Configuration => &GrantType::ALL,
        }
    }

    /// A document is public, so that no secret can be agreed on (draft-ietf-oauth-client-id-metadata-document,
    /// section 4.1).
    const fn takes(self, method: AuthMethod) -> bool {
        !matches!(self, Self::Document) || !method.has_secret()
    }

    /// RFC 7591, section 2, but for documents, which can't have a secret.
    const fn default_method(self) -> AuthMethod {
        match self {
            Self::Document => AuthMethod::None,
            Self::Registration | Self::Configuration => AuthMethod::ClientSecretBasic,
        }
    }
}

/// What kind of application a client is, in its own words (OpenID Connect Registration, section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApplicationType {
    /// On a server.
    Web,
    /// On the user's machine.
    Native,
}

/// What of a client's metadata is in effect. Serialised it is what the client gets back: members
/// without a value are left out, because clients refuse `null`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Where it may send the browser back to. Empty only without the authorization code grant.
    pub redirect_uris: Vec<RedirectUri>,
    /// How it proves itself.
    pub token_endpoint_auth_method: AuthMethod,
    /// What it may send to the token endpoint.
    pub grant_types: Vec<GrantType>,
    /// `code`, if it has that grant.
    pub response_types: Vec<String>,
    /// Its name, for people; anybody can choose any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_name: Option<String>,
    /// Its home page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_uri: Option<String>,
    /// Its picture: never for a browser to fetch from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logo_uri: Option<String>,
    /// Its terms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tos_uri: Option<String>,
    /// Its privacy policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_uri: Option<String>,
    /// The scopes that it says it will ask for. None is no ceiling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Whom to write to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contacts: Vec<String>,
    /// The keys that its assertions are signed with,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks: Option<Value>,
    /// or where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_uri: Option<String>,
    /// Which software it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub software_id: Option<String>,
    /// Which version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub software_version: Option<String>,
    /// On a server or on the user's machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application_type: Option<ApplicationType>,
    /// Where it may send the browser after a logout (OpenID Connect RP-Initiated Logout 1.0, section 3.1).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub post_logout_redirect_uris: Vec<RedirectUri>,
}

/// Why metadata is refused. The text is for the client's developer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMetadata {
    /// A redirect URI.
    #[error(transparent)]
    RedirectUri(#[from] InvalidRedirectUri),
    /// More than [`MAX_BODY`] bytes.
    #[error("client metadata must not be longer than {MAX_BODY} bytes")]
    TooLong,
    /// No JSON object.
    #[error("client metadata must be a JSON object")]
    NotAnObject,
    /// A member.
    #[error("{member} {problem}")]
    Member {
        /// Its name.
        member: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// Reads a body as a JSON object of bounded length.
///
/// # Errors
///
/// When it is none.
pub fn object(body: &[u8], longest: usize) -> Result<Map<String, Value>, InvalidMetadata> {
    if body.len() > longest {
        return Err(InvalidMetadata::TooLong);
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(InvalidMetadata::NotAnObject),
    }
}

impl Metadata {
    /// Reads metadata.
    ///
    /// # Errors
    ///
    /// See [`InvalidMetadata`].
    pub fn read(fields: &Map<String, Value>, source: Source) -> Result<Self, InvalidMetadata> {
        let fields = Fields(fields);
        let method = fields.method(source)?;
        let grant_types = fields.grants(source)?;
        let redirect_uris = redirect::parse_all(fields.list("redirect_uris")?.unwrap_or_default())?;
        let code = grant_types.contains(&GrantType::AuthorizationCode);
        if code && redirect_uris.is_empty() {
            return Err(InvalidRedirectUri::None.into());
        }
        let after_logout = fields.list("post_logout_redirect_uris")?.unwrap_or_default();
        let (jwks, jwks_uri) = fields.keys(method)?;
        let contacts = fields.list("contacts")?.unwrap_or_default();
        let contacts = contacts.into_iter().take(MAX_CONTACTS).filter_map(|text| clean(text, MAX_TEXT));
        Ok(Self {
            contacts: contacts.collect(),
            redirect_uris,
            token_endpoint_auth_method: method,
            grant_types,
            response_types: if code { vec!["code".to_owned()] } else { Vec::new() },
            client_name: fields.text("client_name")?.and_then(|name| clean(name, MAX_NAME)),
            client_uri: fields.page("client_uri")?,
            logo_uri: fields.page("logo_uri")?,
            tos_uri: fields.page("tos_uri")?,
            policy_uri: fields.page("policy_uri")?,
            scope: fields.scope()?,
            jwks,
            jwks_uri,
            software_id: fields.text("software_id")?.and_then(|id| clean(id, MAX_TEXT)),
            software_version: fields.text("software_version")?.and_then(|id| clean(id, MAX_TEXT)),
            application_type: fields.get("application_type").and_then(|kind| match kind.as_str() {
                Some("web") => Some(ApplicationType::Web),
                Some("native") => Some(ApplicationType::Native),
                _ => None,
            }),
            post_logout_redirect_uris: redirect::parse_all(after_logout)?,
        })
    }
}

/// The members of an object, `null` being none.
struct Fields<'a>(&'a Map<String, Value>);

const fn wrong(member: &'static str, problem: &'static str) -> InvalidMetadata {
    InvalidMetadata::Member { member, problem }
}

impl<'a> Fields<'a> {
    fn get(&self, member: &str) -> Option<&'a Value> {
        self.0.get(member).filter(|value| !value.is_null())
    }

    /// A text; an empty one counts as none.
    fn text(&self, member: &'static str) -> Result<Option<&'a str>, InvalidMetadata> {
        let Some(value) = self.get(member) else { return Ok(None) };
        let text = value.as_str().ok_or(wrong(member, "must be a string"))?;
        Ok(Some(text.trim()).filter(|text| !text.is_empty()))
    }

    fn list(&self, member: &'static str) -> Result<Option<Vec<&'a str>>, InvalidMetadata> {
        let Some(value) = self.get(member) else { return Ok(None) };
        let values = value.as_array().ok_or(wrong(member, "must be a list of strings"))?;
        if values.len() > MAX_LIST {
            return Err(wrong(member, "has too many entries"));
        }
        let texts = values.iter().filter(|value| !value.is_null());
        texts
            .map(|text| text.as_str().ok_or(wrong(member, "must be a list of strings")))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// A page for people. Others than `https` are left out: nothing depends on them.
    fn page(&self, member: &'static str) -> Result<Option<String>, InvalidMetadata> {
        let parsed = self.text(member)?.and_then(|text| text.parse::<RedirectUri>().ok());
        Ok(parsed.filter(|uri| matches!(uri.place(), Place::Host(_))).map(|uri| uri.as_str().to_owned()))
    }

    fn method(&self, source: Source) -> Result<AuthMethod, InvalidMetadata> {
        const MEMBER: &str = "token_endpoint_auth_method";
        let Some(name) = self.text(MEMBER)? else { return Ok(source.default_method()) };
        let method = AuthMethod::ALL.into_iter().find(|method| method.as_str() == name);
        method.filter(|method| source.takes(*method)).ok_or(match source {
            Source::Document => wrong(MEMBER, "must be none or private_key_jwt"),
            Source::Registration | Source::Configuration => {
                wrong(MEMBER, "must be none, client_secret_basic, client_secret_post or private_key_jwt")
            }
        })
    }

    fn grants(&self, source: Source) -> Result<Vec<GrantType>, InvalidMetadata> {
        // RFC 7591 has the code alone as default; those who leave it out take refresh tokens, too.
        let Some(names) = self.list("grant_types")?.filter(|names| !names.is_empty()) else {
            return Ok(vec![GrantType::AuthorizationCode, GrantType::RefreshToken]);
        };
        let known = source.grants().iter().copied();
        let grants: Vec<_> = known.filter(|grant| names.contains(&grant.as_str())).collect();
        if grants.iter().all(|grant| *grant == GrantType::RefreshToken) {
            return Err(wrong("grant_types", "has none that this server can give to such a client"));
        }
        Ok(grants)
    }

    fn scope(&self) -> Result<Option<String>, InvalidMetadata> {
        const MEMBER: &str = "scope";
        let Some(text) = self.text(MEMBER)? else { return Ok(None) };
        // RFC 6749, section 3.3.
        let fine = |byte: u8| matches!(byte, b' ' | b'!' | b'#'..=b'[' | b']'..=b'~');
        if text.len() > MAX_SCOPE || !text.bytes().all(fine) {
            return Err(wrong(MEMBER, "must be scopes parted by blanks"));
        }
        Ok(Some(text.split(' ').filter(|scope| !scope.is_empty()).collect::<Vec<_>>().join(" ")))
    }

    /// The keys of a client that signs; nobody else's are kept.
    fn keys(&self, method: AuthMethod) -> Result<(Option<Value>, Option<String>), InvalidMetadata> {
        let (jwks, uri) = (self.get("jwks"), self.text("jwks_uri")?);
        if jwks.is_some() && uri.is_some() {
            // RFC 7591, section 2.
            return Err(wrong("jwks", "must not be given together with jwks_uri"));
        }
        if method != AuthMethod::PrivateKeyJwt {
            return Ok((None, None));
        }
        match (jwks, uri) {
            (Some(jwks), None) => {
                KeySet::from_jwks(&jwks.to_string())
                    .map_err(|_| wrong("jwks", "must have public keys for RS256, ES256 or EdDSA"))?;
                Ok((Some(jwks.clone()), None))
            }
            (None, Some(uri)) => {
                uri.parse::<HttpsUrl>().map_err(|_| wrong("jwks_uri", "must be an https URL"))?;
                Ok((None, Some(uri.to_owned())))
            }
            _ => Err(wrong("jwks", "or jwks_uri is needed for private_key_jwt")),
        }
    }
}

/// A text for people: no control characters, none that turn or hide others, blanks once, bounded.
fn clean(text: &str, longest: usize) -> Option<String> {
    let mut cleaned = String::new();
    let shown = text.chars().filter(|char| !is_invisible(*char)).take(4 * longest).collect::<String>();
    for word in shown.split(|char: char| char.is_whitespace() || char.is_control()) {
        if !word.is_empty() {
            if !cleaned.is_empty() {
                cleaned.push(' ');
            }
            cleaned.push_str(word);
        }
    }
    if let Some((end, _)) = cleaned.char_indices().nth(longest) {
        cleaned.truncate(end);
    }
    Some(cleaned).filter(|text| !text.is_empty())
}

/// The format characters of Unicode (category Cf) that reorder, join or hide text, and tags.
const fn is_invisible(char: char) -> bool {
    matches!(
        char,
        '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{70f}' | '\u{115f}' | '\u{1160}'
            | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests;
