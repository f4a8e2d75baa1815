//! When a store may take the place of what is served: because it went on from there, or because an admin said so.
//!
//! An admin's word is a document in the store, so that every node hears it. It names the store that it is about and
//! those that this one replaces; an emptied store has none, and one in a backup is no newer than what is served.

use portcullis_services::config::view::View;
use portcullis_services::control::system::ACCEPTED_STORE;
use portcullis_services::store::{Expect, Key, Kind, Revision, Write};
use serde::{Deserialize, Serialize};

/// How many replaced stores are remembered: a node that slept through more of them asks its admin again.
const REMEMBERED: usize = 32;

/// An admin's word that a store may take the place of others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptance {
    /// The store that was accepted. A copy in another store means nothing.
    epoch: String,
    /// Grows with each acceptance.
    generation: u64,
    /// In whose place: the newest first.
    replaces: Vec<String>,
}

impl Acceptance {
    /// The one that a store holds.
    pub fn of(view: &View) -> Option<Self> {
        let document = view.document(&Key::new(Kind::Setting, ACCEPTED_STORE))?;
        serde_json::from_value(document.value).ok()
    }

    /// The next one, as a step of a commit: for the store that was found in place of what is served.
    pub fn next(served: &Served, found: &View) -> serde_json::Result<Write> {
        let key = Key::new(Kind::Setting, ACCEPTED_STORE);
        let version = found.document(&key).map(|document| document.version);
        let before = [served.acceptance.clone(), Self::of(found)];
        let before: Vec<_> = before.into_iter().flatten().collect();
        let mut replaces = vec![served.revision.epoch.clone()];
        for epoch in before.iter().flat_map(|one| &one.replaces) {
            if replaces.len() < REMEMBERED && !replaces.contains(epoch) {
                replaces.push(epoch.clone());
            }
        }
        let generation = before.iter().map(|one| one.generation).max().unwrap_or(0).saturating_add(1);
        let value = serde_json::to_value(Self { epoch: found.revision.epoch.clone(), generation, replaces })?;
        Ok(Write::Put { key, value, expect: version.map_or(Expect::Absent, Expect::Version) })
    }
}

/// What is served.
#[derive(Debug, Clone)]
pub struct Served {
    /// The state of the store that it came from.
    pub revision: Revision,
    /// What an admin had accepted by then.
    pub acceptance: Option<Acceptance>,
}

impl Served {
    /// What is served when a state of a store is.
    pub fn of(view: &View) -> Self {
        Self { revision: view.revision.clone(), acceptance: Acceptance::of(view) }
    }

    /// Whether a store is another one than that which is served, or an older state of it, and nobody has accepted it.
    pub fn is_replaced_by(&self, found: &View) -> bool {
        let revision = &found.revision;
        let goes_on = self.revision.epoch == revision.epoch && self.revision.n <= revision.n;
        !goes_on && !self.is_followed_by(found)
    }

    /// Whether an admin has said that a store may stand in the place of what is served.
    pub fn is_followed_by(&self, found: &View) -> bool {
        Acceptance::of(found).is_some_and(|accepted| self.may_be_followed(&found.revision, &accepted))
    }

    fn may_be_followed(&self, found: &Revision, accepted: &Acceptance) -> bool {
        let known = self.acceptance.as_ref().map_or(0, |acceptance| acceptance.generation);
        accepted.epoch == found.epoch
            && accepted.generation > known
            && accepted.replaces.contains(&self.revision.epoch)
    }
}

#[cfg(test)]
mod tests {
    use portcullis_services::store::{Document, Raw};

    use super::*;

    fn at(epoch: &str, n: u64, documents: &[Document]) -> View {
        let revision = Revision { epoch: epoch.to_owned(), n };
        View::new(revision, documents.iter().map(Raw::from).collect(), None)
    }

    fn serving(epoch: &str, n: u64, documents: &[Document]) -> Served {
        Served::of(&at(epoch, n, documents))
    }

    fn accept(served: &Served, found: &View) -> Vec<Document> {
        let Write::Put { key, value, .. } = Acceptance::next(served, found).expect("serialises") else {
            panic!("it is stored")
        };
        vec![Document { key, version: 1, value }]
    }

    #[test]
    fn only_what_goes_on_is_followed_unasked() {
        let served = serving("a", 5, &[]);
        for (epoch, n, replaced) in
            [("a", 5, false), ("a", 6, false), ("a", 4, true), ("b", 9, true), ("", 0, true)]
        {
            assert_eq!(served.is_replaced_by(&at(epoch, n, &[])), replaced, "{epoch} {n}");
        }
    }

    #[test]
    fn what_one_node_accepts_all_nodes_of_the_deployment_follow() {
        let (here, there) = (serving("a", 5, &[]), serving("a", 3, &[]));
        let documents = accept(&here, &at("b", 2, &[]));
        assert!(!here.is_replaced_by(&at("b", 3, &documents)));
        assert!(!there.is_replaced_by(&at("b", 9, &documents)));
        assert!(serving("z", 1, &[]).is_replaced_by(&at("b", 3, &documents)), "it was never in its place");
        // Carried into another store, or left in an emptied one, it means nothing.
        assert!(here.is_replaced_by(&at("c", 9, &documents)));
        assert!(here.is_replaced_by(&at("b", 9, &[])));
    }

    #[test]
    fn a_backup_is_accepted_once_for_each_time_it_comes_back() {
        let first = accept(&serving("a", 5, &[]), &at("a", 2, &[]));
        assert!(!serving("a", 5, &[]).is_replaced_by(&at("a", 3, &first)));
        let later = serving("a", 9, &first);
        assert!(later.is_replaced_by(&at("a", 3, &first)), "the word in the backup was about another time");
        let second = accept(&later, &at("a", 3, &first));
        assert!(!later.is_replaced_by(&at("a", 4, &second)));
    }

    #[test]
    fn who_slept_through_several_stores_finds_the_last_one() {
        let first = accept(&serving("a", 5, &[]), &at("b", 1, &[]));
        let second = accept(&serving("b", 7, &first), &at("c", 1, &[]));
        assert!(!serving("a", 5, &[]).is_replaced_by(&at("c", 2, &second)));
    }
}
