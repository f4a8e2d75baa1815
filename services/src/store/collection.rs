//! The typed face of a kind of documents: the one place that serialises them.
//!
//! It knows nothing of what the values mean; validation is the caller's, before anything is stored.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Document, Error, Expect, Key, Kind, Result, Revision, Store, Write};

/// The documents of one kind, as values of `T`.
pub struct Collection<T> {
    store: Arc<dyn Store>,
    kind: Kind,
    values: PhantomData<fn() -> T>,
}

impl<T> Clone for Collection<T> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), kind: self.kind, values: PhantomData }
    }
}

impl<T> fmt::Debug for Collection<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collection").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// A value as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<T> {
    /// The name of its document.
    pub id: String,
    /// What [`Collection::replace`] expects.
    pub version: u64,
    /// The value.
    pub value: T,
}

/// A document that is not what its kind says.
#[derive(Debug, thiserror::Error)]
#[error("{key} can't be read")]
pub struct BadDocument {
    /// Which one.
    pub key: Key,
    /// Its version: what a write that repairs it may expect.
    pub version: u64,
    /// What is wrong with it.
    #[source]
    pub source: serde_json::Error,
}

impl From<BadDocument> for Error {
    fn from(bad: BadDocument) -> Self {
        Self::Corrupt { place: bad.key.to_string(), source: Box::new(bad) }
    }
}

impl<T> Collection<T> {
    /// The documents of `kind`.
    pub fn new(store: Arc<dyn Store>, kind: Kind) -> Self {
        Self { store, kind, values: PhantomData }
    }

    /// The name of a document of this collection.
    pub fn key(&self, id: impl Into<String>) -> Key {
        Key::new(self.kind, id)
    }

    /// Removes a document, if it has this version, or whatever it is if none is given. That there is
    /// none is a [`Error::Conflict`].
    pub async fn delete(&self, id: &str, version: Option<u64>) -> Result<Revision> {
        self.store.commit(vec![self.deletion(id, version)]).await
    }

    /// The step of [`Self::delete`], for a commit with others.
    pub fn deletion(&self, id: &str, version: Option<u64>) -> Write {
        let expect = version.map_or(Expect::Present, Expect::Version);
        Write::Delete { key: self.key(id), expect }
    }
}

impl<T: DeserializeOwned> Collection<T> {
    /// One value. One that can't be read is [`Error::Corrupt`].
    pub async fn get(&self, id: &str) -> Result<Option<Stored<T>>> {
        let document = self.store.get(&self.key(id)).await?;
        Ok(document.map(read).transpose()?)
    }

    /// All values by id. One that can't be read does not hide the others.
    pub async fn list(&self) -> Result<Vec<std::result::Result<Stored<T>, BadDocument>>> {
        let documents = self.store.list(self.kind).await?;
        Ok(documents.into_iter().map(read).collect())
    }
}

impl<T: Serialize> Collection<T> {
    /// Stores a value that must not exist yet.
    pub async fn create(&self, id: &str, value: &T) -> Result<Revision> {
        self.store.commit(vec![self.put(id, value, Expect::Absent)?]).await
    }

    /// Replaces a value that must have this version, or just be there if none is given.
    pub async fn replace(&self, id: &str, version: Option<u64>, value: &T) -> Result<Revision> {
        let expect = version.map_or(Expect::Present, Expect::Version);
        self.store.commit(vec![self.put(id, value, expect)?]).await
    }

    /// The step that stores a value, for a commit with others.
    pub fn put(&self, id: &str, value: &T, expect: Expect) -> Result<Write> {
        let key = self.key(id);
        match serde_json::to_value(value) {
            Ok(value) => Ok(Write::Put { key, value, expect }),
            Err(error) => Err(Error::Corrupt { place: key.to_string(), source: Box::new(error) }),
        }
    }
}

/// A document as a value.
pub fn read<T: DeserializeOwned>(document: Document) -> std::result::Result<Stored<T>, BadDocument> {
    let Document { key, version, value } = document;
    match serde_json::from_value(value) {
        Ok(value) => Ok(Stored { id: key.id, version, value }),
        Err(source) => Err(BadDocument { key, version, source }),
    }
}

#[cfg(all(test, feature = "embedded"))]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::super::embedded::Embedded;
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Host {
        target: String,
    }

    fn host(target: &str) -> Host {
        Host { target: target.into() }
    }

    #[tokio::test]
    async fn a_value_is_created_once_and_replaced_by_version() {
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().expect("a store"));
        let hosts = Collection::<Host>::new(store, Kind::Proxy);
        hosts.create("a", &host("one")).await.expect("created");
        let twice = hosts.create("a", &host("two")).await.expect_err("it exists");
        assert!(matches!(twice, Error::Conflict { key } if key == hosts.key("a")));
        hosts.replace("a", Some(1), &host("two")).await.expect("replaced");
        assert!(matches!(hosts.replace("a", Some(1), &host("x")).await, Err(Error::Conflict { .. })));
        let stored = hosts.get("a").await.expect("read").expect("there");
        assert_eq!(stored, Stored { id: "a".into(), version: 2, value: host("two") });
        assert!(matches!(hosts.replace("b", None, &host("x")).await, Err(Error::Conflict { .. })));
        assert!(matches!(hosts.delete("a", Some(1)).await, Err(Error::Conflict { .. })));
        hosts.delete("a", Some(2)).await.expect("deleted");
        assert!(matches!(hosts.delete("a", None).await, Err(Error::Conflict { .. })));
        assert_eq!(hosts.get("a").await.expect("read"), None);
    }

    #[tokio::test]
    async fn a_bad_document_does_not_hide_the_others() {
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().expect("a store"));
        let hosts = Collection::<Host>::new(store.clone(), Kind::Proxy);
        hosts.create("good", &host("one")).await.expect("created");
        let key = hosts.key("bad");
        let value = json!({ "target": 7 });
        store.commit(vec![Write::Put { key, value, expect: Expect::Any }]).await.expect("stored");
        let listed = hosts.list().await.expect("listed");
        assert_eq!(listed.len(), 2);
        let bad = listed[0].as_ref().expect_err("bad sorts first");
        assert_eq!((bad.key.id.as_str(), bad.version), ("bad", 1));
        assert_eq!(listed[1].as_ref().expect("good").value, host("one"));
        assert!(matches!(hosts.get("bad").await, Err(Error::Corrupt { .. })));
    }
}
