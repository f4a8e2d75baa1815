//! What an authority meets with when it validates a name, looked at from here: the DNS, the ports, the challenge paths,
//! who may issue, and what is known of the name's certificate. Nothing is written, and only the addresses of the name
//! itself are called.
//!
//! - `report`: what is said about it.
//! - `names`: the addresses of a name, over a chain of CNAME records.
//! - `caa`: who may issue for it (RFC 8659).
//! - `reach`, `alpn`: who answers at its addresses.
//! - `directory`: what the authority says of itself.
//! - `held`: the certificate that covers it now.

mod alpn;
mod caa;
mod directory;
mod held;
mod names;
mod reach;
pub mod report;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use portcullis_layers::forward::Client;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::challenges::Challenges;
use super::dns::Resolvers;
use super::key::bare;
use super::policy::{Authority, Policy, is_public};
use super::{account, order};
use crate::config::certificate::{ChallengeType, Source};
use crate::config::{Config, HostPattern};
use crate::store::Store;
use crate::vault::Vault;
use report::{Check, Report};

/// The longest that the DNS is asked about one thing: authorities wait no longer either.
const DNS_PATIENCE: Duration = Duration::from_secs(15);

/// How long whoever asks waits for its turn.
const QUEUE: Duration = Duration::from_secs(20);

/// Looks at names.
pub struct Doctor {
    client: Client,
    challenges: Challenges,
    resolvers: Resolvers,
    policy: Arc<Policy>,
    /// One name at a time: so many connections are opened, and no more, whoever asks.
    turn: Semaphore,
}

/// What a [`Doctor`] is made of.
#[derive(Debug)]
pub struct Parts {
    /// Calls authorities.
    pub client: Client,
    /// What this node answers authorities.
    pub challenges: Challenges,
    /// Who is asked about names.
    pub resolvers: Resolvers,
    /// What the deployment wants.
    pub policy: Arc<Policy>,
}

/// What is looked at.
#[derive(Debug)]
pub struct Question<'a> {
    /// The name.
    pub name: &'a HostPattern,
    /// Where an authority would ask for HTTP-01; it takes port 80 only.
    pub http_port: u16,
    /// Where an authority would ask for TLS-ALPN-01; it takes port 443 only.
    pub https_port: u16,
    /// Whether addresses that no public authority reaches are called although only public ones issue for it: the name's
    /// DNS may be a stranger's, who would learn from the report what answers in networks of ours.
    pub anywhere: bool,
}

/// Others are being looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("other names are being looked at")]
pub struct Busy;

impl fmt::Debug for Doctor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doctor").field("resolvers", &self.resolvers).finish_non_exhaustive()
    }
}

impl Doctor {
    /// A doctor over its parts.
    pub fn new(parts: Parts) -> Self {
        let Parts { client, challenges, resolvers, policy } = parts;
        Self { client, challenges, resolvers, policy, turn: Semaphore::new(1) }
    }

    /// Looks at a name.
    ///
    /// # Errors
    ///
    /// When others are looked at for too long.
    pub async fn examine(
        &self,
        question: &Question<'_>,
        config: &Config,
        store: &dyn Store,
        vault: &Vault,
    ) -> Result<Report, Busy> {
        let _turn = timeout(QUEUE, self.turn.acquire()).await.map_err(|_| Busy)?.map_err(|_| Busy)?;
        let name = question.name;
        let found = held::of(name, config);
        let authorities = found.map_or_else(
            || self.policy.authorities.clone(),
            |certificate| self.policy.authorities_of(certificate),
        );
        let issued = found.filter(|certificate| certificate.source == Source::Acme);
        let challenge = issued.and_then(|certificate| certificate.challenge);
        let names = issued.map_or(std::slice::from_ref(name), |certificate| &certificate.domains);
        let ways = order::ways(names, challenge);
        let email =
            issued.and_then(|certificate| certificate.email.as_deref()).or(self.policy.email.as_deref());
        let mut report = Report::new(name.clone());
        report.add(self.may_issue(name));
        let by_dns = ways == [ChallengeType::Dns01];
        let (network, asked) = tokio::join!(
            async {
                if by_dns {
                    vec![self.by_dns()]
                } else {
                    self.network(question, &authorities, challenge).await
                }
            },
            self.ask(&authorities),
        );
        network.into_iter().for_each(|check| report.add(check));
        let (mut known, answered) = asked;
        answered.into_iter().for_each(|check| report.add(check));
        for (issuer, authority) in known.iter_mut().zip(&authorities) {
            // Where it can't be known, the record is shown with what it asks for.
            issuer.account = account::url(store, vault, authority, email).await.unwrap_or_default();
        }
        report.add(self.caa(name, &known, ways).await);
        held::look(&mut report, found, config, store, &self.policy, &authorities).await;
        Ok(report)
    }

    /// Public authorities issue for public names only.
    fn may_issue(&self, name: &HostPattern) -> Check {
        if self.policy.may_issue(name) {
            return Check::ok("name", "an authority of this deployment may issue for it");
        }
        Check::fail(
            "name",
            "no name of the public tree: public authorities issue nothing for it",
            "use a public name, or set ACME_DIRECTORY_URL to an authority of your own",
        )
    }

    /// Whether there is a way to validate by DNS.
    fn by_dns(&self) -> Check {
        if self.policy.can_dns {
            return Check::ok("dns-01", "there is a DNS provider: addresses and ports do not matter");
        }
        Check::fail(
            "dns-01",
            "there is no DNS provider, and this name is validated by DNS only",
            "set PORTCULLIS_ACME_DNS_PROVIDER",
        )
    }

    /// The addresses, and who answers there.
    async fn network(
        &self,
        question: &Question<'_>,
        authorities: &[Authority],
        challenge: Option<ChallengeType>,
    ) -> Vec<Check> {
        let host = host(question.name);
        let public = authorities.first().is_some_and(|authority| is_public(&authority.directory));
        let (mut checks, mut addresses) = names::look(&self.resolvers, host, public).await;
        // Without an authority that may issue, nobody's addresses are called for a stranger either.
        let are_public = authorities.iter().all(|authority| is_public(&authority.directory));
        if are_public && !question.anywhere && !addresses.iter().all(|address| names::is_public(*address)) {
            addresses.retain(|address| names::is_public(*address));
            checks.push(Check::skip("addresses", "those that are not public are called for an admin only"));
        }
        if addresses.is_empty() {
            return checks;
        }
        let trial = self.challenges.try_out(host);
        checks.extend(reach::look(&trial, host, &addresses, question, challenge).await);
        checks
    }

    /// By which names CAA records mean the authorities, and whether they answer.
    async fn ask(&self, authorities: &[Authority]) -> (Vec<caa::Issuer>, Vec<Check>) {
        let asked = authorities.iter().map(|authority| directory::ask(&self.client, authority));
        futures_util::future::join_all(asked).await.into_iter().unzip()
    }

    async fn caa(&self, name: &HostPattern, issuers: &[caa::Issuer], ways: &[ChallengeType]) -> Check {
        if name.is_ip() {
            return Check::skip("caa", "addresses have no CAA records");
        }
        let wildcard = name.wildcard_parent().is_some();
        let methods: Vec<_> = ways.iter().map(|way| way.as_str()).collect();
        let can = |way: &ChallengeType| match way {
            ChallengeType::Dns01 => self.policy.can_dns,
            _ => !wildcard,
        };
        let all = [ChallengeType::Http01, ChallengeType::TlsAlpn01, ChallengeType::Dns01];
        let others = all.iter().filter(|way| can(way) && !ways.contains(way));
        let others: Vec<_> = others.map(|way| way.as_str()).collect();
        let asked = caa::Asked { wildcard, methods: &methods, others: &others };
        match timeout(DNS_PATIENCE, caa::relevant(&self.resolvers, host(name))).await {
            Ok(Ok(found)) => caa::check(found.as_ref(), issuers, &asked),
            Ok(Err(error)) => caa::unknown(&error),
            Err(_) => caa::unknown("nothing came in time"),
        }
    }
}

/// What is looked up: for a wildcard the name above it.
fn host(name: &HostPattern) -> &str {
    name.wildcard_parent().unwrap_or_else(|| bare(name))
}

#[cfg(all(test, feature = "embedded"))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use portcullis_layers::deadline::Ticker;
    use portcullis_layers::forward::{PoolSettings, Tunnels};
    use tokio::net::TcpListener;
    use tokio::runtime::Handle;

    use super::super::policy::{LETS_ENCRYPT, testing};
    use super::*;
    use crate::store::embedded::Embedded;

    #[tokio::test]
    async fn addresses_of_our_own_networks_are_not_called_for_strangers() {
        let (public, own) = (testing::policy(LETS_ENCRYPT), testing::policy("https://ca.corp.internal/acme"));
        let store = Arc::new(Embedded::in_memory().expect("a store"));
        let doctor = Doctor::new(Parts {
            client: Client::new(1, Ticker::new(1), Tunnels::new(1), PoolSettings::default()),
            challenges: Challenges::new(store, Handle::current()),
            resolvers: Resolvers::Fixed(Vec::new()),
            policy: Arc::new(public.clone()),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&calls);
        let accepting = tokio::spawn(async move {
            // Each is hung up on: that somebody called is enough.
            while listener.accept().await.is_ok() {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        let name = "127.0.0.1".parse().expect("valid");
        let called = async |authorities: &[Authority], anywhere| {
            let before = calls.load(Ordering::Relaxed);
            let question = Question { name: &name, http_port: port, https_port: port, anywhere };
            let checks = doctor.network(&question, authorities, None).await;
            let is_told = checks.iter().any(|check| check.check == "addresses");
            (calls.load(Ordering::Relaxed) > before, is_told)
        };
        assert_eq!(called(&public.authorities, false).await, (false, true));
        assert_eq!(called(&[], false).await, (false, true));
        assert!(called(&public.authorities, true).await.0, "an admin may");
        assert!(called(&own.authorities, false).await.0, "an authority of our own reaches it");
        accepting.abort();
    }
}
