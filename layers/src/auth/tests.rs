use http::{Method, Request};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::allowlist::Allowlist;
use crate::context::Facts;
use crate::users::Users;

/// The token is `NAME~AUDIENCE+AUDIENCE~SCOPE.SCOPE`, e.g. `alice~app.example~read.write`; anything else is refused.
struct Plain;

impl Verify for Plain {
    fn verify(&self, token: &str) -> Result<Arc<Verified>, TokenError> {
        let mut parts = token.split('~');
        let (Some(name), Some(audience), Some(scopes)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(TokenError::Signature);
        };
        let principal = Principal {
            issuer: "https://auth.example".into(),
            subject: "1".into(),
            username: Some(name.into()),
            audience: audience.split('+').map(|one| format!("https://{one}").into()).collect(),
            foreign: name == "foreign",
            scopes: scopes.split('.').filter(|s| !s.is_empty()).map(Into::into).collect(),
            expires_at: u64::MAX,
            ..Principal::default()
        };
        Ok(Arc::new(Verified::new(principal, 0)))
    }
}

fn policy() -> Policy {
    Policy::new([Audience::new("https://app.example")], Challenge::new("app"))
}

fn rule(pattern: &str, scopes: &[&str]) -> ScopeRule {
    let on = Matcher::any_method(PathPattern::parse(pattern).expect("valid"));
    ScopeRule { on, scopes: scopes.iter().copied().map(Into::into).collect() }
}

fn get(path: &str, token: Option<&str>) -> Request<()> {
    let mut request = Request::get(path).body(()).expect("valid");
    if let Some(token) = token {
        let value = HeaderValue::try_from(format!("Bearer {token}")).expect("valid");
        request.headers_mut().insert("authorization", value);
    }
    request
}

/// What the inner service saw, or the refusal.
async fn call(policy: Policy, request: Request<()>) -> Result<Option<Arc<Principal>>, Rejection> {
    let inner = service_fn(async |mut request: Request<()>| {
        let principal = RequestContext::of(request.extensions_mut()).principal.clone();
        Ok::<_, BoxError>(http::Response::new(principal))
    });
    match AuthLayer::new(Plain, policy).layer(inner).oneshot(request).await {
        Ok(response) => Ok(response.into_body()),
        Err(error) => Err(*error.downcast::<Rejection>().expect("a refusal is a rejection")),
    }
}

fn challenge(rejection: &Rejection) -> &str {
    assert_eq!(rejection.headers().get_all("www-authenticate").iter().count(), 1);
    rejection.headers()["www-authenticate"].to_str().expect("ASCII")
}

#[tokio::test]
async fn refusals_have_the_status_and_challenge_of_their_cause() {
    let policy = || Policy { scopes: vec![rule("/", &["read"]), rule("/w", &["write", "read"])], ..policy() };
    for (path, token, status, code, header) in [
        ("/", None, 401, "token_required", "Bearer realm=\"app\", scope=\"read\""),
        (
            "/",
            Some("bad"),
            401,
            "invalid_token",
            "Bearer realm=\"app\", error=\"invalid_token\", \
             error_description=\"The access token is invalid\", scope=\"read\"",
        ),
        (
            "/?access_token=alice~app.example~read",
            None,
            401,
            "token_required",
            "Bearer realm=\"app\", scope=\"read\"",
        ),
        (
            "/",
            Some("alice~other.example~read"),
            401,
            "invalid_token",
            "Bearer realm=\"app\", error=\"invalid_token\", \
             error_description=\"The access token was issued for another resource\", scope=\"read\"",
        ),
        (
            "/",
            Some("alice~app.example.evil~read"),
            401,
            "invalid_token",
            "Bearer realm=\"app\", error=\"invalid_token\", \
             error_description=\"The access token was issued for another resource\", scope=\"read\"",
        ),
        (
            "/w/x",
            Some("alice~app.example~read"),
            403,
            "insufficient_scope",
            "Bearer realm=\"app\", error=\"insufficient_scope\", \
             error_description=\"The access token lacks a scope\", scope=\"read write\"",
        ),
    ] {
        let rejection = call(policy(), get(path, token)).await.expect_err("refused");
        assert_eq!((rejection.status().as_u16(), rejection.code()), (status, code), "{path} {token:?}");
        assert_eq!(challenge(&rejection), header, "{path} {token:?}");
    }
    let seen = call(policy(), get("/w", Some("alice~APP.example~read.write"))).await.expect("let in");
    assert_eq!(seen.expect("a principal").username.as_deref(), Some("alice"));
}

#[tokio::test]
async fn each_refusal_tells_which_check_has_failed_and_who_is_known() {
    let list =
        |name: &str| Allowlist { users: Some(Users::parse([name]).expect("valid")), ..Allowlist::default() };
    let policy = |members: &str| Policy {
        scopes: vec![rule("/", &["read"])],
        members: Some(Arc::new(list(members))),
        ..policy()
    };
    for (token, members, check, known) in [
        (None, "alice", Check::Token, false),
        (Some("bad"), "alice", Check::Token, false),
        (Some("alice~other.example~read"), "alice", Check::Audience, true),
        (Some("alice~app.example~write"), "alice", Check::Scope, true),
        (Some("alice~app.example~write"), "bob", Check::User, true),
    ] {
        let mut request = get("/", token);
        let facts = Arc::new(Facts::default());
        RequestContext::of(request.extensions_mut()).facts = Some(Arc::clone(&facts));
        let rejection = call(policy(members), request).await.expect_err("refused");
        assert_eq!(rejection.check(), Some(check), "{token:?}");
        assert_eq!(facts.principal.get().is_some(), known, "{token:?}");
    }
    let html = ("accept", "text/html");
    let to_login = call(login_policy(), sent("GET", "/", &[html])).await.expect_err("refused");
    assert_eq!(to_login.check(), None, "nothing was asked of it yet");
    let issuers = Some(vec!["https://idp.example".into()]);
    let mut request = get("/", Some("alice~app.example~read"));
    let facts = Arc::new(Facts::default());
    RequestContext::of(request.extensions_mut()).facts = Some(Arc::clone(&facts));
    let rejection = call(Policy { issuers, ..policy("alice") }, request).await.expect_err("refused");
    assert_eq!((rejection.check(), facts.principal.get()), (Some(Check::Token), None));
    for (error, check) in [
        (TokenError::Malformed, Check::Decode),
        (TokenError::TooLong(9), Check::Decode),
        (TokenError::Algorithm("none".into()), Check::Decode),
        (TokenError::Expired, Check::Token),
        (TokenError::Revoked, Check::Token),
        (TokenError::Signature, Check::Token),
        (TokenError::Audience(Vec::new()), Check::Audience),
    ] {
        assert_eq!(error.check(), check, "{error}");
    }
}

#[tokio::test]
async fn two_authorization_headers_are_a_bad_request_in_every_mode() {
    for mode in [Mode::Reject, Mode::Redirect, Mode::Pass] {
        let mut request = get("/", Some("alice~app.example~"));
        request.headers_mut().append("authorization", HeaderValue::from_static("Basic eDp5"));
        let rejection = call(Policy { mode, ..policy() }, request).await.expect_err("refused");
        assert_eq!(rejection.status(), StatusCode::BAD_REQUEST);
        assert!(challenge(&rejection).contains("error=\"invalid_request\""));
    }
}

#[tokio::test]
async fn what_one_issuer_calls_the_host_stands_in_place_of_its_resources() {
    for (issuer, token, admitted) in [
        ("https://auth.example", "alice~api.example~", true),
        ("https://auth.example", "alice~app.example~", false),
        ("https://other.example", "alice~api.example~", false),
        ("https://other.example", "alice~app.example~", true),
    ] {
        let issuer_resources = vec![(issuer.into(), Audience::new("https://api.example"))];
        let policy = Policy { issuer_resources, ..policy() };
        assert_eq!(call(policy, get("/", Some(token))).await.is_ok(), admitted, "{issuer} {token}");
    }
}

#[tokio::test]
async fn a_policy_without_resources_lets_no_token_in() {
    let policy = Policy::new([], Challenge::new("app"));
    let rejection = call(policy, get("/", Some("alice~app.example~"))).await.expect_err("refused");
    assert_eq!(rejection.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn only_the_issuers_of_the_host_are_trusted() {
    for (trusted, good) in [("https://auth.example", true), ("https://idp.example", false)] {
        let policy = Policy { issuers: Some(vec![trusted.into()]), ..policy() };
        assert_eq!(call(policy, get("/", Some("alice~app.example~"))).await.is_ok(), good, "{trusted}");
    }
}

#[tokio::test]
async fn an_excepted_request_may_be_known_all_the_same() {
    for (token, known) in [(None, false), (Some("bad"), false), (Some("alice~app.example~"), true)] {
        let excepted = vec![Matcher::any_method(PathPattern::Prefix("/health".into()))];
        let policy = Policy { excepted, notes: true, ..policy() };
        let principal = call(policy, get("/health", token)).await.expect("excepted");
        assert_eq!(principal.is_some(), known, "{token:?}");
    }
}

#[tokio::test]
async fn excepted_requests_need_no_token_and_get_no_principal() {
    let health = PathPattern::parse("/health").expect("valid");
    let policy = Policy {
        excepted: vec![
            Matcher::any_method(health),
            Matcher {
                methods: Some(vec![Method::GET]),
                path: PathPattern::parse("/.well-known/*").expect("valid"),
            },
        ],
        ..policy()
    };
    for (method, path, free) in [
        ("GET", "/health", true),
        ("POST", "/health/live", true),
        ("GET", "/.well-known/a/b", true),
        ("POST", "/.well-known/a", false),
        ("GET", "/healthz", false),
        ("GET", "/HEALTH", false),
        ("GET", "/health/../secret", false),
        ("GET", "/health/%2e%2e/secret", false),
        ("GET", "/health;x/../secret", false),
        ("OPTIONS", "/", false),
    ] {
        let request = Request::builder().method(method).uri(path).body(()).expect("valid");
        assert_eq!(call(policy.clone(), request).await.is_ok(), free, "{method} {path}");
    }
    let seen = call(policy, get("/health", Some("alice~app.example~"))).await.expect("let in");
    assert!(seen.is_none());
}

#[tokio::test]
async fn pass_mode_forwards_everything_and_names_only_the_good() {
    let policy = || Policy { mode: Mode::Pass, scopes: vec![rule("/", &["read"])], ..policy() };
    for (token, named) in [
        (None, false),
        (Some("bad"), false),
        (Some("alice~other.example~read"), false),
        (Some("alice~app.example~"), true),
    ] {
        let seen = call(policy(), get("/", token)).await.expect("forwarded");
        assert_eq!(seen.is_some(), named, "{token:?}");
    }
}

fn login_policy() -> Policy {
    let login = Login {
        page: http::Uri::from_static("https://auth.example/login"),
        origin: "https://app.example".into(),
    };
    Policy { mode: Mode::Redirect, login: Some(login), ..session_policy() }
}

/// A request with these headers, as a browser sends it.
fn sent(method: &str, path: &str, headers: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(path).body(()).expect("valid");
    for (name, value) in headers {
        request.headers_mut().append(*name, HeaderValue::try_from(*value).expect("valid"));
    }
    request
}

/// The state of a redirect, and whether cookie and address agree on it.
fn state(rejection: &Rejection) -> String {
    assert_eq!((rejection.status(), rejection.code()), (StatusCode::FOUND, "login_required"));
    assert_eq!(rejection.headers()["cache-control"], "no-store");
    let location = rejection.headers()["location"].to_str().expect("ASCII");
    let (_, state) = location.rsplit_once("&state=").expect("a state");
    assert!(state.len() == 43 && state.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
    assert_eq!(
        rejection.headers()["set-cookie"],
        format!("{STATE_COOKIE}={state}; Max-Age=3600; Path=/; Secure; HttpOnly; SameSite=Lax")
    );
    assert!(
        rejection.headers()["set-cookie"].is_sensitive() && rejection.headers()["location"].is_sensitive()
    );
    state.to_owned()
}

#[tokio::test]
async fn redirect_mode_sends_navigations_to_the_login_page() {
    let html = ("accept", "text/html,*/*");
    for (method, headers, redirected) in [
        ("GET", vec![html], true),
        ("HEAD", vec![("accept", "Text/HTML"), ("sec-fetch-mode", "navigate")], true),
        ("GET", vec![("sec-fetch-mode", "navigate")], true),
        ("GET", vec![("accept", "text/html"), ("sec-fetch-mode", "cors")], false),
        ("GET", vec![("accept", "application/json")], false),
        ("GET", vec![], false),
        ("POST", vec![html], false),
        ("POST", vec![("sec-fetch-mode", "navigate")], false),
        ("GET", vec![("accept", "text/html"), ("authorization", "Bearer bad")], false),
        ("GET", vec![("accept", "text/html"), ("authorization", "Basic eDp5")], false),
    ] {
        let request = sent(method, "https://evil.example/a?b=c&d", &headers);
        let rejection = call(login_policy(), request).await.expect_err("refused");
        if redirected {
            let state = state(&rejection);
            assert_eq!(
                rejection.headers()["location"],
                format!(
                    "https://auth.example/login?return_url=https%3A%2F%2Fapp.example%2Fa%3Fb%3Dc%26d&state={state}"
                )
            );
        } else {
            assert_eq!(rejection.status(), StatusCode::UNAUTHORIZED, "{method} {headers:?}");
            assert!(!rejection.headers().contains_key("set-cookie"));
        }
    }
    let policy = Policy { login: None, ..login_policy() };
    let rejection = call(policy, sent("GET", "/", &[html])).await.expect_err("refused");
    assert_eq!(rejection.status(), StatusCode::UNAUTHORIZED, "no page, no redirect");
}

#[tokio::test]
async fn tabs_of_one_browser_share_a_state_and_no_two_browsers_do() {
    let html = ("accept", "text/html");
    let one = state(&call(login_policy(), sent("GET", "/", &[html])).await.expect_err("refused"));
    let other = state(&call(login_policy(), sent("GET", "/", &[html])).await.expect_err("refused"));
    assert_ne!(one, other);
    let cookie = |value: &str| format!("a=b; {STATE_COOKIE}={value}");
    for (cookies, kept) in [
        (vec![cookie(&one)], true),
        (vec![cookie(&one), cookie(&other)], false),
        (vec![cookie(&one[1..])], false),
        (vec![cookie(&format!("{one}x"))], false),
        (vec![cookie(&one.replace(&one[..1], "."))], false),
        (vec![cookie("")], false),
    ] {
        let mut headers = vec![html];
        headers.extend(cookies.iter().map(|cookie| ("cookie", cookie.as_str())));
        let rejection = call(login_policy(), sent("GET", "/", &headers)).await.expect_err("refused");
        assert_eq!(state(&rejection) == one, kept, "{cookies:?}");
    }
}

#[tokio::test]
async fn a_very_long_address_comes_back_to_the_start() {
    for (length, kept) in [(4096, true), (4097, false)] {
        let path = format!("/{}", "x".repeat(length - "https://app.example/".len()));
        let request = sent("GET", &path, &[("accept", "text/html")]);
        let rejection = call(login_policy(), request).await.expect_err("refused");
        let state = state(&rejection);
        let back = if kept { path.replace('/', "%2F") } else { "%2F".to_owned() };
        assert_eq!(
            rejection.headers()["location"],
            format!("https://auth.example/login?return_url=https%3A%2F%2Fapp.example{back}&state={state}")
        );
    }
}

/// The audience of sessions here, as [`Plain`] takes it.
const OF_SESSION: &str = "app.example/.portcullis/session";

fn session_policy() -> Policy {
    Policy { session: Some(Session::new("__Host-sid", "https://app.example")), ..policy() }
}

fn session_cookie(user: &str) -> String {
    format!("a=b; __Host-sid={user}~{OF_SESSION}~read; c")
}

#[tokio::test]
async fn a_browser_is_known_by_its_cookie() {
    let good = session_cookie("alice");
    for (headers, known) in [
        (vec![("cookie", good.as_str())], Some("alice")),
        (vec![("cookie", "a=b"), ("cookie", &good)], Some("alice")),
        (vec![("cookie", &good), ("cookie", &good)], None),
        (vec![("cookie", "__Host-sid=bad")], None),
        (vec![("cookie", "__Host-sid=")], None),
        (vec![("cookie", &good.replace("__Host-", ""))], None),
        (vec![("cookie", &good.replace("__Host-", "__host-"))], None),
        // Tokens for something else, or for something else as well.
        (vec![("cookie", "__Host-sid=alice~app.example~read")], None),
        (vec![("cookie", "__Host-sid=alice~other.example/.portcullis/session~read")], None),
        (vec![("cookie", "__Host-sid=alice~app.example/.portcullis/session+app.example~read")], None),
        (vec![("cookie", "__Host-sid=foreign~app.example/.portcullis/session~read")], None),
        // Whatever is in the header is what counts.
        (vec![("cookie", &good), ("authorization", "Bearer bob~app.example~")], Some("bob")),
        (vec![("cookie", &good), ("authorization", "Bearer bad")], None),
        (vec![("cookie", &good), ("authorization", "Basic eDp5")], None),
    ] {
        let answer = call(session_policy(), sent("GET", "/", &headers)).await;
        match known {
            Some(name) => {
                let principal = answer.expect("let in").expect("a principal");
                assert_eq!(principal.username.as_deref(), Some(name), "{headers:?}");
            }
            None => {
                assert_eq!(answer.expect_err("refused").status(), StatusCode::UNAUTHORIZED, "{headers:?}");
            }
        }
    }
    let answer = call(policy(), sent("GET", "/", &[("cookie", &good)])).await;
    assert_eq!(answer.expect_err("refused").code(), "token_required", "a host without sessions");
}

#[tokio::test]
async fn a_bad_cookie_counts_as_none() {
    let bad = ("cookie", "__Host-sid=bad");
    let rejection = call(login_policy(), sent("GET", "/", &[bad, ("accept", "text/html")])).await;
    state(&rejection.expect_err("sent to the login"));
    let rejection = call(login_policy(), sent("GET", "/", &[bad])).await.expect_err("refused");
    assert_eq!((rejection.status().as_u16(), rejection.code()), (401, "token_required"));
    assert_eq!(challenge(&rejection), "Bearer realm=\"app\"", "no error: no token was sent");
}

#[tokio::test]
async fn the_token_of_a_session_is_no_bearer_token() {
    for resources in
        [&["https://app.example"][..], &["https://app.example", "https://app.example/.portcullis/session"]]
    {
        let resources = resources.iter().map(|resource| Audience::new(resource)).collect();
        let policy = Policy { resources, ..session_policy() };
        let rejection = call(policy, get("/", Some(&format!("alice~{OF_SESSION}~read")))).await;
        assert_eq!(rejection.expect_err("refused").code(), "invalid_token");
    }
}

#[tokio::test]
async fn a_cookie_does_not_stand_for_what_other_origins_ask() {
    let cookie = session_cookie("alice");
    let (own, other) = (("origin", "https://app.example"), ("origin", "https://evil.app.example"));
    let from = |site| ("sec-fetch-site", site);
    for (method, headers, counts) in [
        ("GET", vec![other, from("cross-site")], true),
        ("HEAD", vec![other], true),
        ("OPTIONS", vec![other], true),
        ("POST", vec![own], true),
        ("POST", vec![own, from("cross-site")], true),
        ("POST", vec![], true),
        ("POST", vec![from("same-origin")], true),
        ("POST", vec![from("none")], true),
        ("POST", vec![other], false),
        ("POST", vec![other, from("same-origin")], false),
        ("POST", vec![("origin", "null")], false),
        ("POST", vec![("origin", "http://app.example")], false),
        ("POST", vec![("origin", "https://app.example:8443")], false),
        ("POST", vec![("origin", "https://APP.example")], false),
        ("POST", vec![own, other], false),
        ("POST", vec![own, own], false),
        ("POST", vec![from("same-site")], false),
        ("POST", vec![from("cross-site")], false),
        ("POST", vec![from("same-origin"), from("cross-site")], false),
        ("PUT", vec![other], false),
        ("DELETE", vec![other], false),
        ("PATCH", vec![other], false),
        ("CONNECT", vec![other], false),
        ("PROPFIND", vec![other], false),
        ("GET", vec![("upgrade", "websocket"), other], false),
        ("GET", vec![("upgrade", "websocket"), from("cross-site")], false),
        ("GET", vec![("upgrade", "websocket"), own], true),
        ("GET", vec![("upgrade", "websocket")], true),
    ] {
        let mut headers = headers;
        headers.push(("cookie", cookie.as_str()));
        let what = format!("{method} {headers:?}");
        let answer = call(login_policy(), sent(method, "/", &headers)).await;
        if counts {
            assert!(answer.expect("let in").is_some(), "{what}");
        } else {
            let rejection = answer.expect_err("refused");
            assert_eq!((rejection.status().as_u16(), rejection.code()), (403, "cross_site"), "{what}");
            assert!(rejection.headers().is_empty(), "neither challenge nor login: {what}");
        }
        let pass = Policy { mode: Mode::Pass, ..session_policy() };
        let seen = call(pass, sent(method, "/", &headers)).await.expect("forwarded");
        assert_eq!(seen.is_some(), counts, "{what}");
        let excepted = vec![Matcher::any_method(PathPattern::Prefix("/".into()))];
        let noted = Policy { excepted, notes: true, ..session_policy() };
        let seen = call(noted, sent(method, "/", &headers)).await.expect("excepted");
        assert_eq!(seen.is_some(), counts, "{what}");
    }
    let headers = [("authorization", "Bearer bob~app.example~"), ("cookie", &cookie), other];
    let seen = call(login_policy(), sent("POST", "/", &headers)).await.expect("let in");
    assert!(seen.is_some(), "no browser adds a token by itself");
}

#[tokio::test]
async fn a_session_has_the_scopes_that_the_host_gives_and_needs_those_that_it_asks_for() {
    let cookie = session_cookie("alice");
    for (scope, status) in [("read", Ok(())), ("write", Err(403))] {
        let policy = Policy { scopes: vec![rule("/", &[scope])], ..session_policy() };
        let answer = call(policy, sent("GET", "/", &[("cookie", &cookie)])).await;
        assert_eq!(answer.map(drop).map_err(|rejection| rejection.status().as_u16()), status);
    }
    let policy = Policy { grants: Some(Arc::default()), ..session_policy() };
    let seen = call(policy, sent("GET", "/", &[("cookie", &cookie)])).await.expect("let in");
    assert!(seen.expect("a principal").scopes.is_empty());
}

#[tokio::test]
async fn scopes_hold_as_far_as_the_lists_of_the_host_give_them() {
    let grants = Arc::new(Grants { user: Users::parse(["alice"]).expect("valid"), ..Grants::default() });
    let policy = || Policy { grants: Some(grants.clone()), scopes: vec![rule("/", &["user"])], ..policy() };
    let seen = call(policy(), get("/", Some("alice~app.example~admin"))).await.expect("let in");
    assert_eq!(seen.expect("a principal").scopes, ["user"]);
    let rejection = call(policy(), get("/", Some("bob~app.example~admin"))).await.expect_err("refused");
    assert_eq!(rejection.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn the_log_learns_who_it_was_even_when_a_scope_is_missing() {
    for (required, status) in [(vec![], Ok(())), (vec![rule("/", &["read"])], Err(403))] {
        let facts = Arc::new(Facts::default());
        let mut request = get("/", Some("alice~app.example~"));
        RequestContext::of(request.extensions_mut()).facts = Some(Arc::clone(&facts));
        let answer = call(Policy { scopes: required, ..policy() }, request).await;
        assert_eq!(answer.map(|_| ()).map_err(|rejection| rejection.status().as_u16()), status);
        let principal = facts.principal.get().expect("the principal is known");
        assert_eq!(principal.username.as_deref(), Some("alice"));
    }
}

#[test]
fn what_a_request_has_opened_goes_on_as_long_as_it_would_be_let_in_again() {
    let session = || Session::new("__Host-s", "https://app.example");
    let granting = |users: &[&str]| {
        let user = Users::parse(users).expect("valid");
        Some(Arc::new(Grants {
            user,
            allowed: Users::everyone(),
            free: vec![OwnScope { name: "read".into(), users: None }],
            ..Grants::default()
        }))
    };
    let base = Policy { grants: granting(&["alice"]), session: Some(session()), ..policy() };
    let ruled = Policy { scopes: vec![rule("/u", &["user"]), rule("/r", &["read"])], ..base.clone() };
    let excepted = vec![Matcher::any_method(PathPattern::parse("/free").expect("valid"))];
    let who = |token: &str| Some(Arc::clone(Plain.verify(token).expect("good").principal()));
    let (bearer, browser) =
        (who("alice~app.example~user.read"), who("alice~app.example/.portcullis/session~user.read"));
    for (what, policy, path, principal, allowed) in [
        ("as it was", base.clone(), "/u", &bearer, true),
        ("a rule for another path", ruled.clone(), "/x", &bearer, true),
        ("a rule that is fulfilled", ruled.clone(), "/u/1", &bearer, true),
        (
            "off the list of a scope",
            Policy { grants: granting(&["bob"]), ..ruled.clone() },
            "/u/1",
            &bearer,
            false,
        ),
        (
            "elsewhere it is not asked for",
            Policy { grants: granting(&["bob"]), ..ruled.clone() },
            "/r",
            &bearer,
            true,
        ),
        (
            "a rule for a scope that the token has not",
            Policy { scopes: vec![rule("/", &["write"])], ..base.clone() },
            "/u",
            &bearer,
            false,
        ),
        (
            "one of several scopes",
            Policy { any_scope: vec!["write".into(), "read".into()], ..base.clone() },
            "/u",
            &bearer,
            true,
        ),
        (
            "none of several scopes",
            Policy { any_scope: vec!["write".into()], ..base.clone() },
            "/u",
            &bearer,
            false,
        ),
        (
            "another resource",
            Policy { resources: vec![Audience::new("https://app.example/v2")], ..base.clone() },
            "/u",
            &bearer,
            false,
        ),
        (
            "another issuer",
            Policy { issuers: Some(vec!["https://other.example".into()]), ..base.clone() },
            "/u",
            &bearer,
            false,
        ),
        ("a session", base.clone(), "/u", &browser, true),
        ("no sessions any more", Policy { session: None, ..base.clone() }, "/u", &browser, false),
        (
            "a session, whatever the resource is",
            Policy { resources: Vec::new(), ..base.clone() },
            "/u",
            &browser,
            true,
        ),
        ("nobody", base.clone(), "/u", &None, false),
        (
            "nobody, on an excepted path",
            Policy { excepted: excepted.clone(), ..base.clone() },
            "/free/x",
            &None,
            true,
        ),
        ("nobody, beside it", Policy { excepted, ..base.clone() }, "/freely", &None, false),
        (
            "nobody, where nobody has to be known",
            Policy { mode: Mode::Pass, ..base.clone() },
            "/u",
            &None,
            true,
        ),
    ] {
        let asked = Asked::new(Method::GET, path.parse().expect("a path"));
        assert_eq!(policy.allows(Some(&asked), principal.as_ref()), allowed, "{what}");
    }
    assert!(!base.allows(None, bearer.as_ref()), "what was asked for is not known");
}

#[tokio::test]
async fn what_was_asked_for_is_noted_without_its_query() {
    let inner = service_fn(async |mut request: Request<()>| {
        Ok::<_, BoxError>(http::Response::new(RequestContext::of(request.extensions_mut()).asked.clone()))
    });
    let service = AuthLayer::new(Plain, policy()).layer(inner);
    let request = get("/a/b?access_token=secret", Some("alice~app.example~"));
    let asked = service.oneshot(request).await.expect("let in").into_body().expect("noted");
    assert_eq!((asked.method(), asked.path()), (&Method::GET, "/a/b"));
    assert_eq!(format!("{asked:?}"), "GET /a/b");
    assert_eq!(format!("{:?}", asked.detached()), "GET /a/b");
}

/// A policy of a host for alice and bob, where only alice may write.
fn listed_policy() -> Policy {
    let users = |names: &[&str]| Users::parse(names).expect("valid");
    let write = OwnScope { name: "write".into(), users: Some(users(&["alice"])) };
    let free = vec![OwnScope { name: "read".into(), users: None }, write];
    let allowed = users(&["alice", "bob"]);
    let members = Allowlist { users: Some(allowed.clone()), ..Allowlist::default() };
    Policy {
        scopes: vec![rule("/", &["read"]), rule("/w", &["write"])],
        members: Some(Arc::new(members)),
        grants: Some(Arc::new(Grants { allowed, free, ..Grants::default() })),
        ..policy()
    }
}

#[tokio::test]
async fn only_who_could_get_a_scope_is_told_to() {
    for (path, token, code) in [
        ("/", "alice~app.example~read", None),
        ("/", "alice~app.example~", Some("insufficient_scope")),
        ("/w", "alice~app.example~read", Some("insufficient_scope")),
        ("/", "bob~app.example~", Some("insufficient_scope")),
        // Whatever its token says, the lists keep the scope from bob.
        ("/w", "bob~app.example~read", Some("access_denied")),
        ("/w", "bob~app.example~read.write", Some("access_denied")),
        ("/w", "bob~app.example~", Some("access_denied")),
        // And mallory may not use the host at all.
        ("/", "mallory~app.example~read", Some("access_denied")),
        ("/w", "mallory~app.example~", Some("access_denied")),
    ] {
        let outcome = call(listed_policy(), get(path, Some(token))).await;
        let Some(code) = code else {
            outcome.expect("let in");
            continue;
        };
        let rejection = outcome.expect_err("refused");
        assert_eq!((rejection.status().as_u16(), rejection.code()), (403, code), "{path} {token}");
        let is_told = rejection.headers().contains_key("www-authenticate");
        assert_eq!(is_told, code == "insufficient_scope", "{path} {token}");
    }
    // One of several scopes would do, and bob may have one of them.
    let either = Policy { scopes: vec![], any_scope: vec!["write".into(), "read".into()], ..listed_policy() };
    let rejection = call(either, get("/", Some("bob~app.example~"))).await.expect_err("refused");
    assert_eq!(rejection.code(), "insufficient_scope");
    // Without lists nothing can be told, and the scopes are needed all the same.
    let alone = Policy { members: None, grants: None, ..listed_policy() };
    let rejection = call(alone, get("/w", Some("mallory~app.example~read"))).await.expect_err("refused");
    assert_eq!(rejection.code(), "insufficient_scope");
}

#[tokio::test]
async fn a_challenge_does_not_ask_for_offline_access_though_a_rule_does() {
    let policy = || Policy { scopes: vec![rule("/", &["offline_access", "read"])], ..policy() };
    for (token, status) in [(None, 401), (Some("alice~app.example~read"), 403)] {
        let rejection = call(policy(), get("/", token)).await.expect_err("refused");
        assert_eq!(rejection.status().as_u16(), status);
        assert!(challenge(&rejection).ends_with("scope=\"read\""), "{}", challenge(&rejection));
    }
    let token = "alice~app.example~read.offline_access";
    call(policy(), get("/", Some(token))).await.expect("it has both");
}

#[tokio::test]
async fn programs_show_their_token_in_the_header() {
    let cookie = session_cookie("alice");
    let policy = |mode| {
        let bearer_only = vec![PathPattern::Prefix("/mcp".into())];
        Policy { mode, bearer_only, ..login_policy() }
    };
    let visit =
        |method: &str, path: &str| sent(method, path, &[("cookie", &cookie), ("accept", "text/html")]);
    for method in ["GET", "POST"] {
        for path in ["/mcp", "/mcp/", "/mcp/x"] {
            let rejection = call(policy(Mode::Redirect), visit(method, path)).await.expect_err("refused");
            assert_eq!((rejection.status().as_u16(), rejection.code()), (401, "token_required"), "{path}");
            assert_eq!(challenge(&rejection), "Bearer realm=\"app\"");
            let seen = call(policy(Mode::Pass), visit(method, path)).await.expect("everybody passes");
            assert!(seen.is_none(), "as nobody: {path}");
        }
        for path in ["/", "/mcpx"] {
            let seen = call(policy(Mode::Redirect), visit(method, path)).await.expect("let in");
            assert!(seen.is_some(), "{path}");
        }
    }
    let bearer = get("/mcp", Some("alice~app.example~"));
    assert!(call(policy(Mode::Redirect), bearer).await.expect("let in").is_some());
}
