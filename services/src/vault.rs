//! Sealed secrets over the store.
//!
//! A secret is a document of kind [`Kind::Secret`] whose value is sealed with AES-256-GCM. The key is
//! derived (HKDF-SHA256, RFC 5869) from the deployment's secret key; the name is authenticated with
//! the value, so that a sealed value can't be moved to another name. A sealed value says which key
//! sealed it, so that a wrong key is told apart from a damaged value.
//!
//! The vault does not decide who may read a secret, and does not stretch weak passphrases: the key has
//! to be random.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::store::{self, Expect, Key, Kind, Store, Write, private};

/// The file that [`Vault::open_or_create`] keeps its key in.
pub const KEY_FILE: &str = "secret.key";

/// A key has at least this many characters: 32 bytes in base64 or hex, or a passphrase.
const KEY_CHARACTERS: usize = 32;

/// A key of fewer different characters was typed, not generated.
const KEY_VARIETY: usize = 8;

/// What the sealed files of this version start with.
const FILE_MAGIC: &[u8] = b"portcullis sealed 1\n";

/// Seals and opens secrets with one key.
pub struct Vault {
    key: RandomizedNonceKey,
    key_id: String,
    blobs: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// Why a secret can't be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The secret key is too short.
    #[error(
        "the secret key has {characters} characters, but needs at least {KEY_CHARACTERS}: \
         32 random bytes in base64 or hex"
    )]
    ShortKey {
        /// How long it is.
        characters: usize,
    },
    /// The secret key repeats a few characters.
    #[error(
        "the secret key has only {different} different characters: it needs 32 random bytes in base64 or hex"
    )]
    RegularKey {
        /// How many different ones it has.
        different: usize,
    },
    /// Others can read the key file.
    #[error("{path} has mode {mode:03o}, so that others can read the secret key: run `chmod 600 {path}`")]
    ExposedKey {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The key file can't be read or made.
    #[error("the secret key can't be kept in {path}")]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The secret was sealed with another key.
    #[error("{name:?} was sealed with the key {sealed}, but the secret key of this node is {ours}")]
    OtherKey {
        /// The secret.
        name: String,
        /// The id of the key that sealed it.
        sealed: String,
        /// The id of our key.
        ours: String,
    },
    /// The value was changed, or belongs to another name.
    #[error("the sealed value of {name:?} is damaged, or belongs to another name")]
    Damaged {
        /// The secret.
        name: String,
    },
    /// The value is no sealed secret.
    #[error("the value of {name:?} is not a sealed secret")]
    Malformed {
        /// The secret.
        name: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The cryptographic library refused.
    #[error("{name:?} can't be sealed")]
    Seal {
        /// The secret.
        name: String,
    },
}

impl From<Error> for store::Error {
    fn from(error: Error) -> Self {
        Self::Corrupt { place: "the vault".into(), source: Box::new(error) }
    }
}

/// The result of sealing and opening.
pub type Result<T> = std::result::Result<T, Error>;

/// A sealed value as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    /// The algorithm by its JOSE name (RFC 7518 section 5.1).
    alg: Algorithm,
    /// The id of the key.
    kid: String,
    /// Base64.
    nonce: String,
    /// Base64: what was sealed, and the tag.
    data: String,
}

#[derive(Serialize, Deserialize)]
enum Algorithm {
    A256GCM,
}

/// What a sealed value is for: authenticated, so that one can't stand in for the other.
#[derive(Clone, Copy)]
enum Purpose {
    Secret,
    File,
}

impl Vault {
    /// A vault with the deployment's secret key: 32 random bytes in base64 or hex, or a passphrase
    /// as long as that.
    pub fn new(secret: &SecretString) -> Result<Self> {
        let secret = secret.expose_secret().trim();
        let characters = secret.chars().count();
        if characters < KEY_CHARACTERS {
            return Err(Error::ShortKey { characters });
        }
        let different = secret.chars().collect::<std::collections::HashSet<_>>().len();
        if different < KEY_VARIETY {
            return Err(Error::RegularKey { different });
        }
        let prk = Salt::new(HKDF_SHA256, b"portcullis vault 1").extract(secret.as_bytes());
        // The library fails only for outputs longer than 255 hashes.
        let derive = |purpose: &'static [u8], out: &mut [u8]| {
            let length = Length(out.len());
            prk.expand(&[purpose], length).and_then(|okm| okm.fill(out)).expect("a short output of HKDF");
        };
        let mut key = Zeroizing::new([0u8; 32]);
        derive(b"seal", key.as_mut());
        let mut id = [0u8; 6];
        derive(b"key id", &mut id);
        let key = RandomizedNonceKey::new(&AES_256_GCM, key.as_ref()).expect("a key of 32 bytes");
        let mut blobs = Zeroizing::new([0u8; 32]);
        derive(b"blobs of clients", blobs.as_mut());
        Ok(Self { key, key_id: BASE64.encode(id), blobs })
    }

    /// A vault with the key in a data directory, which is generated the first time. A key file that
    /// others can read is refused.
    pub fn open_or_create(dir: &Path) -> Result<Self> {
        let path = dir.join(KEY_FILE);
        let failed = |source| Error::KeyFile { path: path.clone(), source };
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                private::create_dir(dir).map_err(failed)?;
                match private::create_with(&path, generate().map_err(failed)?.as_bytes()) {
                    // Another process was faster: its key counts.
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
                    _ => OpenOptions::new().read(true).open(&path).map_err(failed)?,
                }
            }
            opened => opened.map_err(failed)?,
        };
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(Error::ExposedKey { path, mode });
        }
        let mut content = Zeroizing::new(String::with_capacity(4096));
        file.by_ref().take(4096).read_to_string(&mut content).map_err(failed)?;
        Self::new(&SecretString::from(content.as_str()))
    }

    /// The id of the key: derived from it, so that it is the same on all nodes that share the key.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// A key of its own for what layers seal for clients to keep: the same on all nodes.
    pub fn blob_key(&self) -> &[u8; 32] {
        &self.blobs
    }

    /// Seals a secret under its name.
    pub fn seal(&self, name: &str, secret: &[u8]) -> Result<Value> {
        let (nonce, data) = self.encrypt(Purpose::Secret, name, secret)?;
        let sealed = Sealed {
            alg: Algorithm::A256GCM,
            kid: self.key_id.clone(),
            nonce: BASE64.encode(nonce),
            data: BASE64.encode(data),
        };
        Ok(serde_json::to_value(sealed).expect("strings serialise"))
    }

    /// Opens what [`Self::seal`] made under the same name.
    pub fn open(&self, name: &str, sealed: &Value) -> Result<SecretSlice<u8>> {
        let sealed = Sealed::deserialize(sealed).map_err(|error| malformed(name, error))?;
        self.check_key(name, &sealed.kid)?;
        let Algorithm::A256GCM = sealed.alg;
        let nonce = BASE64.decode(&sealed.nonce).map_err(|error| malformed(name, error))?;
        let data = BASE64.decode(&sealed.data).map_err(|error| malformed(name, error))?;
        let nonce = <[u8; NONCE_LEN]>::try_from(nonce).map_err(|_| Error::Damaged { name: name.into() })?;
        Ok(SecretSlice::from(self.decrypt(Purpose::Secret, name, nonce, data)?))
    }

    /// The step that stores a secret, for one commit with the document that owns it.
    pub fn put(&self, name: &str, secret: &[u8], expect: Expect) -> Result<Write> {
        Ok(Write::Put { key: Key::new(Kind::Secret, name), value: self.seal(name, secret)?, expect })
    }

    /// The step that removes a secret, for one commit with the document that owned it.
    pub fn delete(name: &str, expect: Expect) -> Write {
        Write::Delete { key: Key::new(Kind::Secret, name), expect }
    }

    /// Reads a secret from the store.
    pub async fn get(&self, store: &dyn Store, name: &str) -> store::Result<Option<SecretSlice<u8>>> {
        let document = store.get(&Key::new(Kind::Secret, name)).await?;
        Ok(document.map(|document| self.open(name, &document.value)).transpose()?)
    }

    /// Seals the content of a file; `name` says what it is, not where.
    pub fn seal_file(&self, name: &str, content: &[u8]) -> Result<Vec<u8>> {
        let (nonce, data) = self.encrypt(Purpose::File, name, content)?;
        let mut file = Vec::with_capacity(FILE_MAGIC.len() + self.key_id.len() + NONCE_LEN + data.len());
        file.extend_from_slice(FILE_MAGIC);
        file.extend_from_slice(self.key_id.as_bytes());
        file.extend_from_slice(&nonce);
        file.extend_from_slice(&data);
        Ok(file)
    }

    /// Opens what [`Self::seal_file`] made.
    pub fn open_file(&self, name: &str, file: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let damaged = || Error::Damaged { name: name.into() };
        let rest = file.strip_prefix(FILE_MAGIC).ok_or_else(damaged)?;
        let (key_id, rest) = rest.split_at_checked(self.key_id.len()).ok_or_else(damaged)?;
        self.check_key(name, &String::from_utf8_lossy(key_id))?;
        let (nonce, data) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(damaged)?;
        Ok(Zeroizing::new(self.decrypt(Purpose::File, name, *nonce, data.to_vec())?))
    }

    fn encrypt(&self, purpose: Purpose, name: &str, secret: &[u8]) -> Result<([u8; NONCE_LEN], Vec<u8>)> {
        let mut data = Vec::with_capacity(secret.len() + AES_256_GCM.tag_len());
        data.extend_from_slice(secret);
        let aad = Aad::from(associated(purpose, name));
        match self.key.seal_in_place_append_tag(aad, &mut data) {
            Ok(nonce) => Ok((*nonce.as_ref(), data)),
            Err(_) => Err(Error::Seal { name: name.into() }),
        }
    }

    fn decrypt(
        &self,
        purpose: Purpose,
        name: &str,
        nonce: [u8; NONCE_LEN],
        mut data: Vec<u8>,
    ) -> Result<Vec<u8>> {
        let aad = Aad::from(associated(purpose, name));
        let nonce = Nonce::assume_unique_for_key(nonce);
        let length = match self.key.open_in_place(nonce, aad, &mut data) {
            Ok(opened) => opened.len(),
            Err(_) => return Err(Error::Damaged { name: name.into() }),
        };
        data.truncate(length);
        Ok(data)
    }

    fn check_key(&self, name: &str, sealed: &str) -> Result<()> {
        if sealed == self.key_id {
            return Ok(());
        }
        Err(Error::OtherKey { name: name.into(), sealed: sealed.into(), ours: self.key_id.clone() })
    }
}

/// How many bytes HKDF shall make.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// 32 random bytes as text.
fn generate() -> io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new([0u8; 32]);
    aws_lc_rs::rand::fill(bytes.as_mut()).map_err(io::Error::other)?;
    Ok(Zeroizing::new(BASE64.encode(bytes.as_ref())))
}

fn associated(purpose: Purpose, name: &str) -> Vec<u8> {
    let purpose = match purpose {
        Purpose::Secret => "secret",
        Purpose::File => "file",
    };
    // No purpose contains a zero byte, so that the border is unambiguous.
    [purpose.as_bytes(), b"\0", name.as_bytes()].concat()
}

fn malformed(name: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Malformed { name: name.into(), source: source.into() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KEY: &str = "h3Wc0Kq9vPz7sYt2RnBx5LmGdJfA8eUo1QiZ6wXyVbE";

    fn vault() -> Vault {
        Vault::new(&KEY.into()).expect("a good key")
    }

    #[test]
    fn a_secret_comes_back_under_its_name_only() {
        let vault = vault();
        let sealed = vault.seal("tls/app", b"key material").expect("sealed");
        assert!(!sealed.to_string().contains("key material"));
        assert_eq!(vault.open("tls/app", &sealed).expect("opened").expose_secret(), b"key material");
        let again = Vault::new(&format!("  {KEY}\n").into()).expect("the same key");
        assert_eq!(again.open("tls/app", &sealed).expect("opened").expose_secret(), b"key material");
        assert!(matches!(vault.open("tls/other", &sealed), Err(Error::Damaged { .. })));
        let file = vault.seal_file("tls/app", b"key material").expect("sealed");
        assert_eq!(vault.open_file("tls/app", &file).expect("opened").as_slice(), b"key material");
        assert!(matches!(vault.open_file("tls/other", &file), Err(Error::Damaged { .. })));
    }

    #[test]
    fn the_same_secret_is_never_sealed_to_the_same_value() {
        let vault = vault();
        assert_ne!(vault.seal("a", b"x").expect("sealed"), vault.seal("a", b"x").expect("sealed"));
    }

    #[test]
    fn another_key_is_named_not_called_damage() {
        let other = Vault::new(&"another key of thirty-two characters or more".into()).expect("a good key");
        let sealed = other.seal("a", b"x").expect("sealed");
        let refused = vault().open("a", &sealed).expect_err("another key").to_string();
        assert!(refused.contains(other.key_id()) && refused.contains(vault().key_id()), "{refused}");
        let file = other.seal_file("a", b"x").expect("sealed");
        assert!(matches!(vault().open_file("a", &file), Err(Error::OtherKey { .. })));
    }

    #[test]
    fn what_was_changed_is_refused() {
        let vault = vault();
        let sealed = vault.seal("a", b"secret").expect("sealed");
        let changed = |field: &str, value: Value| {
            let mut changed = sealed.clone();
            changed[field] = value;
            vault.open("a", &changed).expect_err("refused")
        };
        assert!(matches!(changed("nonce", json!("AAAAAAAAAAAAAAAA")), Error::Damaged { .. }));
        assert!(matches!(changed("nonce", json!("AAAA")), Error::Damaged { .. }));
        assert!(matches!(changed("data", json!("")), Error::Damaged { .. }));
        assert!(matches!(changed("data", json!("*")), Error::Malformed { .. }));
        assert!(matches!(changed("alg", json!("none")), Error::Malformed { .. }));
        assert!(matches!(changed("more", json!(1)), Error::Malformed { .. }));
        assert!(matches!(vault.open("a", &json!("secret")), Err(Error::Malformed { .. })));
        let file = vault.seal_file("a", b"secret").expect("sealed");
        for length in 0..file.len() {
            assert!(vault.open_file("a", &file[..length]).is_err(), "cut at {length}");
        }
        for at in 0..file.len() {
            let mut flipped = file.clone();
            flipped[at] ^= 1;
            assert!(vault.open_file("a", &flipped).is_err(), "changed at {at}");
        }
    }

    #[test]
    fn weak_keys_are_refused_without_showing_them() {
        let error = Vault::new(&"short-key-value".into()).expect_err("too short").to_string();
        assert!(error.contains("15 characters") && !error.contains("short-key"), "{error}");
        let regular = Vault::new(&"ab".repeat(40).into()).expect_err("regular");
        assert!(matches!(regular, Error::RegularKey { different: 2 }));
        let shown = format!("{:?}", vault());
        assert!(!shown.contains(KEY) && shown.contains("key_id"), "{shown}");
    }

    #[test]
    fn the_key_file_is_made_once_and_for_its_owner_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        let first = Vault::open_or_create(&data).expect("made");
        let path = data.join(KEY_FILE);
        let mode = std::fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let sealed = first.seal("a", b"x").expect("sealed");
        let second = Vault::open_or_create(&data).expect("opened");
        assert_eq!(second.open("a", &sealed).expect("opened").expose_secret(), b"x");

        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).expect("changed");
        let refused = Vault::open_or_create(&data).expect_err("exposed").to_string();
        assert!(refused.contains("chmod 600") && refused.contains("640"), "{refused}");
    }

    #[test]
    fn all_who_start_at_once_share_one_key() {
        let dir = tempfile::tempdir().expect("a directory");
        let ids: std::collections::HashSet<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| Vault::open_or_create(dir.path()).expect("opened").key_id))
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(ids.len(), 1);
    }
}
