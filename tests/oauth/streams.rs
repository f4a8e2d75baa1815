//! What stays open after its request: ended on every node when it no longer qualifies, and nothing else with it.
//!
//! Each change is made on one node; streams of all kinds are open on both. A neighbour is as near to the victims as
//! can be, and has to deliver something after they have all ended. How long it took is printed, not judged: the
//! machine may be busy.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::nodes::{get_as, nodes, nodes_with, post};
use super::world::{HOST, PORT, REDIRECT, Tokens, World, claims, key_id};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::issuer::at;
use crate::support::redis::RedisServer;
use crate::support::streams::{Header, Open, WAYS, Way};
use crate::support::visitor::Visitor;

const COOKIE: &str = "__Host-unified_auth_token";

/// A second protected host.
const WIKI: &str = "wiki.localhost";

/// The streams of a deployment of two nodes.
struct Site {
    world: World,
    second: Daemon,
    _redis: RedisServer,
}

impl Site {
    async fn new() -> Self {
        let redis = RedisServer::start();
        let (world, second) = nodes(&redis).await;
        Self { world, second, _redis: redis }.ready().await
    }

    /// Both users are on the list of both hosts, which take tokens and sessions of browsers.
    async fn ready(self) -> Self {
        let fields = json!({ "auth_required_users": ["alice", "bob"], "auth_mode": "redirect" });
        self.world.daemon.change(HOST, fields.clone()).await;
        self.world.protect(WIKI, fields).await;
        eventually("the hosts are on the second node", async || {
            let seen = get_as(&self.second, "/", "none").await.status == StatusCode::UNAUTHORIZED;
            let known = self.second.ask(Method::GET, "/health", &Value::Null).await.json()["hosts"] == 4;
            (seen && known).then_some(())
        })
        .await;
        self
    }

    /// Opens streams of all kinds on both nodes.
    async fn open(&self, host: &str, below: &str, headers: &[Header]) -> Vec<Open> {
        let mut all = Vec::new();
        for node in [&self.second, &self.world.daemon] {
            for way in WAYS {
                all.push(Open::begin(way, node.https, &format!("{host}:{PORT}"), below, headers).await);
            }
        }
        all
    }

    async fn open_as(&self, tokens: &Tokens) -> Vec<Open> {
        self.open(HOST, "", &bearer(tokens)).await
    }

    /// A browser that has signed in on a host.
    async fn browser(&self, login: &str) -> Visitor {
        let mut visitor = self.world.visitor();
        let page = visitor.open(&self.world.url(HOST, "/"), "").await;
        self.world.sign_in(&mut visitor, page, login).await;
        assert!(visitor.cookie(HOST, COOKIE).is_some());
        visitor
    }

    /// The ids of the issuer's sessions.
    async fn sessions(&self) -> BTreeSet<String> {
        let page = self.world.daemon.api(Method::GET, "/oauth/sessions?per_page=100", Value::Null).await;
        let sessions = page["sessions"].as_array().unwrap().iter();
        sessions.map(|session| session["session_id"].as_str().unwrap().to_owned()).collect()
    }
}

fn bearer(tokens: &Tokens) -> Vec<Header> {
    vec![("authorization", format!("Bearer {}", tokens.access))]
}

/// What the pages of a host send along.
fn cookie(visitor: &Visitor, host: &str) -> Vec<Header> {
    let value = visitor.cookie(host, COOKIE).expect("a session");
    vec![("cookie", format!("{COOKIE}={value}")), ("origin", format!("https://{host}:{PORT}"))]
}

/// Makes a change that ends the victims, on all nodes, and none of their neighbours. How long each victim lived on.
async fn ends(
    what: &str,
    victims: Vec<Open>,
    neighbours: &mut [Open],
    change: impl AsyncFnOnce(),
) -> Vec<Duration> {
    assert!(!victims.is_empty() && !neighbours.is_empty());
    let ends: Vec<_> = victims.into_iter().map(|victim| tokio::spawn(victim.ended())).collect();
    let began = Instant::now();
    change().await;
    let mut took = Vec::new();
    for end in ends {
        took.push(end.await.expect("no panic").saturating_duration_since(began));
    }
    for neighbour in neighbours {
        neighbour.delivers().await;
    }
    report(what, &mut took);
    took
}

fn report(what: &str, took: &mut [Duration]) {
    took.sort();
    let (median, last) = (took[took.len() / 2], took[took.len() - 1]);
    eprintln!("measured: {what}: {} streams, median {median:?}, longest {last:?}", took.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_ends_the_streams_of_what_it_is_about_on_all_nodes() {
    let site = Site::new().await;
    let world = &site.world;
    let (client, other) = (world.register(json!({})).await, world.register(json!({})).await);
    let mut neighbours = site.open_as(&world.tokens_of(&other, "alice", &[]).await).await;

    // One access token: its successor lives.
    let first = world.tokens_of(&client, "alice", &[]).await;
    let next = Tokens::of(&world.refresh(&client, &first.refresh).await);
    neighbours.extend(site.open_as(&next).await);
    ends("an access token, by its client", site.open_as(&first).await, &mut neighbours, async || {
        let pairs = [("token", first.access.as_str()), ("client_id", &client.id)];
        assert_eq!(world.post("/revoke", &pairs).await.status, StatusCode::OK);
    })
    .await;

    let second = world.tokens_of(&client, "alice", &[]).await;
    ends("an access token, by an admin", site.open_as(&second).await, &mut neighbours, async || {
        let jti = claims(&second.access)["jti"].as_str().unwrap().to_owned();
        world.daemon.api(Method::DELETE, &format!("/oauth/tokens/{jti}"), Value::Null).await;
    })
    .await;

    let third = world.tokens_of(&client, "alice", &[]).await;
    ends("a grant, by its refresh token", site.open_as(&third).await, &mut neighbours, async || {
        let pairs = [("token", third.refresh.as_str()), ("client_id", &client.id)];
        // The other node is asked this time.
        assert_eq!(post(&site.second, world, "/revoke", &pairs).await.status, StatusCode::OK);
    })
    .await;

    let before = site.sessions().await;
    let fourth = world.tokens_of(&client, "alice", &[]).await;
    let session = site.sessions().await.difference(&before).next().expect("a session").clone();
    ends("a session, by an admin", site.open_as(&fourth).await, &mut neighbours, async || {
        world.daemon.api(Method::DELETE, &format!("/oauth/sessions/{session}"), Value::Null).await;
    })
    .await;

    // Somebody else, and then a whole client: what is left of it goes along, others stay.
    let of_bob = world.tokens_of(&client, "bob", &[]).await;
    ends("all that a user has", site.open_as(&of_bob).await, &mut neighbours, async || {
        world.daemon.api(Method::DELETE, "/oauth/users/2/sessions", Value::Null).await;
    })
    .await;
    let of_client = neighbours.split_off(neighbours.len() / 2);
    ends("a client", of_client, &mut neighbours, async || {
        world.daemon.api(Method::DELETE, &format!("/oauth/clients/{}", client.id), Value::Null).await;
    })
    .await;
    for node in [&world.daemon, &site.second] {
        assert_eq!(get_as(node, "/", &next.access).await.status, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_long_a_revocation_takes_to_another_node() {
    const ROUNDS: usize = 9;
    let site = Site::new().await;
    let world = &site.world;
    let client = world.register(json!({})).await;
    let mut tokens = world.tokens_of(&client, "alice", &[]).await;
    let host = format!("{HOST}:{PORT}");
    let open = async |tokens: &Tokens| {
        Open::begin(Way::Events1, site.second.https, &host, "", &bearer(tokens)).await
    };
    let mut took = Vec::new();
    let mut victim = open(&tokens).await;
    for round in 0..ROUNDS {
        let next = Tokens::of(&world.refresh(&client, &tokens.refresh).await);
        let mut neighbours = [open(&next).await];
        let what = format!("round {round}");
        let ended = ends(&what, vec![victim], &mut neighbours, async || {
            let pairs = [("token", tokens.access.as_str()), ("client_id", &client.id)];
            assert_eq!(world.post("/revoke", &pairs).await.status, StatusCode::OK);
        });
        took.extend(ended.await);
        let [neighbour] = neighbours;
        (victim, tokens) = (neighbour, next);
    }
    report("an access token, at the other node", &mut took);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_a_host_ends_what_no_longer_qualifies_there() {
    let site = Site::new().await;
    let world = &site.world;
    let client = world.register(json!({})).await;
    let rules = json!({
        "oauth_mcp_users": ["alice", "bob"],
        "auth_scope_rules": [{ "path": "/ruled", "scopes": ["mcp"] }],
        "auth_excluded_paths": ["/open"],
    });
    world.daemon.change(HOST, rules).await;
    let scope = [("scope", "mcp mcp:read")];
    let alice = world.tokens_of(&client, "alice", &scope).await;
    let bob = world.tokens_of(&client, "bob", &scope).await;
    let wiki = world.resource(WIKI);
    let at_wiki = world.tokens_of(&client, "alice", &[("resource", &wiki)]).await;
    assert_eq!(claims(&alice.access)["scope"], "mcp mcp:read");
    eventually("the rules are on the second node", async || {
        (get_as(&site.second, "/open/x", "none").await.status == StatusCode::OK).then_some(())
    })
    .await;

    // A scope that only some paths need.
    let mut others = site.open(HOST, "/ruled", &bearer(&bob)).await;
    others.extend(site.open_as(&alice).await);
    others.extend(site.open(WIKI, "/ruled", &bearer(&at_wiki)).await);
    let ruled = site.open(HOST, "/ruled", &bearer(&alice)).await;
    ends("a scope, by the list of who has it", ruled, &mut others, async || {
        world.daemon.change(HOST, json!({ "oauth_mcp_users": ["bob"] })).await;
    })
    .await;

    // A scope that the rules ask for from now on, of all who ask for this path.
    let mut others = site.open(HOST, "/ruled", &bearer(&bob)).await;
    others.extend(site.open(HOST, "/open", &[]).await);
    let writers = site.open_as(&alice).await;
    ends("a rule that asks for more", writers, &mut others, async || {
        let rules = json!([
            { "path": "/ruled", "scopes": ["mcp"] },
            { "path": "/ticks", "scopes": ["mcp:write"] },
            { "path": "/ws", "scopes": ["mcp:write"] },
        ]);
        world.daemon.change(HOST, json!({ "auth_scope_rules": rules })).await;
    })
    .await;

    // An open path that is closed to the public, while another one stays open.
    world
        .daemon
        .change(HOST, json!({ "auth_scope_rules": [], "auth_excluded_paths": ["/open", "/free"] }))
        .await;
    eventually("the paths are open on the second node", async || {
        (get_as(&site.second, "/free/x", "none").await.status == StatusCode::OK).then_some(())
    })
    .await;
    let strangers = others.split_off(8);
    others.extend(site.open(HOST, "/free", &[]).await);
    ends("an open path", strangers, &mut others, async || {
        world.daemon.change(HOST, json!({ "auth_excluded_paths": ["/free"] })).await;
    })
    .await;

    // The list.
    let mut others = site.open_as(&bob).await;
    others.extend(site.open(WIKI, "", &bearer(&at_wiki)).await);
    ends("a name on the list", site.open_as(&alice).await, &mut others, async || {
        world.daemon.change(HOST, json!({ "auth_required_users": ["bob"] })).await;
    })
    .await;

    // Another resource than the one that tokens were made for.
    let mut others = site.open(WIKI, "", &bearer(&at_wiki)).await;
    ends("the resource's path", site.open_as(&bob).await, &mut others, async || {
        world.daemon.change(HOST, json!({ "resource_endpoint": "/v2" })).await;
    })
    .await;

    // The host.
    let of_public = site.open(HOST, "/free", &[]).await;
    ends("the whole host", of_public, &mut others, async || {
        world.daemon.change(HOST, json!({ "enabled": false })).await;
    })
    .await;
    let at_wiki = std::mem::take(&mut others);
    world.daemon.change(HOST, json!({ "enabled": true, "resource_endpoint": "/mcp" })).await;
    let bob = world.tokens_of(&client, "bob", &[]).await;
    eventually("the host is back on the second node", async || {
        (get_as(&site.second, "/", &bob.access).await.status == StatusCode::OK).then_some(())
    })
    .await;
    let mut others = site.open_as(&bob).await;
    ends("a host that is deleted", at_wiki, &mut others, async || {
        world.daemon.api(Method::DELETE, &format!("/proxy/targets/{WIKI}"), Value::Null).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logout_ends_the_streams_of_its_browser() {
    let site = Site::new().await;
    let world = &site.world;
    let client = world.register(json!({})).await;
    let mut leaving = site.browser("alice").await;
    let staying = site.browser("alice").await;
    leaving.open(&world.url(WIKI, "/"), "").await;
    let here = site.open(HOST, "", &cookie(&leaving, HOST)).await;
    let mut others = site.open(HOST, "", &cookie(&staying, HOST)).await;
    others.extend(site.open(WIKI, "", &cookie(&leaving, WIKI)).await);
    ends("a logout on the host", here, &mut others, async || {
        let logout = world.url(HOST, "/.portcullis/logout");
        let out = leaving.send(Method::POST, &logout, &[], String::new()).await;
        assert_eq!(out.status, StatusCode::NO_CONTENT);
    })
    .await;

    // At the issuer: all hosts, but not what a client was granted in the same session.
    let back = leaving.open(&world.authorize_url(&client, &[]), "").await;
    let back = leaving.submit(&back, ("decision", "approve"), REDIRECT).await;
    let granted = Tokens::of(&world.redeem(&client, &back.param("code").expect("a code")).await);
    let at_wiki = others.split_off(8);
    others.extend(site.open_as(&granted).await);
    ends("a logout at the issuer", at_wiki, &mut others, async || {
        let page = leaving.open(&world.at_issuer("/logout"), "").await;
        let out = leaving.submit(&page, ("", ""), "").await;
        assert_eq!(out.answer().status, StatusCode::OK, "{}", out.text());
    })
    .await;

    // A host that no longer knows browsers keeps its programs.
    let of_browser = others.drain(..8).collect();
    ends("the sessions of a host", of_browser, &mut others, async || {
        world.daemon.change(HOST, json!({ "auth_mode": "forward" })).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_forgotten_ends_what_its_tokens_have_opened() {
    let site = Site::new().await;
    let world = &site.world;
    let client = world.register(json!({})).await;
    let old = world.tokens_of(&client, "alice", &[]).await;
    let browser = site.browser("alice").await;
    let mut victims = site.open_as(&old).await;
    victims.extend(site.open(HOST, "", &cookie(&browser, HOST)).await);
    let first = key_id(&old.access);
    world.daemon.api(Method::POST, "/oauth/keys/rotate", json!({ "signs_in": 0 })).await;
    let mut new = old.clone();
    // The lead is nothing: each node signs with it as soon as it knows of it.
    let mut left = 50;
    while key_id(&new.access) == first {
        left -= 1;
        assert!(left > 0, "the other key never signed");
        new = Tokens::of(&world.refresh(&client, &new.refresh).await);
    }
    eventually("its tokens are known on the second node", async || {
        (get_as(&site.second, "/", &new.access).await.status == StatusCode::OK).then_some(())
    })
    .await;
    let mut others = site.open_as(&new).await;
    ends("a signing key", victims, &mut others, async || {
        world.daemon.api(Method::POST, "/oauth/keys/retire", json!({ "confirm": true })).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_its_token_and_another_token_opens_another() {
    const LIFE: &str = "6";
    let redis = RedisServer::start();
    let (world, second) = nodes_with(&redis, |command| {
        command.env("OAUTH_ACCESS_TOKEN_LIFETIME", LIFE).env("PORTCULLIS_OAUTH_HOST_SESSION_LIFETIME", LIFE);
    })
    .await;
    let site = Site { world, second, _redis: redis }.ready().await;
    let world = &site.world;
    world.daemon.change(HOST, json!({ "auth_required_users": ["alice", "service:ci"] })).await;
    // Named tokens live for a year.
    let named = Tokens { access: world.daemon.token("ci", HOST).await, refresh: String::new() };
    eventually("the named token is known on the second node", async || {
        (get_as(&site.second, "/", &named.access).await.status == StatusCode::OK).then_some(())
    })
    .await;
    let mut others = site.open_as(&named).await;
    let client = world.register(json!({})).await;
    let browser = site.browser("alice").await;
    let of_browser = cookie(&browser, HOST);
    let tokens = world.tokens_of(&client, "alice", &[]).await;
    let host = format!("{HOST}:{PORT}");
    let mut victims = Vec::new();
    // Few of each, so that all are open before the first one ends.
    for (node, way) in
        [(&site.second, Way::Events1), (&site.second, Way::Socket2), (&world.daemon, Way::Events2)]
    {
        for (token, headers) in
            [(browser.cookie(HOST, COOKIE).unwrap(), &of_browser), (&tokens.access, &bearer(&tokens))]
        {
            let expiry = claims(token)["exp"].as_i64().unwrap();
            let victim = Open::begin(way, node.https, &host, "", headers).await;
            victims.push((
                expiry,
                tokio::spawn(async {
                    victim.ended().await;
                    at(0)
                }),
            ));
        }
    }
    for (expiry, ended) in victims {
        let ended = ended.await.expect("no panic");
        assert!(ended >= expiry, "a stream ended {} s before its token", expiry - ended);
        eprintln!("measured: a stream ended within {} s of its token", ended + 1 - expiry);
    }
    for other in &mut others {
        other.delivers().await;
    }
    let next = Tokens::of(&world.refresh(&client, &tokens.refresh).await);
    let mut again = Open::begin(Way::Events1, site.second.https, &host, "", &bearer(&next)).await;
    again.delivers().await;
}
