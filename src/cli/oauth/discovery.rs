//! From a gateway's URL to its authorization server: a challenge, the resource's metadata (RFC 9728), the server's
//! metadata (RFC 8414).

use std::collections::BTreeMap;

use http::header::WWW_AUTHENTICATE;
use http::{StatusCode, Uri};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::LoginError;
use crate::cli::web::{Place, Web};

/// A path of the API that always needs a token.
const PROTECTED: &str = "/tokens/info";

/// RFC 9728, section 3.
pub(super) const RESOURCE: &str = "/.well-known/oauth-protected-resource";
/// RFC 8414, section 3.
pub(super) const SERVER: &str = "/.well-known/oauth-authorization-server";
/// OpenID Connect Discovery 1.0, section 4.
pub(super) const OPENID: &str = "/.well-known/openid-configuration";

/// What a login needs to know.
#[derive(Debug)]
pub(super) struct Discovered {
    /// What the tokens are to be for.
    pub(super) resource: String,
    /// The scopes that the gateway asks for, if it says.
    pub(super) scopes: Option<String>,
    pub(super) server: Server,
}

/// The metadata of an authorization server (RFC 8414, section 2), as far as a login needs it.
#[derive(Debug, Deserialize)]
pub(super) struct Server {
    pub(super) issuer: String,
    pub(super) authorization_endpoint: Option<String>,
    pub(super) token_endpoint: String,
    pub(super) device_authorization_endpoint: Option<String>,
    pub(super) revocation_endpoint: Option<String>,
    #[serde(default)]
    pub(super) code_challenge_methods_supported: Vec<String>,
    #[serde(default)]
    pub(super) authorization_response_iss_parameter_supported: bool,
}

/// The metadata of a resource (RFC 9728, section 2), as far as a login needs it.
#[derive(Debug, Deserialize)]
struct Resource {
    resource: String,
    #[serde(default)]
    authorization_servers: Vec<String>,
    #[serde(default)]
    scopes_supported: Vec<String>,
}

/// Finds the authorization server of a gateway.
pub(super) async fn discover(web: &Web, gateway: &Uri) -> Result<Discovered, LoginError> {
    let base = gateway.to_string();
    let base = base.trim_end_matches('/');
    let asked = url(&format!("{base}{PROTECTED}"))?;
    let reply = web.get(&asked).await?;
    if reply.status != StatusCode::UNAUTHORIZED {
        return Err(LoginError::NoChallenge { url: asked.to_string(), status: reply.status.as_u16() });
    }
    let challenge = reply.header(WWW_AUTHENTICATE).and_then(challenge).unwrap_or_default();
    let place = match challenge.get("resource_metadata") {
        Some(named) => secure(named)?,
        None => url(&format!("{}{RESOURCE}", origin(&asked)))?,
    };
    let metadata: Resource = document(web, &place).await?;
    if !covers(&metadata.resource, &asked) {
        return Err(LoginError::Elsewhere { resource: metadata.resource, asked: base.to_owned() });
    }
    let Some(issuer) = metadata.authorization_servers.into_iter().next() else {
        return Err(wrong(&place, "it names no authorization server"));
    };
    let published = (!metadata.scopes_supported.is_empty()).then(|| metadata.scopes_supported.join(" "));
    Ok(Discovered {
        resource: metadata.resource,
        scopes: challenge.get("scope").cloned().or(published),
        server: server(web, &issuer).await?,
    })
}

/// The metadata of an issuer. Its name in there must be the one that was asked for, byte by byte (RFC 8414,
/// section 3.3).
async fn server(web: &Web, issuer: &str) -> Result<Server, LoginError> {
    secure(issuer)?;
    let mut missing = None;
    for place in places(issuer) {
        let place = url(&place)?;
        let reply = web.get(&place).await?;
        if reply.status.is_client_error() {
            missing = missing.or(Some(place));
            continue;
        }
        let server: Server = parsed(&place, reply.status, &reply.body)?;
        if server.issuer != issuer {
            return Err(LoginError::Issuer { said: server.issuer, named: issuer.to_owned() });
        }
        let optional = [
            &server.authorization_endpoint,
            &server.device_authorization_endpoint,
            &server.revocation_endpoint,
        ];
        for endpoint in optional.into_iter().flatten().chain([&server.token_endpoint]) {
            secure(endpoint)?;
        }
        return Ok(server);
    }
    let place = missing.map(|place| place.to_string()).unwrap_or_default();
    Err(LoginError::Document { url: place, detail: "the authorization server has no metadata".to_owned() })
}

/// Where the metadata of an issuer may be: with the issuer's path inserted (RFC 8414, section 3.1) and appended.
pub(super) fn places(issuer: &str) -> Vec<String> {
    let Ok(parts) = issuer.parse::<Uri>() else { return Vec::new() };
    let (origin, path) = (origin(&parts), parts.path().trim_end_matches('/'));
    let mut places = vec![format!("{origin}{SERVER}{path}"), format!("{origin}{OPENID}{path}")];
    if !path.is_empty() {
        places.push(format!("{origin}{path}{OPENID}"));
    }
    places
}

/// The parameters of a challenge with the scheme Bearer (RFC 9110, section 11.2; RFC 6750, section 3).
pub(super) fn challenge(header: &str) -> Option<BTreeMap<String, String>> {
    let (scheme, mut rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if !scheme.eq_ignore_ascii_case("Bearer") {
        return None;
    }
    let mut params = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let Some((name, after)) = rest.split_once('=') else { return Some(params) };
        let after = after.trim_start();
        let value;
        if let Some(quoted) = after.strip_prefix('"') {
            (value, rest) = unquoted(quoted)?;
        } else {
            let end = after.find([',', ' ', '\t']).unwrap_or(after.len());
            value = after[..end].to_owned();
            rest = &after[end..];
        }
        params.entry(name.trim().to_ascii_lowercase()).or_insert(value);
    }
}

/// The inside of a quoted string, and what stands behind it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

/// Whether tokens for a resource are for a URL, too: the same origin, and a path that begins with the resource's.
pub(super) fn covers(resource: &str, url: &Uri) -> bool {
    let Ok(resource) = resource.parse::<Uri>() else { return false };
    if resource.query().is_some() || !same_origin(&resource, url) {
        return false;
    }
    let path = resource.path().trim_end_matches('/');
    url.path().strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether two URLs have scheme, host and port in common.
pub(super) fn same_origin(a: &Uri, b: &Uri) -> bool {
    match (Place::of(a), Place::of(b)) {
        (Some(a), Some(b)) => a.tls == b.tls && a.port == b.port && a.host.eq_ignore_ascii_case(b.host),
        _ => false,
    }
}

/// Scheme and authority.
pub(super) fn origin(url: &Uri) -> String {
    let authority = url.authority().map_or("", |authority| authority.as_str());
    format!("{}://{authority}", url.scheme_str().unwrap_or("https"))
}

/// A URL that secrets may be sent to: HTTPS, or this machine.
pub(super) fn secure(text: &str) -> Result<Uri, LoginError> {
    let parsed = url(text)?;
    match Place::of(&parsed) {
        Some(place) if place.tls || place.is_here() => Ok(parsed),
        _ => Err(wrong(text, "no URL of HTTPS")),
    }
}

fn url(text: &str) -> Result<Uri, LoginError> {
    text.parse().map_err(|_| wrong(text, "no URL"))
}

async fn document<T: DeserializeOwned>(web: &Web, url: &Uri) -> Result<T, LoginError> {
    let reply = web.get(url).await?;
    parsed(url, reply.status, &reply.body)
}

fn parsed<T: DeserializeOwned>(url: &Uri, status: StatusCode, body: &[u8]) -> Result<T, LoginError> {
    if status != StatusCode::OK {
        return Err(wrong(url, &format!("expected metadata, but the answer is {}", status.as_u16())));
    }
    serde_json::from_slice(body).map_err(|error| wrong(url, &error.to_string()))
}

fn wrong(url: &(impl ToString + ?Sized), detail: &str) -> LoginError {
    LoginError::Document { url: url.to_string(), detail: detail.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_read_as_its_grammar_has_it() {
        let read = |text: &str| challenge(text).map(|params| params.into_iter().collect::<Vec<_>>());
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            read(r#"Bearer realm="a, b=\"c\"", resource_metadata="https://a/b", error=invalid_token"#),
            Some(vec![
                pair("error", "invalid_token"),
                pair("realm", r#"a, b="c""#),
                pair("resource_metadata", "https://a/b"),
            ])
        );
        assert_eq!(read("bearer"), Some(vec![]));
        assert_eq!(read("Basic realm=\"a\""), None);
        assert_eq!(read("Bearer realm=\"open"), None);
        assert_eq!(read(r#"Bearer scope="a", scope="b""#), Some(vec![pair("scope", "a")]));
    }

    #[test]
    fn a_resource_covers_what_is_below_it() {
        let covers = |resource: &str, url: &str| covers(resource, &url.parse().unwrap());
        assert!(covers("https://a.example", "https://A.example:443/mcp"));
        assert!(covers("https://a.example/", "https://a.example/mcp"));
        assert!(covers("https://a.example/mcp", "https://a.example/mcp"));
        assert!(covers("https://a.example/mcp/", "https://a.example/mcp/x"));
        for (resource, url) in [
            ("https://a.example/mcp", "https://a.example/mcp2"),
            ("https://a.example/mcp", "https://a.example/"),
            ("http://a.example", "https://a.example/"),
            ("https://a.example:8443", "https://a.example/"),
            ("https://a.example.evil.example", "https://a.example/"),
            ("https://a.example?x=1", "https://a.example/"),
            ("a.example", "https://a.example/"),
            ("", "https://a.example/"),
        ] {
            assert!(!covers(resource, url), "{resource} {url}");
        }
    }

    #[test]
    fn metadata_is_looked_for_where_the_rfcs_put_it() {
        assert_eq!(
            places("https://a.example"),
            [
                "https://a.example/.well-known/oauth-authorization-server",
                "https://a.example/.well-known/openid-configuration"
            ]
        );
        assert_eq!(
            places("https://a.example/t/1")[..],
            [
                "https://a.example/.well-known/oauth-authorization-server/t/1",
                "https://a.example/.well-known/openid-configuration/t/1",
                "https://a.example/t/1/.well-known/openid-configuration"
            ]
        );
    }

    #[test]
    fn secrets_go_nowhere_in_clear() {
        for fine in ["https://a.example/token", "http://127.0.0.1:1/token", "http://auth.localhost/token"] {
            assert!(secure(fine).is_ok(), "{fine}");
        }
        for bad in ["http://a.example/token", "ftp://a.example", "/token", "http://127.0.0.1.evil.example/"] {
            assert!(secure(bad).is_err(), "{bad}");
        }
    }
}
