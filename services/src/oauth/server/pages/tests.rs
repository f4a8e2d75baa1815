use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};

use super::*;
use crate::oauth::server::scope::Scopes;

/// Markup, in every place where an outsider could put some.
const ATTACK: &str = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&lt;";

fn site() -> Site {
    Site { product: "Example <Portal>".to_owned() }
}

fn form() -> Form<'static> {
    Form { action: "/authorize/consent", token: "form-token-1", fields: &[("transaction", ATTACK)] }
}

fn html(response: &Response<Bytes>) -> &str {
    std::str::from_utf8(response.body()).expect("UTF-8")
}

/// All pages, with an attacker's text wherever it fits.
fn pages() -> Vec<(&'static str, Response<Bytes>)> {
    let scopes = Scopes::parse("admin <b>bold</b> openid").expect("valid scopes");
    let resources = [ATTACK.to_owned()];
    let rights = Rights { scopes: &scopes, allowed: &[], resources: &resources };
    let client =
        Client { name: Some(ATTACK), id: ATTACK, kind: ClientKind::Dynamic, redirect_uri: Some(ATTACK) };
    let error = OAuthError::new(ErrorCode::InvalidRequest, ATTACK);
    vec![
        (
            "consent",
            Consent { client, rights, user: Some(ATTACK), form: form(), next: &[ATTACK] }.response(&site()),
        ),
        (
            "device_entry",
            DeviceEntry { user_code: ATTACK, problem: Some(ATTACK), form: form(), next: &[ATTACK] }
                .response(&site()),
        ),
        (
            "device_confirm",
            DeviceConfirm { user_code: ATTACK, client, rights, user: ATTACK, form: form() }.response(&site()),
        ),
        ("logout", Logout { user: ATTACK, form: form(), next: &[] }.response(&site())),
        ("signed_in", Notice::SignedIn { user: ATTACK }.response(&site())),
        ("signed_out", Notice::SignedOut.response(&site())),
        ("device_approved", Notice::DeviceApproved.response(&site())),
        ("device_denied", Notice::DeviceDenied.response(&site())),
        (
            "error",
            ErrorPage { error: &error, request_id: Some(ATTACK), sign_out: None, back: Some(ATTACK) }
                .response(&site()),
        ),
    ]
}

#[test]
fn no_page_has_a_script_and_all_forbid_it() {
    for (name, response) in pages() {
        let page = html(&response);
        let lower = page.to_ascii_lowercase();
        for forbidden in ["<script", "javascript:", "<iframe", "<img", "<link", "<base", "http-equiv"] {
            assert!(!lower.contains(forbidden), "{name} has {forbidden}");
        }
        // Attributes that run: no tag has one outside of a quoted value.
        for tag in page.split('<').skip(1).filter_map(|part| part.split('>').next()) {
            let tag: String = tag.split('"').step_by(2).collect();
            assert!(!tag.contains(" on") && !tag.contains(" style="), "{name}: <{tag}>");
        }
        let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().expect("ASCII");
        let directive = |wanted: &str| {
            policy.split("; ").find_map(|part| part.strip_prefix(wanted)).map(str::trim).unwrap_or_default()
        };
        assert_eq!(directive("default-src"), "'none'", "{name}");
        assert_eq!(directive("frame-ancestors"), "'none'", "{name}");
        assert_eq!(directive("base-uri"), "'none'", "{name}");
        assert!(!policy.contains("unsafe") && !policy.contains("script-src"), "{name}: {policy}");
        let style =
            page.split_once("<style>").and_then(|(_, rest)| rest.split_once("</style>")).expect("a style");
        let hash = BASE64.encode(digest::digest(&digest::SHA256, style.0.as_bytes()));
        assert_eq!(directive("style-src"), format!("'sha256-{hash}'"), "{name}");
        assert_eq!(directive("form-action").contains("'self'"), page.contains("<form"), "{name}");
    }
}

#[test]
fn pages_are_kept_by_nobody_and_framed_by_nobody() {
    for (name, response) in pages() {
        let header = |header| response.headers()[header].to_str().expect("ASCII");
        assert_eq!(header(CACHE_CONTROL), "no-store", "{name}");
        assert_eq!(header(REFERRER_POLICY), "no-referrer", "{name}");
        assert_eq!(header(X_CONTENT_TYPE_OPTIONS), "nosniff", "{name}");
        assert_eq!(header(X_FRAME_OPTIONS), "DENY", "{name}");
        assert_eq!(header(CONTENT_TYPE), "text/html; charset=utf-8", "{name}");
    }
}

#[test]
fn what_comes_from_outside_is_escaped() {
    for (name, response) in pages() {
        let page = html(&response);
        assert!(page.contains("Example &#60;Portal&#62;"), "{name}: {page}");
        assert!(!page.contains("<b>") && !page.contains("=x onerror=alert(1)>"), "{name}");
        // A quote of the attack would end an attribute.
        assert!(!page.contains("\"'>") && !page.contains("\"&#39;>"), "{name}");
    }
    let consent = &pages()[0].1;
    assert!(html(consent).contains("&#60;script&#62;alert(1)"), "shown as what it is");
}

#[test]
fn pages_can_be_read_by_everybody() {
    for (name, response) in pages() {
        let page = html(&response);
        assert!(page.starts_with("<!doctype html>\n<html lang=\"en\">"), "{name}");
        assert_eq!(page.matches("<h1>").count(), 1, "{name}");
        assert_eq!(page.matches("<main>").count(), 1, "{name}");
        assert!(page.contains("name=\"viewport\"") && page.contains("name=\"color-scheme\""), "{name}");
        assert!(page.contains("<title>") && !page.contains("<title> "), "{name}");
        assert!(page.contains("prefers-color-scheme:dark"), "{name}");
        for input in page.split("<input ").skip(1).filter(|input| !input.starts_with("type=\"hidden\"")) {
            let id = input.split_once("id=\"").and_then(|(_, rest)| rest.split_once('"')).expect("an id").0;
            assert!(page.contains(&format!("<label for=\"{id}\">")), "{name}: {id} has no label");
        }
    }
}

#[test]
fn a_consent_names_all_that_it_gives() {
    let scopes = Scopes::parse("mcp notes:write offline_access").expect("valid");
    let resources = ["https://notes.example.com/mcp".to_owned()];
    let consent = Consent {
        client: Client {
            name: Some("Claude Code"),
            id: "https://claude.ai/oauth/claude-code-client-metadata",
            kind: ClientKind::Document,
            redirect_uri: Some("http://localhost:41234/callback"),
        },
        rights: Rights { scopes: &scopes, allowed: &[], resources: &resources },
        user: Some("octocat"),
        form: Form { action: "/consent", token: "form-token-1", fields: &[("transaction", "t-1")] },
        next: &["https://github.com/login/oauth/authorize?client_id=x"],
    };
    let response = consent.response(&site());
    assert_eq!(response.status(), StatusCode::OK);
    let page = html(&response);
    for shown in [
        "<bdi>Claude Code</bdi>",
        "<dd>claude.ai</dd>",
        "localhost:41234",
        "https://notes.example.com/mcp",
        "Use MCP tools in your name",
        "notes:write",
        "while you are away",
        "octocat",
        "a program on this computer",
        "method=\"post\" action=\"/consent\"",
        "name=\"form_token\" value=\"form-token-1\"",
        "name=\"transaction\" value=\"t-1\"",
        "name=\"decision\" value=\"approve\"",
        "name=\"decision\" value=\"deny\"",
    ] {
        assert!(page.contains(shown), "{shown} in {page}");
    }
    assert!(!page.contains("registered itself"));
    let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().expect("ASCII");
    assert!(policy.contains("form-action 'self' https://github.com http://localhost:41234;"), "{policy}");
    assert_eq!((FORM_TOKEN, DECISION, APPROVE), ("form_token", "decision", "approve"));
}

#[test]
fn a_device_is_confirmed_with_a_warning() {
    let scopes = Scopes::parse("mcp").expect("valid");
    let entry =
        DeviceEntry { user_code: "WDJB-MJHT", problem: None, form: form(), next: &[] }.response(&site());
    assert_eq!(entry.status(), StatusCode::OK);
    assert!(html(&entry).contains("value=\"WDJB-MJHT\"") && html(&entry).contains("name=\"user_code\""));
    let wrong = DeviceEntry { user_code: "X", problem: Some("No such code."), form: form(), next: &[] };
    let wrong = wrong.response(&site());
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
    assert!(html(&wrong).contains("role=\"alert\"") && html(&wrong).contains("No such code."));
    let client = Client { name: Some("TV"), id: "tv", kind: ClientKind::Registered, redirect_uri: None };
    let rights = Rights { scopes: &scopes, allowed: &[], resources: &[] };
    let confirm = DeviceConfirm { user_code: "WDJB-MJHT", client, rights, user: "octocat", form: form() };
    let confirm = confirm.response(&site());
    for page in [html(&entry), html(&confirm)] {
        assert!(page.contains("Take care."), "{page}");
    }
    assert!(html(&confirm).contains("WDJB-MJHT") && html(&confirm).contains("somebody sent you"));
    assert!(!html(&confirm).contains("You are sent to"));
}

#[test]
fn an_error_page_has_a_status_and_never_a_location() {
    for (code, status) in [
        (ErrorCode::InvalidRequest, 400),
        (ErrorCode::InvalidClient, 400),
        (ErrorCode::InvalidRedirectUri, 400),
        (ErrorCode::AccessDenied, 403),
        (ErrorCode::ServerError, 500),
        (ErrorCode::TemporarilyUnavailable, 503),
    ] {
        let error = OAuthError::new(code, "client_id is not known");
        let page =
            ErrorPage { error: &error, request_id: Some("w1-42"), sign_out: Some("/logout"), back: None };
        let response = page.response(&site());
        assert_eq!(response.status(), status, "{code}");
        assert!(!response.headers().contains_key(http::header::LOCATION));
        let page = html(&response);
        assert!(page.contains(code.as_str()) && page.contains("client_id is not known"), "{page}");
        assert!(page.contains("w1-42"));
        assert_eq!(page.contains("href=\"/logout\""), code == ErrorCode::AccessDenied, "{page}");
    }
}

#[test]
fn long_texts_do_not_flood_a_page() {
    let long = "x".repeat(1_000_000);
    let scopes = Scopes::default();
    let client =
        Client { name: Some(&long), id: &long, kind: ClientKind::Dynamic, redirect_uri: Some(&long) };
    let rights = Rights { scopes: &scopes, allowed: &[], resources: std::slice::from_ref(&long) };
    let consent = Consent { client, rights, user: Some(&long), form: form(), next: &[] }.response(&site());
    assert!(consent.body().len() < 16_384, "{}", consent.body().len());
}
