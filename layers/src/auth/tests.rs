use http::{Method, Request};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::context::Facts;
use crate::users::Users;

/// The token is `NAME~AUDIENCE~SCOPE.SCOPE`, e.g. `alice~app.example~read.write`; anything else is refused.
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
            audience: vec![format!("https://{audience}").into()],
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

#[tokio::test]
async fn redirect_mode_sends_navigations_to_the_login_page() {
    let login = Login {
        page: http::Uri::from_static("https://auth.example/login"),
        origin: "https://app.example".into(),
    };
    let policy = Policy { mode: Mode::Redirect, login: Some(login), ..policy() };
    for (method, headers, sent) in [
        ("GET", vec![("accept", "text/html,*/*")], true),
        ("HEAD", vec![("accept", "Text/HTML"), ("sec-fetch-mode", "navigate")], true),
        ("GET", vec![("accept", "text/html"), ("sec-fetch-mode", "cors")], false),
        ("GET", vec![("accept", "application/json")], false),
        ("GET", vec![], false),
        ("POST", vec![("accept", "text/html")], false),
        ("GET", vec![("accept", "text/html"), ("authorization", "Bearer bad")], false),
    ] {
        let mut request = Request::builder().method(method).uri("https://evil.example/a?b=c&d");
        for (name, value) in &headers {
            request = request.header(*name, *value);
        }
        let rejection = call(policy.clone(), request.body(()).expect("valid")).await.expect_err("refused");
        if sent {
            assert_eq!(rejection.status(), StatusCode::FOUND, "{method} {headers:?}");
            assert_eq!(
                rejection.headers()["location"],
                "https://auth.example/login?return_url=https%3A%2F%2Fapp.example%2Fa%3Fb%3Dc%26d"
            );
        } else {
            assert_eq!(rejection.status(), StatusCode::UNAUTHORIZED, "{method} {headers:?}");
        }
    }
    let request = Request::get("/").header("accept", "text/html").body(()).expect("valid");
    let rejection = call(Policy { login: None, ..policy }, request).await.expect_err("refused");
    assert_eq!(rejection.status(), StatusCode::UNAUTHORIZED, "no page, no redirect");
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
