//! The certificate that a new host comes with: one that covers it, or one that is issued for it.

use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::issue::{Wish, check_names, free_name};
use crate::acme::needs::Needs;
use crate::acme::plan;
use crate::config::{CertName, Certificate, Config, FieldError, Proxy, TargetUrl};
use crate::control::managed::sign;
use crate::control::{Context, Control, Error};

/// How a certificate is issued for a new host, if none covers it. With any of these one is asked for, and refused with
/// the reason where none can be issued; without them the host gets one by itself, if it may have one.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema, Args)]
pub struct CertificateOfHost {
    /// The mail address that the authority may write to if a certificate is issued; absent: `ACME_EMAIL`, or none.
    #[serde(default, alias = "email", skip_serializing_if = "Option::is_none")]
    #[arg(long = "email", alias = "cert-email", value_name = "EMAIL")]
    pub cert_email: Option<String>,
    /// The directory of the authority that issues it (RFC 8555, section 7.1.1); absent: the deployment's authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "URL", conflicts_with = "staging")]
    pub acme_directory_url: Option<TargetUrl>,
    /// Have it issued by the staging environment: nobody trusts that, but everything can be tried.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[arg(long)]
    pub staging: bool,
}

impl CertificateOfHost {
    /// The document of the certificate that is issued for a new proxy; none where there is one, or where there is to be
    /// none.
    pub(in crate::control) fn wanted(
        &self,
        proxy: &Proxy,
        config: &Config,
        control: &Control,
        ctx: &Context,
    ) -> Result<Option<Certificate>, Error> {
        let host = &proxy.proxy_hostname;
        if !proxy.enable_https || held(proxy, config).is_some() {
            return Ok(None);
        }
        let wish = Wish {
            email: self.cert_email.clone(),
            acme_directory_url: self.acme_directory_url.clone(),
            staging: self.staging,
            ..Wish::default()
        };
        let name = if self.is_asked() {
            check_names(std::slice::from_ref(host), wish.directory(control), control, "proxy_hostname")?;
            if !proxy.enabled {
                let detail = "a certificate is issued for hosts that answer: create the proxy without one";
                return Err(Error::invalid(FieldError::new("enabled", false, detail)));
            }
            Some(free_name(host, config)?)
        } else {
            // What the manager would make a moment later.
            let alone = Config {
                proxies: [(host.clone(), Arc::new(proxy.clone()))].into(),
                certificates: config.certificates.clone(),
                ..Config::default()
            };
            let is_free = |name: &CertName| !config.certificates.contains_key(name);
            let made = plan::missing(&Needs::of(&alone), is_free, &control.acme, Timestamp::now()).pop();
            made.map(|made| made.cert_name)
        };
        let Some(name) = name else { return Ok(None) };
        // It goes with its host.
        let mut wanted = Certificate { automatic: true, ..wish.document(control, name, vec![host.clone()])? };
        sign(&mut wanted, ctx);
        Ok(Some(wanted))
    }

    fn is_asked(&self) -> bool {
        let has_email = self.cert_email.as_ref().is_some_and(|email| !email.trim().is_empty());
        self.staging || self.acme_directory_url.is_some() || has_email
    }
}

/// What to say of the HTTPS of a new proxy, and which certificate covers it, or will.
pub(in crate::control) fn state(
    proxy: &Proxy,
    wanted: Option<&Certificate>,
    config: &Config,
) -> (&'static str, Option<CertName>) {
    if !proxy.enable_https {
        return ("not_required", None);
    }
    match wanted.or_else(|| held(proxy, config)) {
        None => ("self_signed", None),
        Some(one) => {
            let has_chain = one.fullchain_pem.is_some();
            let status = if has_chain { "existing" } else { "Certificate generation started" };
            (status, Some(one.cert_name.clone()))
        }
    }
}

/// The certificate that serves a proxy, or will: the one that it names, or any that covers it.
fn held<'a>(proxy: &Proxy, config: &'a Config) -> Option<&'a Certificate> {
    if let Some(name) = &proxy.cert_name {
        return config.certificates.get(name).map(|one| &**one);
    }
    let now = Timestamp::now();
    let covering = config.certificates.values().filter(|one| one.covers(&proxy.proxy_hostname));
    let covering = covering.filter(|one| plan::holds(one, now));
    covering.max_by_key(|one| one.fullchain_pem.is_some()).map(|one| &**one)
}
