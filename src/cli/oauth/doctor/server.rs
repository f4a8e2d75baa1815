//! The authorization server: what it publishes.

use http::{StatusCode, Uri};
use serde_json::Value;

use super::Probe;
use super::report::{EVERY, Finding, OLD, PUBLISHED, PYTHON, Report, SDKS, SECRET, TYPESCRIPT, UNKNOWN};
use super::resource::{NULLS, null_member};
use crate::cli::oauth::discovery::{self, origin, places};
use crate::cli::web::Place;

/// A well-known path that nothing is at.
const NOTHING: &str = "/.well-known/portcullis-doctor-finds-nothing-here";

/// What an authorization server publishes.
#[derive(Debug)]
pub(super) struct Server {
    /// Where its metadata is.
    pub(super) place: Uri,
    document: Value,
}

impl Server {
    /// One of its endpoints.
    pub(super) fn endpoint(&self, name: &str) -> Option<Uri> {
        self.document[name].as_str()?.parse().ok()
    }

    pub(super) fn names(&self, member: &str, value: &str) -> bool {
        self.document[member].as_array().is_some_and(|list| list.iter().any(|item| item == value))
    }
}

/// The metadata, at the places where clients look (RFC 8414, section 3.1; OpenID Connect Discovery 1.0, section 4).
pub(super) async fn metadata(probe: &Probe, issuer: &str, report: &mut Report) -> Option<Server> {
    const CHECK: &str = "server-metadata";
    let broken = Finding {
        clients: EVERY,
        why: "without the server's metadata nobody can log in",
        advice: "does the issuer's host answer, with a certificate that is trusted? portcullis oauth doctor of it tells more",
    };
    let mut found: Option<Server> = None;
    for place in places(issuer) {
        let Ok(place) = place.parse::<Uri>() else { continue };
        let reply = match probe.web.get(&place).await {
            Ok(reply) => reply,
            Err(error) => {
                report.fail(CHECK, format!("{place}: {error}"), broken);
                return None;
            }
        };
        if reply.status.is_client_error() {
            continue;
        }
        let document = reply.json().filter(Value::is_object).filter(|_| reply.status == StatusCode::OK);
        let Some(document) = document else {
            let finding = Finding {
                clients: SDKS,
                why: "they give up at an answer that is neither metadata nor an error 4xx",
                advice: "answer 404 where there is nothing",
            };
            report.fail(CHECK, format!("{place}: {}, but no JSON object", reply.status.as_u16()), finding);
            continue;
        };
        same_issuer(&place, &document, issuer, report);
        found = found.or(Some(Server { place, document }));
    }
    let Some(server) = found else {
        report.fail(CHECK, format!("{issuer}: no metadata"), broken);
        return None;
    };
    contents(&server, report);
    Some(server)
}

fn same_issuer(place: &Uri, document: &Value, issuer: &str, report: &mut Report) {
    let said = document["issuer"].as_str().unwrap_or_default();
    report.expect(
        said == issuer,
        "issuer",
        format!("{place}: {said:?}"),
        Finding {
            clients: SDKS,
            why: "the issuer must be the one that the resource names, byte by byte (RFC 8414, section 3.3)",
            advice: "set OAUTH_ISSUER to the URL that clients see, without a slash at its end",
        },
    );
}

fn contents(server: &Server, report: &mut Report) {
    let document = &server.document;
    if let Some(name) = null_member(document) {
        report.fail("server-metadata", format!("{name} is null"), NULLS);
    }
    let insecure: Vec<&str> = ["authorization_endpoint", "token_endpoint"]
        .into_iter()
        .filter(|name| {
            let url = server.endpoint(name);
            url.as_ref().and_then(Place::of).is_none_or(|place| !place.tls && !place.is_here())
        })
        .collect();
    report.expect(
        insecure.is_empty(),
        "server-metadata",
        if insecure.is_empty() {
            server.place.to_string()
        } else {
            format!("{}: no https URL", insecure.join(", "))
        },
        Finding {
            clients: EVERY,
            why: "these endpoints are needed, over https",
            advice: "set OAUTH_ISSUER to an https URL",
        },
    );
    let listed = |member: &str| document[member].to_string();
    report.expect(
        server.names("code_challenge_methods_supported", "S256"),
        "pkce",
        listed("code_challenge_methods_supported"),
        Finding {
            clients: SDKS,
            why: "they refuse a server that does not say that it knows PKCE with S256",
            advice: "publish code_challenge_methods_supported with S256",
        },
    );
    if server.names("code_challenge_methods_supported", "plain") {
        report.warn(
            "pkce-plain",
            "plain is offered",
            Finding {
                clients: &[],
                why: "a code that leaks with its challenge can be redeemed",
                advice: "offer S256 only",
            },
        );
    }
    report.expect(
        server.names("response_types_supported", "code"),
        "response-types",
        listed("response_types_supported"),
        Finding {
            clients: TYPESCRIPT,
            why: "they refuse a server that does not offer the authorization code flow",
            advice: "publish response_types_supported with code",
        },
    );
    report.expect(
        server.names("token_endpoint_auth_methods_supported", "none"),
        "public-clients",
        listed("token_endpoint_auth_methods_supported"),
        Finding {
            clients: PUBLISHED,
            why: "public clients take themselves for unwelcome where none is not listed",
            advice: "publish token_endpoint_auth_methods_supported with none",
        },
    );
    let registers = server.endpoint("registration_endpoint").is_some();
    report.prefer(
        registers,
        "registration",
        listed("registration_endpoint"),
        Finding {
            clients: UNKNOWN,
            why: "they have no client id, and no document about themselves",
            advice: "turn registration on, or give these clients ids",
        },
    );
    report.prefer(
        !registers || server.names("token_endpoint_auth_methods_supported", "client_secret_post"),
        "client-secrets",
        listed("token_endpoint_auth_methods_supported"),
        Finding {
            clients: SECRET,
            why: "they register with client_secret_post, unless they are known by a document or by ids that you gave them",
            advice: "take client_secret_post, and publish it",
        },
    );
    report.prefer(
        document["client_id_metadata_document_supported"] == true,
        "client-documents",
        listed("client_id_metadata_document_supported"),
        Finding {
            clients: PUBLISHED,
            why: "they have to register each time instead of naming their document",
            advice: "publish client_id_metadata_document_supported, and take such client ids",
        },
    );
    report.prefer(
        document["authorization_response_iss_parameter_supported"] == true,
        "iss-parameter",
        listed("authorization_response_iss_parameter_supported"),
        Finding {
            clients: &["clients that use several authorization servers"],
            why: "they can't tell whose answer it is (RFC 9207)",
            advice: "send iss in authorization responses, and say so",
        },
    );
}

/// Whether clients that take the resource's host for the authorization server find it.
pub(super) async fn at_the_host(probe: &Probe, issuer: &str, report: &mut Report) {
    const CHECK: &str = "older-clients";
    let Some(place) = probe.at(discovery::SERVER) else { return };
    if places(issuer).iter().any(|own| *own == place.to_string()) {
        return;
    }
    let missing = Finding {
        clients: OLD,
        why: "they look for the authorization server's metadata on the resource's host",
        advice: "set resource_endpoint of the host: portcullis resource register --help",
    };
    match probe.web.get(&place).await {
        Ok(reply) if reply.status == StatusCode::OK => {
            let said = reply.json().and_then(|document| document["issuer"].as_str().map(str::to_owned));
            let finding = Finding {
                clients: OLD,
                why: "there is one issuer; another name for it is another server to clients",
                advice: "publish the issuer that the resource names",
            };
            let seen = format!("{place}: {:?}", said.as_deref().unwrap_or_default());
            report.expect(said.as_deref() == Some(issuer), CHECK, seen, finding);
        }
        Ok(reply) if reply.status.is_client_error() => {
            report.warn(CHECK, format!("{place}: {}", reply.status.as_u16()), missing);
        }
        Ok(reply) => {
            let finding = Finding { clients: PYTHON, ..missing };
            report.fail(CHECK, format!("{place}: {}", reply.status.as_u16()), finding);
        }
        Err(error) => report.warn(CHECK, format!("{place}: {error}"), missing),
    }
}

/// Whether the keys that verify tokens can be read (RFC 7517).
pub(super) async fn keys(probe: &Probe, server: &Server, report: &mut Report) {
    const CHECK: &str = "keys";
    let finding = Finding {
        clients: &["upstreams that verify tokens by themselves"],
        why: "they need the keys that sign",
        advice: "publish them at jwks_uri",
    };
    let Some(url) = server.endpoint("jwks_uri") else {
        return report.warn(CHECK, "no jwks_uri", finding);
    };
    let reply = match probe.web.get(&url).await {
        Ok(reply) => reply,
        Err(error) => return report.fail(CHECK, format!("{url}: {error}"), finding),
    };
    let document = serde_json::from_slice::<Value>(&reply.body).unwrap_or_default();
    let keys = document["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    if keys.iter().any(|key| ["d", "p", "k"].iter().any(|name| key.get(name).is_some())) {
        let finding = Finding {
            clients: EVERY,
            why: "whoever reads a private key makes tokens as they like",
            advice: "replace the keys at once, and publish their public halves only",
        };
        return report.fail(CHECK, format!("{url}: a private key is published"), finding);
    }
    let fine = !keys.is_empty() && keys.iter().all(|key| key["kty"].is_string() && key["kid"].is_string());
    report.expect(
        fine && reply.status == StatusCode::OK,
        CHECK,
        format!("{url}: {}, {} keys", reply.status.as_u16(), keys.len()),
        finding,
    );
}

/// Whether a well-known path with nothing at it says so.
pub(super) async fn unknown(probe: &Probe, whose: &str, url: &Uri, report: &mut Report) {
    const CHECK: &str = "unknown-paths";
    let Ok(place) = format!("{}{NOTHING}", origin(url)).parse::<Uri>() else { return };
    let seen = match probe.web.get(&place).await {
        Ok(reply) if reply.status.is_client_error() => {
            return report.pass(CHECK, format!("{whose} answers {}", reply.status.as_u16()));
        }
        Ok(reply) => format!("{whose} answers {}", reply.status.as_u16()),
        Err(error) => error.to_string(),
    };
    report.fail(
        CHECK,
        seen,
        Finding {
            clients: SDKS,
            why: "they try several well-known paths: an error 4xx makes them try the next, an error 5xx makes the Python SDK give up, and a page or a redirect is taken for metadata",
            advice: "answer 404 where there is nothing",
        },
    );
}
