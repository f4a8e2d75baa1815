//! DNS-01 (RFC 8555, section 8.4): puts TXT records where a certificate authority looks for them. This is the only
//! challenge that wildcards can be had by.
//!
//! Two providers are built in: [`Rfc2136`] sends signed updates to a DNS server, [`Exec`] runs a program. Both follow
//! a delegation by CNAME, so a zone that nothing may write to can point its `_acme-challenge` names to one made for it.
//! What is to be proved, and when, is not known here.

mod delegation;
mod exchange;
mod exec;
mod rfc2136;
mod spread;
mod tsig;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData};

pub use delegation::Resolvers;
pub use exchange::{ExchangeError, InvalidServer, Server};
pub use exec::Exec;
pub use rfc2136::Rfc2136;
pub use tsig::{Algorithm, InvalidKey, TsigKey};

/// Puts the TXT records of challenges into the DNS, and takes them away.
///
/// Both are safe to repeat, and bounded in time by the provider.
#[async_trait]
pub trait DnsProvider: fmt::Debug + Send + Sync {
    /// Adds a TXT record to a name such as [`challenge_name`] makes, and returns when those who ask can see it. Other
    /// records of the name stay: a wildcard and the name under it are proved at the same place.
    ///
    /// # Errors
    ///
    /// When the record could not be put there, or is not seen.
    async fn present(&self, name: &str, value: &str) -> Result<(), DnsError>;

    /// Removes this one record; it is no fault if it is gone.
    ///
    /// # Errors
    ///
    /// When it could not be removed.
    async fn cleanup(&self, name: &str, value: &str) -> Result<(), DnsError>;
}

/// Where the record for a host, or for the wildcard above it, belongs: `_acme-challenge.example.com` for both
/// `example.com` and `*.example.com` (RFC 8555, section 8.4).
pub fn challenge_name(host: &str) -> String {
    format!("_acme-challenge.{}", host.strip_prefix("*.").unwrap_or(host))
}

/// Why a record could not be put into the DNS or taken away. Texts say what to check; no secret is in them.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// Not a name that the DNS can hold.
    #[error("{name:?} is no DNS name")]
    Name {
        /// What was asked for.
        name: String,
    },
    /// The name of the DNS server has no address.
    #[error("the DNS server {server} has no address")]
    Unresolved {
        /// The server, as it stands in the settings.
        server: Server,
        /// What the system's resolver said.
        #[source]
        source: std::io::Error,
    },
    /// No answer, neither over UDP nor over TCP.
    #[error("no good answer from the DNS server {server} about {name}")]
    Exchange {
        /// Who was asked.
        server: SocketAddr,
        /// What about.
        name: String,
        /// What became of it.
        #[source]
        source: ExchangeError,
    },
    /// A resolver does not answer.
    #[error("the resolver {server} says nothing about {name}")]
    Silent {
        /// Who was asked.
        server: SocketAddr,
        /// What about.
        name: String,
    },
    /// There is nobody to ask.
    #[error("there is no resolver to ask: set PORTCULLIS_ACME_DNS_RESOLVERS")]
    NoResolver,
    /// The server answered with an error.
    #[error("the DNS server {server} refuses the {what} of {name}: {code}{}", Hint(*.key_error))]
    Refused {
        /// Who refused.
        server: SocketAddr,
        /// What was refused.
        what: &'static str,
        /// The name that it was about.
        name: String,
        /// The answer's code.
        code: ResponseCode,
        /// What the server found wrong with the signature (RFC 8945, section 3), if it did.
        key_error: Option<u16>,
    },
    /// The server has authority over no zone that the name is in.
    #[error("the DNS server {server} has no zone for {name}")]
    NoZone {
        /// Who was asked.
        server: SocketAddr,
        /// The name, after delegations.
        name: String,
    },
    /// The zone of the settings does not have the name in it.
    #[error("{name} is not in the zone {zone}")]
    OtherZone {
        /// The zone of the settings.
        zone: String,
        /// The name, after delegations.
        name: String,
    },
    /// The CNAME records of a name lead too far, or in a circle.
    #[error("the delegation of {name} does not end")]
    Endless {
        /// The name that was asked for.
        name: String,
    },
    /// The update was taken, but the server does not show the record.
    #[error("the DNS server {server} took the record of {name} but does not show it")]
    NotShown {
        /// Who was asked.
        server: SocketAddr,
        /// The name, after delegations.
        name: String,
    },
    /// The server that took the update shows the record, and another one of the zone does not.
    #[error(
        "the DNS server {server}, which is one of the zone's, does not have the record of {name}: is it told of changes, and \
         may it fetch the zone?"
    )]
    Behind {
        /// Who does not have it.
        server: SocketAddr,
        /// The name, after delegations.
        name: String,
    },
    /// Where the name leads could not be found out in time.
    #[error("finding out where {name} leads took more than {} seconds", .limit.as_secs())]
    Unfollowed {
        /// The name that was asked for.
        name: String,
        /// How long it had.
        limit: Duration,
    },
    /// It took too long.
    #[error("changing the DNS took more than {} seconds", .0.as_secs())]
    TimedOut(Duration),
    /// The program could not be run.
    #[error("{program} can't be run")]
    NotRun {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The program ended with an error. What it said may hold its credentials: that is for the log.
    #[error("{program} {verb} {name}: {status}; what it said is in the log")]
    Failed {
        /// The program.
        program: PathBuf,
        /// What it was to do.
        verb: &'static str,
        /// The name, after delegations.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// The start of what it said.
        output: String,
    },
    /// The program did not end in time and was killed.
    #[error("{program} {verb} {name} took more than {} seconds and was killed", .limit.as_secs())]
    Endured {
        /// The program.
        program: PathBuf,
        /// What it was to do.
        verb: &'static str,
        /// The name, after delegations.
        name: String,
        /// How long it had.
        limit: Duration,
    },
}

/// What to look at when a signature was refused (RFC 8945, section 5.2).
struct Hint(Option<u16>);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None | Some(0) => Ok(()),
            Some(16) => f.write_str(" (BADSIG: is the TSIG secret right?)"),
            Some(17) => f.write_str(" (BADKEY: are the TSIG name and algorithm right?)"),
            Some(18) => f.write_str(" (BADTIME: do the clocks agree?)"),
            Some(code) => write!(f, " (TSIG error {code})"),
        }
    }
}

/// Whether an answer has this record of the name.
fn shows(answer: &Message, name: &Name, expected: &RData) -> bool {
    answer.answers.iter().any(|record| record.name == *name && record.data == *expected)
}

/// The name as the DNS has it.
pub(super) fn parse(name: &str) -> Result<Name, DnsError> {
    let invalid = || DnsError::Name { name: name.to_owned() };
    // A text with other characters could be taken for several arguments or for an option.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.starts_with('-') || !name.bytes().all(plain) {
        return Err(invalid());
    }
    let mut parsed = Name::from_ascii(name).map_err(|_| invalid())?;
    parsed.set_fqdn(true);
    if parsed.is_root() { Err(invalid()) } else { Ok(parsed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_and_the_name_under_it_are_proved_at_the_same_place() {
        assert_eq!(challenge_name("example.com"), "_acme-challenge.example.com");
        assert_eq!(challenge_name("*.example.com"), "_acme-challenge.example.com");
    }

    #[test]
    fn only_names_are_names() {
        assert_eq!(
            parse("_acme-challenge.Example.com").unwrap(),
            Name::from_ascii("_acme-challenge.example.com.").unwrap()
        );
        let long = "a.".repeat(127) + "example.com";
        for wrong in ["", ".", "a..b", "a b", "-rf", "*.a", "a\\.b", "ä.example", "a;b", long.as_str()] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
