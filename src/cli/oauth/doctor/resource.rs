//! The resource: how it challenges, and what it publishes about itself.

use http::header::{ACCEPT, AUTHORIZATION, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, StatusCode, Uri};
use serde_json::Value;

use super::Probe;
use super::report::{EVERY, Finding, PYTHON, Report, SDKS, TYPESCRIPT, WHOLE};
use crate::cli::oauth::discovery::{self, covers};
use crate::cli::web::Reply;

/// The check of the metadata that the challenge names.
const NAMED: &str = "metadata-named";

/// What was found out about the resource.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Where its metadata is.
    pub(super) place: Option<Uri>,
    /// What its metadata says that it is.
    pub(super) resource: Option<String>,
    pub(super) issuer: Option<String>,
    /// The scopes that the challenge asks for.
    pub(super) scope: Option<String>,
}

/// What a challenge says.
#[derive(Debug, Default)]
pub(super) struct Challenge {
    /// The URL of the metadata.
    named: Option<String>,
    scope: Option<String>,
}

/// Whether a request without a token is told where to get one.
pub(super) async fn challenge(probe: &Probe, report: &mut Report) -> Option<Challenge> {
    let reply = match probe.knock(&[]).await {
        Ok(reply) => reply,
        Err(error) => {
            let finding = Finding {
                clients: EVERY,
                why: "their first request gets no answer",
                advice: "portcullis log follow shows whether it arrives",
            };
            report.fail("challenge", error.to_string(), finding);
            return None;
        }
    };
    if reply.status.is_redirection() {
        let to = reply.header(LOCATION).unwrap_or_default();
        report.fail(
            "redirect",
            format!("POST {} gets {} to {to}", probe.url.path(), reply.status.as_u16()),
            Finding {
                clients: EVERY,
                why: "no client repeats a POST at another URL, and a page to log in is none that it can read",
                advice: "give clients the URL that answers by itself (a slash at the end counts); for APIs use auth_mode forward",
            },
        );
        return None;
    }
    report.pass("redirect", format!("POST {} is answered at its own URL", probe.url.path()));
    if reply.status != StatusCode::UNAUTHORIZED {
        report.fail(
            "challenge",
            format!("POST without a token gets {}", reply.status.as_u16()),
            Finding {
                clients: EVERY,
                why: "only 401 makes a client log in",
                advice: "turn authentication on, and take the path out of auth_excluded_paths: portcullis auth --help",
            },
        );
        return None;
    }
    get_is_challenged(probe, report).await;
    read_challenge(&reply, report)
}

/// The same holds for GET, with which clients open their stream of events.
async fn get_is_challenged(probe: &Probe, report: &mut Report) {
    let headers = [(ACCEPT, "text/event-stream")];
    let seen = match probe.web.send(Method::GET, &probe.url, &headers, bytes::Bytes::new()).await {
        Ok(reply) if reply.status == StatusCode::UNAUTHORIZED => return,
        Ok(reply) => reply.status.as_u16().to_string(),
        Err(error) => error.to_string(),
    };
    report.warn(
        "challenge-get",
        format!("GET without a token: {seen}"),
        Finding {
            clients: SDKS,
            why: "every request needs a token, those for a stream of events, too",
            advice: "is there a route for GET that needs no token? portcullis proxy routes --help",
        },
    );
}

fn read_challenge(reply: &Reply, report: &mut Report) -> Option<Challenge> {
    const CHECK: &str = "challenge";
    let values: Vec<&str> =
        reply.headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).collect();
    let seen = if values.is_empty() { "401 without WWW-Authenticate".to_owned() } else { values.join(" | ") };
    let Some(params) = values.first().and_then(|value| discovery::challenge(value)) else {
        report.fail(
            CHECK,
            seen,
            Finding {
                clients: EVERY,
                why: "they look for a challenge with the scheme Bearer, and it must be the first",
                advice: "is it the gateway that answers 401, or the upstream? portcullis log search --status 401",
            },
        );
        return None;
    };
    let said = Challenge {
        named: params.get("resource_metadata").cloned(),
        scope: params.get("scope").filter(|scope| !scope.is_empty()).cloned(),
    };
    if values.len() > 1 {
        report.warn(
            CHECK,
            seen,
            Finding {
                clients: SDKS,
                why: "they read one header only, with a pattern that takes no account of other schemes",
                advice: "send one WWW-Authenticate header with one scheme",
            },
        );
        return Some(said);
    }
    report.expect(
        said.named.is_some(),
        CHECK,
        seen,
        Finding {
            clients: EVERY,
            why: "without resource_metadata they have to guess where the metadata is, and some give up",
            advice: "set auth_include_metadata_urls of the host",
        },
    );
    if params.contains_key("error") {
        report.warn(
            "challenge-error",
            "it has an error code although no token was sent",
            Finding {
                clients: SDKS,
                why: "they take it for a refusal of a token that they do not have (RFC 6750, section 3)",
                advice: "send an error code only where a token was sent",
            },
        );
    }
    if params.get("scope").is_some_and(|scope| scope.split(' ').any(|scope| scope == "offline_access")) {
        report.warn(
            "challenge-scope",
            "it asks for offline_access",
            Finding {
                clients: SDKS,
                why: "they ask for what the challenge names, and the user is asked for consent each time",
                advice: "take offline_access out of auth_scope_required",
            },
        );
    }
    Some(said)
}

/// Whether a token that is none is refused, and as such.
pub(super) async fn bad_token(probe: &Probe, report: &mut Report) {
    const CHECK: &str = "bad-token";
    let reply = match probe.knock(&[(AUTHORIZATION, "Bearer not-a-token")]).await {
        Ok(reply) => reply,
        Err(error) => return report.skip(CHECK, error.to_string()),
    };
    let challenge = reply.headers.get(WWW_AUTHENTICATE).map(HeaderValue::to_str);
    let params = challenge.and_then(Result::ok).and_then(discovery::challenge).unwrap_or_default();
    let error = params.get("error").map(String::as_str);
    let seen = format!("{}, error {}", reply.status.as_u16(), error.unwrap_or("none"));
    if reply.status == StatusCode::UNAUTHORIZED {
        let finding = Finding {
            clients: SDKS,
            why: "without error=\"invalid_token\" they do not know that the token is at fault (RFC 6750, section 3.1)",
            advice: "is it the gateway that answers? portcullis log search --status 401",
        };
        report.prefer(error == Some("invalid_token"), CHECK, seen, finding);
        return;
    }
    let finding = Finding {
        clients: EVERY,
        why: "only 401 makes a client renew a token that has ended",
        advice: "turn authentication on for the path: portcullis auth --help",
    };
    report.fail(CHECK, seen, finding);
}

/// Whether the resource's metadata is where clients look for it, and fits the URL (RFC 9728).
pub(super) async fn metadata(probe: &Probe, challenge: Option<Challenge>, report: &mut Report) -> Found {
    let Challenge { named, scope } = challenge.unwrap_or_default();
    let mut found = Found { scope, ..Found::default() };
    let path = probe.url.path().trim_end_matches('/');
    let inserted = probe.at(&format!("{}{path}", discovery::RESOURCE));
    let root = probe.at(discovery::RESOURCE);
    let named = named.and_then(|named| named.parse::<Uri>().ok());
    let mut forms = vec![(NAMED, named), ("metadata-path", inserted)];
    if !path.is_empty() {
        forms.push(("metadata-root", root));
    }
    for (check, place) in forms {
        let Some(place) = place else { continue };
        if let Some(Names { resource, issuer }) = document(probe, check, &place, report).await {
            found.place = found.place.or(Some(place));
            found.resource = found.resource.or(Some(resource));
            found.issuer = found.issuer.or(Some(issuer));
        }
    }
    if let Some(resource) = &found.resource {
        whole(probe, resource, report);
    }
    if found.issuer.is_none() {
        report.fail(
            "metadata",
            "no metadata that names an authorization server",
            Finding {
                clients: EVERY,
                why: "without it they do not know where to log in",
                advice: "register the resource: portcullis resource register --help",
            },
        );
    }
    found
}

/// Whether the resource is the URL that clients are given, and not only a part of it.
fn whole(probe: &Probe, resource: &str, report: &mut Report) {
    if !covers(resource, &probe.url) {
        // Said before: no client goes on then.
        return;
    }
    report.prefer(
        resource.parse::<Uri>().is_ok_and(|own| covers(&probe.url.to_string(), &own)),
        "resource-url",
        format!("the resource is {resource}"),
        Finding {
            clients: WHOLE,
            why: "they compare the resource with the whole URL that they were given, and stop",
            advice: "set resource_endpoint of the host to the path that clients are given",
        },
    );
}

/// What a document of the metadata names.
struct Names {
    resource: String,
    issuer: String,
}

/// Looks at one place of the metadata.
async fn document(probe: &Probe, check: &'static str, place: &Uri, report: &mut Report) -> Option<Names> {
    let missing = Finding {
        clients: &["clients that do not read the challenge"],
        why: "they look for the metadata at its well-known places only",
        advice: "publish it at the path's form and at the root's (RFC 9728, section 3.1)",
    };
    let reply = match probe.web.get(place).await {
        Ok(reply) => reply,
        Err(error) => {
            report.fail(check, format!("{place}: {error}"), missing);
            return None;
        }
    };
    if reply.status.is_server_error() || reply.status == StatusCode::TOO_MANY_REQUESTS {
        let finding = Finding {
            clients: PYTHON,
            why: "it gives up at an error of the server instead of trying the next place",
            advice: "answer 404 where there is nothing",
        };
        report.fail(check, format!("{place}: {}", reply.status.as_u16()), finding);
        return None;
    }
    if reply.status != StatusCode::OK {
        let seen = format!("{place}: {}", reply.status.as_u16());
        // Where there is nothing, clients go on to the next place; but not from the one that they were sent to.
        if check == NAMED {
            report.fail(check, seen, missing);
        } else {
            report.warn(check, seen, missing);
        }
        return None;
    }
    let Some(document) = reply.json().filter(Value::is_object) else {
        let finding = Finding {
            clients: EVERY,
            why: "a page or a broken document is no metadata",
            advice: "answer with application/json, or 404 where there is nothing",
        };
        report.fail(check, format!("{place}: 200, but no JSON object"), finding);
        return None;
    };
    judge(probe, check, place, &document, report)
}

fn judge(
    probe: &Probe,
    check: &'static str,
    place: &Uri,
    document: &Value,
    report: &mut Report,
) -> Option<Names> {
    let resource = document["resource"].as_str().unwrap_or_default();
    let issuer = document["authorization_servers"][0].as_str().map(str::to_owned);
    let seen =
        format!("{place}: resource {resource:?}, authorization server {:?}", issuer.as_deref().unwrap_or(""));
    if let Some(name) = null_member(document) {
        report.fail(check, format!("{place}: {name} is null"), NULLS);
    } else if !covers(resource, &probe.url) {
        let finding = Finding {
            clients: SDKS,
            why: "they stop when the resource is not the URL that they were given, or a part of its path (audience)",
            advice: "is the public URL right (PORTCULLIS_PUBLIC_HTTPS_PORT), and resource_endpoint of the host?",
        };
        report.fail(check, seen, finding);
    } else {
        let finding = Finding {
            clients: EVERY,
            why: "without authorization_servers they do not know where to log in",
            advice: "name one: auth_proxy of the host, or OAUTH_ISSUER",
        };
        report.expect(issuer.is_some(), check, seen, finding);
    }
    Some(Names { resource: resource.to_owned(), issuer: issuer? })
}

/// A `null` where a member should be absent.
pub(super) const NULLS: Finding = Finding {
    clients: TYPESCRIPT,
    why: "its schemas refuse null for optional members",
    advice: "leave members without a value out",
};

/// The first member that is `null`.
pub(super) fn null_member(document: &Value) -> Option<&str> {
    document.as_object()?.iter().find(|(_, value)| value.is_null()).map(|(name, _)| name.as_str())
}
