use serde_json::json;

use super::*;

fn read(body: &Value, source: Source) -> Result<Metadata, InvalidMetadata> {
    Metadata::read(body.as_object().expect("an object"), source)
}

fn with(member: &str, value: Value) -> Value {
    let mut body = json!({ "redirect_uris": ["https://app.example/cb"] });
    body[member] = value;
    body
}

#[test]
fn an_editors_registration_is_taken_as_far_as_it_goes() {
    let metadata = read(
        &json!({
            "client_name": "Visual Studio Code",
            "client_uri": "https://code.visualstudio.com",
            "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code", "implicit"],
            "response_types": ["code", "token"],
            "redirect_uris": [
                "https://insiders.vscode.dev/redirect", "https://vscode.dev/redirect",
                "http://127.0.0.1/", "http://127.0.0.1:33418/"
            ],
            "scope": "mcp  user",
            "token_endpoint_auth_method": "none",
            "application_type": "native",
            "logo_uri": null, "contacts": null, "jwks": null, "software_statement": "x.y.z", "unknown": { "a": [1] },
        }),
        Source::Registration,
    )
    .expect("valid");
    assert_eq!(
        serde_json::to_value(&metadata).expect("JSON"),
        json!({
            "client_name": "Visual Studio Code",
            "client_uri": "https://code.visualstudio.com",
            "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
            "response_types": ["code"],
            "redirect_uris": [
                "https://insiders.vscode.dev/redirect", "https://vscode.dev/redirect",
                "http://127.0.0.1/", "http://127.0.0.1:33418/"
            ],
            "scope": "mcp user",
            "token_endpoint_auth_method": "none",
            "application_type": "native",
        })
    );
    let stored = serde_json::to_string(&metadata).expect("JSON");
    assert_eq!(serde_json::from_str::<Metadata>(&stored).expect("read back"), metadata);
}

#[test]
fn what_is_absent_has_the_defaults_of_the_rfc() {
    for body in [
        with("client_name", json!(null)),
        with("grant_types", json!([])),
        with("grant_types", json!(null)),
        with("token_endpoint_auth_method", json!("")),
        with("application_type", json!("hybrid")),
        with("application_type", json!(7)),
        with("logo_uri", json!("")),
    ] {
        let metadata = read(&body, Source::Registration).expect("valid");
        let json = serde_json::to_value(&metadata).expect("JSON");
        assert_eq!(
            json,
            json!({
                "redirect_uris": ["https://app.example/cb"],
                "token_endpoint_auth_method": "client_secret_basic",
                "grant_types": ["authorization_code", "refresh_token"],
                "response_types": ["code"],
            })
        );
    }
    let document = read(&with("client_name", json!("x")), Source::Document).expect("valid");
    assert_eq!(document.token_endpoint_auth_method, AuthMethod::None);
}

#[test]
fn what_is_not_understood_and_matters_is_refused() {
    const URI: bool = true;
    const OTHER: bool = false;
    let keys = json!({ "keys": [{ "kty": "oct", "k": "AAAA" }] });
    for (body, of_uri) in [
        (json!({}), URI),
        (json!({ "redirect_uris": [] }), URI),
        (json!({ "redirect_uris": ["http://evil.example/"] }), URI),
        (json!({ "redirect_uris": ["https://a.example/", "javascript:x"] }), URI),
        (json!({ "redirect_uris": "https://app.example/cb" }), OTHER),
        (json!({ "redirect_uris": [1] }), OTHER),
        (json!({ "redirect_uris": vec!["https://app.example/cb"; MAX_LIST + 1] }), OTHER),
        (with("token_endpoint_auth_method", json!("client_secret_jwt")), OTHER),
        (with("token_endpoint_auth_method", json!("tls_client_auth")), OTHER),
        (with("token_endpoint_auth_method", json!(["none"])), OTHER),
        (with("token_endpoint_auth_method", json!("private_key_jwt")), OTHER),
        (with("grant_types", json!(["implicit"])), OTHER),
        (with("grant_types", json!(["password", "refresh_token"])), OTHER),
        (with("grant_types", json!(["client_credentials"])), OTHER),
        (with("grant_types", json!("authorization_code")), OTHER),
        (with("scope", json!(["a"])), OTHER),
        (with("scope", json!("a\nb")), OTHER),
        (with("scope", json!("a\"b")), OTHER),
        (with("scope", json!("a".repeat(MAX_SCOPE + 1))), OTHER),
        (with("client_name", json!(5)), OTHER),
        (with("logo_uri", json!({})), OTHER),
        (with("contacts", json!("me@app.example")), OTHER),
        (
            json!({
                "redirect_uris": ["https://app.example/cb"], "token_endpoint_auth_method": "private_key_jwt",
                "jwks_uri": "http://app.example/keys",
            }),
            OTHER,
        ),
        (
            json!({
                "redirect_uris": ["https://app.example/cb"], "token_endpoint_auth_method": "private_key_jwt",
                "jwks": keys,
            }),
            OTHER,
        ),
        (
            json!({ "redirect_uris": ["https://app.example/cb"], "jwks": keys, "jwks_uri": "https://a.example/" }),
            OTHER,
        ),
    ] {
        let error = read(&body, Source::Registration).expect_err("refused");
        assert_eq!(matches!(error, InvalidMetadata::RedirectUri(_)), of_uri, "{body} {error}");
        // RFC 6749, section 5.2: what an `error_description` may have.
        let text = error.to_string();
        assert!(
            text.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')),
            "{text}"
        );
    }
}

#[test]
fn each_source_has_its_own_limits() {
    let machine = with("grant_types", json!(["client_credentials"]));
    for source in [Source::Registration, Source::Document] {
        assert!(read(&machine, source).is_err());
    }
    let configured = read(&machine, Source::Configuration).expect("an administrator may");
    assert_eq!(configured.grant_types, [GrantType::ClientCredentials]);
    assert!(configured.response_types.is_empty());
    for method in AuthMethod::ALL.into_iter().filter(|method| method.has_secret()) {
        let body = with("token_endpoint_auth_method", json!(method.as_str()));
        assert!(read(&body, Source::Document).is_err(), "a document is public");
        assert!(read(&body, Source::Registration).is_ok());
    }
    let device = json!({ "grant_types": [GrantType::DeviceCode.as_str()] });
    let device = read(&device, Source::Registration).expect("it needs no redirect");
    assert_eq!(serde_json::to_value(&device).expect("JSON")["redirect_uris"], json!([]), "always a list");
}

#[test]
fn names_are_cleaned_and_bounded() {
    for (name, cleaned) in [
        ("  My\n\tClient  ", Some("My Client")),
        ("Claude\u{202e}edualC", Some("ClaudeedualC")),
        ("a\u{200b}b\u{feff}c\u{2066}", Some("abc")),
        ("a\u{0}b\u{7f}c\u{85}d", Some("a b c d")),
        ("\u{200b}\u{3164}", None),
        ("<b>x</b>", Some("<b>x</b>")),
        ("Z\u{fc}rich \u{1f980}", Some("Z\u{fc}rich \u{1f980}")),
    ] {
        let metadata = read(&with("client_name", json!(name)), Source::Registration).expect("valid");
        assert_eq!(metadata.client_name.as_deref(), cleaned, "{name:?}");
    }
    let long = read(&with("client_name", json!("\u{e4}".repeat(1000))), Source::Registration).expect("valid");
    assert_eq!(long.client_name.expect("a name").chars().count(), MAX_NAME);
}

#[test]
fn pages_are_https_or_left_out() {
    for (uri, kept) in [
        ("https://app.example/logo.png", true),
        ("http://app.example/logo.png", false),
        ("http://localhost:3000/", false),
        ("javascript:alert(1)", false),
        ("data:image/png;base64,AAAA", false),
        ("https://user@app.example/", false),
        ("app:/logo", false),
    ] {
        for member in ["logo_uri", "client_uri", "tos_uri", "policy_uri"] {
            let metadata = read(&with(member, json!(uri)), Source::Registration).expect("valid");
            let json = serde_json::to_value(&metadata).expect("JSON");
            assert_eq!(json.get(member).and_then(Value::as_str), kept.then_some(uri), "{member} {uri}");
        }
    }
}

#[test]
fn keys_are_kept_of_clients_that_sign() {
    let jwks = json!({ "keys": [{
        "kty": "OKP", "crv": "Ed25519", "kid": "a", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    }] });
    let mut body = with("jwks", jwks.clone());
    let metadata = read(&body, Source::Registration).expect("valid");
    assert_eq!((metadata.jwks, metadata.jwks_uri), (None, None));
    body["token_endpoint_auth_method"] = json!("private_key_jwt");
    let metadata = read(&body, Source::Document).expect("valid");
    assert_eq!((metadata.jwks, metadata.jwks_uri), (Some(jwks), None));
}

#[test]
fn only_a_bounded_object_is_read() {
    assert!(object(b"{\"a\":1}", MAX_BODY).is_ok());
    for bad in ["", "[]", "null", "\"x\"", "{", "{} x"] {
        assert_eq!(object(bad.as_bytes(), MAX_BODY), Err(InvalidMetadata::NotAnObject), "{bad}");
    }
    let deep = "[".repeat(10_000);
    assert_eq!(object(deep.as_bytes(), MAX_BODY), Err(InvalidMetadata::NotAnObject));
    assert_eq!(object(&vec![b' '; MAX_BODY + 1], MAX_BODY), Err(InvalidMetadata::TooLong));
}

#[test]
fn where_a_logout_leads_is_registered_like_where_a_code_goes() {
    const MEMBER: &str = "post_logout_redirect_uris";
    let metadata = read(&with(MEMBER, json!(["https://app.example/bye"])), Source::Document).expect("valid");
    assert_eq!(serde_json::to_value(&metadata).expect("JSON")[MEMBER], json!(["https://app.example/bye"]));
    for bad in ["http://app.example/bye", "javascript:alert(1)", "https://app.example/#x", "/bye"] {
        let error = read(&with(MEMBER, json!([bad])), Source::Registration).expect_err(bad);
        assert!(matches!(error, InvalidMetadata::RedirectUri(_)), "{bad}");
    }
    let none = serde_json::to_value(read(&with(MEMBER, Value::Null), Source::Registration).expect("valid"));
    assert!(none.expect("JSON").get(MEMBER).is_none());
}
