//! Client credentials (OAuth 2.1, section 4.2): programs that act for themselves.

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use crate::signers::{ASSERTION_TYPE, Signer, confused, unsigned};
use crate::world::{Answer, CLOSED, ISSUER, World, basic, claims, text};

/// A host that lists programs.
const API: &str = "https://api.example.com";

/// A second one.
const OTHER: &str = "https://other.example.com";

/// How lists name the program `job`.
const JOB: &str = "service:client/job";

async fn world() -> World {
    let world = World::new().await;
    let lists = json!({
        "oauth_admin_users": [],
        "oauth_user_users": ["Mona", JOB, "service:client/signer"],
        "oauth_mcp_users": [JOB],
    });
    for host in ["api.example.com", "other.example.com"] {
        world.put_host(host, lists.clone()).await;
    }
    world
}

/// Sets up the program `job`; returns its secret.
async fn put_job(world: &World, more: Value) -> String {
    let mut metadata = json!({ "grant_types": ["client_credentials"] });
    let (Value::Object(fields), Value::Object(more)) = (&mut metadata, more) else { panic!("an object") };
    fields.extend(more);
    world.put_client("job", metadata).await.expect("a secret")
}

async fn ask(world: &World, headers: HeaderMap, more: &[(&str, &str)]) -> Answer {
    let mut fields = vec![("grant_type", "client_credentials")];
    fields.extend(more);
    world.post_with("/token", &fields, headers).await
}

/// Asks as the program `job`.
async fn ask_as_job(world: &World, secret: &str, more: &[(&str, &str)]) -> Answer {
    ask(world, basic("job", secret), more).await
}

fn fails(answer: &Answer, status: StatusCode, error: &str) {
    assert_eq!((answer.status, answer.error().as_str()), (status, error), "{}", answer.text());
}

#[tokio::test]
async fn a_program_gets_a_token_of_its_own_with_its_secret() {
    let world = world().await;
    // That it may refresh changes nothing: it can ask again whenever it likes (RFC 6749, section 4.4.3).
    let metadata = json!({ "grant_types": ["client_credentials", "refresh_token"] });
    let secret = put_job(&world, metadata).await;
    let rs = world.put_resource_server("rs").await;
    let post = [("client_id", "job"), ("client_secret", secret.as_str())];
    for (headers, proof) in [(basic("job", &secret), &[][..]), (HeaderMap::new(), &post)] {
        let mut fields = vec![("scope", "mcp user"), ("resource", API)];
        fields.extend(proof);
        let answer = ask(&world, headers, &fields).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        assert_eq!((answer.header("cache-control"), answer.header("pragma")), ("no-store", "no-cache"));
        let got = answer.json();
        let members: Vec<&String> = got.as_object().expect("an object").keys().collect();
        assert_eq!(members, ["access_token", "expires_in", "scope", "token_type"], "and nothing else");
        assert_eq!((&got["token_type"], &got["scope"]), (&json!("Bearer"), &json!("mcp user")));
        assert!(got["expires_in"].as_u64().is_some_and(|left| (1790..=1800).contains(&left)), "{got}");
        let token = text(&got, "access_token");
        let said = claims(token);
        assert_eq!(
            (&said["sub"], &said["client_id"], &said["aud"], &said["iss"]),
            (&json!(JOB), &json!("job"), &json!([API]), &json!(ISSUER))
        );
        for of_people in ["username", "email", "name", "groups"] {
            assert!(said.get(of_people).is_none(), "{said}");
        }

        let told = world.introspect(&rs, token).await;
        assert_eq!(
            told,
            json!({
                "active": true, "scope": "mcp user", "client_id": "job", "token_type": "Bearer",
                "exp": said["exp"], "iat": said["iat"], "sub": JOB, "aud": [API], "iss": ISSUER,
                "jti": said["jti"],
            })
        );
        let passes = world.verify(&format!("{API}/"), token).await;
        assert_eq!((passes.status, passes.header("x-auth-client-id")), (StatusCode::OK, "job"));
        let elsewhere = world.verify(&format!("{OTHER}/"), token).await;
        assert_eq!(
            elsewhere.status,
            StatusCode::UNAUTHORIZED,
            "it is listed there, but the token is not for it"
        );
    }
}

/// RFC 6749, sections 2.3 and 5.2.
#[tokio::test]
async fn who_can_not_prove_who_it_is_gets_nothing() {
    let world = world().await;
    let secret = put_job(&world, json!({})).await;
    let target = ("resource", API);
    for (headers, fields) in [
        (HeaderMap::new(), vec![target]),
        (HeaderMap::new(), vec![target, ("client_id", "job")]),
        (HeaderMap::new(), vec![target, ("client_id", "job"), ("client_secret", "wrong")]),
        (HeaderMap::new(), vec![target, ("client_id", "nobody"), ("client_secret", &secret)]),
        (basic("job", "wrong"), vec![target]),
        (basic("nobody", &secret), vec![target]),
        (basic("job", ""), vec![target]),
    ] {
        let answer = ask(&world, headers, &fields).await;
        fails(&answer, StatusCode::UNAUTHORIZED, "invalid_client");
        assert!(
            answer.header("www-authenticate").starts_with("Basic "),
            "{fields:?}: RFC 9110, section 15.5.2"
        );
    }
    let both = [target, ("client_id", "job"), ("client_secret", secret.as_str())];
    fails(&ask_as_job(&world, &secret, &both).await, StatusCode::BAD_REQUEST, "invalid_request");
    let other = [target, ("client_id", "another")];
    fails(&ask_as_job(&world, &secret, &other).await, StatusCode::BAD_REQUEST, "invalid_request");
}

/// A client that signs, with the keys that it is known by.
struct Signing {
    world: World,
    rsa: Signer,
    ec: Signer,
}

impl Signing {
    async fn new() -> Self {
        let (world, rsa, ec) = (world().await, Signer::rsa(), Signer::ec());
        let metadata = json!({
            "grant_types": ["client_credentials"],
            "token_endpoint_auth_method": "private_key_jwt",
            "jwks": { "keys": [rsa.jwk("rsa"), ec.jwk("ec")] },
        });
        assert!(world.put_client("signer", metadata).await.is_none(), "no secret for who has a key");
        Self { world, rsa, ec }
    }

    /// Claims that are good, but for what is changed.
    fn claims(&self, jti: &str, changed: Value) -> Value {
        let now = self.world.now().as_second();
        let mut claims = json!({
            "iss": "signer", "sub": "signer", "aud": format!("{ISSUER}/token"), "jti": jti,
            "iat": now, "exp": now + 300,
        });
        let (Value::Object(members), Value::Object(changed)) = (&mut claims, changed) else {
            panic!("an object")
        };
        members.extend(changed);
        claims
    }

    async fn present(&self, assertion: &str) -> Answer {
        let fields = [
            ("resource", API),
            ("scope", "user"),
            ("client_assertion_type", ASSERTION_TYPE),
            ("client_assertion", assertion),
        ];
        ask(&self.world, HeaderMap::new(), &fields).await
    }
}

#[tokio::test]
async fn a_signed_assertion_proves_who_a_client_is_once() {
    let signing = Signing::new().await;
    for (signer, id) in [(&signing.rsa, "rsa"), (&signing.ec, "ec")] {
        let assertion = signer.sign(id, &signing.claims(id, json!({})));
        let answer = signing.present(&assertion).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        let got = answer.json();
        assert_eq!(claims(text(&got, "access_token"))["sub"], "service:client/signer");
        assert!(got.get("refresh_token").is_none());
        let replayed = signing.present(&assertion).await;
        fails(&replayed, StatusCode::UNAUTHORIZED, "invalid_client");
        let same_id = signer.sign(id, &signing.claims(id, json!({ "extra": 1 })));
        fails(&signing.present(&same_id).await, StatusCode::UNAUTHORIZED, "invalid_client");
    }
    // The issuer is an audience, too (RFC 7523, section 3).
    let issuer = signing.rsa.sign("rsa", &signing.claims("issuer", json!({ "aud": ISSUER })));
    assert_eq!(signing.present(&issuer).await.status, StatusCode::OK);
}

/// RFC 7523, section 3; RFC 8725, sections 2.1 and 3.1.
#[tokio::test]
async fn an_assertion_has_to_be_of_the_clients_key_for_us_and_for_now() {
    let signing = Signing::new().await;
    let now = signing.world.now().as_second();
    for (nth, changed) in [
        json!({ "aud": "https://other.example.com/token" }),
        json!({ "aud": format!("{ISSUER}/token/") }),
        json!({ "aud": [format!("{ISSUER}/token"), "https://other.example.com"] }),
        json!({ "exp": now + 700 }),
        json!({ "exp": now - 61 }),
        json!({ "exp": null }),
        json!({ "jti": null }),
        json!({ "nbf": now + 120 }),
        json!({ "iss": "job" }),
        json!({ "iss": "job", "sub": "job" }),
        json!({ "sub": "nobody" }),
    ]
    .into_iter()
    .enumerate()
    {
        let claims = signing.claims(&format!("changed {nth}"), changed);
        let answer = signing.present(&signing.rsa.sign("rsa", &claims)).await;
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (StatusCode::UNAUTHORIZED, "invalid_client"),
            "{claims}"
        );
    }
    let (unknown, good) = (Signer::rsa(), signing.claims("good", json!({})));
    let public = signing.rsa.jwk("rsa")["n"].as_str().expect("a modulus").to_owned();
    let signed = signing.rsa.sign("rsa", &good);
    let (message, _) = signed.rsplit_once('.').expect("a JWT");
    for (what, assertion) in [
        ("none", unsigned(&good)),
        ("the public key as a secret", confused("JWT", "rsa", public.as_bytes(), &good)),
        ("an unknown key", unknown.sign("unknown", &good)),
        ("an unknown key by a known name", unknown.sign("rsa", &good)),
        ("another key's name", signing.ec.sign("rsa", &good)),
        ("no signature", format!("{message}.")),
        ("no JWT", "x".to_owned()),
    ] {
        let answer = signing.present(&assertion).await;
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (StatusCode::UNAUTHORIZED, "invalid_client"),
            "{what}"
        );
    }
    assert_eq!(signing.present(&signed).await.status, StatusCode::OK, "nobody else has used up its id");
}

#[tokio::test]
async fn a_client_proves_itself_in_the_way_it_is_set_up_for() {
    let signing = Signing::new().await;
    let secret = put_job(&signing.world, json!({})).await;
    let by_secret = ask(&signing.world, basic("signer", &secret), &[("resource", API)]).await;
    fails(&by_secret, StatusCode::UNAUTHORIZED, "invalid_client");
    let claims = signing.claims("job", json!({ "iss": "job", "sub": "job" }));
    let by_key = signing.present(&signing.rsa.sign("rsa", &claims)).await;
    fails(&by_key, StatusCode::UNAUTHORIZED, "invalid_client");
    let good = signing.rsa.sign("rsa", &signing.claims("typed", json!({})));
    let wrong_type = [
        ("resource", API),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"),
        ("client_assertion", &good),
    ];
    let answer = ask(&signing.world, HeaderMap::new(), &wrong_type).await;
    fails(&answer, StatusCode::BAD_REQUEST, "invalid_request");
    let named =
        [("client_id", "job"), ("client_assertion_type", ASSERTION_TYPE), ("client_assertion", &good)];
    fails(&ask(&signing.world, HeaderMap::new(), &named).await, StatusCode::BAD_REQUEST, "invalid_request");
    let twice = [("client_assertion_type", ASSERTION_TYPE), ("client_assertion", good.as_str())];
    let answer = ask(&signing.world, basic("job", &secret), &twice).await;
    fails(&answer, StatusCode::BAD_REQUEST, "invalid_request");
}

#[tokio::test]
async fn scopes_are_cut_to_what_the_client_and_the_lists_have() {
    let world = world().await;
    let secret = put_job(&world, json!({ "scope": "user admin" })).await;
    let scope = async |secret: &str, asked: &str| {
        let answer = ask_as_job(&world, secret, &[("scope", asked), ("resource", API)]).await;
        if answer.status == StatusCode::OK {
            Ok(text(&answer.json(), "scope").to_owned())
        } else {
            Err(answer.error())
        }
    };
    for (asked, got) in [
        ("user", Ok("user")),
        ("user mcp", Ok("user")),
        ("user admin", Ok("user")),
        ("mcp", Err("invalid_scope")),
        ("admin", Err("invalid_scope")),
        ("nonsense", Err("invalid_scope")),
        ("\"", Err("invalid_scope")),
    ] {
        let expected = got.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(scope(&secret, asked).await, expected, "{asked}");
    }
    let secret = put_job(&world, json!({})).await;
    assert_eq!(scope(&secret, "mcp user admin").await, Ok("mcp user".to_owned()), "a list is the ceiling");

    let published = json!({ "resource_scopes": ["mcp:read", "mcp:write"], "auth_required_users": [JOB] });
    world.put_host("api.example.com", published).await;
    let usual = ask_as_job(&world, &secret, &[("resource", API)]).await.json();
    assert_eq!(usual["scope"], "mcp:read mcp:write", "what the host publishes, where nothing is said");
}

#[tokio::test]
async fn a_program_names_a_resource_that_lists_it() {
    let world = world().await;
    let secret = put_job(&world, json!({})).await;
    let told = async |resources: &[&str]| {
        let fields: Vec<_> = resources.iter().map(|resource| ("resource", *resource)).collect();
        let answer = ask_as_job(&world, &secret, &fields).await;
        if answer.status == StatusCode::OK {
            Ok(claims(text(&answer.json(), "access_token"))["aud"].clone())
        } else {
            Err((answer.status.as_u16(), answer.error()))
        }
    };
    let refused = |code: &str| Err((400, code.to_owned()));
    world.put_host("public.example.com", json!({ "auth_enabled": false })).await;
    for (resources, expected) in [
        (&[API][..], Ok(json!([API]))),
        (&["HTTPS://API.example.com:443/"], Ok(json!([API]))),
        (&[API, OTHER], Ok(json!([API, OTHER]))),
        (&[API, API], Ok(json!([API]))),
        // Nothing is implied here: not all that it may use.
        (&[], refused("invalid_target")),
        (&["https://nowhere.example.com"], refused("invalid_target")),
        (&[API, "https://nowhere.example.com"], refused("invalid_target")),
        (&["https://api.example.com/other"], refused("invalid_target")),
        (&["https://api.example.com/#x"], refused("invalid_target")),
        (&["http://api.example.com"], refused("invalid_target")),
        (&["https://public.example.com"], refused("invalid_target")),
        (&["nonsense"], refused("invalid_target")),
        (&[CLOSED], refused("unauthorized_client")),
        (&[API, CLOSED], refused("unauthorized_client")),
        (&[ISSUER], refused("unauthorized_client")),
    ] {
        assert_eq!(told(resources).await, expected, "{resources:?}");
    }
    world.put_host("localhost", json!({ "target_url": "builtin:api", "oauth_user_users": [JOB] })).await;
    assert_eq!(told(&[]).await, Ok(json!(["https://localhost"])), "the gateway's own API is what is implied");
}

#[tokio::test]
async fn a_client_without_proof_or_without_the_grant_is_refused() {
    let world = world().await;
    let open = json!({ "grant_types": ["client_credentials"], "token_endpoint_auth_method": "none" });
    world.put_client("job", open).await;
    let answer = ask(&world, HeaderMap::new(), &[("client_id", "job"), ("resource", API)]).await;
    fails(&answer, StatusCode::BAD_REQUEST, "unauthorized_client");
    let cli = ask(&world, HeaderMap::new(), &[("client_id", "portcullis-cli"), ("resource", API)]).await;
    fails(&cli, StatusCode::BAD_REQUEST, "unauthorized_client");
    let people = json!({ "redirect_uris": ["https://client.example.com/callback"] });
    let secret = world.put_client("job", people).await.expect("a secret");
    let answer = ask_as_job(&world, &secret, &[("resource", API)]).await;
    fails(&answer, StatusCode::BAD_REQUEST, "unauthorized_client");
}

#[tokio::test]
async fn who_is_taken_off_the_list_is_worth_nothing_any_more() {
    let world = world().await;
    let secret = put_job(&world, json!({})).await;
    let rs = world.put_resource_server("rs").await;
    let asked = [("scope", "user"), ("resource", API)];
    let got = ask_as_job(&world, &secret, &asked).await.json();
    let token = text(&got, "access_token");
    assert_eq!(world.introspect(&rs, token).await["active"], true);
    world.put_host("api.example.com", json!({ "oauth_user_users": ["Mona"] })).await;
    assert_eq!(world.introspect(&rs, token).await, json!({ "active": false }));
    assert_eq!(world.verify(&format!("{API}/"), token).await.status, StatusCode::FORBIDDEN);
    fails(&ask_as_job(&world, &secret, &asked).await, StatusCode::BAD_REQUEST, "unauthorized_client");
    // `*` is every person, and no program; ids are compared as they are.
    world.put_host("api.example.com", json!({ "oauth_user_users": ["*"], "oauth_mcp_users": ["*"] })).await;
    assert_eq!(world.introspect(&rs, token).await, json!({ "active": false }));
    fails(&ask_as_job(&world, &secret, &asked).await, StatusCode::BAD_REQUEST, "unauthorized_client");
    world.put_host("api.example.com", json!({ "oauth_user_users": ["service:client/JOB", "job"] })).await;
    fails(&ask_as_job(&world, &secret, &asked).await, StatusCode::BAD_REQUEST, "unauthorized_client");
    let secret =
        world.put_client("JOB", json!({ "grant_types": ["client_credentials"] })).await.expect("a secret");
    let answer = ask(&world, basic("JOB", &secret), &asked).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
}
