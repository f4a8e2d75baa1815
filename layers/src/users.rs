//! Lists of users, as allowlists and scope lists have them.
//!
//! An entry is one of
//! - `*`: every authenticated person, but no named token;
//! - `name`: a login name at our own issuer, compared without regard to case, as GitHub does;
//! - `github:12345`: the person with this subject at our own issuer, whatever the login is today;
//! - `service:NAME`: the named token of that name, compared exactly;
//! - `https://issuer.example/name` or `https://issuer.example/*`: one user (by login name or subject)
//!   or every user of another trusted issuer.
//!
//! A plain name never means a user of another issuer, because anybody may be `alice` there. An
//! empty list holds nobody.
//!
//! A token of our own may speak for a user of another issuer, whose assertion it was issued for: then its
//! subject is `https://issuer.example/name`. Such a user is on a list by an entry of the last kind alone, so
//! that nobody is let in as "everybody" whom no list of this deployment has ever named.

use std::cmp::Ordering;

use smol_str::SmolStr;

use crate::context::Principal;

const GITHUB: &str = "github:";
const SERVICE: &str = "service:";
/// Longer than any login name, subject or issuer that is in use.
const MAX_ENTRY: usize = 512;

/// A list of users.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Users {
    everyone: bool,
    // Each sorted, so that a look-up in a list of thousands needs no hash and no copy.
    logins: Vec<SmolStr>,
    subjects: Vec<SmolStr>,
    services: Vec<SmolStr>,
    foreign: Vec<SmolStr>,
}

/// Why a text is no entry of a list of users.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUser {
    /// Nothing, or more than 512 bytes.
    #[error("entry {0:?} is empty or longer than 512 bytes")]
    Length(SmolStr),
    /// A blank, a control character, or a `*` inside a name.
    #[error("entry {0:?} has a blank, a control character or a '*' inside a name")]
    Character(SmolStr),
    /// `github:` without a number.
    #[error("entry {0:?} has no number after 'github:'")]
    GithubId(SmolStr),
    /// `service:` without a name.
    #[error("entry {0:?} has no name after 'service:'")]
    Service(SmolStr),
    /// An address without a user behind the last slash.
    #[error("entry {0:?} does not end with '/USER' or '/*'")]
    Foreign(SmolStr),
}

impl Users {
    /// Every authenticated person; no named token.
    pub fn everyone() -> Self {
        Self { everyone: true, ..Self::default() }
    }

    /// Nobody.
    pub fn nobody() -> Self {
        Self::default()
    }

    /// Reads a list.
    ///
    /// # Errors
    ///
    /// The first entry that is none, by name.
    pub fn parse<T: AsRef<str>>(entries: impl IntoIterator<Item = T>) -> Result<Self, InvalidUser> {
        let mut users = Self::default();
        for entry in entries {
            users.add(entry.as_ref().trim())?;
        }
        Ok(users.sorted())
    }

    /// Everybody who is on one of the lists.
    #[must_use]
    pub fn union<'a>(lists: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut union = Self::default();
        for list in lists {
            union.everyone |= list.everyone;
            union.logins.extend_from_slice(&list.logins);
            union.subjects.extend_from_slice(&list.subjects);
            union.services.extend_from_slice(&list.services);
            union.foreign.extend_from_slice(&list.foreign);
        }
        union.sorted()
    }

    /// Whether the list has an entry `*`.
    pub const fn is_everyone(&self) -> bool {
        self.everyone
    }

    /// Whether the list has no entry at all.
    pub const fn is_empty(&self) -> bool {
        !self.everyone
            && self.logins.is_empty()
            && self.subjects.is_empty()
            && self.services.is_empty()
            && self.foreign.is_empty()
    }

    /// Whether an entry names this login, rather than everybody, a subject or a named token.
    pub fn names_login(&self, login: &str) -> bool {
        self.logins.binary_search_by(|entry| compare_ignoring_case(entry, login)).is_ok()
    }

    /// Whether the list holds this principal.
    pub fn contains(&self, principal: &Principal) -> bool {
        if principal.foreign {
            return self.everyone || self.foreign.iter().any(|entry| names(entry, principal));
        }
        if principal.subject.starts_with(SERVICE) {
            return self.names_service(principal);
        }
        if is_address(&principal.subject) {
            return self.foreign.iter().any(|entry| names_subject(entry, &principal.subject));
        }
        self.everyone
            || principal.username.as_ref().is_some_and(|name| {
                self.logins.binary_search_by(|login| compare_ignoring_case(login, name)).is_ok()
            })
            || self.subjects.binary_search(&principal.subject).is_ok()
    }

    /// Whether the principal is a named token that the list has by name.
    pub fn names_service(&self, principal: &Principal) -> bool {
        !principal.foreign && self.services.binary_search(&principal.subject).is_ok()
    }

    fn add(&mut self, entry: &str) -> Result<(), InvalidUser> {
        if entry.is_empty() || entry.len() > MAX_ENTRY {
            return Err(InvalidUser::Length(entry.chars().take(64).collect()));
        }
        if entry == "*" {
            self.everyone = true;
            return Ok(());
        }
        let name = if is_address(entry) { entry.strip_suffix("/*").unwrap_or(entry) } else { entry };
        if name.chars().any(|c| c == '*' || c.is_whitespace() || c.is_control()) {
            return Err(InvalidUser::Character(entry.into()));
        }
        if is_address(entry) {
            // `https://` alone has two slashes; a third one must part the user from the issuer.
            let behind_scheme = entry.split_once("://").map_or("", |(_, rest)| rest);
            match behind_scheme.rsplit_once('/') {
                Some((issuer, user)) if !issuer.is_empty() && !user.is_empty() => {
                    self.foreign.push(entry.into());
                }
                _ => return Err(InvalidUser::Foreign(entry.into())),
            }
        } else if let Some(id) = entry.strip_prefix(GITHUB) {
            if id.is_empty() || !id.bytes().all(|b| b.is_ascii_digit()) {
                return Err(InvalidUser::GithubId(entry.into()));
            }
            self.subjects.push(id.into());
        } else if let Some(service) = entry.strip_prefix(SERVICE) {
            if service.is_empty() {
                return Err(InvalidUser::Service(entry.into()));
            }
            self.services.push(entry.into());
        } else {
            self.logins.push(entry.to_ascii_lowercase().into());
        }
        Ok(())
    }

    fn sorted(mut self) -> Self {
        for list in [&mut self.logins, &mut self.subjects, &mut self.services, &mut self.foreign] {
            list.sort_unstable();
            list.dedup();
        }
        self
    }
}

fn is_address(entry: &str) -> bool {
    entry.starts_with("https://") || entry.starts_with("http://")
}

/// Whether `ISSUER/USER` or `ISSUER/*` names the principal. No slash in the user part: else a user
/// of `https://a` named `b/c` could pass for `c` of `https://a/b`.
fn names(entry: &str, principal: &Principal) -> bool {
    let issuer = principal.issuer.strip_suffix('/').unwrap_or(&principal.issuer);
    let user = entry.strip_prefix(issuer).and_then(|rest| rest.strip_prefix('/'));
    user.is_some_and(|user| {
        !issuer.is_empty()
            && !user.contains('/')
            && (user == "*" || user == principal.subject || principal.username.as_deref() == Some(user))
    })
}

/// Whether `ISSUER/USER` or `ISSUER/*` names a subject that is `ISSUER/USER` itself.
fn names_subject(entry: &str, subject: &str) -> bool {
    let Some((issuer, user)) = subject.rsplit_once('/') else { return false };
    let named = entry.strip_prefix(issuer).and_then(|rest| rest.strip_prefix('/'));
    !user.is_empty() && named.is_some_and(|named| named == "*" || named == user)
}

fn compare_ignoring_case(lower: &str, name: &str) -> Ordering {
    lower.bytes().cmp(name.bytes().map(|b| b.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(name: &str, id: &str) -> Principal {
        Principal { subject: id.into(), username: Some(name.into()), ..Principal::default() }
    }

    fn service(name: &str) -> Principal {
        Principal { subject: name.into(), username: Some(name.into()), ..Principal::default() }
    }

    fn foreign(issuer: &str, name: &str, id: &str) -> Principal {
        Principal { issuer: issuer.into(), foreign: true, ..person(name, id) }
    }

    #[test]
    fn a_list_holds_whom_its_entries_name() {
        let idp = "https://idp.example";
        for (list, principal, held) in [
            (vec![], person("alice", "1"), false),
            (vec!["alice"], person("alice", "1"), true),
            (vec!["Alice"], person("aLICE", "1"), true),
            (vec!["alice"], person("alicia", "1"), false),
            (vec!["alice"], person("alic", "1"), false),
            (vec!["bob", "alice", "Carol"], person("carol", "3"), true),
            (vec!["1"], person("alice", "1"), false),
            (vec!["github:1"], person("alice", "1"), true),
            (vec!["github:1"], person("1", "2"), false),
            (vec!["github:12"], person("alice", "1"), false),
            (vec!["*"], person("alice", "1"), true),
            (vec!["*"], service("service:ci"), false),
            (vec!["*", "service:ci"], service("service:ci"), true),
            (vec!["service:ci"], service("service:CI"), false),
            (vec!["service:ci"], person("service:ci", "1"), false),
            (vec!["*"], foreign(idp, "alice", "x"), true),
            (vec!["alice", "github:1"], foreign(idp, "alice", "1"), false),
            (vec!["service:ci"], foreign(idp, "service:ci", "service:ci"), false),
            (vec!["https://idp.example/alice"], foreign(idp, "alice", "x"), true),
            (vec!["https://idp.example/alice"], foreign("https://idp.example/", "alice", "x"), true),
            (vec!["https://idp.example/x"], foreign(idp, "alice", "x"), true),
            (vec!["https://idp.example/*"], foreign(idp, "alice", "x"), true),
            (vec!["https://idp.example/*"], foreign("https://other.example", "alice", "x"), false),
            (vec!["https://idp.example/*"], foreign("https://idp.exam", "alice", "x"), false),
            (vec!["https://idp.example/a/bob"], foreign(idp, "a/bob", "a/bob"), false),
            (vec!["https://idp.example/alice"], person("alice", "1"), false),
        ] {
            let users = Users::parse(&list).expect("valid list");
            assert_eq!(users.contains(&principal), held, "{list:?} {principal:?}");
        }
    }

    #[test]
    fn who_came_by_an_assertion_is_on_lists_as_a_user_of_that_issuer_only() {
        let asserted = |subject: &str| Principal { subject: subject.into(), ..Principal::default() };
        for (list, subject, held) in [
            (vec!["https://idp.example/alice"], "https://idp.example/alice", true),
            (vec!["https://idp.example/*"], "https://idp.example/alice", true),
            (vec!["https://idp.example/t/*"], "https://idp.example/t/alice", true),
            (vec!["https://idp.example/*"], "https://idp.example/t/alice", false),
            (vec!["https://idp.example/t/*"], "https://idp.example/alice", false),
            (vec!["https://idp.example/Alice"], "https://idp.example/alice", false),
            (vec!["https://idp.example/alice"], "https://idp.example/alicia", false),
            (vec!["https://idp.example/*"], "https://idp.example.evil/alice", false),
            (vec!["https://other.example/*"], "https://idp.example/alice", false),
            (vec!["https://idp.example/*"], "https://idp.example/", false),
            (vec!["*"], "https://idp.example/alice", false),
            (vec!["alice", "github:1", "service:alice"], "https://idp.example/alice", false),
        ] {
            let users = Users::parse(&list).expect("valid list");
            assert_eq!(users.contains(&asserted(subject)), held, "{list:?} {subject}");
            assert!(!users.names_service(&asserted(subject)));
        }
        // Whatever else the token might say, it is not one of ours.
        let named = Principal { username: Some("alice".into()), ..asserted("https://idp.example/x") };
        assert!(!Users::parse(["alice"]).expect("valid").contains(&named));
    }

    #[test]
    fn what_is_no_entry_is_refused_by_name() {
        for entry in [
            "",
            "  ",
            "a b",
            "a*",
            "*a",
            "a\nb",
            "github:",
            "github:x",
            "service:",
            "service:*",
            "https://idp.example",
            "https://idp.example/",
            "https:///bob",
            "https://*/bob",
            "https://idp.example/b*",
        ] {
            assert!(Users::parse([entry]).is_err(), "{entry:?} was taken");
        }
    }

    #[test]
    fn a_union_holds_everybody_of_its_lists() {
        let one = Users::parse(["alice"]).expect("valid");
        let two = Users::parse(["bob", "alice"]).expect("valid");
        let union = Users::union([&one, &two]);
        assert!(union.contains(&person("alice", "1")) && union.contains(&person("bob", "2")));
        assert!(!union.contains(&person("carol", "3")));
        assert!(Users::union([&union, &Users::everyone()]).contains(&person("carol", "3")));
        assert!(Users::union([]).is_empty());
    }
}
