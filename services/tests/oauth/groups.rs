//! Organisations, teams and e-mail addresses: from GitHub through the lists of a host into the token.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::standin::{Person, User, field, pairs};
use crate::world::{Authorization, HUBOT, MONA, REDIRECT, World, claims, text};

const ORG: &str = "https://org.example.com";
const TEAM: &str = "https://team.example.com";
const PLAIN: &str = "https://plain.example.com";
const MAIL: &str = "https://mail.example.com";

/// Mona is in Acme's team Platform; Hubot is in Acme alone.
async fn world() -> World {
    let world = World::new().await;
    world.put_public_client().await;
    world.github.change_user(MONA, |user| {
        *user = std::mem::take(user).with_org("Acme", &["Platform"]).with_org("Other-Org", &["all"]);
    });
    world.github.change_user(HUBOT, |user| *user = std::mem::take(user).with_org("Acme", &[]));
    let open = |more: Value| {
        let mut all =
            json!({ "auth_required_users": ["*"], "oauth_mcp_users": ["*"], "auth_pass_headers": true });
        all.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        all
    };
    world.put_host("org.example.com", open(json!({ "auth_required_groups": ["ACME"] }))).await;
    world
        .put_host("team.example.com", open(json!({ "auth_required_groups": ["acme/PLATFORM", "none"] })))
        .await;
    world.put_host("plain.example.com", open(json!({}))).await;
    world.put_host("mail.example.com", open(json!({ "auth_required_emails": ["*@corp.example"] }))).await;
    world
}

fn as_person(world: &World, login: &str) {
    world.github.person(Person::SignedIn(login.to_owned()));
}

/// What a new browser's user gets for resources: the claims of a token and the token, or the error.
async fn sign_in(world: &World, resources: &[&str]) -> Result<(Value, String), String> {
    let mut fields = vec![("scope", "mcp")];
    fields.extend(resources.iter().map(|resource| ("resource", *resource)));
    let asked = Authorization::new("web", REDIRECT, &fields);
    let browser = world.browser();
    let back = browser.authorize(&asked.url).await;
    let back = back.redirected();
    if field(&back, "code").is_empty() {
        return Err(field(&back, "error").to_owned());
    }
    let answer = world.redeem(field(&back, "code"), &asked.verifier, &[]).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let token = text(&answer.json(), "access_token").to_owned();
    Ok((claims(&token), token))
}

/// Whether a new browser's user gets a session on a host.
async fn opens(world: &World, host: &str) -> bool {
    let name = host.trim_start_matches("https://");
    let (browser, state) = (world.browser(), "s".repeat(43));
    browser.set_cookie(name, "__Host-portcullis-state", &state);
    let login = format!("https://auth.example.com/login?return_url=https%3A%2F%2F{name}%2F&state={state}");
    let mut answer = browser.send(Method::GET, &login, None).await;
    answer = world.at_github(answer.location()).await;
    answer = browser.send(Method::GET, answer.location(), None).await;
    if answer.status == StatusCode::SEE_OTHER {
        browser.send(Method::GET, answer.location(), None).await;
        return browser.cookie(name, "__Host-unified_auth_token").is_some();
    }
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{}", answer.text());
    false
}

#[tokio::test]
async fn members_of_an_organisation_and_a_team_are_admitted_and_others_are_not() {
    let world = world().await;
    world.github.add_user(User::new(99, "stranger"));
    for (login, org, team) in [("Mona", true, true), ("hubot", true, false), ("stranger", false, false)] {
        as_person(&world, login);
        for (host, admitted) in [(ORG, org), (TEAM, team), (PLAIN, true)] {
            let got = sign_in(&world, &[host]).await;
            if admitted {
                let (said, token) = got.unwrap_or_else(|error| panic!("{login} at {host}: {error}"));
                assert_eq!(said["username"], login);
                assert_eq!(world.verify(&format!("{host}/"), &token).await.status, StatusCode::OK);
            } else {
                assert_eq!(got.expect_err(login), "access_denied", "{login} at {host}");
            }
            assert_eq!(opens(&world, host).await, admitted, "{login} at {host}, with a browser");
        }
    }
}

#[tokio::test]
async fn a_token_tells_of_groups_what_its_hosts_ask_for_in_lower_case() {
    let world = world().await;
    for (resources, groups) in [
        (&[ORG][..], json!(["acme"])),
        (&[TEAM], json!(["acme/platform"])),
        (&[PLAIN], Value::Null),
        (&[PLAIN, TEAM], json!(["acme/platform"])),
        (&[ORG, TEAM], json!(["acme", "acme/platform"])),
    ] {
        let (said, token) = sign_in(&world, resources).await.expect("admitted");
        assert_eq!(said.get("groups").cloned().unwrap_or_default(), groups, "{resources:?}");
        let told = world.verify(&format!("{}/", resources[0]), &token).await;
        let told = told.header("x-auth-groups").to_owned();
        assert!(!told.contains("other-org") && !told.contains("Acme"), "{resources:?}: {told}");
    }
}

/// The claims are those of the login; the lists are those of each request.
#[tokio::test]
async fn a_token_is_judged_by_the_groups_that_a_host_asks_for_now() {
    let world = world().await;
    let (_, token) = sign_in(&world, &[TEAM]).await.expect("admitted");
    let lists = json!({ "auth_required_users": ["*"], "oauth_mcp_users": ["*"], "auth_required_groups": ["acme/ops"] });
    world.put_host("team.example.com", lists).await;
    let answer = world.verify(&format!("{TEAM}/"), &token).await;
    assert_eq!((answer.status, answer.error().as_str()), (StatusCode::FORBIDDEN, "access_denied"));
    assert_eq!(sign_in(&world, &[TEAM]).await.expect_err("refused"), "access_denied");
}

#[tokio::test]
async fn who_has_left_the_organisation_is_not_admitted_by_the_next_login() {
    let world = world().await;
    sign_in(&world, &[ORG]).await.expect("admitted");
    world.github.change_user(MONA, |user| {
        user.orgs.clear();
        user.teams.clear();
    });
    assert_eq!(sign_in(&world, &[ORG]).await.expect_err("refused"), "access_denied");
}

#[tokio::test]
async fn github_is_asked_about_groups_only_where_a_list_has_some() {
    let world = World::new().await;
    world.put_public_client().await;
    let scope = |url: &str| field(&pairs(url.split_once('?').expect("a query").1), "scope").to_owned();
    let asked = |resource| Authorization::new("web", REDIRECT, &[("scope", "mcp"), ("resource", resource)]);
    let url = world.browser().to_github(&asked(crate::world::APP).url).await;
    assert_eq!(scope(&url), "read:user user:email");

    // A login that did not ask for them is none for a host that needs them.
    let browser = world.browser();
    browser.sign_in().await;
    world.github.change_user(MONA, |user| *user = std::mem::take(user).with_org("Acme", &[]));
    let lists = json!({ "auth_required_users": ["Mona"], "auth_required_groups": ["acme"], "oauth_mcp_users": ["Mona"] });
    world.put_host("org.example.com", lists).await;
    let url = browser.to_github(&asked(ORG).url).await;
    assert_eq!(scope(&url), "read:user user:email read:org");
    assert!(!browser.code(&asked(ORG).url).await.is_empty());
}

/// What an organisation tells one app it may not tell another.
#[tokio::test]
async fn groups_count_where_the_hosts_own_app_has_learned_of_them() {
    let world = world().await;
    let lists =
        json!({ "auth_required_users": ["*"], "auth_required_groups": ["acme"], "oauth_mcp_users": ["*"] });
    world.put_app("own.example.com", "Iv1.own", lists).await;
    let asked = |resource| Authorization::new("web", REDIRECT, &[("scope", "mcp"), ("resource", resource)]);
    let browser = world.browser();
    browser.code(&asked(ORG).url).await;
    let url = browser.to_github(&asked("https://own.example.com").url).await;
    assert!(url.contains("client_id=Iv1.own"), "another login is needed: {url}");
    assert_eq!(
        browser.go(&asked(ORG).url).await.location().split('?').next(),
        Some(REDIRECT),
        "not for the first"
    );
}

fn address(text: &str, primary: bool, verified: bool) -> (String, bool, bool) {
    (text.to_owned(), primary, verified)
}

#[tokio::test]
async fn verified_addresses_are_admitted_and_no_others() {
    let world = world().await;
    for (addresses, admitted) in [
        (vec![address("mona@corp.example", true, true)], true),
        (vec![address("Mona@CORP.Example", true, true)], true),
        // Whoever types the address of somebody else into GitHub.
        (vec![address("mona@example.com", true, true), address("boss@corp.example", false, false)], false),
        (vec![address("mona@example.com", true, true)], false),
        (vec![address("mona@corp.example.evil.example", true, true)], false),
        (vec![address("mona@evil-corp.example", true, true)], false),
        (vec![address("mona@corp.example@evil.example", true, true)], false),
        // GitHub gives no token to who has not verified the primary one.
        (vec![address("mona@corp.example", true, false)], false),
        (vec![address("mona@corp.example", true, false), address("mona@corp.example", false, true)], false),
    ] {
        world.github.change_user(MONA, |user| user.emails.clone_from(&addresses));
        match sign_in(&world, &[MAIL]).await {
            Ok((said, token)) => {
                assert!(admitted, "{addresses:?}");
                assert_eq!(said["email"], addresses[0].0.as_str());
                assert_eq!(world.verify(&format!("{MAIL}/"), &token).await.status, StatusCode::OK);
            }
            Err(error) => {
                assert!(!admitted, "{addresses:?}");
                assert_eq!(error, "access_denied");
            }
        }
    }
}

#[tokio::test]
async fn an_address_that_is_not_verified_is_in_no_token() {
    let world = world().await;
    let addresses = vec![address("mona@example.com", true, true), address("boss@corp.example", false, false)];
    world.github.change_user(MONA, |user| user.emails = addresses);
    let tokens = world.tokens(&world.browser(), "mcp openid email", PLAIN).await;
    for name in ["access_token", "id_token"] {
        assert_eq!(claims(text(&tokens, name))["email"], "mona@example.com", "{name}");
    }
    assert_eq!(claims(text(&tokens, "id_token"))["email_verified"], true);
}
