//! Tokens of another issuer, with every part wrong once.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::response::Json;
use axum::routing::get as get_route;
use http::StatusCode;
use serde_json::{Value, json};

use super::support::client::{self, get, get_as};
use super::support::issuer::{Key, at, encode, jwks, message, with};
use super::{CHALLENGE, HOST, IDP, RESOURCE, Site, claims};

const EXPIRED: &str = "The access token expired";
const NOT_YET: &str = "The access token is not valid yet";
const OTHER_RESOURCE: &str = "The access token was issued for another resource";
const OTHER_ISSUER: &str = "The access token is from an issuer that is not trusted here";
const MALFORMED: &str = "The access token is malformed";
const INVALID: &str = "The access token is invalid";

#[tokio::test]
async fn a_token_with_anything_wrong_is_refused_and_the_challenge_says_why() {
    let site = Site::start(json!({})).await;
    let key = &site.rsa;
    let stranger = Key::rsa("rsa");
    let claim = |name: &str, value: Value| key.sign(&with(claims(), name, value));
    let header = |name: &str, value: Value| {
        key.sign_text(&with(key.header(), name, value).to_string(), &claims().to_string())
    };
    let good = key.sign(&claims());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (head, payload) = signed.split_once('.').unwrap();
    let unsigned =
        |alg: &str| format!("{}.", message(&json!({ "alg": alg }).to_string(), &claims().to_string()));
    let hmac = {
        let text = message(&json!({ "alg": "HS256", "kid": "rsa" }).to_string(), &claims().to_string());
        let secret = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key.public_pem().as_bytes());
        format!("{text}.{}", encode(aws_lc_rs::hmac::sign(&secret, text.as_bytes()).as_ref()))
    };
    let own_key = json!({ "alg": "RS256", "jwk": stranger.jwk() });
    let root = with(claims(), "sub", "root").to_string();
    let twice = claims().to_string().replacen('{', r#"{"aud":"https://other.test","#, 1);
    let long = claim("padding", json!("x".repeat(9000)));
    for (what, token, description) in [
        ("iss of a stranger", claim("iss", json!("https://evil.test")), OTHER_ISSUER),
        ("iss with a slash more", claim("iss", json!("https://idp.test/")), OTHER_ISSUER),
        ("iss in another case", claim("iss", json!("https://IDP.test")), OTHER_ISSUER),
        ("iss of ours, key of theirs", claim("iss", json!("https://auth.localhost")), INVALID),
        ("no iss", claim("iss", Value::Null), INVALID),
        ("no sub", claim("sub", Value::Null), INVALID),
        ("aud of another host", claim("aud", json!("https://other.test")), OTHER_RESOURCE),
        ("aud that begins like ours", claim("aud", json!("https://app.test.evil.test")), OTHER_RESOURCE),
        ("aud below ours", claim("aud", json!("https://app.test/api")), OTHER_RESOURCE),
        ("aud without TLS", claim("aud", json!("http://app.test")), OTHER_RESOURCE),
        ("aud list without us", claim("aud", json!(["a", "https://other.test"])), OTHER_RESOURCE),
        ("no aud", claim("aud", Value::Null), OTHER_RESOURCE),
        ("aud is a number", claim("aud", json!(7)), MALFORMED),
        ("aud twice", key.sign_text(&key.header().to_string(), &twice), MALFORMED),
        ("exp long ago", claim("exp", json!(at(-120))), EXPIRED),
        ("exp is a text", claim("exp", json!(at(600).to_string())), MALFORMED),
        ("exp is negative", claim("exp", json!(-1)), MALFORMED),
        ("no exp", claim("exp", Value::Null), INVALID),
        ("nbf later", claim("nbf", json!(at(120))), NOT_YET),
        ("iat later", claim("iat", json!(at(120))), NOT_YET),
        ("alg none", unsigned("none"), INVALID),
        ("alg None", unsigned("None"), INVALID),
        ("alg none, good signature", header("alg", json!("none")), INVALID),
        ("alg HS256 with the public key", hmac, INVALID),
        ("alg PS256", header("alg", json!("PS256")), INVALID),
        ("alg RS512", header("alg", json!("RS512")), INVALID),
        ("alg of another kind of key", header("alg", json!("ES256")), INVALID),
        ("no alg", header("alg", Value::Null), MALFORMED),
        ("unknown kid", header("kid", json!("other")), INVALID),
        ("kid is a path", header("kid", json!("../../etc/passwd")), INVALID),
        ("crit", header("crit", json!(["exp"])), INVALID),
        ("b64", header("b64", json!(false)), INVALID),
        ("typ of an ID token", header("typ", json!("id+jwt")), INVALID),
        ("typ of a proof", header("typ", json!("dpop+jwt")), INVALID),
        ("key of a stranger", stranger.sign(&claims()), INVALID),
        ("key in the token", stranger.sign_text(&own_key.to_string(), &claims().to_string()), INVALID),
        (
            "other claims below the signature",
            format!("{head}.{}.{signature}", encode(root.as_bytes())),
            INVALID,
        ),
        ("truncated signature", good[..good.len() - 6].to_owned(), INVALID),
        ("no signature", format!("{signed}."), INVALID),
        ("two parts", signed.to_owned(), MALFORMED),
        ("five parts", format!("{good}.x.y"), MALFORMED),
        ("header alone", format!("{head}.."), MALFORMED),
        ("padding", format!("{head}.{payload}=.{signature}"), MALFORMED),
        ("no JSON", key.sign_text("{}", "[]"), MALFORMED),
        ("a blank within", format!("{head} .{payload}.{signature}"), MALFORMED),
        ("nothing", String::new(), MALFORMED),
        ("too long", long, MALFORMED),
    ] {
        let answer = site.get_as("/", &token).await;
        let expected = format!(r#"{CHALLENGE}, error="invalid_token", error_description="{description}""#);
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{what}");
        assert_eq!(answer.header("www-authenticate"), expected, "{what}");
        assert_eq!(answer.json()["code"], "invalid_token", "{what}");
        assert_eq!(answer.header("x-upstream"), "", "{what}");
    }
}

#[tokio::test]
async fn every_algorithm_and_every_form_of_a_good_token_passes() {
    let site = Site::without_hosts(|_| ()).await;
    let (ec, ed) = (Key::ec("ec"), Key::ed("ed"));
    let algorithms = json!(["RS256", "ES256", "EdDSA"]);
    let issuer = json!({ "issuer": IDP, "algorithms": algorithms, "jwks": jwks([&site.rsa, &ec, &ed]) });
    let only_rsa = json!({ "issuer": IDP, "jwks": jwks([&site.rsa, &ec, &ed]) });
    site.host_of(HOST, &[issuer], &json!({}));
    site.host_of("rsa.test", &[only_rsa], &json!({ "auth_allowed_audiences": [RESOURCE] }));
    let claim = |name: &str, value: Value| site.token(&with(claims(), name, value));
    let typ = |value: Value| {
        let header = with(site.rsa.header(), "typ", value);
        site.rsa.sign_text(&header.to_string(), &claims().to_string())
    };
    for (what, token) in [
        ("RS256", site.token(&claims())),
        ("ES256", ec.sign(&claims())),
        ("EdDSA", ed.sign(&claims())),
        ("one of several audiences", claim("aud", json!(["https://other.test", RESOURCE]))),
        ("an audience in capitals, with a slash", claim("aud", json!("HTTPS://App.TEST/"))),
        ("expired within the leeway", claim("exp", json!(at(-20)))),
        ("not yet valid within the leeway", claim("nbf", json!(at(20)))),
        ("typ JWT", typ(json!("JWT"))),
        ("typ with its tree", typ(json!("application/at+jwt"))),
        ("no typ", typ(Value::Null)),
    ] {
        let answer = site.get_as("/", &token).await;
        assert_eq!(answer.status, StatusCode::OK, "{what}: {:?}", answer.headers);
        assert_eq!(answer.header("x-upstream"), "app", "{what}");
    }
    for (token, status) in
        [(site.token(&claims()), 200), (ec.sign(&claims()), 401), (ed.sign(&claims()), 401)]
    {
        // Only RS256 unless the host says so.
        let answer = client::plain(site.daemon.http, get_as("rsa.test", "/", &token)).await;
        assert_eq!(answer.status, status);
    }
}

#[tokio::test]
async fn a_token_is_taken_from_one_authorization_header_and_from_nowhere_else() {
    let site = Site::start(json!({})).await;
    let token = site.token(&claims());
    for (what, path, header, value) in [
        ("nothing", "/".to_owned(), "x-nothing", String::new()),
        ("query", format!("/?access_token={token}"), "x-nothing", String::new()),
        ("cookie", "/".to_owned(), "cookie", format!("unified_auth_token={token}; access_token={token}")),
        ("another header", "/".to_owned(), "x-access-token", token.clone()),
        ("proxy", "/".to_owned(), "proxy-authorization", format!("Bearer {token}")),
        ("another scheme", "/".to_owned(), "authorization", format!("Token {token}")),
        ("basic", "/".to_owned(), "authorization", "Basic YWxpY2U6c2VjcmV0".to_owned()),
    ] {
        let mut request = get(HOST, &path);
        request.headers_mut().insert(header, value.parse().unwrap());
        let answer = client::plain(site.daemon.http, request).await;
        assert_eq!(
            (answer.status, answer.header("www-authenticate")),
            (StatusCode::UNAUTHORIZED, CHALLENGE),
            "{what}"
        );
        assert_eq!(answer.json()["code"], "token_required", "{what}");
    }
    let body = http_body_util::Full::new(bytes::Bytes::from(format!("access_token={token}")));
    let mut form = http::Request::post("/").header("host", HOST).body(body).unwrap();
    form.headers_mut().insert("content-type", "application/x-www-form-urlencoded".parse().unwrap());
    assert_eq!(client::plain(site.daemon.http, form).await.header("www-authenticate"), CHALLENGE);

    for scheme in ["bearer", "BEARER"] {
        let mut request = get(HOST, "/");
        request.headers_mut().insert("authorization", format!("{scheme} {token}").parse().unwrap());
        assert_eq!(client::plain(site.daemon.http, request).await.status, StatusCode::OK, "{scheme}");
    }

    for other in [format!("Bearer {token}"), "Basic eDp5".to_owned()] {
        let mut request = get_as(HOST, "/", &token);
        request.headers_mut().append("authorization", other.parse().unwrap());
        let answer = client::plain(site.daemon.http, request).await;
        let text = "The request has more than one Authorization header";
        let expected = format!(r#"{CHALLENGE}, error="invalid_request", error_description="{text}""#);
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert_eq!(answer.header("www-authenticate"), expected);
    }
}

#[tokio::test]
async fn the_audience_of_one_issuer_is_none_of_another() {
    let site = Site::without_hosts(|_| ()).await;
    let other = Key::rsa("other");
    let first = json!({ "issuer": IDP, "jwks": jwks([&site.rsa]), "audience": "api://first" });
    let second = json!({ "issuer": "https://second.test", "jwks": jwks([&other]) });
    site.host_of(HOST, &[first, second], &json!({}));
    let of = |key: &Key, iss: &str, aud: &str| key.sign(&with(with(claims(), "iss", iss), "aud", aud));
    for (token, status) in [
        (of(&site.rsa, IDP, "api://first"), 200),
        (of(&site.rsa, IDP, RESOURCE), 401),
        (of(&other, "https://second.test", RESOURCE), 200),
        (of(&other, "https://second.test", "api://first"), 401),
    ] {
        assert_eq!(site.get_as("/", &token).await.status, status);
    }
}

#[tokio::test]
async fn hosts_trust_issuers_each_for_themselves() {
    let site = Site::start(json!({})).await;
    let impostor = Key::rsa("rsa");
    let issuer = json!({ "issuer": IDP, "jwks": jwks([&impostor]) });
    site.host_of("other.test", &[issuer], &json!({}));
    let for_other = with(claims(), "aud", json!([RESOURCE, "https://other.test"]));
    for (host, key, status) in [
        (HOST, &site.rsa, 200),
        (HOST, &impostor, 401),
        ("other.test", &impostor, 200),
        ("other.test", &site.rsa, 401),
    ] {
        let answer = client::plain(site.daemon.http, get_as(host, "/", &key.sign(&for_other))).await;
        assert_eq!(answer.status, status, "{host}");
    }
}

#[tokio::test]
async fn keys_by_url_follow_what_the_issuer_publishes() {
    let published = Arc::new(Mutex::new(jwks([])));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let shared = Arc::clone(&published);
    let router =
        Router::new().route("/keys", get_route(move || async move { Json(shared.lock().unwrap().clone()) }));
    tokio::spawn(async move { axum::serve(listener, router).await });

    let site = Site::without_hosts(|_| ()).await;
    let next = Key::rsa("next");
    *published.lock().unwrap() = jwks([&site.rsa]);
    site.host_of(HOST, &[json!({ "issuer": IDP, "jwks_uri": url })], &json!({}));
    let (old, new) = (site.token(&claims()), next.sign(&claims()));
    super::support::eventually("the first keys", || async { passes(&site, &old).await.then_some(()) }).await;
    assert!(!passes(&site, &new).await, "a key that is not published yet");

    // A token that names an unknown key has them fetched again, at most twice a minute.
    *published.lock().unwrap() = jwks([&next]);
    let end = Instant::now() + Duration::from_secs(90);
    while !passes(&site, &new).await {
        assert!(Instant::now() < end, "the new key was never fetched");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert!(!passes(&site, &old).await, "a token whose key was withdrawn");
}

async fn passes(site: &Site, token: &str) -> bool {
    site.get_as("/", token).await.status == StatusCode::OK
}
