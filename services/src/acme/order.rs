//! One order at one authority: from its first request to a chain that was checked.
//!
//! Each step follows from what the authority says of the order, so that an order which another process began is gone on
//! with in the same way. The certificate's key is made before the order and kept, sealed, with the order's URL.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeStatus, ChallengeType as Offered, Error,
    Identifier, NewOrder, Order, OrderStatus, RetryPolicy,
};
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use secrecy::ExposeSecret;
use secrecy::zeroize::Zeroizing;
use tracing::warn;

use super::budget::Budget;
use super::challenges::{Challenges, Posted, dns_value};
use super::dns::{self, DnsProvider};
use super::failure::{Trouble, chain};
use super::key;
use super::policy::{Authority, Policy};
use super::progress::Progress;
use super::renewal::after;
use super::state::{DnsRecord, OpenOrder, seal_name};
use crate::config::certificate::ChallengeType;
use crate::config::certificate::pem::{self, Facts};
use crate::config::{Certificate, HostPattern};
use crate::vault::Vault;

/// An order that can't be looked at, or does not move, is begun anew after this.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What an order is run with.
#[derive(Debug)]
pub(super) struct Tools<'a> {
    pub(super) policy: &'a Policy,
    pub(super) budget: &'a Budget,
    pub(super) vault: &'a Vault,
    pub(super) challenges: &'a Challenges,
    pub(super) dns: Option<&'a dyn DnsProvider>,
}

impl Tools<'_> {
    /// Puts up the answer to a challenge. What is put into the DNS is noted before, so that a record which is there
    /// although its provider says otherwise is taken away, too, be it by another node.
    async fn answer(
        &self,
        challenge: ChallengeType,
        name: &str,
        token: &str,
        authorization: &str,
        progress: &mut Progress<'_>,
        posted: &mut Vec<Posted>,
    ) -> Result<(), Trouble> {
        match challenge {
            ChallengeType::Http01 => posted.push(self.challenges.post_http(token, authorization).await?),
            ChallengeType::TlsAlpn01 => posted.push(self.challenges.post_alpn(name, authorization).await?),
            ChallengeType::Dns01 => {
                let missing = "no DNS provider is set (PORTCULLIS_ACME_DNS_PROVIDER)";
                let dns = self.dns.ok_or_else(|| Trouble::ours(missing))?;
                let record = DnsRecord { name: dns::challenge_name(name), value: dns_value(authorization) };
                progress.keep_record(&record).await?;
                let presented = dns.present(&record.name, &record.value).await;
                presented.map_err(|error| Trouble::ours(chain(&error)))?;
            }
        }
        Ok(())
    }

    /// Takes the records of an order out of the DNS, those of earlier attempts at it included.
    async fn clean_up(&self, progress: &mut Progress<'_>) {
        let mut left = Vec::new();
        for record in progress.records() {
            let Some(dns) = self.dns else {
                left.push(record);
                continue;
            };
            if let Err(error) = dns.cleanup(&record.name, &record.value).await {
                let (name, error) = (&record.name, chain(&error));
                warn!(name, error, "the record of a challenge stays in the DNS");
                left.push(record);
            }
        }
        progress.put_back(left);
    }
}

/// Runs an order, or goes on with the one that is under way.
pub(super) async fn run(
    tools: &Tools<'_>,
    account: &Account,
    authority: &Authority,
    certificate: &Certificate,
    progress: &mut Progress<'_>,
) -> Result<Facts, Trouble> {
    let (mut order, open, key_pem) = match resume(tools, account, authority, certificate, progress).await? {
        Some(resumed) => resumed,
        None => {
            // Those of an order that is not gone on with.
            tools.clean_up(progress).await;
            begin(tools, account, authority, certificate, progress).await?
        }
    };
    let mut posted = Vec::new();
    let outcome = drive(tools, &mut order, &open, certificate, &key_pem, progress, &mut posted).await;
    for one in posted {
        tools.challenges.remove(one).await;
    }
    tools.clean_up(progress).await;
    let outcome = match outcome {
        Err(trouble) => Err(blamed(&mut order, trouble).await),
        chain => chain,
    };
    // What the authority has refused is not gone on with; what broke off is.
    if !outcome.as_ref().is_err_and(|trouble| trouble.interrupted || trouble.is_chance()) {
        progress.forget_order();
    }
    outcome
}

/// The order that is under way, when it is still the one that is wanted.
async fn resume(
    tools: &Tools<'_>,
    account: &Account,
    authority: &Authority,
    certificate: &Certificate,
    progress: &mut Progress<'_>,
) -> Result<Option<(Order, OpenOrder, Zeroizing<String>)>, Trouble> {
    let Some(open) = progress.order().cloned() else { return Ok(None) };
    let is_wanted = open.directory == authority.directory.to_string() && open.names == certificate.domains;
    if !is_wanted {
        return Ok(None);
    }
    let opened = tools.vault.open(&seal_name(&certificate.cert_name), &open.key);
    let Ok(key) =
        opened.map(|key| std::str::from_utf8(key.expose_secret()).map(|key| Zeroizing::new(key.to_owned())))
    else {
        return Ok(None);
    };
    let Ok(key) = key else { return Ok(None) };
    // What does not come to an end is not waited for again and again.
    let is_old = open.made_at.is_none_or(|made| after(made, PATIENCE) <= Timestamp::now());
    let mut order = match account.order(open.url.clone()).await.map_err(Trouble::from) {
        Ok(order) => order,
        Err(trouble) if is_old || trouble.is_order_gone() => return Ok(None),
        Err(trouble) => return Err(trouble),
    };
    match order.state().status {
        OrderStatus::Invalid => return Ok(None),
        OrderStatus::Pending | OrderStatus::Processing if is_old => return Ok(None),
        _ => {}
    }
    progress.step("goes on with the order that was under way").await?;
    Ok(Some((order, open, key)))
}

/// A new order, and a new key for it.
async fn begin(
    tools: &Tools<'_>,
    account: &Account,
    authority: &Authority,
    certificate: &Certificate,
    progress: &mut Progress<'_>,
) -> Result<(Order, OpenOrder, Zeroizing<String>), Trouble> {
    let kind = certificate.key_type.unwrap_or(tools.policy.key_type);
    let key =
        key::generate(kind, tools.policy.rsa_bits).await.map_err(|_| Trouble::ours("no key can be made"))?;
    let sealed = tools.vault.seal(&seal_name(&certificate.cert_name), key.as_bytes());
    let sealed = sealed.map_err(|error| Trouble::ours(error.to_string()))?;
    let names: Vec<Identifier> = certificate.domains.iter().map(identifier).collect();
    let replaces = replaced(certificate, authority);
    let profile = certificate.acme_profile.as_deref().or(authority.profile.as_deref());
    let order = async |replaces: Option<CertificateIdentifier<'_>>| {
        let mut new = NewOrder::new(&names);
        if let Some(replaces) = replaces {
            new = new.replaces(replaces);
        }
        if let Some(profile) = profile {
            new = new.profile(profile);
        }
        account.new_order(&new).await
    };
    let directory = authority.directory.to_string();
    let taken = tools.budget.take(&directory, progress.insists(), Timestamp::now()).await?;
    let place = taken.map_err(Trouble::of_full)?;
    let order = match order(replaces.clone()).await {
        // It does not know renewal information, or the certificate, or has had it replaced already: then it is an
        // order like any other (RFC 9773, section 5).
        Err(error) if replaces.is_some() && is_about_replacing(&error) => order(None).await,
        outcome => outcome,
    };
    let order = match order {
        Ok(order) => order,
        // What was not made does not count: an authority that is away must not keep us waiting when it is back.
        Err(error) => {
            tools.budget.give_back(place, Timestamp::now()).await?;
            return Err(error.into());
        }
    };
    let open = OpenOrder {
        directory: directory.clone(),
        email: progress.email().map(str::to_owned),
        made_at: Some(Timestamp::now()),
        url: order.url().to_owned(),
        names: certificate.domains.clone(),
        challenge: Some(choose(certificate, progress.failures())),
        key: sealed,
    };
    progress.keep_order(open.clone()).await?;
    tools.budget.made(&directory, Timestamp::now()).await?;
    Ok((order, open, key))
}

/// Whether an order was refused because of what it replaces, and not as such.
fn is_about_replacing(error: &Error) -> bool {
    match error {
        Error::Unsupported(_) => true,
        Error::Other(other) => other.to_string().starts_with("replaces field mismatch"),
        Error::Api(problem) => problem.r#type.as_deref().is_some_and(|kind| {
            kind.ends_with(":alreadyReplaced") || kind.ends_with(":malformed") || kind.ends_with(":conflict")
        }),
        _ => false,
    }
}

/// The certificate that an order is to replace, where the same authority has issued it.
fn replaced(certificate: &Certificate, authority: &Authority) -> Option<CertificateIdentifier<'static>> {
    if certificate.issued_from.as_deref() != Some(&authority.directory.to_string()) {
        return None;
    }
    identify(certificate)
}

/// How renewal information names a certificate (RFC 9773, section 4.1).
pub(super) fn identify(certificate: &Certificate) -> Option<CertificateIdentifier<'static>> {
    let leaf = CertificateDer::from_pem_slice(certificate.fullchain_pem.as_deref()?.as_bytes()).ok()?;
    CertificateIdentifier::try_from(&leaf).map(CertificateIdentifier::into_owned).ok()
}

fn identifier(name: &HostPattern) -> Identifier {
    let bare = key::bare(name);
    bare.parse().map_or_else(|_| Identifier::Dns(bare.to_owned()), Identifier::Ip)
}

/// How names are validated: as somebody says, else by turns, so that what does not work from one side is tried from the
/// other one. Wildcards are validated by DNS only (RFC 8555, section 7.1.3). Addresses are not (RFC 8738, section 7), and
/// for TLS-ALPN-01 they would need names of the reverse tree and another certificate (section 6).
pub(super) fn ways(names: &[HostPattern], wanted: Option<ChallengeType>) -> &'static [ChallengeType] {
    match wanted {
        Some(ChallengeType::Http01) => &[ChallengeType::Http01],
        Some(ChallengeType::TlsAlpn01) => &[ChallengeType::TlsAlpn01],
        Some(ChallengeType::Dns01) => &[ChallengeType::Dns01],
        None if names.iter().any(|name| name.wildcard_parent().is_some()) => &[ChallengeType::Dns01],
        None if names.iter().any(HostPattern::is_ip) => &[ChallengeType::Http01],
        None => &[ChallengeType::Http01, ChallengeType::TlsAlpn01],
    }
}

/// The one of them whose turn it is.
fn choose(certificate: &Certificate, failures: u32) -> ChallengeType {
    let ways = ways(&certificate.domains, certificate.challenge);
    ways[failures as usize % ways.len()]
}

async fn drive(
    tools: &Tools<'_>,
    order: &mut Order,
    open: &OpenOrder,
    certificate: &Certificate,
    key_pem: &str,
    progress: &mut Progress<'_>,
    posted: &mut Vec<Posted>,
) -> Result<Facts, Trouble> {
    let poll = tools.policy.poll;
    let patience = RetryPolicy::new()
        .initial_delay(poll.interval)
        .backoff(1.0)
        .timeout(poll.interval.saturating_mul(poll.attempts.saturating_add(1)));
    if order.state().status == OrderStatus::Pending {
        let challenge = open.challenge.unwrap_or(ChallengeType::Http01);
        validate(tools, order, challenge, progress, posted).await?;
        tokio::time::sleep(poll.initial).await;
        if order.state().status == OrderStatus::Pending
            && order.poll_ready(&patience).await? == OrderStatus::Invalid
        {
            return Err(Trouble::ours("the authority has refused the order"));
        }
    }
    if order.state().status == OrderStatus::Ready {
        progress.step("all names are validated: asking for the certificate").await?;
        let request = key::request(&certificate.domains, key_pem);
        let request = request.map_err(|error| Trouble::ours(format!("no request can be made: {error}")))?;
        order.finalize_csr(&request).await?;
    }
    let chain = match order.state().status {
        OrderStatus::Valid => {
            order.certificate().await?.ok_or_else(|| Trouble::ours("the authority sent no chain"))?
        }
        _ => order.poll_certificate(&patience).await?,
    };
    let facts = pem::check(&chain, key_pem, Timestamp::now());
    let facts =
        facts.map_err(|error| Trouble::ours(format!("what the authority sent is not good: {error}")))?;
    match certificate.domains.iter().find(|name| !facts.domains.iter().any(|held| held.serves(name))) {
        Some(name) => Err(Trouble::ours(format!("the authority's certificate does not cover {name}"))),
        None => Ok(facts),
    }
}

/// Answers the challenges of all names that are not validated yet.
async fn validate(
    tools: &Tools<'_>,
    order: &mut Order,
    challenge: ChallengeType,
    progress: &mut Progress<'_>,
    posted: &mut Vec<Posted>,
) -> Result<(), Trouble> {
    let mut names = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(next) = authorizations.next().await {
        let mut authorization = next?;
        let name = authorization.identifier().to_string();
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            _ => {
                return Err(Trouble {
                    identifier: Some(name),
                    ..Trouble::ours("the authorization has ended")
                });
            }
        }
        let Some(handle) = authorization.challenge(offered(challenge)) else {
            let detail = format!("the authority does not offer {} for {name}", challenge.as_str());
            return Err(Trouble {
                identifier: Some(name),
                challenge: Some(challenge),
                ..Trouble::ours(detail)
            });
        };
        let answer = handle.key_authorization();
        let put_up = tools.answer(challenge, &name, &handle.token, answer.as_str(), progress, posted).await;
        let of_name =
            |trouble| Trouble { identifier: Some(name.clone()), challenge: Some(challenge), ..trouble };
        put_up.map_err(of_name)?;
        names.push(name);
    }
    if names.is_empty() {
        return order.refresh().await.map(drop).map_err(Trouble::from);
    }
    progress.step(format!("answering {} for {}", challenge.as_str(), names.join(", "))).await?;
    let mut authorizations = order.authorizations();
    while let Some(next) = authorizations.next().await {
        let mut authorization = next?;
        if authorization.status != AuthorizationStatus::Pending {
            continue;
        }
        if let Some(mut handle) = authorization.challenge(offered(challenge))
            && handle.status == ChallengeStatus::Pending
        {
            handle.set_ready().await?;
        }
    }
    Ok(())
}

const fn offered(challenge: ChallengeType) -> Offered {
    match challenge {
        ChallengeType::Http01 => Offered::Http01,
        ChallengeType::TlsAlpn01 => Offered::TlsAlpn01,
        ChallengeType::Dns01 => Offered::Dns01,
    }
}

/// The trouble in more detail: what the authority says of the first name that it could not validate.
async fn blamed(order: &mut Order, trouble: Trouble) -> Trouble {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let name = authorization.identifier().to_string();
        let Ok(state) = authorization.refresh().await else { break };
        let failed = state.challenges.iter().find_map(|one| Some((one.error.as_ref()?, held(&one.r#type))));
        if let Some((problem, challenge)) = failed {
            return Trouble::of_name(problem, &name, challenge);
        }
    }
    trouble
}

const fn held(offered: &Offered) -> Option<ChallengeType> {
    match offered {
        Offered::Http01 => Some(ChallengeType::Http01),
        Offered::TlsAlpn01 => Some(ChallengeType::TlsAlpn01),
        Offered::Dns01 => Some(ChallengeType::Dns01),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Entity;
    use crate::config::certificate::Source;

    fn wanted(names: &[&str], challenge: Option<ChallengeType>) -> Certificate {
        let names = names.iter().map(|name| name.parse().expect("valid")).collect();
        Certificate { challenge, ..Certificate::wanted("a".parse().expect("valid"), names) }
    }

    #[test]
    fn what_can_not_work_is_not_tried() {
        use ChallengeType::{Dns01, Http01, TlsAlpn01};
        for (names, challenge, turns) in [
            (&["a.example.com", "b.example.com"][..], None, [Http01, TlsAlpn01, Http01]),
            (&["a.example.com", "*.example.com"], None, [Dns01, Dns01, Dns01]),
            (&["192.0.2.1"], None, [Http01, Http01, Http01]),
            (&["a.example.com", "[2001:db8::1]"], None, [Http01, Http01, Http01]),
            (&["a.example.com"], Some(TlsAlpn01), [TlsAlpn01, TlsAlpn01, TlsAlpn01]),
            (&["a.example.com"], Some(Dns01), [Dns01, Dns01, Dns01]),
        ] {
            let certificate = wanted(names, challenge);
            assert_eq!([0, 1, 2].map(|failures| choose(&certificate, failures)), turns, "{names:?}");
            assert_eq!(certificate.problems(), [], "{names:?}");
        }
    }

    #[test]
    fn what_can_not_work_is_refused() {
        use ChallengeType::{Dns01, Http01, TlsAlpn01};
        for (names, challenge, field) in [
            (&["192.0.2.1"][..], Some(TlsAlpn01), "challenge"),
            (&["a.example.com", "[2001:db8::1]"], Some(Dns01), "challenge"),
            (&["*.example.com"], Some(Http01), "challenge"),
            (&["*.example.com", "192.0.2.1"], None, "domains"),
        ] {
            let problems = wanted(names, challenge).problems();
            let fields: Vec<_> = problems.iter().map(|problem| problem.field.as_str()).collect();
            assert_eq!(fields, [field], "{names:?}");
        }
        assert_eq!(wanted(&["192.0.2.1"], Some(Http01)).problems(), []);
        // What somebody brings along was validated elsewhere.
        let certificate = wanted(&["*.example.com", "192.0.2.1"], None);
        assert_eq!(Certificate { source: Source::Upload, ..certificate }.problems(), []);
    }
}
