//! A host that answers as it should, but for what a test changes.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::support::handmade::{self, full};

/// A request, as far as answers depend on it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    /// Scheme and authority.
    pub(crate) origin: String,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

impl Said {
    fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: String::new() }
    }

    fn json(status: u16, value: &Value) -> Self {
        let headers = vec![("content-type", "application/json".to_owned())];
        Self { status, headers, body: value.to_string() }
    }

    /// Changes the JSON of the body.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Value)) {
        let mut value: Value = serde_json::from_str(&self.body).unwrap();
        change(&mut value);
        self.body = value.to_string();
    }

    /// Replaces a header.
    pub(crate) fn header(&mut self, name: &'static str, value: Option<&str>) {
        self.headers.retain(|(own, _)| *own != name);
        self.headers.extend(value.map(|value| (name, value.to_owned())));
    }

    /// Changes the values of a header.
    pub(crate) fn edit(&mut self, name: &str, change: impl Fn(&str) -> String) {
        for (_, value) in self.headers.iter_mut().filter(|(own, _)| *own == name) {
            *value = change(value);
        }
    }

    /// An HTML page in its place.
    pub(crate) fn page(&mut self) {
        self.header("content-type", Some("text/html"));
        "<p>hello".clone_into(&mut self.body);
    }
}

/// Starts a host whose answers `twist` changes.
pub(crate) async fn host(twist: fn(&Asked, &mut Said)) -> SocketAddr {
    handmade::serve(false, move |request: Request<Incoming>| async move {
        let (parts, body) = request.into_parts();
        let body: Bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let asked = Asked {
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            origin: format!("http://{}", parts.headers["host"].to_str().unwrap()),
            headers: parts.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        };
        let mut said = answer(&asked);
        twist(&asked, &mut said);
        let mut response = Response::builder().status(said.status);
        for (name, value) in &said.headers {
            response = response.header(*name, value);
        }
        response.body(full(said.body)).unwrap()
    })
    .await
}

/// What a good host says.
fn answer(asked: &Asked) -> Said {
    let origin = &asked.origin;
    let mut said = match (asked.method.as_str(), asked.path.as_str()) {
        ("OPTIONS", _) => {
            let mut said = Said::status(204);
            said.header(
                "access-control-allow-headers",
                Some("authorization, content-type, mcp-protocol-version"),
            );
            said
        }
        ("GET", "/mcp") if asked.headers.get("authorization").is_some_and(is_good) => Said::status(405),
        (_, "/mcp" | "/tokens/info") => {
            let mut said = Said::status(401);
            let error =
                if asked.headers.contains_key("authorization") { ", error=\"invalid_token\"" } else { "" };
            let named = format!("{origin}/.well-known/oauth-protected-resource/mcp");
            let challenge = format!("Bearer resource_metadata=\"{named}\", scope=\"mcp:read\"{error}");
            said.header("www-authenticate", Some(&challenge));
            said.header("access-control-expose-headers", Some("WWW-Authenticate, Mcp-Session-Id"));
            said
        }
        ("GET", "/.well-known/oauth-protected-resource" | "/.well-known/oauth-protected-resource/mcp") => {
            Said::json(
                200,
                &json!({ "resource": format!("{origin}/mcp"), "authorization_servers": [origin] }),
            )
        }
        ("GET", "/.well-known/oauth-authorization-server" | "/.well-known/openid-configuration") => {
            Said::json(200, &metadata(origin))
        }
        ("GET", "/jwks") => {
            Said::json(200, &json!({ "keys": [{ "kty": "RSA", "kid": "k1", "n": "AQAB", "e": "AQAB" }] }))
        }
        ("GET", "/authorize") => Said::status(400),
        ("POST", "/device/code") => Said::json(
            200,
            &json!({
                "device_code": "dc",
                "user_code": "WDJB-MJHT",
                "verification_uri": format!("{origin}/device"),
                "expires_in": 600,
                "interval": 0,
            }),
        ),
        ("POST", "/token") => Said::json(400, &json!({ "error": "invalid_client" })),
        ("POST", "/register") => registered(asked),
        ("DELETE", "/register/c1") => Said::status(204),
        _ => Said::status(404),
    };
    said.header("access-control-allow-origin", Some("*"));
    said
}

/// The last part of a token that a good host takes. Nobody signs it here.
pub(crate) const GOOD: &str = "good";

fn is_good(header: &HeaderValue) -> bool {
    header.to_str().unwrap().ends_with(&format!(".{GOOD}"))
}

/// RFC 7591, section 3.2.1.
fn registered(asked: &Asked) -> Said {
    let mut client: Value = serde_json::from_str(&asked.body).unwrap();
    client["client_id"] = "c1".into();
    client["registration_client_uri"] = format!("{}/register/c1", asked.origin).into();
    client["registration_access_token"] = "rat".into();
    if client["token_endpoint_auth_method"] != "none" {
        client["client_secret"] = "secret".into();
        client["client_secret_expires_at"] = 0.into();
    }
    Said::json(201, &client)
}

fn metadata(origin: &str) -> Value {
    json!({
        "issuer": origin,
        "authorization_endpoint": format!("{origin}/authorize"),
        "token_endpoint": format!("{origin}/token"),
        "jwks_uri": format!("{origin}/jwks"),
        "registration_endpoint": format!("{origin}/register"),
        "device_authorization_endpoint": format!("{origin}/device/code"),
        "response_types_supported": ["code"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none", "client_secret_post"],
        "authorization_response_iss_parameter_supported": true,
        "client_id_metadata_document_supported": true,
    })
}
