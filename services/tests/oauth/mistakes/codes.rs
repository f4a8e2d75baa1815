//! Authorization codes and their proof.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;

use crate::standin::field;
use crate::world::{APP, Answer, Authorization, CLOSED, ISSUER, REDIRECT, World, form, text};

fn asked() -> Authorization {
    Authorization::new("web", REDIRECT, &[("scope", "mcp"), ("resource", APP)])
}

fn is_refused(answer: &Answer, error: &str) {
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (StatusCode::BAD_REQUEST, error),
        "{}",
        answer.text()
    );
}

async fn world() -> World {
    let world = World::new().await;
    world.put_public_client().await;
    world
}

/// Number 20: codes lived for a year, were read and then deleted, so that two requests could have both, and were
/// anybody's.
#[tokio::test]
async fn codes_live_sixty_seconds_and_work_once() {
    let world = world().await;
    let browser = world.browser();
    world.stop_time();
    let (late, early) = (asked(), asked());
    let code = browser.code(&early.url).await;
    let too_late = browser.code(&late.url).await;
    world.advance(Duration::from_secs(59));
    // Two at once: one takes it, and who comes second ends what the first has got.
    let (one, other) =
        tokio::join!(world.redeem(&code, &early.verifier, &[]), world.redeem(&code, &early.verifier, &[]));
    let (good, bad) = if one.status == StatusCode::OK { (one, other) } else { (other, one) };
    assert_eq!(good.status, StatusCode::OK, "{}", good.text());
    is_refused(&bad, "invalid_grant");
    is_refused(&world.refresh(text(&good.json(), "refresh_token"), &[]).await, "invalid_grant");
    world.advance(Duration::from_secs(1));
    is_refused(&world.redeem(&too_late, &late.verifier, &[]).await, "invalid_grant");
}

/// Number 20.
#[tokio::test]
async fn codes_belong_to_a_client_a_redirect_a_resource_and_a_proof() {
    let world = world().await;
    let metadata = json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" });
    world.put_client("other", metadata).await;
    let browser = world.browser();
    let wrong_verifier = "x".repeat(43);
    for (client, verifier, more) in [
        ("other", None, None),
        ("web", Some(wrong_verifier.as_str()), None),
        ("web", None, Some(("redirect_uri", "https://client.example.com/other"))),
        ("web", None, Some(("redirect_uri", "https://client.example.com/callback/"))),
    ] {
        let asked = asked();
        let code = browser.code(&asked.url).await;
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("client_id", client),
            ("code", &code),
            ("code_verifier", verifier.unwrap_or(&asked.verifier)),
        ];
        fields.extend(more);
        is_refused(&world.post("/token", &fields).await, "invalid_grant");
        let right = world.redeem(&code, &asked.verifier, &[]).await;
        is_refused(&right, "invalid_grant");
    }
    let asked = asked();
    let code = browser.code(&asked.url).await;
    is_refused(&world.redeem(&code, &asked.verifier, &[("resource", CLOSED)]).await, "invalid_target");
    let right = world.redeem(&code, &asked.verifier, &[("redirect_uri", REDIRECT), ("resource", APP)]).await;
    assert_eq!(right.status, StatusCode::OK, "{}", right.text());
}

/// Number 21: PKCE was for who wanted it.
#[tokio::test]
async fn every_client_needs_pkce_with_s256() {
    let world = world().await;
    world.put_client("conf", json!({ "redirect_uris": [REDIRECT] })).await;
    let metadata = json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" });
    world.put_party("own", metadata, true).await;
    let browser = world.browser();
    browser.sign_in().await;
    let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    let long = "x".repeat(129);
    for client in ["web", "conf", "own"] {
        for pkce in [
            &[][..],
            &[("code_challenge_method", "S256")],
            &[("code_challenge", challenge)],
            &[("code_challenge", challenge), ("code_challenge_method", "plain")],
            &[("code_challenge", challenge), ("code_challenge_method", "s256")],
            &[("code_challenge", "short"), ("code_challenge_method", "S256")],
            &[("code_challenge", &long), ("code_challenge_method", "S256")],
            &[("code_challenge", ""), ("code_challenge_method", "S256")],
        ] {
            let mut fields = vec![
                ("response_type", "code"),
                ("client_id", client),
                ("redirect_uri", REDIRECT),
                ("resource", APP),
                ("scope", "mcp"),
            ];
            fields.extend(pkce);
            let answer = browser.go(&format!("{ISSUER}/authorize?{}", form(&fields))).await;
            assert_eq!(answer.redirected_error(), "invalid_request", "{client} {pkce:?}");
            assert_eq!(field(&answer.redirected(), "code"), "");
        }
    }
    for verifier in ["", "short", &long, "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"] {
        let asked = asked();
        let code = browser.code(&asked.url).await;
        let answer = world.redeem(&code, verifier, &[]).await;
        let error = if verifier.is_empty() { "invalid_request" } else { "invalid_grant" };
        is_refused(&answer, error);
    }
}
