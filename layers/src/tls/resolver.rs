//! Which certificate a server name gets.
//!
//! [`Certificates`] is the plug point of the layer; [`Resolver`] is a ready one: a table behind one
//! atomic pointer. Swapping the table touches neither connections nor session tickets.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use smol_str::SmolStr;

use super::certified::Certified;
use crate::names::{HostName, InvalidHostName};

/// Chooses the certificate of a connection.
pub trait Certificates: Send + Sync {
    /// The certificate for a server name, or for a client that sends none.
    ///
    /// `None` refuses the connection (`unrecognized_name`): no host claims that name. A host
    /// that has no certificate yet gets one that is marked as a fallback.
    fn certificate(&self, sni: Option<&HostName>) -> Option<Arc<Certified>>;
}

impl<T: Certificates + ?Sized> Certificates for Arc<T> {
    fn certificate(&self, sni: Option<&HostName>) -> Option<Arc<Certified>> {
        (**self).certificate(sni)
    }
}

/// Hosts and their certificates: exact names before wildcards, and a fallback.
#[derive(Debug, Clone, Default)]
pub struct CertificateTable {
    exact: HashMap<HostName, Option<Arc<Certified>>>,
    /// By what stands behind `*.`.
    wildcards: HashMap<SmolStr, Option<Arc<Certified>>>,
    fallback: Option<Arc<Certified>>,
}

impl CertificateTable {
    /// A table without hosts. The fallback serves claimed hosts without a certificate and clients without a name.
    pub fn new(fallback: Option<Arc<Certified>>) -> Self {
        Self { fallback, ..Self::default() }
    }

    /// Serves a host, or `*.parent`, with this certificate; replaces what was there.
    ///
    /// # Errors
    ///
    /// When the text is no host name.
    pub fn serve(&mut self, pattern: &str, certified: Arc<Certified>) -> Result<(), InvalidHostName> {
        *self.entry(pattern)? = Some(certified);
        Ok(())
    }

    /// Serves a host, or `*.parent`, with whatever fits best: a wildcard's certificate that covers it, else the fallback.
    ///
    /// # Errors
    ///
    /// When the text is no host name.
    pub fn claim(&mut self, pattern: &str) -> Result<(), InvalidHostName> {
        self.entry(pattern).map(drop)
    }

    /// Serves every name of the certificate with it.
    ///
    /// # Errors
    ///
    /// When a name is no host name; those of a loaded certificate are.
    pub fn serve_names(&mut self, certified: &Arc<Certified>) -> Result<(), InvalidHostName> {
        certified.names.0.iter().try_for_each(|name| self.serve(name, certified.clone()))
    }

    fn entry(&mut self, pattern: &str) -> Result<&mut Option<Arc<Certified>>, InvalidHostName> {
        match pattern.strip_prefix("*.") {
            Some(parent) => {
                let parent: HostName = parent.parse()?;
                Ok(self.wildcards.entry(SmolStr::new(parent.as_str())).or_default())
            }
            None => Ok(self.exact.entry(pattern.parse()?).or_default()),
        }
    }
}

impl Certificates for CertificateTable {
    fn certificate(&self, sni: Option<&HostName>) -> Option<Arc<Certified>> {
        let Some(host) = sni else { return self.fallback.clone() };
        let wildcard = || host.parent().and_then(|parent| self.wildcards.get(parent));
        let found = match self.exact.get(host) {
            Some(Some(own)) => return Some(own.clone()),
            Some(None) => wildcard().and_then(Option::as_ref).filter(|certified| certified.names.cover(host)),
            None => wildcard()?.as_ref(),
        };
        found.or(self.fallback.as_ref()).cloned()
    }
}

/// A [`CertificateTable`] that can be swapped while it is in use.
pub struct Resolver {
    table: ArcSwap<CertificateTable>,
}

impl Resolver {
    /// Starts with this table.
    pub fn new(table: CertificateTable) -> Self {
        Self { table: ArcSwap::from_pointee(table) }
    }

    /// Replaces the table for handshakes that begin from now on.
    pub fn swap(&self, table: CertificateTable) {
        self.table.store(Arc::new(table));
    }

    /// The table in use.
    pub fn table(&self) -> Arc<CertificateTable> {
        self.table.load_full()
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Resolver").field(&*self.table.load()).finish()
    }
}

impl Certificates for Resolver {
    fn certificate(&self, sni: Option<&HostName>) -> Option<Arc<Certified>> {
        self.table.load().certificate(sni)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn certified(names: &[&str]) -> Arc<Certified> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().expect("generates");
        let certificate = CertificateParams::new(names).expect("valid").self_signed(&key).expect("signs");
        let certified = Certified::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes());
        Arc::new(certified.expect("loads"))
    }

    #[test]
    fn exact_comes_before_wildcard_and_both_before_the_fallback() {
        let own = certified(&["a.example"]);
        let wildcard = certified(&["*.example"]);
        let fallback = Arc::new(Certified::clone(&certified(&["fallback.invalid"])).as_fallback());
        let mut table = CertificateTable::new(Some(fallback.clone()));
        table.serve("a.example", own.clone()).expect("valid");
        table.serve_names(&wildcard).expect("valid");
        for host in ["claimed.example", "claimed.other", "*.waiting", "a.example"] {
            table.claim(host).expect("valid");
        }
        for (sni, expected) in [
            (Some("a.example"), Some(&own)),
            (Some("b.example"), Some(&wildcard)),
            (Some("claimed.example"), Some(&wildcard)),
            (Some("claimed.other"), Some(&fallback)),
            (Some("x.waiting"), Some(&fallback)),
            (Some("example"), None),
            (Some("a.b.example"), None),
            (Some("unknown.other"), None),
            (None, Some(&fallback)),
        ] {
            let sni = sni.map(|name| name.parse::<HostName>().expect("valid"));
            let found = table.certificate(sni.as_ref());
            assert_eq!(found.as_ref().map(Arc::as_ptr), expected.map(Arc::as_ptr), "{sni:?}");
        }
    }

    #[test]
    fn what_is_no_host_name_is_not_taken() {
        let mut table = CertificateTable::default();
        for pattern in ["", "*.", "*", "a..b", "*.*.example"] {
            assert!(table.claim(pattern).is_err(), "{pattern:?}");
        }
        assert!(table.certificate(None).is_none());
    }

    #[test]
    fn a_swap_holds_from_the_next_lookup_on() {
        let (before, after) = (certified(&["a.example"]), certified(&["a.example"]));
        let table = |certified: &Arc<Certified>| {
            let mut table = CertificateTable::new(None);
            table.serve_names(certified).expect("valid");
            table
        };
        let host: HostName = "a.example".parse().expect("valid");
        let resolver = Resolver::new(table(&before));
        assert!(Arc::ptr_eq(&resolver.certificate(Some(&host)).expect("served"), &before));
        resolver.swap(table(&after));
        assert!(Arc::ptr_eq(&resolver.certificate(Some(&host)).expect("served"), &after));
        assert!(resolver.table().certificate(None).is_none());
    }
}
