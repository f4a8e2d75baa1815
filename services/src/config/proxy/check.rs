//! What can be wrong between the fields of a proxy.

use portcullis_layers::auth::{Audience, SESSION_PATH};
use portcullis_layers::normalize::path::{PathRules, normalize};

use super::{OUR_COOKIES, Proxy};
use crate::config::field::FieldError;
use crate::config::names::{Scope, UserPattern};

impl Proxy {
    pub(super) fn check_auth(&self, problems: &mut Vec<FieldError>) {
        if self.oauth_admin_users.iter().flatten().any(UserPattern::is_everyone) {
            problems.push(FieldError::new(
                "oauth_admin_users",
                "*",
                "everyone can't be admin: expected logins, or `service:NAME`",
            ));
        }
        for name in self.oauth_scope_users.keys() {
            let field = format!("oauth_scope_users.{name}");
            if ["admin", "user", "mcp"].contains(&name.as_str()) {
                let list = format!("has a list of its own: expected oauth_{name}_users");
                problems.push(FieldError::bare(field, list));
            } else if name.parse::<Scope>().is_err() {
                problems
                    .push(FieldError::bare(field, "expected a scope without blanks (RFC 6749, section 3.3)"));
            }
        }
        let cookie = &self.auth_cookie_name;
        if cookie.is_empty() || cookie.len() > 128 || !cookie.bytes().all(is_token_byte) {
            problems.push(FieldError::new(
                "auth_cookie_name",
                cookie.as_str(),
                "expected a cookie name of letters, digits, '-', '_' and the like (RFC 6265, section 4.1.1)",
            ));
        }
        if self.session_cookie().starts_with(OUR_COOKIES) {
            problems.push(FieldError::new(
                "auth_cookie_name",
                cookie.as_str(),
                "belongs to the login itself: expected a name that does not begin with `portcullis-`",
            ));
        }
        if let Some(endpoint) = &self.resource_endpoint
            && is_of_session(endpoint.as_str())
        {
            problems.push(FieldError::new("resource_endpoint", endpoint.as_str(), OF_SESSION));
        }
        if let Some(endpoint) = &self.resource_endpoint
            && normalize(endpoint.as_str(), PathRules { encoded_slash: true, ..PathRules::default() })
                .ok()
                .as_deref()
                != Some(endpoint.as_str())
        {
            let detail = "expected a path in normal form (RFC 3986, section 6.2.2): only what has to be is percent-encoded";
            problems.push(FieldError::new("resource_endpoint", endpoint.as_str(), detail));
        }
        if let Err(detail) = check_prefix(&self.auth_header_prefix) {
            problems.push(FieldError::new("auth_header_prefix", self.auth_header_prefix.as_str(), detail));
        }
        if let Some(text) = &self.auth_scope_required
            && (text.trim().is_empty() || text.split_ascii_whitespace().any(|s| s.parse::<Scope>().is_err()))
        {
            problems.push(FieldError::new(
                "auth_scope_required",
                text.as_str(),
                "expected scopes separated by blanks",
            ));
        }
        for (index, rule) in self.auth_scope_rules.iter().enumerate() {
            if rule.scopes.is_empty() {
                problems.push(FieldError::bare(
                    format!("auth_scope_rules[{index}].scopes"),
                    "expected at least one scope",
                ));
            }
        }
        for (index, audience) in self.auth_allowed_audiences.iter().flatten().enumerate() {
            if audience.is_empty() || audience.bytes().any(|b| !b.is_ascii_graphic()) {
                problems.push(FieldError::new(
                    format!("auth_allowed_audiences[{index}]"),
                    audience.as_str(),
                    "expected a URI or a name without blanks",
                ));
            } else if is_of_session(audience) {
                let field = format!("auth_allowed_audiences[{index}]");
                problems.push(FieldError::new(field, audience.as_str(), OF_SESSION));
            }
        }
        for (field, text) in
            [("auth_realm", &self.auth_realm), ("auth_error_description", &self.auth_error_description)]
        {
            if let Some(text) = text
                && !is_quotable(text)
            {
                problems.push(FieldError::new(field, text.as_str(), QUOTABLE));
            }
        }
        for (name, value) in &self.auth_additional_params {
            let field = format!("auth_additional_params.{name}");
            if name.is_empty() || !name.bytes().all(is_token_byte) {
                problems.push(FieldError::bare(
                    field,
                    "expected a parameter name of letters, digits, '-' and '_'",
                ));
            } else if !is_quotable(value) {
                problems.push(FieldError::new(field, value.as_str(), QUOTABLE));
            }
        }
        for (index, issuer) in self.trusted_issuers.iter().enumerate() {
            let parent = format!("trusted_issuers[{index}]");
            problems.extend(issuer.problems().into_iter().map(|problem| problem.within(&parent)));
            if self.trusted_issuers[..index].iter().any(|other| other.issuer == issuer.issuer) {
                problems.push(FieldError::new(
                    format!("{parent}.issuer"),
                    issuer.issuer.as_str(),
                    "is listed twice: a key belongs to one issuer",
                ));
            }
        }
    }

    pub(super) fn check_upstreams(&self, problems: &mut Vec<FieldError>) {
        self.balanced().check(problems);
        self.upstream_tls.check(problems);
        for (field, seconds) in [
            ("connect_timeout_seconds", self.connect_timeout_seconds),
            ("request_timeout_seconds", self.request_timeout_seconds),
            ("idle_timeout_seconds", self.idle_timeout_seconds),
        ] {
            if seconds.is_some_and(|seconds| seconds == 0 || seconds > 86_400) {
                problems.push(FieldError::new(field, seconds, "expected 1 to 86400 seconds"));
            }
        }
    }
}

const OF_SESSION: &str =
    "is what tokens in browsers' cookies are for, which no client may use: expected another one";

/// Whether this is, or ends as, the audience of a session on a host.
fn is_of_session(audience: &str) -> bool {
    Audience::new(audience).as_str().trim_end_matches('/').ends_with(SESSION_PATH)
}

const QUOTABLE: &str = "expected up to 512 printable ASCII characters without '\"' and '\\'";

/// What may stand in a quoted string of a challenge without an escape (RFC 6750, section 3).
fn is_quotable(text: &str) -> bool {
    text.len() <= 512 && text.bytes().all(|b| matches!(b, 0x20 | 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The prefix's headers are stripped from every request: one that names ordinary headers would break them.
fn check_prefix(prefix: &str) -> Result<(), &'static str> {
    const ORDINARY: [&str; 10] = [
        "accept-",
        "access-",
        "cache-",
        "content-",
        "if-",
        "proxy-",
        "sec-",
        "x-",
        "x-forwarded-",
        "x-real-",
    ];
    let lower = prefix.to_ascii_lowercase();
    if !lower.ends_with('-')
        || lower.len() > 64
        || !lower.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    {
        return Err("expected letters, digits and '-', with '-' at the end, such as `X-Auth-`");
    }
    if lower.starts_with('-') || ORDINARY.contains(&lower.as_str()) {
        return Err("would take ordinary headers for identity headers: expected a prefix such as `X-Auth-`");
    }
    Ok(())
}
