//! Who somebody is, as GitHub says.

use http::StatusCode;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::pages::Resource;
use super::{Error, Github, Token, trouble};
use crate::outbound::CallError;

const USER: &str = "the question who the user is";

/// The longest name that is kept, in characters.
const MAX_NAME: usize = 256;

/// A user of GitHub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The number that stays, whatever the login is.
    pub id: u64,
    /// The login of today, as the user writes it. GitHub compares logins without regard to case.
    pub login: SmolStr,
    /// What the user is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The verified addresses, the primary one first. None when the user's grant does not cover them.
    #[serde(default)]
    pub emails: Vec<Email>,
    /// The organisations, in lower case.
    #[serde(default)]
    pub orgs: Vec<SmolStr>,
    /// The teams as `org/team`, in lower case.
    #[serde(default)]
    pub teams: Vec<SmolStr>,
}

/// A verified address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Email {
    /// The address.
    pub address: SmolStr,
    /// Whether it is the one that the user goes by.
    pub primary: bool,
}

impl Identity {
    /// The primary address, if it is verified.
    pub fn email(&self) -> Option<&str> {
        self.emails.iter().find(|email| email.primary).map(|email| email.address.as_str())
    }

    /// The groups that allowlists know: `org` and `org/team`.
    pub fn groups(&self) -> impl Iterator<Item = &SmolStr> {
        self.orgs.iter().chain(&self.teams)
    }
}

/// The members of `/user` that count.
#[derive(Deserialize)]
struct User {
    id: u64,
    login: String,
    name: Option<String>,
}

#[derive(Deserialize)]
struct UserEmail {
    email: String,
    #[serde(default)]
    primary: bool,
    #[serde(default)]
    verified: bool,
}

#[derive(Deserialize)]
struct Org {
    login: String,
}

#[derive(Deserialize)]
struct Team {
    slug: String,
    organization: Org,
}

impl Github {
    /// Who a token belongs to; with organisations and teams where they are needed.
    ///
    /// What the token may not read is left empty: addresses and groups only ever give rights.
    ///
    /// # Errors
    ///
    /// When there is no answer of use.
    pub async fn identity(&self, token: &Token, groups: bool) -> Result<Identity, Error> {
        // Pages come one after the other: without a limit on the whole, slow ones would add up.
        let limit = self.time * 2;
        tokio::time::timeout(limit, self.ask(token, groups))
            .await
            .map_err(|_| Error::Unreachable(CallError::Slow(limit)))?
    }

    async fn ask(&self, token: &Token, groups: bool) -> Result<Identity, Error> {
        let user = self.user(token).await?;
        let (emails, orgs, teams) = tokio::try_join!(
            self.pages::<UserEmail>(token, Resource::Emails),
            async { if groups { self.pages::<Org>(token, Resource::Orgs).await } else { Ok(Vec::new()) } },
            async { if groups { self.pages::<Team>(token, Resource::Teams).await } else { Ok(Vec::new()) } },
        )?;
        let mut teams: Vec<_> = teams.iter().filter_map(Team::group).collect();
        let mut orgs: Vec<_> = orgs.iter().filter_map(Org::group).collect();
        for list in [&mut orgs, &mut teams] {
            list.sort_unstable();
            list.dedup();
        }
        Ok(Identity {
            id: user.id,
            login: user.login.into(),
            name: user.name,
            emails: verified(emails),
            orgs,
            teams,
        })
    }

    async fn user(&self, token: &Token) -> Result<User, Error> {
        let answer = self.get(token, "/user").await?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => return Err(Error::TokenRejected),
            status => return Err(trouble(&answer).unwrap_or(Error::Unexpected { what: USER, status })),
        }
        let user: User = serde_json::from_slice(&answer.body).map_err(|_| Error::Malformed { what: USER })?;
        // The login goes into headers and lists of users.
        if user.id == 0 || !is_name(&user.login) {
            return Err(Error::Malformed { what: USER });
        }
        Ok(User { name: user.name.and_then(|name| clean(&name)), ..user })
    }
}

impl Org {
    fn group(&self) -> Option<SmolStr> {
        is_name(&self.login).then(|| self.login.to_ascii_lowercase().into())
    }
}

impl Team {
    fn group(&self) -> Option<SmolStr> {
        let org = self.organization.group()?;
        let slug = is_name(&self.slug).then(|| self.slug.to_ascii_lowercase())?;
        Some(smol_str::format_smolstr!("{org}/{slug}"))
    }
}

/// The verified addresses, the primary one first.
fn verified(emails: Vec<UserEmail>) -> Vec<Email> {
    let is_address = |text: &str| {
        text.len() <= 254
            && text.bytes().all(|b| b.is_ascii_graphic())
            && text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
    };
    let mut emails: Vec<_> = emails
        .into_iter()
        .filter(|email| email.verified && is_address(&email.email))
        .map(|email| Email { address: email.email.into(), primary: email.primary })
        .collect();
    emails.sort_by_key(|email| !email.primary);
    emails
}

/// What logins and slugs may have: GitHub's own have letters, digits, `-`, `_` and `.`; a slash
/// would make an organisation look like a team.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 100
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// A name for people: without control characters, and not endless.
fn clean(name: &str) -> Option<String> {
    let name: String = name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_verified_addresses_count_and_the_primary_one_comes_first() {
        let email = |email: &str, primary, verified| UserEmail { email: email.to_owned(), primary, verified };
        let emails = verified(vec![
            email("old@example.com", false, true),
            email("new@example.com", true, true),
            email("boss@example.com", false, false),
            email("a\r\nb@example.com", false, true),
            email("@example.com", false, true),
        ]);
        let addresses: Vec<_> = emails.iter().map(|email| email.address.as_str()).collect();
        assert_eq!(addresses, ["new@example.com", "old@example.com"]);
        let unverified = verified(vec![email("me@example.com", true, false)]);
        assert!(unverified.is_empty());
    }

    #[test]
    fn no_organisation_passes_for_a_team() {
        let org = |login: &str| Org { login: login.to_owned() };
        let team = |org_login: &str, slug: &str| Team { slug: slug.to_owned(), organization: org(org_login) };
        assert_eq!(org("Acme-Inc").group().as_deref(), Some("acme-inc"));
        assert_eq!(team("Acme", "Platform-Team").group().as_deref(), Some("acme/platform-team"));
        assert_eq!(org("acme/admins").group(), None);
        assert_eq!(team("acme", "a/b").group(), None);
        assert_eq!(team("", "admins").group(), None);
    }

    #[test]
    fn names_are_for_people() {
        assert_eq!(clean(" Mona\r\n Lisa ").as_deref(), Some("Mona Lisa"));
        assert_eq!(clean(" \u{7} "), None);
        assert_eq!(clean(&"ü".repeat(1000)).map(|name| name.chars().count()), Some(MAX_NAME));
    }
}
