//! What a proxy may say of itself and of the authorization server in metadata: nothing that would be a lie.

use super::Proxy;
use crate::config::field::FieldError;

/// More than all versions of MCP that there are.
const MAX_VERSIONS: usize = 32;

/// What the token endpoint may be asked for (RFC 6749; RFC 8628; RFC 7523; RFC 8693).
const GRANT_TYPES: [&str; 6] = [
    "authorization_code",
    "refresh_token",
    "client_credentials",
    "urn:ietf:params:oauth:grant-type:device_code",
    "urn:ietf:params:oauth:grant-type:jwt-bearer",
    "urn:ietf:params:oauth:grant-type:token-exchange",
];

/// How clients may authenticate there.
const AUTH_METHODS: [&str; 4] = ["none", "client_secret_basic", "client_secret_post", "private_key_jwt"];

impl Proxy {
    pub(super) fn check_published(&self, problems: &mut Vec<FieldError>) {
        let versions = self.resource_versions.as_deref().unwrap_or_default();
        for (index, version) in versions.iter().enumerate() {
            if !is_version(version) {
                let detail = "is no version of MCP: expected a date such as `2025-11-25`";
                let field = format!("resource_versions[{index}]");
                problems.push(FieldError::new(field, version.as_str(), detail));
            }
        }
        if versions.len() > MAX_VERSIONS {
            problems.push(FieldError::bare(
                "resource_versions",
                format!("expected up to {MAX_VERSIONS} versions"),
            ));
        }
        for (field, list, known, why) in [
            (
                "oauth_server_response_types",
                &self.oauth_server_response_types,
                &["code"][..],
                "tokens are given out for codes only (OAuth 2.1, section 10.1)",
            ),
            (
                "oauth_server_grant_types",
                &self.oauth_server_grant_types,
                &GRANT_TYPES[..],
                "the token endpoint has no such grant",
            ),
            (
                "oauth_server_token_auth_methods",
                &self.oauth_server_token_auth_methods,
                &AUTH_METHODS[..],
                "the token endpoint takes no such proof",
            ),
        ] {
            for (index, value) in list.iter().flatten().enumerate() {
                if !known.contains(&value.as_str()) {
                    let known: Vec<_> = known.iter().map(|one| format!("`{one}`")).collect();
                    let detail = format!("{why}: expected {}", known.join(", "));
                    problems.push(FieldError::new(format!("{field}[{index}]"), value.as_str(), detail));
                }
            }
            if list.as_ref().is_some_and(Vec::is_empty) {
                problems.push(FieldError::bare(field, "an empty list says nothing: leave it out"));
            }
        }
        if self.oauth_server_pkce_required == Some(false) {
            let detail = "PKCE is required of every client, whatever is published: leave it out";
            problems.push(FieldError::new("oauth_server_pkce_required", false, detail));
        }
    }
}

/// Versions of MCP are dates.
fn is_version(text: &str) -> bool {
    let shape = |(index, byte): (usize, u8)| match index {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    };
    text.len() == 10 && text.bytes().enumerate().all(shape)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wrong(name: &str, value: Value) -> Vec<String> {
        let mut fields = json!({ "proxy_hostname": "a.example", "target_url": "http://10.0.0.5" });
        fields[name] = value;
        let proxy: Proxy = serde_json::from_value(fields).expect("readable");
        let mut problems = Vec::new();
        proxy.check_published(&mut problems);
        problems.into_iter().map(|problem| problem.field).collect()
    }

    #[test]
    fn what_would_be_a_lie_is_refused_by_name() {
        for (name, value, expected) in [
            ("resource_versions", json!(["2025-06-18", "2026-07-28"]), ""),
            ("resource_versions", json!([]), ""),
            ("resource_versions", json!(["2025-06-18", "latest"]), "resource_versions[1]"),
            ("resource_versions", json!(["2025-6-18 "]), "resource_versions[0]"),
            ("resource_versions", json!(vec!["2025-06-18"; 33]), "resource_versions"),
            ("oauth_server_response_types", json!(["code"]), ""),
            ("oauth_server_response_types", json!(["code", "token"]), "oauth_server_response_types[1]"),
            ("oauth_server_response_types", json!([]), "oauth_server_response_types"),
            ("oauth_server_grant_types", json!(["refresh_token"]), ""),
            ("oauth_server_grant_types", json!(["implicit"]), "oauth_server_grant_types[0]"),
            ("oauth_server_token_auth_methods", json!(["none"]), ""),
            (
                "oauth_server_token_auth_methods",
                json!(["tls_client_auth"]),
                "oauth_server_token_auth_methods[0]",
            ),
            ("oauth_server_pkce_required", json!(true), ""),
            ("oauth_server_pkce_required", Value::Null, ""),
            ("oauth_server_pkce_required", json!(false), "oauth_server_pkce_required"),
        ] {
            let shown = format!("{name}: {value}");
            let expected: Vec<_> = Some(expected).filter(|field| !field.is_empty()).into_iter().collect();
            assert_eq!(wrong(name, value), expected, "{shown}");
        }
    }
}
