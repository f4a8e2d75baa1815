//! A token: whether it is for this host, and good there (RFC 9068, section 4; RFC 8707).
//!
//! It is sent to the host only when it says itself that it is for it: whoever looks at a stranger's host must not hand
//! over the token of another.

use http::header::{ACCEPT, AUTHORIZATION, WWW_AUTHENTICATE};
use http::{Method, StatusCode, Uri};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use super::Probe;
use super::report::{Finding, Report};
use super::resource::Found;
use crate::cli::oauth::discovery::{self, covers};
use crate::cli::oauth::status::claims;

/// The check that says whom the token is for.
const AUDIENCE: &str = "audience";

/// Those that use it.
const HOLDERS: &[&str] = &["every client with this token"];

/// Those whose tokens are for another resource because they never name one, and those that have such a token.
const UNNAMED: &[&str] = &["every client with this token", "clients of 2025-03-26, which name no resource"];

/// Those that get more scopes by themselves when the host asks for them, are not among these.
const NO_STEP_UP: &[&str] = &["every client with this token that does not step up (SDKs and VS Code do)"];

/// A token, and whether it was named for this host.
#[derive(Debug, Clone)]
pub(super) struct Presented {
    pub(super) token: SecretString,
    /// By an argument; otherwise it is what the profile has, for whichever host.
    pub(super) named: bool,
}

/// Looks at the token.
pub(super) async fn token(probe: &Probe, found: &Found, report: &mut Report) {
    let (Some(presented), Some(resource)) = (&probe.presented, &found.resource) else {
        let why = if probe.presented.is_none() {
            "no token to look at: --token TOKEN"
        } else {
            "the resource has no metadata, so nobody knows what tokens must be for"
        };
        return report.skip(AUDIENCE, why);
    };
    let Some(claims) = claims(presented.token.expose_secret()) else {
        return report.skip(AUDIENCE, "the token is no JWT: only who issued it can read it");
    };
    let audience = audience(&claims);
    let fits = audience.iter().any(|one| same(one, resource));
    if !fits && !presented.named {
        let seen = format!("the profile's token is for {}: not looked at", audience.join(", "));
        return report.skip(AUDIENCE, seen);
    }
    report.expect(
        fits,
        AUDIENCE,
        format!("the token is for {}, the host is {resource}", audience.join(", ")),
        Finding {
            clients: UNNAMED,
            why: "a host takes no token that is for another (RFC 8707): not for the host alone, not for a part of it",
            advice: "log in with resource= as the metadata has it, in the authorization and in the token request",
        },
    );
    issuer(&claims, found, report);
    lifetime(&claims, Timestamp::now(), report);
    scopes(&claims, found, report);
    if fits {
        accepted(probe, &presented.token, report).await;
    } else {
        report.skip("accepted", "not sent, because it is not for this host");
    }
}

/// What a token is for: one or several (RFC 7519, section 4.1.3).
fn audience(claims: &Map<String, Value>) -> Vec<&str> {
    match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// Whether two URIs name one resource: scheme, host and port in any spelling, the path but for a slash at its end.
fn same(one: &str, other: &str) -> bool {
    let is_below = |one: &str, other: &str| other.parse::<Uri>().is_ok_and(|other| covers(one, &other));
    is_below(one, other) && is_below(other, one)
}

fn issuer(claims: &Map<String, Value>, found: &Found, report: &mut Report) {
    let said = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
    let Some(named) = found.issuer.as_deref() else { return };
    report.expect(
        said == named,
        "token-issuer",
        format!("the token is of {said:?}, the host names {named:?}"),
        Finding {
            clients: HOLDERS,
            why: "a host takes tokens of its authorization server only, compared byte by byte",
            advice: "log in anew: clients find the server by the resource's metadata",
        },
    );
}

fn lifetime(claims: &Map<String, Value>, now: Timestamp, report: &mut Report) {
    const CHECK: &str = "token-lifetime";
    let at = |name: &str| {
        let seconds = claims.get(name).and_then(Value::as_f64)?;
        // The cast saturates, and such a time is none.
        Timestamp::from_second(seconds as i64).ok()
    };
    let Some(end) = at("exp") else {
        let finding = Finding {
            clients: HOLDERS,
            why: "a token without an end is none of RFC 9068, section 2.2",
            advice: "have the authorization server say exp",
        };
        return report.fail(CHECK, "the token says no end", finding);
    };
    let begin = ["nbf", "iat"].into_iter().filter_map(at).max();
    if let Some(begin) = begin.filter(|begin| *begin > now) {
        let finding = Finding {
            clients: HOLDERS,
            why: "it seems to be from the future",
            advice: "synchronise the clocks (NTP)",
        };
        return report.fail(CHECK, format!("the token begins at {begin}"), finding);
    }
    let finding = Finding {
        clients: HOLDERS,
        why: "the host answers 401; clients with a refresh token renew it then, others log in anew",
        advice: "renew it, or log in anew",
    };
    let seen = if end > now { format!("it ends at {end}") } else { format!("it ended at {end}") };
    report.expect(end > now, CHECK, seen, finding);
}

/// The scopes that the challenge asks for are those that a request needs.
fn scopes(claims: &Map<String, Value>, found: &Found, report: &mut Report) {
    const CHECK: &str = "token-scopes";
    let Some(asked) = &found.scope else {
        return report.skip(CHECK, "the challenge asks for none");
    };
    let own = claims.get("scope").and_then(Value::as_str).unwrap_or_default();
    let lacking: Vec<&str> =
        asked.split(' ').filter(|scope| !own.split(' ').any(|own| own == *scope)).collect();
    let finding = Finding {
        clients: NO_STEP_UP,
        why: "requests that need these scopes get 403 with insufficient_scope",
        advice: "log in for them, as a user whom the host's lists give them",
    };
    let seen = if lacking.is_empty() {
        format!("it has {asked}")
    } else {
        format!("it has {own:?} and lacks {}", lacking.join(", "))
    };
    report.prefer(lacking.is_empty(), CHECK, seen, finding);
}

/// Whether the host takes it. GET, and for no stream: nothing is begun at the server behind the host.
async fn accepted(probe: &Probe, token: &SecretString, report: &mut Report) {
    const CHECK: &str = "accepted";
    let bearer = format!("Bearer {}", token.expose_secret());
    let headers = [(ACCEPT, "application/json"), (AUTHORIZATION, bearer.as_str())];
    let reply = match probe.web.send(Method::GET, &probe.url, &headers, bytes::Bytes::new()).await {
        Ok(reply) => reply,
        Err(error) => return report.skip(CHECK, error.to_string()),
    };
    let challenge = reply.header(WWW_AUTHENTICATE).and_then(discovery::challenge).unwrap_or_default();
    let said = challenge.get("error_description").or_else(|| challenge.get("error"));
    let seen = format!("{} {}", reply.status.as_u16(), said.map_or("", String::as_str));
    match reply.status {
        StatusCode::UNAUTHORIZED => {
            let finding = Finding {
                clients: HOLDERS,
                why: "the host does not take it, whatever it says of itself: it was revoked, its login has ended, or its key is not known",
                advice: "log in anew; for the gateway's own token portcullis oauth status says more",
            };
            report.fail(CHECK, seen.trim_end(), finding);
        }
        StatusCode::FORBIDDEN => {
            let finding = Finding {
                clients: HOLDERS,
                why: "the host knows who it is and does not let them in: they are on no list, or lack a scope",
                advice: "look at auth_required_users and the lists of the host: portcullis auth --help",
            };
            report.fail(CHECK, seen.trim_end(), finding);
        }
        _ => report.pass(CHECK, format!("GET with the token gets {}", seen.trim_end())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_resource_has_several_spellings_and_no_prefix() {
        let resource = "https://a.example/mcp";
        for fine in [resource, "https://A.example:443/mcp", "https://a.example/mcp/"] {
            assert!(same(fine, resource), "{fine}");
        }
        for other in ["https://a.example", "https://a.example/mcp/x", "http://a.example/mcp", "a.example", ""]
        {
            assert!(!same(other, resource), "{other}");
        }
    }

    #[test]
    fn an_audience_is_one_or_several() {
        let of = |value: Value| {
            let claims = json!({ "aud": value });
            audience(claims.as_object().unwrap()).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(of(json!("a")), ["a"]);
        assert_eq!(of(json!(["a", 1, "b"])), ["a", "b"]);
        assert_eq!(of(json!({})), [""; 0]);
    }

    #[test]
    fn a_token_has_its_time() {
        let now = Timestamp::from_second(1_000).unwrap();
        for (claims, failures) in [
            (json!({ "exp": 1_001, "iat": 1_000 }), 0),
            (json!({ "exp": 1_000 }), 1),
            (json!({ "exp": 2_000, "iat": 1_500 }), 1),
            (json!({ "exp": 2_000, "nbf": 1_500.5 }), 1),
            (json!({ "exp": 1e300 }), 1),
            (json!({ "exp": "2000" }), 1),
            (json!({}), 1),
        ] {
            let mut report = Report::new(&Uri::from_static("https://a.example/mcp"));
            lifetime(claims.as_object().unwrap(), now, &mut report);
            assert_eq!(report.failures(), failures, "{claims}");
        }
    }
}
