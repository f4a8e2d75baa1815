//! The authorization server's metadata: RFC 8414 and OpenID Connect Discovery 1.0, one document for both.
//!
//! It speaks for the one issuer wherever it is served: at the issuer's own well-known paths, and, for
//! clients that look there, on hosts marked as MCP resources. A host may add to what is published, but
//! can't change who the issuer is, where its endpoints are, or claim a feature that is not there.

pub mod path;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Response};
use serde::Serialize;
use serde_json::{Map, Value};

use super::cors;
use super::scope::OFFLINE_ACCESS;
use crate::config::Proxy;
use crate::oauth::clients::GrantType;

/// RFC 8414, section 3.
pub const OAUTH_WELL_KNOWN: &str = "/.well-known/oauth-authorization-server";

/// OpenID Connect Discovery 1.0, section 4.
pub const OPENID_WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// The identifier of this authorization server: an `https` URL that clients compare byte by byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    url: String,
    path: usize,
}

/// Why a text is no [`Issuer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an https URL without query, fragment, user, or slash at the end")]
pub struct InvalidIssuer;

/// What is served, as far as deployments differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    /// Scopes to publish.
    pub scopes: Vec<String>,
    /// Whether `offline_access` is published. Then SDKs ask for it, and for consent each time.
    pub offline_access: bool,
    /// Whether clients may register themselves (RFC 7591).
    pub registration: bool,
    /// Whether a client id may be the URL of a document.
    pub client_id_metadata_documents: bool,
    /// Whether assertions of other issuers are taken (RFC 7523).
    pub jwt_bearer: bool,
    /// Whether tokens are exchanged (RFC 8693).
    pub token_exchange: bool,
    /// A page for developers.
    pub service_documentation: Option<String>,
}

/// The document.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServerMetadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    registration_endpoint: Option<String>,
    revocation_endpoint: String,
    introspection_endpoint: String,
    device_authorization_endpoint: String,
    userinfo_endpoint: String,
    end_session_endpoint: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scopes_supported: Vec<String>,
    response_types_supported: Vec<String>,
    response_modes_supported: Vec<&'static str>,
    grant_types_supported: Vec<String>,
    code_challenge_methods_supported: Vec<&'static str>,
    token_endpoint_auth_methods_supported: Vec<String>,
    token_endpoint_auth_signing_alg_values_supported: Vec<&'static str>,
    revocation_endpoint_auth_methods_supported: Vec<String>,
    introspection_endpoint_auth_methods_supported: Vec<String>,
    subject_types_supported: Vec<&'static str>,
    id_token_signing_alg_values_supported: Vec<&'static str>,
    claims_supported: Vec<String>,
    prompt_values_supported: Vec<&'static str>,
    claims_parameter_supported: bool,
    request_parameter_supported: bool,
    request_uri_parameter_supported: bool,
    authorization_response_iss_parameter_supported: bool,
    client_id_metadata_document_supported: bool,
    /// In no RFC; the older product had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    code_challenge_methods_required: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_documentation: Option<String>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// What a host wants to have published (the catalogue's `oauth_server_*` fields).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Additions {
    /// Scopes.
    pub scopes: Vec<String>,
    /// Grant types.
    pub grant_types: Vec<String>,
    /// Ways for clients to authenticate.
    pub token_auth_methods: Vec<String>,
    /// Claims.
    pub claims: Vec<String>,
    /// Whether to say in a member of its own that PKCE is required.
    pub pkce_required: bool,
    /// Members that are none of ours.
    pub custom: Map<String, Value>,
    /// Whether the lists stand in place of ours instead of beside them.
    pub replace: bool,
}

impl Issuer {
    /// Reads an issuer (RFC 8414, section 2).
    ///
    /// # Errors
    ///
    /// When it is not an `https` URL, or one with more than host, port and path.
    pub fn parse(text: &str) -> Result<Self, InvalidIssuer> {
        let rest = text.strip_prefix("https://").ok_or(InvalidIssuer)?;
        let fine = |byte: u8| byte.is_ascii_graphic() && !b"?#@\\\"<>".contains(&byte);
        let authority = rest.split('/').next().unwrap_or_default();
        if authority.is_empty() || rest.ends_with('/') || !rest.bytes().all(fine) {
            return Err(InvalidIssuer);
        }
        Ok(Self { url: text.to_owned(), path: "https://".len() + authority.len() })
    }

    /// The issuer, as it is in tokens and documents.
    pub fn as_str(&self) -> &str {
        &self.url
    }

    /// Host and port.
    pub fn authority(&self) -> &str {
        &self.url["https://".len()..self.path]
    }

    /// The path, mostly empty.
    pub fn path(&self) -> &str {
        &self.url[self.path..]
    }

    /// The URL of one of the paths in [`path`].
    pub fn endpoint(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }
}

impl ServerMetadata {
    /// The document of an issuer.
    pub fn new(issuer: &Issuer, features: &Features) -> Self {
        let grants = GrantType::ALL.into_iter().filter(|grant| match grant {
            GrantType::JwtBearer => features.jwt_bearer,
            GrantType::TokenExchange => features.token_exchange,
            GrantType::AuthorizationCode
            | GrantType::RefreshToken
            | GrantType::DeviceCode
            | GrantType::ClientCredentials => true,
        });
        let secret = strings(&["client_secret_basic", "client_secret_post", "private_key_jwt"]);
        // Always with `none`: a client that finds no list, or one without it, takes itself for unwelcome.
        let methods = [strings(&["none"]), secret.clone()].concat();
        let mut metadata = Self {
            issuer: issuer.as_str().to_owned(),
            authorization_endpoint: issuer.endpoint(path::AUTHORIZE),
            token_endpoint: issuer.endpoint(path::TOKEN),
            jwks_uri: issuer.endpoint(path::JWKS),
            registration_endpoint: features.registration.then(|| issuer.endpoint(path::REGISTER)),
            revocation_endpoint: issuer.endpoint(path::REVOKE),
            introspection_endpoint: issuer.endpoint(path::INTROSPECT),
            device_authorization_endpoint: issuer.endpoint(path::DEVICE_CODE),
            userinfo_endpoint: issuer.endpoint(path::USERINFO),
            end_session_endpoint: issuer.endpoint(path::LOGOUT),
            scopes_supported: Vec::new(),
            response_types_supported: strings(&["code"]),
            response_modes_supported: vec!["query"],
            grant_types_supported: grants.map(|grant| grant.as_str().to_owned()).collect(),
            code_challenge_methods_supported: vec!["S256"],
            token_endpoint_auth_methods_supported: methods.clone(),
            token_endpoint_auth_signing_alg_values_supported: vec!["RS256", "ES256", "EdDSA"],
            revocation_endpoint_auth_methods_supported: methods,
            // Introspection is for those who can prove who they are (RFC 7662, section 2.1).
            introspection_endpoint_auth_methods_supported: secret,
            subject_types_supported: vec!["public"],
            id_token_signing_alg_values_supported: vec!["RS256"],
            claims_supported: strings(&[
                "iss",
                "sub",
                "aud",
                "exp",
                "iat",
                "auth_time",
                "nonce",
                "at_hash",
                "preferred_username",
                "name",
                "email",
                "email_verified",
            ]),
            prompt_values_supported: vec!["none", "login", "consent", "select_account"],
            claims_parameter_supported: false,
            request_parameter_supported: false,
            request_uri_parameter_supported: false,
            authorization_response_iss_parameter_supported: true,
            client_id_metadata_document_supported: features.client_id_metadata_documents,
            code_challenge_methods_required: None,
            service_documentation: features.service_documentation.clone(),
            extra: Map::new(),
        };
        let published = |scope: &&String| features.offline_access || *scope != OFFLINE_ACCESS;
        extend(&mut metadata.scopes_supported, features.scopes.iter().filter(published));
        if features.offline_access {
            extend(&mut metadata.scopes_supported, [&OFFLINE_ACCESS.to_owned()]);
        }
        metadata
    }

    /// The same with what a host adds. Scopes and claims are the host's to name. Grant types and ways to
    /// authenticate are ours: a host may list fewer of them, and what it lists beyond them is not
    /// published, for clients act on it. `code` and S256 stay what they are.
    #[must_use]
    pub fn with(mut self, additions: &Additions) -> Self {
        let offline = self.scopes_supported.iter().any(|scope| scope == OFFLINE_ACCESS);
        if additions.replace {
            for (ours, theirs) in [
                (&mut self.scopes_supported, &additions.scopes),
                (&mut self.claims_supported, &additions.claims),
            ] {
                if !theirs.is_empty() {
                    ours.clear();
                }
            }
            fewer(&mut self.grant_types_supported, &additions.grant_types);
            fewer(&mut self.token_endpoint_auth_methods_supported, &additions.token_auth_methods);
            let methods = &mut self.token_endpoint_auth_methods_supported;
            if self.client_id_metadata_document_supported && !methods.iter().any(|method| method == "none") {
                methods.insert(0, "none".to_owned());
            }
        }
        let published = |scope: &&String| offline || *scope != OFFLINE_ACCESS;
        extend(&mut self.scopes_supported, additions.scopes.iter().filter(published));
        extend(&mut self.claims_supported, &additions.claims);
        if additions.pkce_required {
            self.code_challenge_methods_required = Some(self.code_challenge_methods_supported.clone());
        }
        let ours = [
            "registration_endpoint",
            "code_challenge_methods_required",
            "service_documentation",
            "scopes_supported",
            "signed_metadata",
        ];
        let Ok(Value::Object(own)) = serde_json::to_value(&self) else { return self };
        for (name, value) in &additions.custom {
            if !value.is_null() && !own.contains_key(name) && !ours.contains(&name.as_str()) {
                self.extra.insert(name.clone(), value.clone());
            }
        }
        self
    }

    /// The bytes to publish.
    pub fn to_json(&self) -> Bytes {
        serde_json::to_vec(self).expect("texts, lists and JSON values serialise").into()
    }
}

impl Additions {
    /// What a host says.
    pub fn of(proxy: &Proxy) -> Self {
        Self {
            scopes: proxy.oauth_server_scopes.iter().flatten().map(ToString::to_string).collect(),
            grant_types: proxy.oauth_server_grant_types.clone().unwrap_or_default(),
            token_auth_methods: proxy.oauth_server_token_auth_methods.clone().unwrap_or_default(),
            claims: proxy.oauth_server_claims.clone().unwrap_or_default(),
            pkce_required: proxy.oauth_server_pkce_required == Some(true),
            custom: proxy.oauth_server_custom_metadata.clone().unwrap_or_default(),
            replace: proxy.oauth_server_override_defaults,
        }
    }
}

/// The answer of a well-known path: the document, for all origins, and good for a minute, so that a change
/// is seen soon.
pub fn answer(method: &Method, document: &Bytes) -> Response<Bytes> {
    match *method {
        Method::GET | Method::HEAD => {
            // The server leaves the body of an answer to HEAD out and keeps its length.
            let mut response = Response::new(document.clone());
            let headers = response.headers_mut();
            cors::DOCUMENTS.apply(headers);
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
            response
        }
        Method::OPTIONS => cors::DOCUMENTS.preflight(),
        _ => cors::DOCUMENTS.method_not_allowed(),
    }
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn extend<'a>(list: &mut Vec<String>, more: impl IntoIterator<Item = &'a String>) {
    for text in more {
        if !list.contains(text) {
            list.push(text.clone());
        }
    }
}

/// Those of ours that they list too; all of ours when that is none, for an empty list says nothing.
fn fewer(ours: &mut Vec<String>, theirs: &[String]) {
    if ours.iter().any(|own| theirs.contains(own)) {
        ours.retain(|own| theirs.contains(own));
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use http::header::{ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_ORIGIN};
    use serde_json::json;

    use super::*;

    fn issuer() -> Issuer {
        Issuer::parse("https://auth.example.com").expect("valid")
    }

    fn features() -> Features {
        Features {
            scopes: strings(&["openid", "profile", "email", "mcp", "offline_access"]),
            registration: true,
            client_id_metadata_documents: true,
            ..Features::default()
        }
    }

    fn json_of(metadata: &ServerMetadata) -> Value {
        serde_json::from_slice(&metadata.to_json()).expect("JSON")
    }

    #[test]
    fn the_document_says_what_clients_look_for() {
        let document = json_of(&ServerMetadata::new(&issuer(), &features()));
        let at = |path: &str| json!(format!("https://auth.example.com{path}"));
        for (name, value) in [
            ("issuer", at("")),
            ("authorization_endpoint", at("/authorize")),
            ("token_endpoint", at("/token")),
            ("jwks_uri", at("/jwks")),
            ("registration_endpoint", at("/register")),
            ("revocation_endpoint", at("/revoke")),
            ("introspection_endpoint", at("/introspect")),
            ("device_authorization_endpoint", at("/device/code")),
            ("userinfo_endpoint", at("/userinfo")),
            ("end_session_endpoint", at("/logout")),
            ("scopes_supported", json!(["openid", "profile", "email", "mcp"])),
            ("response_types_supported", json!(["code"])),
            ("response_modes_supported", json!(["query"])),
            (
                "grant_types_supported",
                json!([
                    "authorization_code",
                    "refresh_token",
                    "urn:ietf:params:oauth:grant-type:device_code",
                    "client_credentials"
                ]),
            ),
            ("code_challenge_methods_supported", json!(["S256"])),
            (
                "token_endpoint_auth_methods_supported",
                json!(["none", "client_secret_basic", "client_secret_post", "private_key_jwt"]),
            ),
            (
                "introspection_endpoint_auth_methods_supported",
                json!(["client_secret_basic", "client_secret_post", "private_key_jwt"]),
            ),
            ("subject_types_supported", json!(["public"])),
            ("id_token_signing_alg_values_supported", json!(["RS256"])),
            ("request_uri_parameter_supported", json!(false)),
            ("authorization_response_iss_parameter_supported", json!(true)),
            ("client_id_metadata_document_supported", json!(true)),
        ] {
            assert_eq!(document[name], value, "{name}");
        }
    }

    #[test]
    fn what_is_off_is_not_published_and_nothing_is_null() {
        let document = json_of(&ServerMetadata::new(&issuer(), &Features::default()));
        let members = document.as_object().expect("an object");
        for absent in ["registration_endpoint", "service_documentation", "scopes_supported"] {
            assert!(!members.contains_key(absent), "{absent}");
        }
        assert!(members.values().all(|value| !value.is_null()));
        let on = Features {
            offline_access: true,
            jwt_bearer: true,
            token_exchange: true,
            service_documentation: Some("https://docs.example".to_owned()),
            ..features()
        };
        let document = json_of(&ServerMetadata::new(&issuer(), &on));
        assert_eq!(document["grant_types_supported"].as_array().map(Vec::len), Some(6));
        assert_eq!(document["service_documentation"], "https://docs.example");
        assert_eq!(
            document["scopes_supported"],
            json!(["openid", "profile", "email", "mcp", "offline_access"])
        );
    }

    #[test]
    fn a_host_adds_but_can_not_speak_for_another_issuer() {
        let custom = json!({
            "issuer": "https://evil.example", "token_endpoint": "https://evil.example/token", "signed_metadata": "x",
            "registration_endpoint": "https://evil.example/register", "code_challenge_methods_supported": ["plain"],
            "op_policy_uri": "https://app.example/policy", "nothing": null, "code_challenge_methods_required": ["plain"],
        });
        let additions = Additions {
            scopes: strings(&["mcp:read", "mcp", "offline_access"]),
            grant_types: strings(&["implicit"]),
            token_auth_methods: strings(&["tls_client_auth"]),
            claims: strings(&["groups"]),
            pkce_required: true,
            custom: custom.as_object().expect("an object").clone(),
            replace: false,
        };
        let off = Features { registration: false, ..features() };
        let plain = json_of(&ServerMetadata::new(&issuer(), &off));
        let document = json_of(&ServerMetadata::new(&issuer(), &off).with(&additions));
        assert_eq!(document["scopes_supported"], json!(["openid", "profile", "email", "mcp", "mcp:read"]));
        assert!(document["claims_supported"].as_array().expect("a list").contains(&json!("groups")));
        assert_eq!(document["op_policy_uri"], "https://app.example/policy");
        assert_eq!(document["code_challenge_methods_required"], json!(["S256"]));
        for (name, value) in document.as_object().expect("an object") {
            let own =
                ["scopes_supported", "claims_supported", "op_policy_uri", "code_challenge_methods_required"];
            if !own.contains(&name.as_str()) {
                assert_eq!(Some(value), plain.get(name), "{name}");
            }
        }
    }

    #[test]
    fn a_host_may_list_less() {
        let additions = Additions {
            scopes: strings(&["mcp:read"]),
            grant_types: strings(&["authorization_code", "implicit"]),
            token_auth_methods: strings(&["private_key_jwt"]),
            replace: true,
            ..Additions::default()
        };
        let document = json_of(&ServerMetadata::new(&issuer(), &features()).with(&additions));
        assert_eq!(document["scopes_supported"], json!(["mcp:read"]));
        assert_eq!(document["grant_types_supported"], json!(["authorization_code"]));
        assert_eq!(document["token_endpoint_auth_methods_supported"], json!(["none", "private_key_jwt"]));
        assert_eq!(document["issuer"], "https://auth.example.com");
        let nothing =
            Additions { replace: true, grant_types: strings(&["implicit"]), ..Additions::default() };
        let same = ServerMetadata::new(&issuer(), &features()).with(&nothing);
        assert_eq!(same, ServerMetadata::new(&issuer(), &features()));
    }

    #[test]
    fn an_issuer_is_an_https_url_and_nothing_more() {
        for (text, parts) in [
            ("https://auth.example.com", Some(("auth.example.com", ""))),
            ("https://auth.example.com:8443/t/1", Some(("auth.example.com:8443", "/t/1"))),
            ("https://auth.example.com/", None),
            ("http://auth.example.com", None),
            ("https://", None),
            ("https:///x", None),
            ("https://auth.example.com?x", None),
            ("https://auth.example.com#x", None),
            ("https://u@auth.example.com", None),
            ("https://auth.example.com/a b", None),
            ("auth.example.com", None),
        ] {
            let issuer = Issuer::parse(text);
            let read = issuer.as_ref().ok().map(|issuer| (issuer.authority(), issuer.path()));
            assert_eq!(read, parts, "{text}");
        }
    }

    #[test]
    fn everybody_may_read_it() {
        let document = ServerMetadata::new(&issuer(), &features()).to_json();
        for (method, status) in
            [("GET", 200), ("HEAD", 200), ("OPTIONS", 204), ("POST", 405), ("DELETE", 405)]
        {
            let response = answer(&method.parse().expect("a method"), &document);
            assert_eq!(response.status(), status, "{method}");
            assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "*", "{method}");
        }
        let response = answer(&Method::GET, &document);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        assert_eq!(response.headers()[CACHE_CONTROL], "public, max-age=60");
        let preflight = answer(&Method::OPTIONS, &document);
        assert_eq!(preflight.status(), StatusCode::NO_CONTENT);
        let allowed = preflight.headers()[ACCESS_CONTROL_ALLOW_HEADERS].to_str().expect("ASCII");
        assert!(allowed.contains("MCP-Protocol-Version"));
    }
}
