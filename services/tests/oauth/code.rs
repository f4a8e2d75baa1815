//! The authorization code grant, from the client's question to its tokens.

use http::StatusCode;

use crate::standin::field;
use crate::world::{APP, Authorization, ISSUER, MONA, REDIRECT, World, claims};

#[tokio::test]
async fn a_client_asks_the_user_agrees_and_github_says_who_it_is() {
    let world = World::new().await;
    world.put_public_client().await;
    let browser = world.browser();
    let asked = Authorization::new("web", REDIRECT, &[("scope", "openid mcp"), ("resource", APP)]);

    let page = browser.go(&asked.url).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.text().contains("client.example.com"), "the page says where the code goes");
    assert!(world.github.requests().is_empty(), "nobody is asked before the user has agreed");

    let done = browser.submit(&page, &format!("{ISSUER}/consent"), &[("decision", "approve")]).await;
    assert!(done.location().starts_with(REDIRECT), "{done:?}");
    let back = done.redirected();
    assert_eq!((field(&back, "state"), field(&back, "iss")), ("af0ifjsldkj", ISSUER));

    let code = field(&back, "code").to_owned();
    let fields = [
        ("grant_type", "authorization_code"),
        ("client_id", "web"),
        ("code", code.as_str()),
        ("code_verifier", asked.verifier.as_str()),
    ];
    let answer = world.post("/token", &fields).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), "no-store");
    let tokens = answer.json();
    assert_eq!(tokens["token_type"], "Bearer");
    assert_eq!(tokens["scope"], "mcp openid");
    let access = claims(tokens["access_token"].as_str().expect("a token"));
    assert_eq!((&access["iss"], &access["aud"][0]), (&ISSUER.into(), &APP.into()));
    assert_eq!((&access["sub"], &access["username"]), (&MONA.to_string().into(), &"Mona".into()));
    let id = claims(tokens["id_token"].as_str().expect("a token"));
    assert_eq!((&id["aud"], &id["sub"]), (&"web".into(), &MONA.to_string().into()));

    let again = world.post("/token", &fields).await;
    assert_eq!((again.status, again.error().as_str()), (StatusCode::BAD_REQUEST, "invalid_grant"));
    let refresh = tokens["refresh_token"].as_str().expect("a token");
    let fields = [("grant_type", "refresh_token"), ("client_id", "web"), ("refresh_token", refresh)];
    let ended = world.post("/token", &fields).await;
    assert_eq!(ended.error(), "invalid_grant", "a code that comes twice ends what it yielded");
    assert_eq!(world.github.tokens(), [""; 0], "GitHub's token is not kept");
}
