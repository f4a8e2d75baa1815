//! Clients: who may ask for tokens, how they become known, and how they prove who they are.
//!
//! - [`redirect`]: where a client may send a browser back to.
//! - [`metadata`]: what a client says about itself (RFC 7591, section 2).
//! - [`registration`]: dynamic registration and its management (RFC 7591, RFC 7592).
//! - [`configured`]: clients that an administrator set up.
//! - [`document`]: clients known by the URL of their own description.
//! - [`ssrf`]: fetches from URLs that strangers choose.
//! - [`assertion`]: signed assertions of clients (RFC 7523).
//! - [`id_jag`]: assertions of other issuers about users, given to clients.
//! - [`auth`]: a client's proof at the token, introspection and revocation endpoints.
//! - [`store`], [`records`]: what registrations need of a store, and how records give it.
//!
//! What a user allows a client is not here, nor what a host's lists allow a user.

pub mod assertion;
pub mod auth;
mod cache;
mod client_keys;
pub mod configured;
pub mod document;
pub mod id_jag;
pub mod metadata;
pub mod records;
pub mod redirect;
pub mod registration;
mod secret;
pub mod ssrf;
pub mod store;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use jiff::Timestamp;
use secrecy::SecretString;

pub use self::assertion::Assertions;
pub use self::auth::{AuthError, Authenticator, Credentials};
pub use self::cache::CacheError;
pub use self::configured::ConfiguredClient;
pub use self::document::{ClientUrl, DocumentError, Documents, InvalidDocument};
pub use self::id_jag::AssertionIssuer;
pub use self::metadata::{AuthMethod, GrantType, InvalidMetadata, Metadata};
pub use self::records::{ClientGrants, ClientRecords, REGISTERED};
pub use self::redirect::{Place, RedirectUri};
pub use self::registration::{EndGrants, Information, Registered, RegistrationError, Registrations};
pub use self::secret::Hashed;
pub use self::ssrf::{Exceptions, Guard};
pub use self::store::{ClientStore, Kept};
use crate::random;
use crate::store::Store;

/// How a client became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// An administrator set it up, or it is a part of portcullis.
    Configured,
    /// Its id is the URL of its document.
    Document,
    /// It registered itself.
    Registered,
}

/// A client.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its id.
    pub id: String,
    /// How it became known.
    pub origin: Origin,
    /// What is in effect of what it says about itself: a copy for the grants, too.
    pub metadata: Arc<Metadata>,
    /// Whether it is a part of this deployment, so that its users need not be asked.
    pub first_party: bool,
    /// Whether it is a resource server of this deployment: it may introspect tokens of other clients.
    pub introspects: bool,
    secret: Option<Hashed>,
    /// Whether the secret may come in the header or in the body. A client that registered was told which.
    any_secret_method: bool,
}

/// Why a client could not be looked up. That there is none is no error.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The store.
    #[error("clients can not be looked up at the moment")]
    Store(#[from] crate::store::Error),
    /// The document that the client id is the URL of.
    #[error("the client's metadata document can not be used: {0}")]
    Document(#[from] DocumentError),
}

impl Client {
    /// A client that is a part of portcullis: public, first-party.
    ///
    /// # Errors
    ///
    /// When a redirect URI is not acceptable.
    pub fn built_in(
        id: &str,
        name: &str,
        redirect_uris: &[&str],
    ) -> Result<Self, redirect::InvalidRedirectUri> {
        let metadata = Metadata {
            redirect_uris: redirect::parse_all(redirect_uris.iter().copied())?,
            token_endpoint_auth_method: AuthMethod::None,
            grant_types: vec![GrantType::AuthorizationCode, GrantType::RefreshToken, GrantType::DeviceCode],
            response_types: vec!["code".to_owned()],
            client_name: Some(name.to_owned()),
            client_uri: None,
            logo_uri: None,
            tos_uri: None,
            policy_uri: None,
            scope: None,
            contacts: Vec::new(),
            jwks: None,
            jwks_uri: None,
            software_id: None,
            software_version: None,
            application_type: None,
            post_logout_redirect_uris: Vec::new(),
        };
        Ok(Self {
            id: id.to_owned(),
            origin: Origin::Configured,
            metadata: Arc::new(metadata),
            first_party: true,
            introspects: false,
            secret: None,
            any_secret_method: false,
        })
    }

    /// A client by its document, or by the copy of it that belongs to a grant.
    pub fn of_document(url: &ClientUrl, metadata: Arc<Metadata>) -> Self {
        Self {
            id: url.as_str().to_owned(),
            origin: Origin::Document,
            metadata,
            first_party: false,
            introspects: false,
            secret: None,
            any_secret_method: false,
        }
    }

    /// Whether it can't prove who it is.
    pub fn is_public(&self) -> bool {
        self.metadata.token_endpoint_auth_method == AuthMethod::None
    }

    /// Whether it may send this grant to the token endpoint.
    pub fn may(&self, grant: GrantType) -> bool {
        self.metadata.grant_types.contains(&grant)
    }

    /// The registered URI that lets a request name this one (OAuth 2.1, section 4.1.1).
    pub fn redirect(&self, requested: &str) -> Option<&RedirectUri> {
        redirect::find(&self.metadata.redirect_uris, requested)
    }

    /// Whether a browser may be sent there after a logout (OpenID Connect RP-Initiated Logout 1.0, section 3): only
    /// to what was registered for that, byte for byte.
    pub fn may_log_out_to(&self, requested: &str) -> bool {
        self.metadata.post_logout_redirect_uris.iter().any(|uri| uri.as_str() == requested)
    }

    /// Whether any program on the user's machine can claim to be this client: the consent page warns.
    pub fn is_local(&self) -> bool {
        redirect::all_local(&self.metadata.redirect_uris)
    }

    /// The host that a client id of a document is vouched for by.
    pub fn document_host(&self) -> Option<String> {
        (self.origin == Origin::Document)
            .then(|| self.id.parse::<ClientUrl>().ok())
            .flatten()
            .map(|url| url.host().to_string())
    }
}

/// All clients, by id.
#[derive(Debug)]
pub struct Clients {
    store: Arc<dyn Store>,
    registrations: Arc<Registrations>,
    documents: Arc<Documents>,
    built_in: Vec<Client>,
}

impl Clients {
    /// Those that are built in come before all others.
    pub fn new(
        store: Arc<dyn Store>,
        registrations: Arc<Registrations>,
        documents: Arc<Documents>,
        built_in: Vec<Client>,
    ) -> Self {
        Self { store, registrations, documents, built_in }
    }

    /// Those that are a part of portcullis.
    pub fn built_in(&self) -> &[Client] {
        &self.built_in
    }

    /// The client of an id. Which kind it is follows from the id alone, so that none can pass for another.
    ///
    /// # Errors
    ///
    /// When it can't be told whether there is one.
    pub async fn find(&self, id: &str, now: Timestamp) -> Result<Option<Client>, LookupError> {
        if let Some(client) = self.built_in.iter().find(|client| client.id == id) {
            return Ok(Some(client.clone()));
        }
        if ClientUrl::is_meant(id) {
            let Ok(url) = id.parse::<ClientUrl>() else { return Ok(None) };
            let metadata = self.documents.get(&url, now).await?;
            return Ok(Some(Client::of_document(&url, metadata)));
        }
        if id.starts_with(registration::PREFIX) {
            return Ok(self.registrations.find(id, now).await?);
        }
        Ok(ConfiguredClient::find(&*self.store, id).await?)
    }

    /// Whether [`find`](Self::find) would call a host that whoever names the client chooses.
    pub fn needs_fetch(&self, id: &str, now: Timestamp) -> bool {
        let url = Some(id).filter(|id| ClientUrl::is_meant(id)).and_then(|id| id.parse::<ClientUrl>().ok());
        url.is_some_and(|url| !self.documents.is_known(&url, now))
    }

    /// What a client's document said when it was fetched last, if that is still known here.
    pub async fn last_document(&self, url: &ClientUrl) -> Option<Arc<Metadata>> {
        self.documents.last(url).await
    }

    /// Notes that a user has signed in with a client, or that it has refreshed a token. `false` when the client has ended.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn used(&self, client: &Client, now: Timestamp) -> crate::store::Result<bool> {
        match client.origin {
            Origin::Registered => self.registrations.used(&client.id, now).await,
            Origin::Configured | Origin::Document => Ok(true),
        }
    }
}

/// The secret that a client gets, if its method needs one.
fn new_secret(metadata: &Metadata) -> Option<SecretString> {
    metadata.token_endpoint_auth_method.has_secret().then(|| random::secret("pcs_"))
}

#[cfg(test)]
mod tests;
