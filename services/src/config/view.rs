//! One state of the store, read. What did not change since the state before is not parsed again.

use std::sync::Arc;

use serde_json::Value;

use super::{Config, Parsed};
use crate::store::{Document, Key, Kind, Raw, Revision};

/// All documents at one revision.
#[derive(Debug)]
pub struct View {
    /// Which state of the store this is.
    pub revision: Revision,
    /// The configuration.
    pub config: Arc<Config>,
    /// By key.
    documents: Box<[Arc<Stored>]>,
}

/// A document, as it is stored and as it was read. The same one is shared by all states that have it.
#[derive(Debug)]
struct Stored {
    raw: Raw,
    parsed: Parsed,
}

impl View {
    /// Reads documents; `previous` lends those that are byte for byte the same.
    pub fn new(revision: Revision, documents: Vec<Raw>, previous: Option<&Self>) -> Self {
        // Versions alone don't tell: they begin anew when a document is deleted and made again.
        let read = |raw: Raw| match previous.and_then(|previous| previous.get(&raw.key)) {
            Some(known) if known.raw == raw => Arc::clone(known),
            _ => {
                let parsed = Parsed::of(raw.clone().read());
                Arc::new(Stored { raw, parsed })
            }
        };
        let mut documents: Box<[_]> = documents.into_iter().map(read).collect();
        documents.sort_by(|one, other| one.raw.key.cmp(&other.raw.key));
        let config = match previous {
            Some(previous) if same(previous.documents.iter(), documents.iter()) => {
                Arc::clone(&previous.config)
            }
            _ => Arc::new(Config::collect(documents.iter().map(|one| (&one.raw.key, &one.parsed)))),
        };
        Self { revision, config, documents }
    }

    fn get(&self, key: &Key) -> Option<&Arc<Stored>> {
        let place = self.documents.binary_search_by(|one| one.raw.key.cmp(key)).ok()?;
        Some(&self.documents[place])
    }

    /// Whether it has no documents at all.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// A document, as it is stored.
    pub fn document(&self, key: &Key) -> Option<Document> {
        Some(self.get(key)?.raw.clone().read())
    }

    /// Whether it has a document of this name.
    pub fn contains(&self, key: &Key) -> bool {
        self.get(key).is_some()
    }

    /// Whether these are the same documents as those of `other`.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
    }

    /// Whether one document is the same as in `other`, or in neither.
    pub fn has_same(&self, other: &Self, key: &Key) -> bool {
        match (self.get(key), other.get(key)) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }

    /// The documents of some kinds, as they are stored.
    pub fn documents(&self, kinds: &[Kind]) -> Vec<Document> {
        self.raw().filter(|raw| kinds.contains(&raw.key.kind)).map(|raw| raw.clone().read()).collect()
    }

    /// Whether the documents of some kinds are the same as those of `other`.
    pub fn are_same<'a>(&'a self, other: &'a Self, kinds: &[Kind]) -> bool {
        let of = |view: &'a Self| view.documents.iter().filter(|one| kinds.contains(&one.raw.key.kind));
        same(of(self), of(other))
    }

    /// What is stored under a name of [`Kind::Secret`], sealed.
    pub fn secret(&self, id: &str) -> Option<Value> {
        Some(self.document(&Key::new(Kind::Secret, id))?.value)
    }

    /// All documents as they are stored.
    pub fn raw(&self) -> impl Iterator<Item = &Raw> {
        self.documents.iter().map(|stored| &stored.raw)
    }
}

fn same<'a>(
    mut ours: impl Iterator<Item = &'a Arc<Stored>>,
    mut theirs: impl Iterator<Item = &'a Arc<Stored>>,
) -> bool {
    loop {
        match (ours.next(), theirs.next()) {
            (None, None) => return true,
            (Some(one), Some(other)) if Arc::ptr_eq(one, other) => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn raw(kind: Kind, id: &str, version: u64, value: &Value) -> Raw {
        Raw::from(&Document { key: Key::new(kind, id), version, value: value.clone() })
    }

    fn host(id: &str, version: u64, port: u16) -> Raw {
        let target = format!("http://10.0.0.5:{port}");
        raw(Kind::Proxy, id, version, &json!({ "proxy_hostname": id, "target_url": target }))
    }

    fn view(n: u64, documents: Vec<Raw>, previous: Option<&View>) -> View {
        View::new(Revision { epoch: "e".into(), n }, documents, previous)
    }

    #[test]
    fn only_what_changed_is_read_again() {
        let before = view(1, vec![host("a.example", 1, 80), host("b.example", 1, 80)], None);
        let after = view(2, vec![host("a.example", 1, 80), host("b.example", 2, 81)], Some(&before));
        let shared = |id| Arc::ptr_eq(&before.config.proxies[id], &after.config.proxies[id]);
        assert!(shared("a.example") && !shared("b.example"));
        assert_eq!(after.config.proxies["b.example"].config_version, 2);
        let same = view(3, vec![host("a.example", 1, 80), host("b.example", 2, 81)], Some(&after));
        assert!(same.is_same(&after) && !after.is_same(&before));
        let fewer = view(4, vec![host("b.example", 2, 81)], Some(&same));
        assert!(!fewer.is_same(&same) && !fewer.config.proxies.contains_key("a.example"));
    }

    #[test]
    fn a_document_that_was_made_anew_is_another_one() {
        let before = view(1, vec![host("a.example", 1, 80)], None);
        let after = view(3, vec![host("a.example", 1, 81)], Some(&before));
        assert_eq!(after.config.proxies["a.example"].target_url.to_string(), "http://10.0.0.5:81");
    }

    #[test]
    fn what_cannot_be_read_stays_a_problem_until_it_is_repaired() {
        let broken = raw(Kind::Route, "r", 1, &json!({ "color": "red" }));
        let before = view(1, vec![broken.clone()], None);
        let after = view(2, vec![broken, host("a.example", 1, 80)], Some(&before));
        assert_eq!(before.config.problems, after.config.problems);
        assert_eq!(after.config.problems.len(), 1);
        assert_eq!(view(3, vec![host("a.example", 1, 80)], Some(&after)).config.problems, []);
    }

    #[test]
    fn kinds_are_compared_on_their_own() {
        let secret = |value| raw(Kind::Secret, "s", 1, &json!(value));
        let before = view(1, vec![secret("one"), host("a.example", 1, 80)], None);
        let after = view(2, vec![secret("one"), host("a.example", 2, 81)], Some(&before));
        assert!(after.are_same(&before, &[Kind::Secret]) && !after.are_same(&before, &[Kind::Proxy]));
        assert!(after.has_same(&before, &Key::new(Kind::Secret, "s")));
        assert_eq!(after.secret("s"), Some(json!("one")));
        let other = view(3, vec![secret("two")], Some(&after));
        assert!(!other.are_same(&after, &[Kind::Secret]));
        assert!(!format!("{other:?}").contains("two"), "not even sealed ones are shown");
    }
}
