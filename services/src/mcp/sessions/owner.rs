//! Whom a session belongs to.

use aws_lc_rs::{constant_time, digest};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use portcullis_layers::RequestContext;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::control::Caller;

/// Who made a session, and where: nobody else goes on with it, whatever else their token allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    who: Who,
    /// The host that the session was made at.
    host: Option<SmolStr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Who {
    Anonymous,
    Local,
    Principal { issuer: SmolStr, subject: SmolStr, client: Option<SmolStr> },
}

impl Owner {
    /// Who makes a request: what a layer in front has noted, never what headers say.
    pub fn of(extensions: &http::Extensions) -> Self {
        let known = RequestContext::get(extensions);
        let host = known.and_then(|known| known.host.as_ref()).map(|host| host.as_str().into());
        let who = match crate::mcp::caller(extensions) {
            Caller::Anonymous => Who::Anonymous,
            Caller::Local => Who::Local,
            Caller::Principal(principal) => Who::Principal {
                issuer: principal.issuer.clone(),
                subject: principal.subject.clone(),
                client: principal.client_id.clone(),
            },
        };
        Self { who, host }
    }

    /// Whether it is the same one, in a time that tells nothing of where they differ.
    pub(super) fn is(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(self.print().as_ref(), other.print().as_ref()).is_ok()
    }

    fn print(&self) -> digest::Digest {
        let (subject, client) = (self.subject(), self.client());
        hash(&[
            subject[0],
            subject[1],
            subject[2],
            client.unwrap_or_default(),
            self.host.as_deref().unwrap_or_default(),
        ])
    }

    /// The index of the subject's sessions: of all its clients, or registering clients would be a way round the bound.
    pub(super) fn index(&self) -> String {
        format!("subject:{}", BASE64.encode(hash(&self.subject())))
    }

    fn subject(&self) -> [&str; 3] {
        match &self.who {
            Who::Anonymous => ["anonymous", "", ""],
            Who::Local => ["local", "", ""],
            Who::Principal { issuer, subject, .. } => ["principal", issuer, subject],
        }
    }

    fn client(&self) -> Option<&str> {
        match &self.who {
            Who::Principal { client, .. } => client.as_deref(),
            Who::Anonymous | Who::Local => None,
        }
    }
}

/// A hash of parts, each with its length, so that no two lists of parts read alike.
fn hash(parts: &[&str]) -> digest::Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    context.finish()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portcullis_layers::Principal;

    use super::*;

    fn owner(issuer: &str, subject: &str, client: Option<&str>, host: &str) -> Owner {
        let principal = Principal {
            issuer: issuer.into(),
            subject: subject.into(),
            client_id: client.map(Into::into),
            ..Principal::default()
        };
        let mut extensions = http::Extensions::new();
        let context = RequestContext::of(&mut extensions);
        context.principal = Some(Arc::new(principal));
        context.host = Some(host.parse().expect("a host"));
        Owner::of(&extensions)
    }

    #[test]
    fn only_the_very_same_is_the_owner() {
        let one = owner("https://a", "7", Some("c"), "x.example.com");
        assert!(one.is(&owner("https://a", "7", Some("c"), "x.example.com")));
        for other in [
            owner("https://b", "7", Some("c"), "x.example.com"),
            owner("https://a", "8", Some("c"), "x.example.com"),
            owner("https://a", "7", Some("d"), "x.example.com"),
            owner("https://a", "7", None, "x.example.com"),
            owner("https://a", "7", Some("c"), "y.example.com"),
            owner("https://a7", "", Some("c"), "x.example.com"),
            Owner::of(&http::Extensions::new()),
        ] {
            assert!(!one.is(&other), "{other:?}");
        }
        let client = owner("https://a", "7", Some("d"), "y.example.com");
        assert_eq!(one.index(), client.index(), "one bound for all clients and hosts of a subject");
        assert_ne!(one.index(), owner("https://a7", "", None, "y.example.com").index());
    }

    #[test]
    fn a_token_goes_before_the_machine_and_nobody_before_both() {
        let mut extensions = http::Extensions::new();
        extensions.insert(Caller::Local);
        assert_eq!(Owner::of(&extensions), Owner { who: Who::Local, host: None });
        RequestContext::of(&mut extensions).principal = Some(Arc::default());
        assert!(matches!(Owner::of(&extensions).who, Who::Principal { .. }));
        extensions.insert(Caller::Anonymous);
        assert_eq!(Owner::of(&extensions), Owner { who: Who::Anonymous, host: None });
    }
}
