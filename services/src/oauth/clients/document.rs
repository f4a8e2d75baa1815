//! Clients that are known by the URL of their own description: client ID metadata documents
//! (draft-ietf-oauth-client-id-metadata-document).
//!
//! There is no record of such a client. The document is fetched when somebody wants to sign in with
//! it and kept for a while; what a grant was given for is a copy that belongs to the grant. Consents, limits
//! and revocations of these clients go by the URL, compared as a string.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use portcullis_layers::HostName;

use super::cache::{CacheError, HttpCache};
use super::metadata::{self, InvalidMetadata, Metadata, Source};
use super::ssrf::{Guard, HttpsUrl};

/// The longest document; the guard stops there, too.
const MAX_DOCUMENT: usize = 64 * 1024;

/// How many documents are kept. Real clients are some dozens.
const CAPACITY: usize = 256;

/// A client id that is the URL of a document.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientUrl(HttpsUrl);

/// A client id that looks like a URL and can't be one of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a client id that is a URL must be https, with a path, without user, fragment and dot segments")]
pub struct InvalidClientUrl;

/// Why there is no document for a client id.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub struct DocumentError(Arc<CacheError<InvalidDocument>>);

/// Why a document describes no client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDocument {
    /// It is for another client, or for none.
    #[error("client_id in the document is not the URL of the document")]
    OtherClient,
    /// The consent page has to show a name.
    #[error("client_name is missing in the document")]
    NoName,
    /// What is public is no secret.
    #[error("the document must not have a client_secret")]
    Secret,
    /// The rest.
    #[error(transparent)]
    Metadata(#[from] InvalidMetadata),
}

impl ClientUrl {
    /// Whether a client id can only be meant as a URL. Such ids are never issued by a registration.
    pub fn is_meant(client_id: &str) -> bool {
        client_id.contains("://")
    }

    /// The URL, which is the client id.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The host, which the consent page has to show.
    pub const fn host(&self) -> &HostName {
        self.0.host()
    }
}

impl fmt::Debug for ClientUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl FromStr for ClientUrl {
    type Err = InvalidClientUrl;

    /// Section 3 of the draft. A path of `/` alone is none, as the clients' own libraries read it.
    fn from_str(text: &str) -> Result<Self, InvalidClientUrl> {
        let url: HttpsUrl = text.parse().map_err(|_| InvalidClientUrl)?;
        let dots = |segment: &str| {
            let plain = segment.to_ascii_lowercase().replace("%2e", ".");
            plain == "." || plain == ".."
        };
        if url.path() == "/" || url.path().split('/').any(dots) {
            return Err(InvalidClientUrl);
        }
        Ok(Self(url))
    }
}

/// The documents of clients.
#[derive(Debug)]
pub struct Documents {
    cache: HttpCache<Metadata, InvalidDocument>,
}

impl Documents {
    /// Documents that are fetched through this guard.
    pub fn new(guard: Arc<Guard>) -> Self {
        Self { cache: HttpCache::new(guard, CAPACITY, read) }
    }

    /// Whether [`get`](Self::get) would answer without a fetch.
    pub fn is_known(&self, client: &ClientUrl, now: Timestamp) -> bool {
        self.cache.is_known(&client.0, now)
    }

    /// What a client says about itself, from the cache or from its URL.
    ///
    /// # Errors
    ///
    /// When there is no document, or none that is as it has to be.
    pub async fn get(&self, client: &ClientUrl, now: Timestamp) -> Result<Arc<Metadata>, DocumentError> {
        self.cache.get(&client.0, now).await.map_err(DocumentError)
    }

    /// What a client said about itself the last time, however long ago that is, if it is still kept.
    pub async fn last(&self, client: &ClientUrl) -> Option<Arc<Metadata>> {
        self.cache.last(&client.0).await
    }
}

impl DocumentError {
    /// Whether another attempt may end otherwise without a change of the document.
    pub fn is_temporary(&self) -> bool {
        !matches!(*self.0, CacheError::Invalid(_))
    }
}

/// Section 4 of the draft.
fn read(url: &HttpsUrl, body: &[u8]) -> Result<Metadata, InvalidDocument> {
    let fields = metadata::object(body, MAX_DOCUMENT)?;
    if fields.get("client_id").and_then(|id| id.as_str()) != Some(url.as_str()) {
        return Err(InvalidDocument::OtherClient);
    }
    if ["client_secret", "client_secret_expires_at"].iter().any(|name| fields.contains_key(*name)) {
        return Err(InvalidDocument::Secret);
    }
    let metadata = Metadata::read(&fields, Source::Document)?;
    if metadata.client_name.is_none() {
        return Err(InvalidDocument::NoName);
    }
    if metadata.redirect_uris.is_empty() {
        return Err(InvalidMetadata::from(super::redirect::InvalidRedirectUri::None).into());
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests;
