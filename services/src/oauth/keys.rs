//! The keys that sign our tokens, and how they rotate.
//!
//! The public half of a key is a document of kind [`Kind::Key`], named by its thumbprint; the private
//! half is a secret of the vault. One setting names the key that signs now: nodes that start together
//! all try to write it, one wins, and the others take the winner's key. The next key is published some
//! time before it signs, so that no node meets a token whose key it does not know. After a rotation the
//! old key stays in the published set until the last token that it signed has expired; its private half
//! is removed at once. When keys rotate is for [`rotation`](super::rotation) to say.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use aws_lc_rs::{digest, rand};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD as BASE64, BASE64_URL_SAFE_NO_PAD as BASE64_URL};
use jiff::Timestamp;
use portcullis_layers::auth::{JwksError, KeySet};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::claims::Claims;
use super::id_token::IdClaims;
use super::identity_token::IdentityClaims;
use crate::store::{self, Document, Expect, Key, Kind, Raw, Store, Write};
use crate::vault::{self, Vault};

/// The setting that names the key that signs now.
pub const SIGNING_KEY: &str = "signing_key";

/// How often a lost race for the first key is looked at again: the second look finds the winner's.
const ATTEMPTS: usize = 5;

/// A key that can sign.
pub struct SigningKey {
    pair: RsaKeyPair,
    jwk: Jwk,
}

/// A public key (RFC 7517), the only form that we publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: String,
    alg: String,
    kid: String,
    n: String,
    e: String,
}

/// Whether a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is published, and will sign.
    Next,
    /// It signs.
    Active,
    /// It only verifies what it signed.
    Retiring,
}

/// The document of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The public half.
    pub jwk: Jwk,
    /// Whether it signs.
    pub state: State,
    /// When it was made or imported.
    pub created_at: Timestamp,
    /// When it is to sign, for the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signs_at: Option<Timestamp>,
    /// When the last token that it signed has expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retire_at: Option<Timestamp>,
}

/// What the setting says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pointer {
    /// The key that signs.
    pub(super) kid: String,
    /// The key that was imported last: it is not imported again when it has been rotated away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    imported: Option<String>,
}

/// Why there is no key to sign or verify with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A private half can't be sealed or opened.
    #[error("the private half of a signing key can't be sealed or opened")]
    Vault(#[from] vault::Error),
    /// The private half of the signing key is not in the store.
    #[error("signing key {kid:?} has no private half")]
    NoPrivateHalf {
        /// The key.
        kid: String,
    },
    /// The setting names a key without a document.
    #[error("signing key {kid:?} is not in the store")]
    NoRecord {
        /// The key.
        kid: String,
    },
    /// A document of a key is not as it should be.
    #[error("{key} is not a signing key's document")]
    Record {
        /// The document.
        key: Key,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The imported text is neither PEM nor base64 of PEM.
    #[error("the private key is no PEM text and no base64 of one")]
    NotPem,
    /// The imported key is no RSA key.
    #[error("the private key is no RSA key in PKCS#1 or PKCS#8")]
    NotRsa,
    /// The key is damaged, or has less than 2048 or more than 8192 bits.
    #[error("the private key is damaged or does not have 2048 to 8192 bits")]
    Rejected(#[source] aws_lc_rs::error::KeyRejected),
    /// The published keys can't be read back.
    #[error("the published keys are not valid")]
    Published(#[from] JwksError),
    /// Another node changed the keys at the same time, again and again.
    #[error("the signing key keeps changing")]
    Contended,
}

/// The keys of the deployment at one time.
#[derive(Debug)]
pub struct Keys {
    active: SigningKey,
    records: Vec<Record>,
}

impl SigningKey {
    /// A new RSA key of 2048 bits.
    pub fn generate() -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("the system has randomness");
        Self::from_pair(pair)
    }

    /// Imports a private RSA key: PEM, or base64 of PEM as `OAUTH_JWT_PRIVATE_KEY_B64` has it.
    ///
    /// # Errors
    ///
    /// When the text is no such key.
    pub fn import(text: &SecretString) -> Result<Self, Error> {
        let text = text.expose_secret().trim();
        let decoded: SecretSlice<u8> = if text.starts_with("-----BEGIN") {
            text.as_bytes().to_vec().into()
        } else {
            let joined = SecretString::from(text.split_whitespace().collect::<String>());
            BASE64.decode(joined.expose_secret()).map_err(|_| Error::NotPem)?.into()
        };
        let pair = match PrivateKeyDer::from_pem_slice(decoded.expose_secret()).map_err(|_| Error::NotPem)? {
            PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
            _ => return Err(Error::NotRsa),
        };
        pair.map(Self::from_pair).map_err(Error::Rejected)
    }

    /// The id: the key's thumbprint (RFC 7638).
    pub fn id(&self) -> &str {
        &self.jwk.kid
    }

    /// Signs an access token.
    pub fn mint(&self, claims: &Claims) -> String {
        self.sign("at+jwt", claims)
    }

    /// Signs an ID token. Its type tells it from an access token.
    pub fn mint_id(&self, claims: &IdClaims) -> String {
        self.sign("JWT", claims)
    }

    /// Signs a statement for an upstream. Its type tells it from an access token.
    pub fn mint_identity(&self, claims: &IdentityClaims) -> String {
        self.sign("identity+jwt", claims)
    }

    fn sign(&self, typ: &str, claims: &impl Serialize) -> String {
        let header = json!({ "alg": "RS256", "typ": typ, "kid": self.id() }).to_string();
        let claims = serde_json::to_string(claims).expect("texts and numbers serialise");
        let mut token = format!("{}.{}", BASE64_URL.encode(header), BASE64_URL.encode(claims));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &rand::SystemRandom::new(), token.as_bytes(), &mut signature)
            .expect("a key that was loaded signs");
        token.push('.');
        BASE64_URL.encode_string(signature, &mut token);
        token
    }

    fn from_pair(pair: RsaKeyPair) -> Self {
        let public = pair.public_key();
        let n = BASE64_URL.encode(public.modulus().big_endian_without_leading_zero());
        let e = BASE64_URL.encode(public.exponent().big_endian_without_leading_zero());
        let kid = thumbprint(&n, &e);
        let jwk = Jwk { kty: "RSA".into(), usage: "sig".into(), alg: "RS256".into(), kid, n, e };
        Self { pair, jwk }
    }

    fn open(kid: &str, sealed: &Value, vault: &Vault) -> Result<Self, Error> {
        let der = vault.open(&secret_name(kid), sealed)?;
        RsaKeyPair::from_pkcs8(der.expose_secret()).map(Self::from_pair).map_err(Error::Rejected)
    }

    /// The steps that store both halves.
    fn store(&self, vault: &Vault, record: &Record) -> Result<[Write; 2], Error> {
        let der: Pkcs8V1Der<'_> = self.pair.as_der().expect("a key that was loaded has this form");
        let private = vault.put(&secret_name(self.id()), der.as_ref(), Expect::Any)?;
        Ok([record.put(Expect::Any), private])
    }

    fn record(&self, state: State, now: Timestamp) -> Record {
        Record { jwk: self.jwk.clone(), state, created_at: now, signs_at: None, retire_at: None }
    }

    /// The steps that publish this key, which is to sign from `signs_at` on.
    pub(super) fn publish(
        &self,
        vault: &Vault,
        signs_at: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Write>, Error> {
        let record = Record { signs_at: Some(signs_at), ..self.record(State::Next, now) };
        Ok(self.store(vault, &record)?.into())
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SigningKey").field(&self.jwk.kid).finish()
    }
}

impl Record {
    /// The key's id.
    pub fn id(&self) -> &str {
        &self.jwk.kid
    }

    /// The algorithm that it is for.
    pub fn algorithm(&self) -> &str {
        &self.jwk.alg
    }

    pub(super) fn put(&self, expect: Expect) -> Write {
        let value = serde_json::to_value(self).expect("texts and times serialise");
        Write::Put { key: Key::new(Kind::Key, &self.jwk.kid), value, expect }
    }

    /// The steps that forget it.
    pub(crate) fn remove(&self, expect: Expect) -> [Write; 2] {
        let key = Key::new(Kind::Key, self.id());
        [Write::Delete { key, expect }, Vault::delete(&secret_name(self.id()), Expect::Any)]
    }

    fn is_done(&self, now: Timestamp) -> bool {
        self.state == State::Retiring && self.retire_at.is_some_and(|at| at <= now)
    }
}

impl Keys {
    /// The kinds of the documents that keys are made of.
    pub const KINDS: [Kind; 3] = [Kind::Setting, Kind::Key, Kind::Secret];

    /// The documents that keys are made of, one consistent view; the others are not parsed.
    ///
    /// # Errors
    ///
    /// When the store refuses.
    pub async fn documents(store: &dyn Store) -> store::Result<Vec<Document>> {
        let (_, documents) = store.load_raw().await?;
        let ours = documents.into_iter().filter(|raw| Self::KINDS.contains(&raw.key.kind));
        Ok(ours.map(Raw::read).collect())
    }

    /// Reads the keys out of the documents of a store; `None` when no key was ever made.
    ///
    /// # Errors
    ///
    /// When the documents are damaged or the vault can't open the private half.
    pub fn load(documents: &[Document], vault: &Vault, now: Timestamp) -> Result<Option<Self>, Error> {
        let Some((Pointer { kid, .. }, _)) = pointer(documents)? else { return Ok(None) };
        let mut records = records(documents)?;
        if !records.iter().any(|record| record.jwk.kid == kid) {
            return Err(Error::NoRecord { kid });
        }
        records.retain(|record| record.jwk.kid == kid || !record.is_done(now));
        let active = private_half(&kid, documents, vault)?;
        Ok(Some(Self { active, records }))
    }

    /// Reads the keys, and makes the first one where there is none. A key that was `imported` becomes
    /// the one that signs; the old one then verifies until `signed_until`, when its last token has expired.
    /// One is imported once: after a rotation it stays where it is.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn ensure_active(
        store: &dyn Store,
        vault: &Vault,
        imported: Option<SigningKey>,
        signed_until: Timestamp,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let wanted = imported.as_ref().map(|key| key.id().to_owned());
        let mut candidate = imported;
        for _ in 0..ATTEMPTS {
            let documents = Self::documents(store).await?;
            let settled = pointer(&documents)?.is_some_and(|(pointer, _)| {
                wanted.is_none() || wanted.as_ref() == Some(&pointer.kid) || wanted == pointer.imported
            });
            if settled && let Some(keys) = Self::load(&documents, vault, now)? {
                return Ok(keys);
            }
            let key = match candidate.take() {
                Some(key) => key,
                // Takes a good part of a second, and the caller's thread serves others.
                None => tokio::task::spawn_blocking(SigningKey::generate)
                    .await
                    .expect("generating does not panic"),
            };
            let mut writes = replace(&key, &documents, vault, signed_until, now)?;
            if let (Some(id), Some(Write::Put { value, .. })) = (&wanted, writes.first_mut()) {
                value["imported"] = json!(id);
            }
            candidate = Some(key);
            match store.commit(writes).await {
                Ok(_) | Err(store::Error::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Contended)
    }

    /// Makes `key` the one that signs; the old one verifies until `signed_until`, when its last token has
    /// expired. Works without the private half of the old key, so that a lost secret key is no dead end.
    ///
    /// # Errors
    ///
    /// [`store::Error::Conflict`] when another node changed the keys at the same time.
    pub async fn rotate(
        store: &dyn Store,
        vault: &Vault,
        key: &SigningKey,
        signed_until: Timestamp,
        now: Timestamp,
    ) -> Result<(), Error> {
        let documents = Self::documents(store).await?;
        store.commit(replace(key, &documents, vault, signed_until, now)?).await?;
        Ok(())
    }

    /// Removes the keys whose tokens have all expired; returns how many.
    ///
    /// # Errors
    ///
    /// When the store refuses.
    pub async fn retire(store: &dyn Store, now: Timestamp) -> Result<usize, Error> {
        let documents = store.list(Kind::Key).await?;
        let mut writes = Vec::new();
        for document in documents {
            let record = record(&document)?;
            if record.is_done(now) {
                writes.extend(record.remove(Expect::Version(document.version)));
            }
        }
        let removed = writes.len() / 2;
        if removed > 0 {
            store.commit(writes).await?;
        }
        Ok(removed)
    }

    /// The key that signs.
    pub const fn active(&self) -> &SigningKey {
        &self.active
    }

    /// All keys that verify.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Signs an access token.
    pub fn mint(&self, claims: &Claims) -> String {
        self.active.mint(claims)
    }

    /// Signs an ID token.
    pub fn mint_id(&self, claims: &IdClaims) -> String {
        self.active.mint_id(claims)
    }

    /// The JSON Web Key Set to publish.
    pub fn jwks(&self) -> Value {
        let keys: Vec<&Jwk> = self.records.iter().map(|record| &record.jwk).collect();
        json!({ "keys": keys })
    }

    /// The same keys, for verifiers.
    ///
    /// # Errors
    ///
    /// When a document in the store holds what is no key.
    pub fn key_set(&self) -> Result<KeySet, Error> {
        Ok(KeySet::from_jwks(&self.jwks().to_string())?)
    }
}

/// The steps that make `key` sign at once and the present one, if there is one, retire. First the setting,
/// whose precondition guards the whole commit. A key that was to be the next one has signed nothing: it goes.
pub(super) fn replace(
    key: &SigningKey,
    documents: &[Document],
    vault: &Vault,
    signed_until: Timestamp,
    now: Timestamp,
) -> Result<Vec<Write>, Error> {
    let records = records(documents)?;
    let mut writes = point(key.id(), documents, &records, signed_until)?;
    writes.extend(key.store(vault, &key.record(State::Active, now))?);
    let next = records.iter().filter(|record| record.state == State::Next && record.id() != key.id());
    writes.extend(next.flat_map(|record| record.remove(Expect::Any)));
    Ok(writes)
}

/// The steps that make the next key sign, and the present one retire.
pub(super) fn activate(
    next: Record,
    documents: &[Document],
    vault: &Vault,
    signed_until: Timestamp,
) -> Result<Vec<Write>, Error> {
    // A key that can't sign would leave all nodes without one.
    private_half(next.id(), documents, vault)?;
    let mut writes = point(next.id(), documents, &records(documents)?, signed_until)?;
    writes.push(Record { state: State::Active, signs_at: None, ..next }.put(Expect::Any));
    Ok(writes)
}

/// The steps that name another key as the one that signs, and end the private half of the present one.
fn point(
    kid: &str,
    documents: &[Document],
    records: &[Record],
    signed_until: Timestamp,
) -> Result<Vec<Write>, Error> {
    let present = pointer(documents)?;
    let expect = present.as_ref().map_or(Expect::Absent, |(_, version)| Expect::Version(*version));
    let imported = present.as_ref().and_then(|(pointer, _)| pointer.imported.clone());
    let value = serde_json::to_value(Pointer { kid: kid.to_owned(), imported }).expect("texts serialise");
    let mut writes = vec![Write::Put { key: Key::new(Kind::Setting, SIGNING_KEY), value, expect }];
    if let Some((old, _)) = present.filter(|(old, _)| old.kid != kid) {
        if let Some(record) = records.iter().find(|record| record.id() == old.kid) {
            let retiring = Record { state: State::Retiring, retire_at: Some(signed_until), ..record.clone() };
            writes.push(retiring.put(Expect::Any));
        }
        writes.push(Vault::delete(&secret_name(&old.kid), Expect::Any));
    }
    Ok(writes)
}

fn private_half(kid: &str, documents: &[Document], vault: &Vault) -> Result<SigningKey, Error> {
    let secret = Key::new(Kind::Secret, secret_name(kid));
    let Some(sealed) = documents.iter().find(|document| document.key == secret) else {
        return Err(Error::NoPrivateHalf { kid: kid.to_owned() });
    };
    SigningKey::open(kid, &sealed.value, vault)
}

/// What the setting says, and its version.
pub(super) fn pointer(documents: &[Document]) -> Result<Option<(Pointer, u64)>, Error> {
    let key = Key::new(Kind::Setting, SIGNING_KEY);
    let Some(document) = documents.iter().find(|document| document.key == key) else { return Ok(None) };
    let pointer = Pointer::deserialize(&document.value).map_err(|source| Error::Record { key, source })?;
    Ok(Some((pointer, document.version)))
}

pub(super) fn records(documents: &[Document]) -> Result<Vec<Record>, Error> {
    documents.iter().filter(|document| document.key.kind == Kind::Key).map(record).collect()
}

pub(crate) fn record(document: &Document) -> Result<Record, Error> {
    Record::deserialize(&document.value).map_err(|source| Error::Record { key: document.key.clone(), source })
}

fn secret_name(kid: &str) -> String {
    format!("signing_key:{kid}")
}

/// RFC 7638, section 3: the required members in the order of their names, without blanks.
fn thumbprint(n: &str, e: &str) -> String {
    let members = format!("{{\"e\":\"{e}\",\"kty\":\"RSA\",\"n\":\"{n}\"}}");
    BASE64_URL.encode(digest::digest(&digest::SHA256, members.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::embedded::Embedded;

    fn vault() -> Vault {
        Vault::new(&SecretString::from("0123456789abcdef0123456789abcdef")).expect("long enough")
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn ids(keys: &Keys) -> Vec<&str> {
        keys.records().iter().map(|record| record.jwk.kid.as_str()).collect()
    }

    async fn ensure(store: &dyn Store, imported: Option<SigningKey>) -> Result<Keys, Error> {
        Keys::ensure_active(store, &vault(), imported, at(500), at(0)).await
    }

    #[test]
    fn the_id_of_a_key_is_its_thumbprint() {
        // RFC 7638, section 3.1.
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRX\
                 jBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaS\
                 qzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksIN\
                 HaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        assert_eq!(thumbprint(n, "AQAB"), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[tokio::test]
    async fn the_first_key_is_made_once_and_found_again() {
        let store = Embedded::in_memory().expect("a store");
        let (one, two) = tokio::join!(ensure(&store, None), ensure(&store, None));
        let (one, two) = (one.expect("a key"), two.expect("a key"));
        assert_eq!(one.active().id(), two.active().id(), "two nodes made two keys");
        assert_eq!(one.jwks(), two.jwks());
        let again = ensure(&store, None).await.expect("a key");
        assert_eq!(again.active().id(), one.active().id());
        assert_eq!(ids(&again), [one.active().id()]);
    }

    #[tokio::test]
    async fn the_private_half_is_sealed_and_in_no_other_document() {
        let store = Embedded::in_memory().expect("a store");
        let keys = ensure(&store, None).await.expect("a key");
        assert_eq!(keys.jwks()["keys"][0].as_object().expect("a key").len(), 6, "{}", keys.jwks());
        let (_, documents) = store.load().await.expect("loaded");
        assert_eq!(documents.len(), 3);
        let other = Vault::new(&SecretString::from("fedcba9876543210fedcba9876543210")).expect("long enough");
        assert!(matches!(Keys::load(&documents, &other, at(0)), Err(Error::Vault(_))));
        assert!(!format!("{keys:?}").contains("pair"));
    }

    #[tokio::test]
    async fn a_rotated_key_verifies_until_its_last_token_has_expired() {
        let store = Embedded::in_memory().expect("a store");
        let old = ensure(&store, None).await.expect("a key");
        let new = SigningKey::generate();
        Keys::rotate(&store, &vault(), &new, at(1_000), at(100)).await.expect("rotated");
        let load = async |now| {
            let (_, documents) = store.load().await.expect("loaded");
            Keys::load(&documents, &vault(), now).expect("good").expect("a key")
        };
        let both = load(at(999)).await;
        assert_eq!(both.active().id(), new.id());
        assert_eq!(both.records().len(), 2);
        assert_eq!(both.key_set().expect("keys").ids().count(), 2);
        assert_eq!(load(at(1_000)).await.records().len(), 1);
        assert_eq!(Keys::retire(&store, at(999)).await.expect("looked"), 0);
        assert_eq!(Keys::retire(&store, at(1_000)).await.expect("removed"), 1);
        let secrets = store.list(Kind::Secret).await.expect("listed");
        assert!(secrets.iter().all(|secret| !secret.key.id.contains(old.active().id())));
        assert_eq!(ids(&load(at(1_000)).await), [new.id()]);
    }

    #[tokio::test]
    async fn an_imported_key_becomes_the_one_that_signs() {
        let store = Embedded::in_memory().expect("a store");
        let first = ensure(&store, None).await.expect("a key");
        let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("generated").serialize_pem();
        let imported = || SigningKey::import(&SecretString::from(BASE64.encode(&pem))).expect("a key");
        for _ in 0..2 {
            let keys = ensure(&store, Some(imported())).await.expect("a key");
            assert_eq!(keys.active().id(), imported().id());
            assert_eq!(keys.records().len(), 2);
            assert!(ids(&keys).contains(&first.active().id()));
        }
        Keys::rotate(&store, &vault(), &SigningKey::generate(), at(500), at(0)).await.expect("rotated");
        let keys = ensure(&store, Some(imported())).await.expect("a key");
        assert_ne!(keys.active().id(), imported().id(), "a restart does not undo a rotation");
        let plain = SigningKey::import(&SecretString::from(pem.as_str())).expect("PEM is taken as it is");
        assert_eq!(plain.id(), imported().id());
    }

    #[test]
    fn what_is_no_rsa_key_is_not_imported() {
        let ec = rcgen::KeyPair::generate().expect("generated").serialize_pem();
        for text in ["", "x", "aGVsbG8=", "-----BEGIN PRIVATE KEY-----", ec.as_str()] {
            let error = SigningKey::import(&SecretString::from(text)).expect_err("no key");
            assert!(!error.to_string().contains("hello"), "{error}");
        }
    }

    #[test]
    fn a_minted_token_verifies() {
        let key = SigningKey::generate();
        let now = Timestamp::now();
        let audience = ["https://app.example".to_owned()];
        let lifetime = Duration::from_secs(60);
        let claims =
            Claims::new("https://auth.example", "1", "c", &audience, &[], lifetime, now).expect("valid");
        let claims = claims.with_groups(["Acme"]);
        let token = key.mint(&claims);
        let record = key.record(State::Active, now);
        let keys = Keys { active: key, records: vec![record] };
        let trust = super::super::Trust::new("https://auth.example", &keys, 1).expect("keys");
        let verified = portcullis_layers::auth::Verify::verify(&trust.verifier([]), &token).expect("good");
        assert_eq!(verified.principal().token_id.as_deref(), Some(claims.jti.as_str()));
        assert!(!verified.principal().foreign);
        assert_eq!(verified.principal().groups, ["acme"]);
        let id_token = keys.active().sign("JWT", &claims);
        let refused = portcullis_layers::auth::Verify::verify(&trust.verifier([]), &id_token);
        assert_eq!(
            refused.expect_err("an ID token"),
            portcullis_layers::auth::TokenError::Type("JWT".into())
        );
    }
}
