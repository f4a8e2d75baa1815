//! Why a certificate could not be issued, in the authority's words, and what to look at.

use instant_acme::{Error, Problem};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::budget::Full;
use crate::config::certificate::ChallengeType;
use crate::store;

/// What problem types of ACME begin with (RFC 8555, section 6.7).
const URN: &str = "urn:ietf:params:acme:error:";

/// The problem of who was asked too often (section 6.6).
const RATE_LIMITED: &str = "rateLimited";

/// What an authority says may be long; it is kept for people.
const LONGEST: usize = 1000;

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// When.
    pub at: Timestamp,
    /// The directory of the authority that was asked last.
    pub directory: String,
    /// The kind of problem without its prefix, e.g. `unauthorized` (RFC 8555, section 6.7); absent when it was none of
    /// the authority's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What went wrong, in the authority's words where it has any.
    pub detail: String,
    /// The name whose validation failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identifier: Option<String>,
    /// How it was validated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<ChallengeType>,
    /// What to look at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Until when the authority wants to be left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Timestamp>,
}

/// What one attempt at one authority met with; who and when is added to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub(super) problem: Option<String>,
    pub(super) detail: String,
    pub(super) identifier: Option<String>,
    pub(super) challenge: Option<ChallengeType>,
    /// Whether nobody knows how it would have ended: the authority could not be asked, or was not done in time.
    pub(super) interrupted: bool,
    /// Why the authority was not asked at all.
    pub(super) full: Option<Full>,
}

impl Trouble {
    /// Something on our side, or on the way.
    pub(super) fn ours(detail: impl Into<String>) -> Self {
        Self {
            problem: None,
            detail: cut(&detail.into()),
            identifier: None,
            challenge: None,
            interrupted: false,
            full: None,
        }
    }

    /// There is no room for another order at the authority.
    pub(super) fn of_full(full: Full) -> Self {
        Self { full: Some(full), ..Self::ours(full.to_string()) }
    }

    /// What an authority says about one of the names.
    pub(super) fn of_name(problem: &Problem, name: &str, challenge: Option<ChallengeType>) -> Self {
        Self { identifier: Some(name.to_owned()), challenge, ..Self::from(problem) }
    }

    /// Whether the authority was unlucky with us: the same works a moment later.
    pub(super) fn is_chance(&self) -> bool {
        self.problem.as_deref() == Some("badNonce")
    }

    /// Whether the authority does not know our account any more.
    pub(super) fn is_account_gone(&self) -> bool {
        self.problem.as_deref() == Some("accountDoesNotExist")
    }

    /// Whether an order that was under way can't be gone on with.
    pub(super) fn is_order_gone(&self) -> bool {
        matches!(self.problem.as_deref(), Some("malformed" | "unauthorized" | "orderNotReady" | "notFound"))
    }

    pub(super) fn into_failure(
        self,
        directory: &str,
        at: Timestamp,
        retry_after: Option<Timestamp>,
    ) -> Failure {
        let hint = hint(&self).map(str::to_owned);
        let Self { problem, detail, identifier, challenge, interrupted: _, full: _ } = self;
        Failure {
            at,
            directory: directory.to_owned(),
            problem,
            detail,
            identifier,
            challenge,
            hint,
            retry_after,
        }
    }
}

impl Failure {
    /// Whether the authority says that it was asked too often.
    pub(super) fn is_rate_limited(&self) -> bool {
        self.problem.as_deref() == Some(RATE_LIMITED)
    }
}

impl From<&Problem> for Trouble {
    fn from(problem: &Problem) -> Self {
        let mut detail = problem.detail.clone().unwrap_or_else(|| problem.to_string());
        for one in &problem.subproblems {
            let name = one.identifier.as_ref().map(|name| name.authorized(false).to_string());
            detail.push_str(&format!(
                "; {}: {}",
                name.unwrap_or_default(),
                one.detail.as_deref().unwrap_or_default()
            ));
        }
        let kind = problem.r#type.as_deref().map(|kind| kind.strip_prefix(URN).unwrap_or(kind).to_owned());
        let named = problem.subproblems.iter().find_map(|one| one.identifier.as_ref());
        let identifier = named.map(|name| name.authorized(false).to_string());
        Self {
            problem: kind,
            detail: cut(&detail),
            identifier,
            challenge: None,
            interrupted: false,
            full: None,
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::Api(problem) => Self::from(&problem),
            Error::Timeout(_) => Self {
                interrupted: true,
                ..Self::ours("the authority did not come to an end with the order in time")
            },
            other => Self { interrupted: true, ..Self::ours(chain(&other)) },
        }
    }
}

impl From<store::Error> for Trouble {
    fn from(error: store::Error) -> Self {
        Self { interrupted: true, ..Self::ours(format!("the store can't be written to: {error}")) }
    }
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn cut(text: &str) -> String {
    let clean = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    clean.take(LONGEST).collect()
}

/// What to look at first.
fn hint(trouble: &Trouble) -> Option<&'static str> {
    let port = match trouble.challenge {
        Some(ChallengeType::TlsAlpn01) => "port 443 of every address of the name must lead to this gateway",
        Some(ChallengeType::Dns01) => {
            "the TXT record at _acme-challenge must be visible to the world: look at the DNS provider's settings"
        }
        _ => {
            "port 80 of every address of the name must lead to this gateway: look at firewalls, port forwarding and AAAA \
             records"
        }
    };
    Some(match trouble.problem.as_deref()? {
        "connection" => port,
        "unauthorized" | "incorrectResponse" => {
            "somebody else answers for the name: its A and AAAA records must lead to this gateway, and to nothing else"
        }
        "dns" => "the name does not resolve: it needs an A or AAAA record that the world can see",
        "tls" => port,
        "caa" => "a CAA record (RFC 8659) of the name or its parents forbids this authority: add it there",
        RATE_LIMITED => "the authority has had too many requests: it is asked again when it allows that",
        "rejectedIdentifier" | "unsupportedIdentifier" => "this authority does not issue for that name",
        "externalAccountRequired" => {
            "this authority wants an external account: set ACME_EAB_KID and ACME_EAB_HMAC_KEY to what it gave you"
        }
        "invalidContact" | "unsupportedContact" => {
            "the authority does not take this mail address: change ACME_EMAIL"
        }
        "userActionRequired" => {
            "the authority's terms have changed: read what it says, and agree at its site"
        }
        "invalidProfile" => "this authority has no such profile: look at its documentation",
        "badCSR" | "badPublicKey" => "the authority refuses the key: try the other key type",
        "serverInternal" => "the authority has trouble of its own: it is asked again",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(json: &str) -> Problem {
        serde_json::from_str(json).expect("valid")
    }

    #[test]
    fn an_authority_is_quoted_and_explained() {
        let told = problem(
            r#"{"type":"urn:ietf:params:acme:error:connection","detail":"Fetching http://a.example/: refused\u001b[31m"}"#,
        );
        let trouble = Trouble::of_name(&told, "a.example", Some(ChallengeType::Http01));
        let failure = trouble.into_failure("https://ca.example/dir", Timestamp::UNIX_EPOCH, None);
        assert_eq!(failure.problem.as_deref(), Some("connection"));
        assert_eq!(failure.identifier.as_deref(), Some("a.example"));
        assert!(failure.detail.contains("refused") && !failure.detail.contains('\u{1b}'), "{failure:?}");
        assert!(failure.hint.as_deref().is_some_and(|hint| hint.starts_with("port 80")), "{failure:?}");
    }

    #[test]
    fn subproblems_name_the_identifier() {
        let told = problem(
            r#"{"type":"urn:ietf:params:acme:error:rejectedIdentifier","detail":"no","subproblems":[
                {"type":"urn:ietf:params:acme:error:caa","detail":"CAA says no","identifier":{"type":"dns","value":"b.example"}}]}"#,
        );
        let trouble = Trouble::from(&told);
        assert_eq!(trouble.identifier.as_deref(), Some("b.example"));
        assert!(trouble.detail.contains("CAA says no"));
    }

    #[test]
    fn what_is_long_is_cut() {
        assert_eq!(Trouble::ours("é".repeat(5000)).detail.chars().count(), LONGEST);
    }
}
