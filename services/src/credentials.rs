//! What upstreams ask of whoever calls them: one credential for all callers of a host, or one of each user.
//!
//! All of a host stand sealed in one secret, and are read from memory: the request path never waits for the store.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use portcullis_layers::Principal;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};

use crate::config::HostPattern;
use crate::config::view::View;
use crate::mirror::Mirror;
use crate::store::{Key, Kind};
use crate::vault::Vault;

/// How many users of a host can have one.
pub const MAX_USERS: usize = 1000;

/// The longest, in bytes.
pub const MAX_CREDENTIAL: usize = 4096;

/// The credentials of a host.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    /// For all callers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<Credential>,
    /// By the user's subject, with its issuer's name where that is another one than ours.
    #[serde(default)]
    pub users: BTreeMap<String, Credential>,
}

/// The value of a header.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Credential(SecretString);

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential")
    }
}

// Written only into what is sealed at once.
impl Serialize for Credential {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.expose_secret())
    }
}

impl Credential {
    /// One that can stand in a header: visible characters and blanks between them; `None` for any other.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let fits = !text.is_empty()
            && text.len() <= MAX_CREDENTIAL
            && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        fits.then(|| Self(text.into()))
    }

    fn header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::try_from(self.0.expose_secret()).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl Kept {
    /// The name of the secret of a host.
    pub fn secret_id(host: &HostPattern) -> String {
        format!("upstream-credentials:{host}")
    }

    /// Opens what is stored of a host; nothing where nothing is.
    ///
    /// # Errors
    ///
    /// When it can't be opened or read.
    pub fn open(vault: &Vault, view: &View, host: &HostPattern) -> Result<Self, crate::vault::Error> {
        let id = Self::secret_id(host);
        let Some(sealed) = view.secret(&id) else { return Ok(Self::default()) };
        let opened = vault.open(&id, &sealed)?;
        serde_json::from_slice(opened.expose_secret()).map_err(|_| crate::vault::Error::Damaged { name: id })
    }

    /// Whether nobody has one.
    pub fn is_empty(&self) -> bool {
        self.shared.is_none() && self.users.is_empty()
    }
}

/// The credentials of one host, as they are now.
pub struct Credentials {
    mirror: Mirror,
    vault: Arc<Vault>,
    host: HostPattern,
    opened: ArcSwapOption<Opened>,
}

struct Opened {
    view: Arc<View>,
    /// None: it can't be opened.
    kept: Option<Arc<Kept>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Those of a host.
    pub const fn new(mirror: Mirror, vault: Arc<Vault>, host: HostPattern) -> Self {
        Self { mirror, vault, host, opened: ArcSwapOption::const_empty() }
    }

    /// The one for all callers.
    pub fn shared(&self) -> Option<HeaderValue> {
        self.kept()?.shared.as_ref()?.header()
    }

    /// That of a user.
    pub fn of(&self, user: &Principal) -> Option<HeaderValue> {
        self.kept()?.users.get(&*user.full_subject())?.header()
    }

    /// What is kept now; opened anew only after a change of it. `None` when it can't be opened: whoever asks is refused.
    fn kept(&self) -> Option<Arc<Kept>> {
        let view = self.mirror.known()?;
        let before = self.opened.load();
        if let Some(before) = &*before {
            if Arc::ptr_eq(&before.view, &view) {
                return before.kept.clone();
            }
            let key = Key::new(Kind::Secret, Kept::secret_id(&self.host));
            if view.has_same(&before.view, &key) {
                let kept = before.kept.clone();
                self.opened.store(Some(Arc::new(Opened { view, kept: kept.clone() })));
                return kept;
            }
        }
        let kept = Kept::open(&self.vault, &view, &self.host);
        let kept = kept.inspect_err(|error| {
            tracing::error!(host = %self.host, %error, "the credentials for the upstream can't be opened");
        });
        let kept = kept.ok().map(Arc::new);
        self.opened.store(Some(Arc::new(Opened { view, kept: kept.clone() })));
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_fits_into_a_header() {
        for (text, fits) in [
            ("Bearer abc", true),
            (" token\n", true),
            ("", false),
            ("  ", false),
            ("a\nb", false),
            ("a\u{e9}", false),
            ("a\0", false),
        ] {
            assert_eq!(Credential::new(text).is_some(), fits, "{text:?}");
        }
        assert!(Credential::new(&"a".repeat(MAX_CREDENTIAL + 1)).is_none());
        let credential = Credential::new("Bearer abc").expect("it fits");
        assert_eq!(format!("{credential:?} {:?}", credential.header()), "Credential Some(Sensitive)");
    }

    #[cfg(feature = "embedded")]
    #[tokio::test]
    async fn what_cannot_be_opened_is_tried_once_until_it_changes() {
        use crate::store::embedded::Embedded;
        use crate::store::{Expect, Store, Write};

        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().expect("a store"));
        let mirror = Mirror::new(Arc::clone(&store));
        let vault = |key: &str| Arc::new(Vault::new(&key.into()).expect("a key"));
        let (vault, other) =
            (vault("0123456789abcdef0123456789abcdef"), vault("fedcba9876543210fedcba9876543210"));
        let host: HostPattern = "a.example".parse().expect("a host");
        let id = Kept::secret_id(&host);
        let content = br#"{"shared":"Bearer abc"}"#;
        let credentials = Credentials::new(mirror.clone(), Arc::clone(&vault), host.clone());
        let tried = || credentials.opened.load_full().map(|opened| Arc::as_ptr(&opened));
        assert!(credentials.shared().is_none() && tried().is_none(), "nothing is known yet");

        store.commit(vec![other.put(&id, content, Expect::Any).expect("sealed")]).await.expect("stored");
        mirror.load().await.expect("read");
        assert!(credentials.shared().is_none());
        let first = tried();
        assert!(
            credentials.shared().is_none() && first.is_some() && tried() == first,
            "it is not tried again"
        );
        // Another document changes: still not.
        let key = Key::new(Kind::Setting, "other");
        let value = serde_json::json!({});
        store.commit(vec![Write::Put { key, value, expect: Expect::Any }]).await.expect("stored");
        mirror.load().await.expect("read");
        assert!(credentials.shared().is_none());
        assert!(credentials.opened.load_full().is_some_and(|opened| opened.kept.is_none()));

        store.commit(vec![vault.put(&id, content, Expect::Any).expect("sealed")]).await.expect("stored");
        mirror.load().await.expect("read");
        assert!(credentials.shared().is_some());
    }
}
