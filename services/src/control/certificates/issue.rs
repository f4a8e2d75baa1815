//! Certificates that an authority is to issue. What is made here is a wish; it comes true in the background.

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::{self, Status};
use crate::acme::plan;
use crate::acme::policy::is_contact;
use crate::config::certificate::{CertStatus, ChallengeType, KeyType, Source};
use crate::config::{CertName, Certificate, Config, FieldError, HostPattern, Proxy, TargetUrl};
use crate::control::managed::forbid_operation;
use crate::control::operation::{create, post};
use crate::control::{Access, Context, Control, Endpoint, Error, Operation};

/// The most names that one certificate has.
const MAX_NAMES: usize = 100;

/// How a certificate is to be issued.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema, Args)]
pub struct Wish {
    /// The mail address that the authority may write to; absent: `ACME_EMAIL`, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, env = "ADMIN_EMAIL")]
    pub email: Option<String>,
    /// The directory of the authority (RFC 8555, section 7.1.1); absent: the deployment's authorities, in their order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, conflicts_with = "staging")]
    pub acme_directory_url: Option<TargetUrl>,
    /// Ask the staging environment: nobody trusts what it issues.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[arg(long)]
    pub staging: bool,
    /// The authority's profile, e.g. `shortlived`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub acme_profile: Option<String>,
    /// The kind of its key; absent: the deployment's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_enum)]
    pub key_type: Option<KeyType>,
    /// How the authority validates names; absent: whatever works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_enum)]
    pub challenge: Option<ChallengeType>,
    /// Wait until it is issued, or has failed; a command line shows each step.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[arg(long)]
    pub wait: bool,
}

impl Wish {
    /// The directory of the authority that is wanted.
    pub(super) fn directory<'a>(&'a self, control: &'a Control) -> Option<&'a TargetUrl> {
        if self.staging { Some(&control.acme.staging) } else { self.acme_directory_url.as_ref() }
    }

    /// The document of a certificate for these names.
    pub(super) fn document(
        &self,
        control: &Control,
        name: CertName,
        domains: Vec<HostPattern>,
    ) -> Result<Certificate, Error> {
        if self.staging && self.acme_directory_url.is_some() {
            let detail = "expected either this or `staging`, not both";
            return Err(Error::invalid(FieldError::bare("acme_directory_url", detail)));
        }
        let directory = self.directory(control);
        if let Some(directory) = directory.filter(|one| !one.https && !one.is_loopback()) {
            let detail = "expected https, because what comes from there is trusted";
            return Err(Error::invalid(FieldError::new("acme_directory_url", directory.to_string(), detail)));
        }
        let email = self.email.as_deref().map(str::trim).filter(|email| !email.is_empty());
        if let Some(bad) = email.filter(|email| !is_contact(email)) {
            return Err(Error::invalid(FieldError::new(
                "email",
                bad,
                "expected a mail address, e.g. ops@example.com",
            )));
        }
        if self.challenge == Some(ChallengeType::Dns01) && !control.acme.can_dns {
            let detail = "expected another one: no DNS provider is set (PORTCULLIS_ACME_DNS_PROVIDER)";
            return Err(Error::invalid(FieldError::new("challenge", "dns-01", detail)));
        }
        Ok(Certificate {
            email: email.map(str::to_owned),
            acme_directory_url: directory.cloned(),
            acme_profile: self.acme_profile.clone(),
            key_type: self.key_type,
            challenge: self.challenge,
            ..Certificate::wanted(name, domains)
        })
    }
}

/// Stores the wish, unless there is such a certificate already.
async fn wish(
    control: &Control,
    ctx: &Context,
    wish: &Wish,
    name: CertName,
    domains: Vec<HostPattern>,
    field: &str,
) -> Result<Status, Error> {
    check_names(&domains, wish.directory(control), control, field)?;
    let operations = ["upload", "formatted", "multi-domain", "wildcard"];
    forbid_operation("cert_name", name.as_str(), &operations)?;
    let config = control.config().await?;
    let served = |certificate: &Certificate| domains.iter().all(|domain| certificate.covers(domain));
    let other = config.certificates.values().find(|other| {
        other.cert_name != name
            && other.status_at(jiff::Timestamp::now()) != CertStatus::Expired
            && served(other)
    });
    if let Some(other) = other {
        return Err(Error::Conflict(format!(
            "the certificate {} covers {} already: renew that one, or delete it first",
            other.cert_name,
            listed(&domains)
        )));
    }
    let document = wish.document(control, name, domains)?;
    let made = control.create(ctx, document, Vec::new()).await?;
    status::of(control, ctx, &made.cert_name, wish.wait).await
}

pub(super) fn check_names(
    domains: &[HostPattern],
    directory: Option<&TargetUrl>,
    control: &Control,
    field: &str,
) -> Result<(), Error> {
    if domains.is_empty() || domains.len() > MAX_NAMES {
        let detail = format!("has {} names: expected 1 to {MAX_NAMES}", domains.len());
        return Err(Error::invalid(FieldError::bare(field, detail)));
    }
    for (index, domain) in domains.iter().enumerate() {
        let at = if domains.len() == 1 { field.to_owned() } else { format!("{field}[{index}]") };
        if domains[..index].contains(domain) {
            return Err(Error::invalid(FieldError::new(at, domain.as_str(), "stands there twice")));
        }
        // Authorities refuse the whole order.
        if let Some(wildcard) = domains.iter().find(|other| *other != domain && other.serves(domain)) {
            let detail = format!("is covered by {wildcard} in the same list");
            return Err(Error::invalid(FieldError::new(at, domain.as_str(), detail)));
        }
        if domain.wildcard_parent().is_some() && !control.acme.can_dns {
            let detail = "is a wildcard, which authorities validate by DNS only (RFC 8555, section 8.4): no DNS provider is \
                          set (PORTCULLIS_ACME_DNS_PROVIDER)";
            return Err(Error::invalid(FieldError::new(at, domain.as_str(), detail)));
        }
        if !control.acme.may_issue_by(directory, domain) {
            let detail = "is no public name, and a public authority issues for those only: upload a certificate, or name an \
                          authority of your own (`acme_directory_url`, or ACME_DIRECTORY_URL for all)";
            return Err(Error::invalid(FieldError::new(at, domain.as_str(), detail)));
        }
    }
    Ok(())
}

/// A name for the certificate of a host that no other one has.
pub(super) fn free_name(host: &HostPattern, config: &Config) -> Result<CertName, Error> {
    let free = plan::names_for(host).find(|name| !config.certificates.contains_key(name));
    free.ok_or_else(|| Error::Conflict(format!("all names for a certificate of {host} are taken")))
}

fn listed(domains: &[HostPattern]) -> String {
    domains.iter().map(HostPattern::as_str).collect::<Vec<_>>().join(", ")
}

/// Have a certificate issued for a name. The answer comes at once; `status` tells how it goes.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct CreateCertificate {
    /// Its name; absent: `proxy-` and the domain with dashes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(value_name = "NAME", required = true)]
    pub cert_name: Option<CertName>,
    /// The name to issue it for.
    pub domain: HostPattern,
    /// The mail address that the authority may write to; absent: `ACME_EMAIL`, or none.
    #[serde(flatten)]
    #[command(flatten)]
    pub wish: Wish,
}

impl Operation for CreateCertificate {
    const NAME: &'static str = "create_certificate";
    const COMMAND: &'static [&'static str] = &["cert", "create"];
    const HTTP: Endpoint = create("/certificates/");
    const SCOPE: Access = Access::Admin;
    type Output = Status;

    fn subject(&self) -> Option<String> {
        Some(self.domain.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Status, Error> {
        let name = match self.cert_name {
            Some(name) => name,
            None => free_name(&self.domain, &Config::default())?,
        };
        wish(control, ctx, &self.wish, name, vec![self.domain], "domain").await
    }
}

/// Have one certificate issued for several names, up to 100.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct CreateMultiCertificate {
    /// Its name.
    pub cert_name: CertName,
    /// The names to issue it for.
    #[arg(required = true)]
    pub domains: Vec<HostPattern>,
    /// How.
    #[serde(flatten)]
    #[command(flatten)]
    pub wish: Wish,
}

impl Operation for CreateMultiCertificate {
    const NAME: &'static str = "create_multi_certificate";
    const COMMAND: &'static [&'static str] = &["cert", "create-multi"];
    const HTTP: Endpoint = create("/certificates/multi-domain");
    const SCOPE: Access = Access::Admin;
    type Output = Status;

    fn subject(&self) -> Option<String> {
        Some(self.cert_name.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Status, Error> {
        wish(control, ctx, &self.wish, self.cert_name, self.domains, "domains").await
    }
}

/// Have a certificate issued for a domain and every name one label below it. It needs a DNS provider.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct CreateWildcardCertificate {
    /// Its name.
    pub cert_name: CertName,
    /// The domain, without `*.`.
    pub base_domain: HostPattern,
    /// How.
    #[serde(flatten)]
    #[command(flatten)]
    pub wish: Wish,
}

impl Operation for CreateWildcardCertificate {
    const NAME: &'static str = "create_wildcard_certificate";
    const COMMAND: &'static [&'static str] = &["cert", "create-wildcard"];
    const HTTP: Endpoint = create("/certificates/wildcard");
    const SCOPE: Access = Access::Admin;
    type Output = Status;

    fn subject(&self) -> Option<String> {
        Some(self.cert_name.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Status, Error> {
        let base = self.base_domain.wildcard_parent().unwrap_or_else(|| self.base_domain.as_str());
        let parsed = |text: String| {
            text.parse::<HostPattern>()
                .map_err(|error| Error::invalid(FieldError::new("base_domain", base, error.to_string())))
        };
        let domains = vec![parsed(base.to_owned())?, parsed(format!("*.{base}"))?];
        wish(control, ctx, &self.wish, self.cert_name, domains, "base_domain").await
    }
}

/// Have a certificate issued for a proxy, and let it serve that one from then on.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct GenerateCertificate {
    /// The public name of the proxy.
    #[serde(alias = "hostname")]
    pub proxy_hostname: HostPattern,
    /// How.
    #[serde(flatten)]
    #[command(flatten)]
    pub wish: Wish,
}

impl Operation for GenerateCertificate {
    const NAME: &'static str = "generate_certificate";
    const COMMAND: &'static [&'static str] = &["cert", "generate"];
    const HTTP: Endpoint = post("/proxy/targets/{proxy_hostname}/certificate");
    const SCOPE: Access = Access::Admin;
    type Output = Status;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Status, Error> {
        let proxy: Proxy = control.get(self.proxy_hostname.as_str()).await?;
        let domains = vec![self.proxy_hostname.clone()];
        check_names(&domains, self.wish.directory(control), control, "proxy_hostname")?;
        let config: std::sync::Arc<Config> = control.config().await?;
        let is_own = |one: &Certificate| one.source == Source::Acme && one.domains == domains;
        let held = config.certificates.values().find(|one| is_own(one)).map(|one| one.cert_name.clone());
        let name = match held {
            // There is one for this very name: it is issued anew, if another way is asked for.
            Some(name) => {
                let wanted = self.wish.document(control, name.clone(), domains)?;
                let again = |held: Certificate, _: &Config| {
                    let is_same = held.acme_directory_url == wanted.acme_directory_url
                        && held.acme_profile == wanted.acme_profile
                        && held.key_type == wanted.key_type
                        && held.challenge == wanted.challenge;
                    let asked = Some(jiff::Timestamp::now()).filter(|_| !is_same);
                    Ok(Certificate {
                        email: wanted.email.clone().or(held.email),
                        acme_directory_url: wanted.acme_directory_url.clone(),
                        acme_profile: wanted.acme_profile.clone(),
                        key_type: wanted.key_type,
                        challenge: wanted.challenge,
                        renew_requested_at: asked.or(held.renew_requested_at),
                        ..held
                    })
                };
                control.edit::<Certificate>(ctx, name.as_str(), again).await?.cert_name
            }
            None => {
                let name = free_name(&self.proxy_hostname, &config)?;
                let document = self.wish.document(control, name, domains)?;
                control.create(ctx, document, Vec::new()).await?.cert_name
            }
        };
        // What labels have made is served with whatever covers it.
        if proxy.labelled_by.is_none() && proxy.cert_name.as_ref() != Some(&name) {
            // Until it is there, whatever covers the host goes on.
            let serve = |proxy: Proxy, _: &Config| Ok(Proxy { cert_name: Some(name.clone()), ..proxy });
            control.edit::<Proxy>(ctx, self.proxy_hostname.as_str(), serve).await?;
        }
        status::of(control, ctx, &name, self.wish.wait).await
    }
}
