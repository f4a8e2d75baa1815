//! Which names below a wildcard may get certificates of their own.

use portcullis_layers::HostName;

use super::Proxy;
use crate::config::field::FieldError;

/// As many as anybody will write by hand; each is compared in handshakes.
const MAX_NAMES: usize = 100;

impl Proxy {
    /// Whether a name below this wildcard may get a certificate of its own, as far as `on_demand_names` says; where
    /// `on_demand_ask` is set, it has the last word.
    pub fn may_have_certificate(&self, name: &HostName) -> bool {
        let below = self.proxy_hostname.wildcard_parent().is_some() && self.proxy_hostname.covers(name);
        if !(below && self.on_demand_certificates && self.enabled && self.enable_https) {
            return false;
        }
        let label = name.as_str().split('.').next().unwrap_or_default();
        match &self.on_demand_names {
            Some(patterns) => patterns.iter().any(|pattern| pattern.matches(label)),
            None => self.on_demand_ask.is_some(),
        }
    }

    pub(super) fn check_on_demand(&self, problems: &mut Vec<FieldError>) {
        if self.on_demand_certificates && self.proxy_hostname.wildcard_parent().is_none() {
            let detail = format!("{} is no wildcard, and gets one in any case", self.proxy_hostname);
            problems.push(FieldError::new("on_demand_certificates", true, detail));
        }
        if self.on_demand_certificates && self.on_demand_names.is_none() && self.on_demand_ask.is_none() {
            let detail =
                "would let anybody have certificates issued: expected `on_demand_names` or `on_demand_ask`";
            problems.push(FieldError::new("on_demand_certificates", true, detail));
        }
        let names = self.on_demand_names.as_deref().unwrap_or_default();
        if names.len() > MAX_NAMES {
            let detail = format!("has {} patterns: expected up to {MAX_NAMES}", names.len());
            problems.push(FieldError::bare("on_demand_names", detail));
        }
        if let Some(url) = &self.on_demand_ask
            && !(url.https || url.is_loopback())
        {
            let detail = "expected https, or a URL on this machine: what it answers is believed";
            problems.push(FieldError::new("on_demand_ask", url.to_string(), detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Entity;

    fn proxy(host: &str, more: &Value) -> Result<Proxy, Vec<FieldError>> {
        let mut fields = json!({ "proxy_hostname": host, "target_url": "http://10.0.0.1" });
        let all = fields.as_object_mut().expect("an object");
        all.extend(more.as_object().expect("an object").clone());
        Proxy::from_fields(all.clone())
    }

    #[test]
    fn only_names_that_the_rule_allows_may_have_one() {
        let on = json!({ "on_demand_certificates": true, "on_demand_names": ["tenant-*", "www"] });
        let on = proxy("*.example.com", &on).expect("valid");
        let may = |proxy: &Proxy, name: &str| proxy.may_have_certificate(&name.parse().expect("valid"));
        for (name, expected) in [
            ("tenant-1.example.com", true),
            ("TENANT-1.example.com", true),
            ("www.example.com", true),
            ("wwww.example.com", false),
            ("a.tenant-1.example.com", false),
            ("tenant-1.example.org", false),
            ("example.com", false),
            ("192.0.2.1", false),
        ] {
            assert_eq!(may(&on, name), expected, "{name}");
        }
        for off in [
            Proxy { on_demand_certificates: false, ..on.clone() },
            Proxy { enabled: false, ..on.clone() },
            Proxy { enable_https: false, ..on.clone() },
            Proxy { on_demand_names: Some(Vec::new()), ..on.clone() },
            Proxy { on_demand_names: None, ..on.clone() },
        ] {
            assert!(!may(&off, "www.example.com"), "{off:?}");
        }
        let ask = json!({ "on_demand_certificates": true, "on_demand_ask": "https://ask.example.com/may" });
        assert!(may(&proxy("*.example.com", &ask).expect("valid"), "any.example.com"));
    }

    #[test]
    fn a_switch_without_a_rule_is_refused() {
        for (host, more, field) in [
            ("*.example.com", json!({ "on_demand_certificates": true }), "on_demand_certificates"),
            (
                "a.example.com",
                json!({ "on_demand_certificates": true, "on_demand_names": ["*"] }),
                "on_demand_certificates",
            ),
            ("*.example.com", json!({ "on_demand_ask": "http://ask.example.com/may" }), "on_demand_ask"),
            ("*.example.com", json!({ "on_demand_names": ["a.b"] }), "on_demand_names[0]"),
            ("*.example.com", json!({ "on_demand_names": vec!["a"; 101] }), "on_demand_names"),
        ] {
            let problems = proxy(host, &more).expect_err("refused");
            assert_eq!(problems[0].field, field, "{problems:?}");
        }
        for ask in ["https://ask.example.com/may", "http://127.0.0.1:9000/may"] {
            let on = json!({ "on_demand_certificates": true, "on_demand_ask": ask });
            assert!(proxy("*.example.com", &on).is_ok(), "{ask}");
        }
    }
}
