//! What browsers are told about a page: no scripts, no frames, no referrer, no cache, and forms that go
//! nowhere else.

use std::sync::LazyLock;

use askama::Template;
use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use http::{HeaderValue, Response, StatusCode};

/// The style of all pages, in the page: one request less, and nothing that a cache could hold.
pub(super) const STYLE: &str = include_str!("../../../../templates/oauth/style.css");

static STYLE_HASH: LazyLock<String> =
    LazyLock::new(|| BASE64.encode(digest::digest(&digest::SHA256, STYLE.as_bytes())));

/// A page as an answer. `targets` are the URLs that its form may end up at, beside this host: Chromium
/// applies `form-action` to every redirect that follows a form. `None` when there is no form.
pub(super) fn answer<'a>(
    status: StatusCode,
    template: &impl Template,
    targets: Option<impl IntoIterator<Item = &'a str>>,
) -> Response<Bytes> {
    let Ok(html) = template.render() else {
        // Templates write texts to memory, which does not fail.
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        return response;
    };
    let mut response = Response::new(Bytes::from(html));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, policy(targets));
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // For browsers that don't know `frame-ancestors`.
        (X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn policy<'a>(targets: Option<impl IntoIterator<Item = &'a str>>) -> HeaderValue {
    let forms = match targets {
        None => "'none'".to_owned(),
        Some(targets) => {
            let mut sources = vec!["'self'".to_owned()];
            for source in targets.into_iter().filter_map(form_source) {
                if !sources.contains(&source) {
                    sources.push(source);
                }
            }
            sources.join(" ")
        }
    };
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; form-action {forms}; frame-ancestors 'none'; base-uri 'none'",
        *STYLE_HASH
    );
    HeaderValue::try_from(policy).expect("a source has only letters, digits and marks of URLs")
}

/// The source expression (Content Security Policy 3, section 2.3.1) that covers a URL: its origin, or, for
/// private schemes and addresses that sources can't name, its scheme. `None` when the URL has neither;
/// nothing of it ever gets into the policy but a scheme, a host name and a port.
pub fn form_source(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once(':')?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    // A scheme that runs what it holds is no place to go to.
    let scheme = scheme.to_ascii_lowercase();
    if !is_scheme || ["javascript", "data", "vbscript", "blob", "file", "about"].contains(&scheme.as_str()) {
        return None;
    }
    if !["http", "https"].contains(&scheme.as_str()) {
        return Some(format!("{scheme}:"));
    }
    let authority = rest.strip_prefix("//")?;
    let authority = authority.split(['/', '?', '#', '\\']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_ascii_lowercase();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority.as_str(), None),
    };
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if host.is_empty() || port.is_some_and(|port| !is_port(port)) {
        return None;
    }
    // No address matches a source but this one (section 6.7.2.8).
    if host.starts_with('[') || host != "127.0.0.1" && host.parse::<std::net::Ipv4Addr>().is_ok() {
        return Some(format!("{scheme}:"));
    }
    let is_name = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    is_name.then(|| format!("{scheme}://{authority}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_name_an_origin_or_a_scheme_and_nothing_else() {
        for (url, source) in [
            ("https://claude.ai/api/mcp/auth_callback", Some("https://claude.ai")),
            ("https://Claude.AI:8443/cb?x=y#z", Some("https://claude.ai:8443")),
            ("http://127.0.0.1:33418/", Some("http://127.0.0.1:33418")),
            ("http://localhost:6274/oauth/callback", Some("http://localhost:6274")),
            ("http://[::1]:8080/cb", Some("http:")),
            ("http://127.0.0.2:8080/cb", Some("http:")),
            ("https://github.com", Some("https://github.com")),
            ("cursor://anysphere.cursor-retrieval/oauth", Some("cursor:")),
            ("com.example.app:/cb", Some("com.example.app:")),
            ("https://good.example@evil.example/", Some("https://evil.example")),
            ("https://evil.example\\@good.example/", Some("https://evil.example")),
            ("https://a; script-src *", None),
            ("https://a'unsafe-inline'", None),
            ("https://*", None),
            ("https://a:b", None),
            ("https://a:", None),
            ("https://", None),
            ("https:a", None),
            ("javascript:alert(1)", None),
            ("JavaScript:alert(1)", None),
            ("data:text/html,x", None),
            ("a b:c", None),
            ("nothing", None),
            ("", None),
        ] {
            assert_eq!(form_source(url).as_deref(), source, "{url}");
        }
    }

    #[test]
    fn forms_go_where_they_must_and_nowhere_else() {
        let of = |targets: Option<&[&str]>| {
            let policy = policy(targets.map(|targets| targets.iter().copied()));
            let policy = policy.to_str().expect("ASCII").to_owned();
            policy.split("; ").find(|part| part.starts_with("form-action")).expect("listed").to_owned()
        };
        assert_eq!(of(None), "form-action 'none'");
        assert_eq!(of(Some(&[])), "form-action 'self'");
        assert_eq!(
            of(Some(&["https://a.example/x", "https://a.example/y", "cursor://b", "javascript:x"])),
            "form-action 'self' https://a.example cursor:"
        );
    }
}
