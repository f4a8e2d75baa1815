//! The authorization code flow, as clients and browsers see it.

use http::{Method, StatusCode};
use serde_json::json;

use super::world::{HOST, ISSUER, PORT, REDIRECT, VERIFIER, World, claims};
use crate::support::github::Person;
use crate::support::visitor::form_of;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_gets_the_access_that_the_lists_give_and_no_more() {
    let world = World::new().await;
    world.protect("other.localhost", json!({})).await;
    let client = world.register(json!({})).await;
    let url = world.authorize_url(&client, &[("scope", "mcp:read admin openid profile email")]);
    let mut visitor = world.visitor();
    let back = world.authorize(&mut visitor, &url, "alice").await;
    assert_eq!(back.param("state").as_deref(), Some("xyz"));
    assert_eq!(back.param("iss").as_deref(), Some("https://auth.localhost:8443"));
    let answer = world.redeem(&client, &back.param("code").expect("a code")).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(answer.header("cache-control"), "no-store");
    let tokens = answer.json();
    // `admin` is on no list that has her.
    assert_eq!(tokens["scope"], "email mcp:read openid profile");
    assert_eq!(tokens["token_type"], "Bearer");
    let access = claims(tokens["access_token"].as_str().unwrap());
    assert_eq!(access["aud"], json!([world.resource(HOST)]));
    assert_eq!((&access["sub"], &access["username"]), (&json!("1"), &json!("alice")));
    let id = claims(tokens["id_token"].as_str().unwrap());
    assert_eq!((&id["aud"], &id["sub"]), (&json!(client.id), &json!("1")));
    assert_eq!((&id["email"], &id["email_verified"]), (&json!("alice@example.com"), &json!(true)));
    let token = tokens["access_token"].as_str().unwrap();
    let seen = world.get_as(HOST, "/mcp", token).await;
    assert_eq!(seen.status, StatusCode::OK);
    assert_eq!(seen.seen("x-auth-user"), ["alice"]);
    assert_eq!(seen.seen("authorization"), [""; 0]);
    // It is for nothing else, nor is the ID token for anything.
    assert_eq!(world.get_as("other.localhost", "/mcp", token).await.status, StatusCode::UNAUTHORIZED);
    let id_token = tokens["id_token"].as_str().unwrap();
    assert_eq!(world.get_as(HOST, "/mcp", id_token).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_on_no_list_gets_no_code() {
    let world = World::new().await;
    let client = world.register(json!({})).await;
    let back = world.authorize(&mut world.visitor(), &world.authorize_url(&client, &[]), "bob").await;
    assert!(back.url.starts_with(REDIRECT), "{}", back.url);
    assert_eq!(back.param("error").as_deref(), Some("access_denied"));
    assert_eq!(back.param("state").as_deref(), Some("xyz"));
    assert_eq!(back.param("iss").as_deref(), Some("https://auth.localhost:8443"));
    assert!(back.param("code").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_redirected_to_a_uri_that_is_not_registered() {
    let world = World::new().await;
    let client = world.register(json!({})).await;
    for (name, value) in [
        ("redirect_uri", "https://evil.example/callback"),
        ("redirect_uri", "https://client.example/callback/"),
        ("redirect_uri", "https://client.example/CALLBACK"),
        ("redirect_uri", ""),
        ("client_id", "dyn_unknown"),
        ("client_id", ""),
    ] {
        let page = world.visitor().open(&world.authorize_url(&client, &[(name, value)]), REDIRECT).await;
        assert_eq!(page.answer().status, StatusCode::BAD_REQUEST, "{name}={value}");
        assert_eq!(page.answer().header("location"), "");
        assert!(page.answer().header("content-security-policy").contains("default-src 'none'"));
    }
    let mut signed_in = world.visitor();
    world.github.person(Person::SignedIn("alice".to_owned()));
    let page = signed_in.open(&world.at_issuer("/login"), REDIRECT).await;
    assert_eq!(page.answer().status, StatusCode::OK);
    for (name, value, error) in [
        ("code_challenge", "", "invalid_request"),
        ("code_challenge_method", "plain", "invalid_request"),
        ("response_type", "token", "unsupported_response_type"),
        ("resource", "https://elsewhere.example", "invalid_target"),
        ("resource", "nonsense", "invalid_target"),
        ("scope", "nobody:knows", "invalid_scope"),
    ] {
        let url = world.authorize_url(&client, &[(name, value)]);
        // Nobody is signed in, and anybody can register a client: a link, and no redirect.
        let page = world.visitor().open(&url, REDIRECT).await;
        assert_eq!(page.answer().status, StatusCode::BAD_REQUEST, "{name}={value}");
        assert!(page.text().contains(&format!("{REDIRECT}?error={error}")), "{name}={value} {}", page.text());
        let page = signed_in.open(&url, REDIRECT).await;
        assert_eq!(page.param("error").as_deref(), Some(error), "{name}={value} {}", page.url);
    }
    let silent = world.authorize_url(&client, &[("prompt", "none")]);
    let page = world.visitor().open(&silent, REDIRECT).await;
    assert_eq!(page.param("error").as_deref(), Some("login_required"), "{}", page.url);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_ends_only_in_the_browser_that_began_it() {
    let world = World::new().await;
    world.github.person(Person::SignedIn("alice".to_owned()));
    let client = world.register(json!({})).await;
    let url = world.authorize_url(&client, &[]);
    // The attacker begins, and stops where GitHub sends the browser back.
    let mut attacker = world.visitor();
    let page = attacker.open(&url, REDIRECT).await;
    let callback = world.at_issuer("/callback");
    let stopped = attacker.submit(&page, ("decision", "approve"), &callback).await;
    assert!(stopped.url.starts_with(&callback), "{}", stopped.url);
    // The victim opens the attacker's link: nothing happens, and the attacker can't use it any more either.
    let mut victim = world.visitor();
    let page = victim.open(&stopped.url, REDIRECT).await;
    assert_eq!(page.answer().status, StatusCode::BAD_REQUEST);
    assert!(victim.cookie_names(ISSUER).is_empty(), "{:?}", victim.cookie_names(ISSUER));
    let back = attacker.open(&stopped.url, REDIRECT).await;
    assert!(back.param("code").is_some(), "{}", back.url);
    let again = attacker.open(&stopped.url, REDIRECT).await;
    assert_eq!(again.answer().status, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consent_is_asked_once_and_for_what_is_new() {
    let world = World::new().await;
    let client = world.register(json!({})).await;
    let mut visitor = world.visitor();
    world.authorize(&mut visitor, &world.authorize_url(&client, &[]), "alice").await;
    // Signed in and asked before: a code at once.
    let back = visitor.open(&world.authorize_url(&client, &[]), REDIRECT).await;
    assert!(back.param("code").is_some(), "{}", back.url);
    let page =
        visitor.open(&world.authorize_url(&client, &[("scope", "mcp:read mcp:write")]), REDIRECT).await;
    assert!(page.text().contains("mcp:write"), "{}", page.text());
    // A form from elsewhere decides nothing.
    let form = page.form();
    let stolen: Vec<_> = form.fields.iter().filter(|(name, _)| name != "form_token").collect();
    let pairs = stolen.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let body = form_of(pairs.chain([("decision", "approve"), ("form_token", "guessed")]));
    let refused = visitor.send(Method::POST, &world.at_issuer("/consent"), &[], body).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let back = visitor.submit(&page, ("decision", "deny"), REDIRECT).await;
    assert_eq!(back.param("error").as_deref(), Some("access_denied"));
    let page =
        visitor.open(&world.authorize_url(&client, &[("scope", "mcp:read mcp:write")]), REDIRECT).await;
    let back = visitor.submit(&page, ("decision", "approve"), REDIRECT).await;
    assert!(back.param("code").is_some(), "{}", back.url);
    // Whoever wants to be asked again is.
    let page = visitor.open(&world.authorize_url(&client, &[("prompt", "consent")]), REDIRECT).await;
    assert_eq!(page.answer().status, StatusCode::OK);
    let none = visitor.open(&world.authorize_url(&client, &[("prompt", "none")]), REDIRECT).await;
    assert!(none.param("code").is_some(), "{}", none.url);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_is_good_once_and_a_replay_ends_what_it_yielded() {
    let world = World::new().await;
    let client = world.register(json!({})).await;
    let code = world.code(&client).await;
    let first = world.redeem(&client, &code).await;
    let token = first.json()["access_token"].as_str().unwrap().to_owned();
    let refresh = first.json()["refresh_token"].as_str().unwrap().to_owned();
    assert_eq!(world.get_as(HOST, "/mcp", &token).await.status, StatusCode::OK);
    let replay = world.redeem(&client, &code).await;
    assert_eq!((replay.status, &replay.json()["error"]), (StatusCode::BAD_REQUEST, &json!("invalid_grant")));
    assert_eq!(world.get_as(HOST, "/mcp", &token).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(world.refresh(&client, &refresh).await.json()["error"], "invalid_grant");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_is_for_its_client_its_redirect_and_its_verifier() {
    let world = World::new().await;
    let (client, other) = (world.register(json!({})).await, world.register(json!({})).await);
    for (name, value) in [
        ("client_id", other.id.as_str()),
        ("redirect_uri", "https://client.example/other"),
        ("code_verifier", "another-verifier-another-verifier-another-verifier"),
        ("resource", "https://elsewhere.example"),
    ] {
        let code = world.code(&client).await;
        let usual = [
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("client_id", &client.id),
            ("redirect_uri", REDIRECT),
            ("code_verifier", VERIFIER),
        ];
        let changed: Vec<_> =
            usual.into_iter().filter(|(own, _)| *own != name).chain([(name, value)]).collect();
        let answer = world.post("/token", &changed).await;
        let error = if name == "resource" { "invalid_target" } else { "invalid_grant" };
        assert_eq!(
            (answer.status, &answer.json()["error"]),
            (StatusCode::BAD_REQUEST, &json!(error)),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_clients_find_the_server_on_the_host_itself() {
    let world = World::new().await;
    let mut visitor = world.visitor();
    for path in ["/.well-known/oauth-authorization-server", "/.well-known/oauth-authorization-server/mcp"] {
        let metadata = visitor.open(&world.url(HOST, path), "").await;
        let metadata = metadata.answer().json();
        assert_eq!(metadata["issuer"], format!("https://auth.localhost:{PORT}"), "{path}");
        assert_eq!(metadata["code_challenge_methods_supported"], json!(["S256"]));
    }
    let missing = visitor.open(&world.url(HOST, "/.well-known/oauth-authorization-server/other"), "").await;
    assert_eq!(missing.answer().status, StatusCode::NOT_FOUND);
    let client = world.register(json!({})).await;
    // Without a resource: the host's own.
    let url = world.authorize_url(&client, &[("resource", "")]).replace(ISSUER, HOST);
    let back = world.authorize(&mut visitor, &url, "alice").await;
    let pairs = [
        ("grant_type", "authorization_code"),
        ("code", &back.param("code").expect("a code")),
        ("client_id", &client.id),
        ("code_verifier", VERIFIER),
    ];
    let answer = visitor.send(Method::POST, &world.url(HOST, "/token"), &[], form_of(pairs)).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let token = answer.json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(claims(&token)["aud"], json!([world.resource(HOST)]));
    // Not on hosts that are no resources, and not where an administrator has switched it off.
    world.daemon.change(HOST, json!({ "resource_oauth_endpoints": false })).await;
    let off = visitor.open(&world.url(HOST, "/.well-known/oauth-authorization-server"), "").await;
    assert_eq!(off.answer().status, StatusCode::UNAUTHORIZED);
}
