//! Clients that are known by the URL of their own description (client ID metadata documents): when it is fetched,
//! what it must say, and what a grant keeps of it.

use std::collections::BTreeSet;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};

use crate::signers::{ASSERTION_TYPE, Signer};
use crate::site::Site;
use crate::standin::field;
use crate::world::{APP, Answer, Authorization, CLIENT, ISSUER, REDIRECT, Setup, World, text};

/// A client, whose description is on a server of its own.
struct Described {
    world: World,
    site: Site,
    id: String,
}

impl Described {
    async fn new() -> Self {
        let site = Site::start().await;
        let world = World::of(Setup { fetches: site.fetches(), ..Setup::default() }).await;
        let described = Self { id: site.url("/client.json"), world, site };
        described.publishes("", json!({}));
        described
    }

    /// The description, but for what is changed; `null` leaves a member out.
    fn document(&self, changed: Value) -> Value {
        let mut document = json!({
            "client_id": self.id,
            "client_name": "Described",
            "redirect_uris": [REDIRECT, "https://client.example.com/second"],
        });
        let (Value::Object(members), Value::Object(changed)) = (&mut document, changed) else {
            panic!("an object")
        };
        members.extend(changed);
        members.retain(|_, value| !value.is_null());
        document
    }

    fn publishes(&self, headers: &str, changed: Value) {
        self.site.publishes(headers, &self.document(changed));
    }

    fn fetched(&self) -> usize {
        self.site.requests().len()
    }

    fn asked(&self, redirect_uri: &str) -> Authorization {
        Authorization::new(&self.id, redirect_uri, &[("scope", "mcp"), ("resource", APP)])
    }

    /// The answer to who comes with a request of the client.
    async fn page(&self, redirect_uri: &str) -> Answer {
        self.world.browser().go(&self.asked(redirect_uri).url).await
    }

    async fn tokens(&self) -> Value {
        let asked = [("scope", "mcp"), ("resource", APP)];
        self.world.tokens_of(&self.world.browser(), &self.id, "", &asked).await
    }

    async fn refresh(&self, token: &str) -> Answer {
        let fields = [("grant_type", "refresh_token"), ("client_id", &self.id), ("refresh_token", token)];
        self.world.post("/token", &fields).await
    }
}

/// Nobody is asked, and nobody is sent anywhere.
fn is_refused(answer: &Answer, what: &str) {
    assert_eq!(
        (answer.status, answer.location()),
        (StatusCode::BAD_REQUEST, ""),
        "{what}: {}",
        answer.text()
    );
    assert!(answer.text().contains("invalid_client"), "{what}: {}", answer.text());
}

#[tokio::test]
async fn a_client_needs_no_more_than_its_description() {
    let described = Described::new().await;
    let page = described.page(REDIRECT).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text());
    for shown in ["Described", "localhost", "client.example.com"] {
        assert!(page.text().contains(shown), "{shown}: {}", page.text());
    }
    let tokens = described.tokens().await;
    assert_eq!(crate::world::claims(text(&tokens, "access_token"))["client_id"], described.id);
    assert_eq!(described.fetched(), 1, "once for all of it");
    let request = described.site.requests().remove(0).to_lowercase();
    assert!(request.starts_with("get /client.json http/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("host: localhost:{}", described.site.port)), "{request}");
    for private in ["cookie", "authorization", "referer", "x-forwarded"] {
        assert!(!request.contains(private), "{request}");
    }
}

#[tokio::test]
async fn a_grant_outlives_the_host_of_the_description() {
    let described = Described::new().await;
    let tokens = described.tokens().await;
    described.site.says("503 Service Unavailable", "", "");
    described.world.advance(Duration::from_secs(3600));
    let fresh = described.refresh(text(&tokens, "refresh_token")).await;
    assert_eq!(fresh.status, StatusCode::OK, "{}", fresh.text());
    assert!(described.fetched() > 1, "it was asked for again");
    is_refused(&described.page(REDIRECT).await, "nobody new signs in meanwhile");

    // A guess at a token is none of the grant: it has no snapshot.
    let unknown = described.refresh("pcr_x").await;
    assert_eq!(
        (unknown.status, unknown.error().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable")
    );

    // What is there and describes no client any more ends what it can do.
    described.publishes("", json!({ "client_id": "https://localhost/other.json" }));
    described.world.advance(Duration::from_secs(3600));
    let gone = described.refresh(text(&fresh.json(), "refresh_token")).await;
    assert_eq!((gone.status, gone.error().as_str()), (StatusCode::UNAUTHORIZED, "invalid_client"));
}

/// A snapshot says which keys were good then. Who has lost one wants it to be good no more.
#[tokio::test]
async fn a_client_that_signs_needs_its_keys_of_now() {
    let described = Described::new().await;
    let (first, second) = (Signer::ec(), Signer::rsa());
    let publish = |signer: &Signer, id: &str| {
        let keys = json!({ "keys": [signer.jwk(id)] });
        described.publishes("", json!({ "token_endpoint_auth_method": "private_key_jwt", "jwks": keys }));
    };
    let assertion = |signer: &Signer, id: &str, jti: &str| {
        let exp = described.world.now().as_second() + 60;
        let claims =
            json!({ "iss": described.id, "sub": described.id, "aud": ISSUER, "jti": jti, "exp": exp });
        signer.sign(id, &claims)
    };
    let post = async |fields: &[(&str, &str)], assertion: &str| {
        let proof = [("client_assertion_type", ASSERTION_TYPE), ("client_assertion", assertion)];
        described.world.post("/token", &[fields, &proof].concat()).await
    };
    publish(&first, "a");
    let asked = described.asked(REDIRECT);
    let code = described.world.browser().code(&asked.url).await;
    let redeem =
        [("grant_type", "authorization_code"), ("code", code.as_str()), ("code_verifier", &asked.verifier)];
    let unproved =
        described.world.post("/token", &[&redeem[..], &[("client_id", &described.id)]].concat()).await;
    assert_eq!((unproved.status, unproved.error().as_str()), (StatusCode::UNAUTHORIZED, "invalid_client"));
    let tokens = post(&redeem, &assertion(&first, "a", "1")).await.json();
    let refresh = [("grant_type", "refresh_token"), ("refresh_token", text(&tokens, "refresh_token"))];

    described.site.says("503 Service Unavailable", "", "");
    described.world.advance(Duration::from_secs(600));
    let away = post(&refresh, &assertion(&first, "a", "2")).await;
    assert_eq!(
        (away.status, away.error().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable")
    );
    publish(&second, "b");
    described.world.advance(Duration::from_secs(60));
    let lost = post(&refresh, &assertion(&first, "a", "3")).await;
    assert_eq!((lost.status, lost.error().as_str()), (StatusCode::UNAUTHORIZED, "invalid_client"));
    let good = post(&refresh, &assertion(&second, "b", "4")).await;
    assert_eq!(good.status, StatusCode::OK, "{}", good.text());
}

/// Who has a refresh token from before must gain nothing by keeping the client's host away.
#[tokio::test]
async fn a_client_that_signs_by_now_is_not_public_again_while_its_host_is_away() {
    let described = Described::new().await;
    let tokens = described.tokens().await;
    let token = text(&tokens, "refresh_token");
    let keys = json!({ "keys": [Signer::ec().jwk("a")] });
    described.publishes("", json!({ "token_endpoint_auth_method": "private_key_jwt", "jwks": keys }));
    described.world.advance(Duration::from_secs(600));
    let unproved = described.refresh(token).await;
    assert_eq!((unproved.status, unproved.error().as_str()), (StatusCode::UNAUTHORIZED, "invalid_client"));
    // The snapshot of the grant still says that it is public, and what says otherwise is fresh no longer.
    described.site.says("503 Service Unavailable", "", "");
    described.world.advance(Duration::from_secs(600));
    let fetched = described.fetched();
    for _ in 0..2 {
        let away = described.refresh(token).await;
        assert_eq!(
            (away.status, away.error().as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable")
        );
    }
    assert_eq!(described.fetched(), fetched + 2, "it was asked for again");
    // Nothing has ended by that: once it says that it is public, it is.
    described.publishes("", json!({}));
    let public = described.refresh(token).await;
    assert_eq!(public.status, StatusCode::OK, "{}", public.text());
    // From then on the snapshot counts, when the host is away.
    described.site.says("503 Service Unavailable", "", "");
    described.world.advance(Duration::from_secs(600));
    let away = described.refresh(text(&public.json(), "refresh_token")).await;
    assert_eq!(away.status, StatusCode::OK, "{}", away.text());
}

/// Anybody can send assertions in a client's name: the host that has its keys must not pay for that.
#[tokio::test]
async fn assertions_in_a_clients_name_do_not_make_us_fetch_its_keys_without_end() {
    let site = Site::start().await;
    let world = World::of(Setup { fetches: site.fetches(), ..Setup::default() }).await;
    let metadata = json!({
        "grant_types": ["client_credentials"],
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks_uri": site.url("/keys.json"),
    });
    world.put_client("signs", metadata).await;
    world.put_host("api.example.com", json!({ "oauth_mcp_users": ["service:client/signs"] })).await;
    let (known, unknown) = (Signer::ec(), Signer::ec());
    site.publishes("", &json!({ "keys": [known.jwk("a")] }));
    world.stop_time();
    let ask = async |signer: &Signer, kid: &str, jti: &str| {
        let exp = world.now().as_second() + 60;
        let claims = json!({ "iss": "signs", "sub": "signs", "aud": ISSUER, "jti": jti, "exp": exp });
        let assertion = signer.sign(kid, &claims);
        let fields = [
            ("grant_type", "client_credentials"),
            ("resource", "https://api.example.com"),
            ("scope", "mcp"),
            ("client_assertion_type", ASSERTION_TYPE),
            ("client_assertion", assertion.as_str()),
        ];
        world.post("/token", &fields).await.status
    };
    for n in 0..10 {
        let refused = ask(&unknown, &format!("key-{n}"), &format!("u{n}")).await;
        assert_eq!(refused, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(site.requests().len(), 1, "an unknown key has them fetched anew after a while only");
    assert_eq!(ask(&known, "a", "1").await, StatusCode::OK);
    world.advance(Duration::from_secs(31));
    for n in 10..20 {
        let refused = ask(&unknown, &format!("key-{n}"), &format!("u{n}")).await;
        assert_eq!(refused, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(site.requests().len(), 2);
    // A failure is remembered for a moment, too, and hides nothing that is fresh.
    world.advance(Duration::from_secs(31));
    site.says("503 Service Unavailable", "", "");
    for n in 20..30 {
        ask(&unknown, &format!("key-{n}"), &format!("u{n}")).await;
    }
    assert_eq!(site.requests().len(), 3);
    assert_eq!(ask(&known, "a", "2").await, StatusCode::OK);
    assert_eq!(site.requests().len(), 3);
}

#[tokio::test]
async fn a_changed_description_counts_from_the_next_authorization() {
    let described = Described::new().await;
    let second = "https://client.example.com/second";
    assert_eq!(described.page(second).await.status, StatusCode::OK);
    let tokens = described.tokens().await;
    described.publishes("", json!({ "redirect_uris": [REDIRECT], "client_name": "Renamed" }));
    described.world.advance(Duration::from_secs(599));
    assert_eq!(described.page(second).await.status, StatusCode::OK, "it is still fresh");
    described.world.advance(Duration::from_secs(1));
    let refused = described.page(second).await;
    assert_eq!((refused.status, refused.location()), (StatusCode::BAD_REQUEST, ""));
    assert!(refused.text().contains("invalid_redirect_uri"), "{}", refused.text());
    assert!(described.page(REDIRECT).await.text().contains("Renamed"));
    let fresh = described.refresh(text(&tokens, "refresh_token")).await;
    assert_eq!(fresh.status, StatusCode::OK, "{}", fresh.text());
}

/// The page was shown, then the redirect URI was taken back: no code goes there.
#[tokio::test]
async fn a_redirect_that_was_taken_back_meanwhile_gets_no_code() {
    let described = Described::new().await;
    described.publishes("cache-control: max-age=60\r\n", json!({}));
    let browser = described.world.browser();
    browser.sign_in().await;
    let page = browser.go(&described.asked("https://client.example.com/second").url).await;
    assert_eq!(page.status, StatusCode::OK);
    described.publishes("", json!({ "redirect_uris": [REDIRECT] }));
    described.world.advance(Duration::from_secs(60));
    let answer = browser.agree(page).await;
    assert_eq!(field(&answer.redirected(), "code"), "", "{answer:?}");
}

/// RFC 9111, within bounds of our own.
#[tokio::test]
async fn it_is_fetched_as_often_as_its_host_says() {
    for (headers, fresh) in [
        ("", 600),
        ("cache-control: max-age=300\r\n", 300),
        ("cache-control: public, max-age=\"300\"\r\n", 300),
        ("cache-control: max-age=300\r\nage: 100\r\n", 200),
        ("cache-control: no-store\r\n", 60),
        ("cache-control: no-cache\r\n", 60),
        ("cache-control: max-age=1\r\n", 60),
        ("cache-control: max-age=31536000\r\n", 24 * 3600),
    ] {
        let described = Described::new().await;
        described.publishes(headers, json!({}));
        described.world.stop_time();
        assert_eq!(described.page(REDIRECT).await.status, StatusCode::OK);
        described.world.advance(Duration::from_secs(fresh - 1));
        assert_eq!(
            (described.page(REDIRECT).await.status, described.fetched()),
            (StatusCode::OK, 1),
            "{headers}"
        );
        described.world.advance(Duration::from_secs(1));
        assert_eq!(
            (described.page(REDIRECT).await.status, described.fetched()),
            (StatusCode::OK, 2),
            "{headers}"
        );
    }
}

#[tokio::test]
async fn what_has_not_changed_is_not_sent_again() {
    let described = Described::new().await;
    described.publishes("etag: \"one\"\r\ncache-control: max-age=100\r\n", json!({}));
    described.world.stop_time();
    assert_eq!(described.page(REDIRECT).await.status, StatusCode::OK);
    described.site.says("304 Not Modified", "cache-control: max-age=200\r\n", "");
    described.world.advance(Duration::from_secs(100));
    assert_eq!(described.page(REDIRECT).await.status, StatusCode::OK);
    let second = described.site.requests()[1].to_lowercase();
    assert!(second.contains("if-none-match: \"one\""), "{second}");
    described.world.advance(Duration::from_secs(199));
    assert_eq!((described.page(REDIRECT).await.status, described.fetched()), (StatusCode::OK, 2));
}

#[tokio::test]
async fn what_is_no_description_of_the_client_is_refused() {
    let described = Described::new().await;
    let long = "x".repeat(64 * 1024);
    let mut nth = 0;
    // Each has an id of its own, so that none is known from before.
    let mut next = || {
        nth += 1;
        described.site.url(&format!("/client/{nth}.json"))
    };
    let page = async |id: &str| {
        let asked = Authorization::new(id, REDIRECT, &[("scope", "mcp"), ("resource", APP)]);
        described.world.browser().go(&asked.url).await
    };
    for changed in [
        json!({ "client_id": described.site.url("/other.json") }),
        json!({ "client_id": null }),
        json!({ "client_name": null }),
        json!({ "client_name": " \u{202e} " }),
        json!({ "redirect_uris": null }),
        json!({ "redirect_uris": [] }),
        json!({ "redirect_uris": ["http://client.example.com/callback"] }),
        json!({ "redirect_uris": REDIRECT }),
        json!({ "client_secret": "secret" }),
        json!({ "client_secret_expires_at": 0 }),
        json!({ "token_endpoint_auth_method": "client_secret_basic" }),
        json!({ "token_endpoint_auth_method": "client_secret_post" }),
        json!({ "token_endpoint_auth_method": "private_key_jwt" }),
        json!({ "grant_types": ["client_credentials"] }),
        json!({ "padding": long }),
    ] {
        let id = next();
        let mut document = described.document(json!({ "client_id": id }));
        let members = document.as_object_mut().expect("an object");
        members.extend(changed.as_object().expect("an object").clone());
        members.retain(|_, value| !value.is_null());
        described.site.publishes("", &document);
        is_refused(&page(&id).await, &changed.to_string()[..changed.to_string().len().min(80)]);
    }
    let good = |id: &str| described.document(json!({ "client_id": id })).to_string();
    let kind = "content-type: application/json\r\n";
    let elsewhere = format!("{kind}location: {}\r\n", described.id);
    for (status, headers, body) in [
        ("301 Moved Permanently", elsewhere.as_str(), None),
        ("302 Found", &elsewhere, None),
        ("307 Temporary Redirect", &elsewhere, None),
        ("404 Not Found", kind, None),
        ("500 Internal Server Error", kind, None),
        ("203 Non-Authoritative Information", kind, None),
        ("200 OK", "content-type: text/html\r\n", None),
        ("200 OK", "content-type: text/plain\r\n", None),
        ("200 OK", "", None),
        ("200 OK", kind, Some("[]")),
        ("200 OK", kind, Some("{")),
        ("200 OK", kind, Some("")),
    ] {
        let id = next();
        let document = good(&id);
        described.site.says(status, headers, body.unwrap_or(&document));
        let before = described.fetched();
        is_refused(&page(&id).await, &format!("{status} {headers} {body:?}"));
        assert_eq!(described.fetched(), before + 1, "{status}: nothing is followed, nothing tried again");
    }
    for kind in ["application/json; charset=utf-8", "application/vnd.client+json", "APPLICATION/JSON"] {
        let id = next();
        described.site.says("200 OK", &format!("content-type: {kind}\r\n"), &good(&id));
        // Those before have used up what the network may have at once.
        described.world.advance(Duration::from_secs(60));
        assert_eq!(page(&id).await.status, StatusCode::OK, "{kind}");
    }
}

#[tokio::test]
async fn a_description_of_64_kib_is_the_longest() {
    let described = Described::new().await;
    let empty = described.document(json!({ "padding": "" })).to_string().len();
    described.publishes("", json!({ "padding": "x".repeat(64 * 1024 - empty) }));
    assert_eq!(described.page(REDIRECT).await.status, StatusCode::OK);
    described.publishes("", json!({ "padding": "x".repeat(64 * 1024 - empty + 1) }));
    described.world.advance(Duration::from_secs(600));
    is_refused(&described.page(REDIRECT).await, "one byte more");
}

#[tokio::test]
async fn nothing_is_fetched_from_where_only_we_can_reach() {
    let site = Site::start().await;
    // The port is allowed; the addresses are not.
    let (exceptions, ca) = site.fetches();
    let none = portcullis_services::oauth::clients::Exceptions { networks: Vec::new(), ..exceptions };
    let world = World::of(Setup { fetches: (none, ca), ..Setup::default() }).await;
    let port = site.port;
    let mut refusals = BTreeSet::new();
    for host in [
        "localhost",
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "[fd00::1]",
        "[fe80::1]",
        "224.0.0.1",
    ] {
        let id = format!("https://{host}:{port}/client.json");
        let asked = Authorization::new(&id, REDIRECT, &[("scope", "mcp"), ("resource", APP)]);
        let answer = world.browser().go(&asked.url).await;
        is_refused(&answer, host);
        refusals.insert(answer.text());
    }
    assert!(site.requests().is_empty());
    assert_eq!(refusals.len(), 1, "nobody learns from a refusal what there is: {refusals:?}");
    for id in [
        "http://localhost/client.json",
        "https://localhost",
        "https://localhost/",
        "https://user@localhost/client.json",
        "https://localhost/a/../client.json",
        "https://localhost/a/%2e%2e/client.json",
        "https://localhost/client.json#x",
        "https://localhost:1/client.json",
        "file:///etc/passwd",
        "gopher://localhost/client.json",
    ] {
        let asked = Authorization::new(id, REDIRECT, &[("scope", "mcp"), ("resource", APP)]);
        is_refused(&world.browser().go(&asked.url).await, id);
    }
}

/// A client that signs has its keys where it says: those are fetched with the same care.
#[tokio::test]
async fn keys_are_fetched_by_the_same_rules() {
    let site = Site::start().await;
    let world = World::of(Setup { fetches: site.fetches_by_name(), ..Setup::default() }).await;
    let signer = Signer::ec();
    let keys = json!({ "keys": [signer.jwk("k")] });
    let now = world.now().as_second();
    for (id, keys_at, good) in [
        ("named", site.url("/keys.json"), true),
        ("addressed", format!("https://127.0.0.1:{}/keys.json", site.port), false),
        ("inside", "https://10.0.0.1/keys.json".to_owned(), false),
    ] {
        let metadata = json!({
            "grant_types": ["client_credentials"],
            "token_endpoint_auth_method": "private_key_jwt",
            "jwks_uri": keys_at,
        });
        world.put_client(id, metadata).await;
        let lists = json!({ "oauth_mcp_users": [format!("service:client/{id}")] });
        world.put_host("api.example.com", lists).await;
        site.publishes("", &keys);
        let before = site.requests().len();
        let claims = json!({ "iss": id, "sub": id, "aud": ISSUER, "jti": id, "exp": now + 60 });
        let assertion = signer.sign("k", &claims);
        let fields = [
            ("grant_type", "client_credentials"),
            ("resource", "https://api.example.com"),
            ("scope", "mcp"),
            ("client_assertion_type", ASSERTION_TYPE),
            ("client_assertion", &assertion),
        ];
        let answer = world.post("/token", &fields).await;
        if good {
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        } else {
            assert_eq!(
                (answer.status, answer.error().as_str()),
                (StatusCode::UNAUTHORIZED, "invalid_client")
            );
        }
        assert_eq!(site.requests().len() - before, usize::from(good), "{id}");
    }
}

/// There is no record of such a client, so nothing to manage.
#[tokio::test]
async fn a_described_client_has_no_registration() {
    let described = Described::new().await;
    described.tokens().await;
    let encoded = crate::world::form(&[("", &described.id)]).trim_start_matches('=').to_owned();
    let url = format!("{ISSUER}/register/{encoded}");
    let headers = crate::world::header("authorization", "Bearer pcm_x");
    let answer = described.world.request(CLIENT, Method::GET, &url, headers, String::new()).await;
    assert_eq!((answer.status, answer.error().as_str()), (StatusCode::UNAUTHORIZED, "invalid_token"));
    let bare = described.world.request(CLIENT, Method::GET, &url, HeaderMap::new(), String::new()).await;
    assert_eq!(bare.status, StatusCode::UNAUTHORIZED);
}
