//! The endpoints of the authorization server: how they refuse, and whether a client can register.

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION};
use http::{Method, StatusCode, Uri};
use serde_json::{Value, json};

use super::Probe;
use super::report::{EVERY, Finding, Report, SDKS};
use super::resource::{NULLS, null_member};
use super::server::Server;
use crate::cli::web::with_query;

/// The check of registrations.
const REGISTER: &str = "register";

/// A client that nobody has registered.
const STRANGER: &str = "portcullis-doctor-unknown-client";

/// Whether a client that is not known is told so, and nobody is redirected for it (OAuth 2.1, section 4.1.2.1).
pub(super) async fn authorize(probe: &Probe, server: &Server, report: &mut Report) {
    const CHECK: &str = "authorize";
    let Some(endpoint) = server.endpoint("authorization_endpoint") else { return };
    let url = with_query(
        &endpoint.to_string(),
        &[
            ("response_type", "code"),
            ("client_id", STRANGER),
            ("redirect_uri", "https://client.invalid/callback"),
            ("state", "doctor"),
            ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
            ("code_challenge_method", "S256"),
        ],
    );
    let Ok(url) = url.parse::<Uri>() else { return };
    let reply = match probe.web.get(&url).await {
        Ok(reply) => reply,
        Err(error) => return report.skip(CHECK, error.to_string()),
    };
    let to = reply.header(LOCATION).unwrap_or_default();
    let seen = format!("an unknown client gets {} {to}", reply.status.as_u16());
    if to.starts_with("https://client.invalid") {
        let finding = Finding {
            clients: EVERY,
            why: "users are sent to any address that a link names (open redirect)",
            advice: "never redirect to a URI that is not registered",
        };
        return report.fail(CHECK, seen.trim_end(), finding);
    }
    report.prefer(
        reply.status.is_client_error(),
        CHECK,
        seen.trim_end(),
        Finding {
            clients: &["clients whose registration has ended"],
            why: "only an error 4xx tells them to register anew",
            advice: "answer 400 with a page",
        },
    );
}

/// Whether the token endpoint refuses in the form that clients can read (RFC 6749, section 5.2).
pub(super) async fn token(probe: &Probe, server: &Server, report: &mut Report) {
    const CHECK: &str = "token";
    let Some(url) = server.endpoint("token_endpoint") else { return };
    let form = [("grant_type", "refresh_token"), ("refresh_token", "not-a-token"), ("client_id", STRANGER)];
    let reply = match probe.web.post(&url, &form).await {
        Ok(reply) => reply,
        Err(error) => return report.skip(CHECK, error.to_string()),
    };
    let error = reply.json().and_then(|answer| answer["error"].as_str().map(str::to_owned));
    let fine = reply.status.is_client_error()
        && matches!(error.as_deref(), Some("invalid_client" | "invalid_grant" | "unauthorized_client"));
    report.expect(
        fine,
        CHECK,
        format!(
            "an unknown client gets {}, error {}",
            reply.status.as_u16(),
            error.as_deref().unwrap_or("none")
        ),
        Finding {
            clients: SDKS,
            why: "by these errors they know that they have to register or to log in anew",
            advice: "answer errors as RFC 6749, section 5.2 has them, as JSON",
        },
    );
}

/// What a client registers with.
struct Registration {
    clients: &'static [&'static str],
    name: &'static str,
    redirect_uris: &'static [&'static str],
    method: &'static str,
    native: bool,
}

/// What clients in use register with. A server that refuses one URI of a list refuses the list.
const REGISTRATIONS: &[Registration] = &[
    Registration {
        clients: super::report::UNKNOWN,
        name: "programs",
        redirect_uris: &["http://127.0.0.1/callback"],
        method: "none",
        native: true,
    },
    Registration {
        clients: super::report::SECRET,
        name: "Claude and ChatGPT",
        redirect_uris: &["https://claude.ai/api/mcp/auth_callback"],
        method: "client_secret_post",
        native: false,
    },
    Registration {
        clients: &["VS Code"],
        name: "VS Code",
        redirect_uris: &[
            "https://insiders.vscode.dev/redirect",
            "https://vscode.dev/redirect",
            "http://127.0.0.1/",
            "http://127.0.0.1:33418/",
        ],
        method: "none",
        native: true,
    },
    Registration {
        clients: &["Cursor"],
        name: "Cursor",
        redirect_uris: &[
            "cursor://anysphere.cursor-mcp/oauth/callback",
            "https://www.cursor.com/agents/mcp/oauth/callback",
            "http://localhost:8787/callback",
        ],
        method: "none",
        native: false,
    },
];

/// Whether clients can register (RFC 7591). This writes, hence only when it is asked for.
pub(super) async fn register(probe: &Probe, server: &Server, report: &mut Report) {
    let Some(url) = server.endpoint("registration_endpoint") else { return };
    if !probe.register {
        return report.skip(REGISTER, "not tried, because it writes: --register");
    }
    for registration in REGISTRATIONS {
        register_as(probe, &url, registration, report).await;
    }
}

async fn register_as(probe: &Probe, url: &Uri, registration: &Registration, report: &mut Report) {
    let Registration { clients, name, redirect_uris, method, native } = *registration;
    let mut body = json!({
        "client_name": "portcullis doctor",
        "redirect_uris": redirect_uris,
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": method,
    });
    if native {
        body["application_type"] = json!("native");
    }
    let refused = Finding {
        clients,
        why: "they have to register before they can log in",
        advice: "portcullis log follow --log oauth shows why it was refused",
    };
    let headers = [(ACCEPT, "application/json"), (CONTENT_TYPE, "application/json")];
    let reply = match probe.web.send(Method::POST, url, &headers, body.to_string().into()).await {
        Ok(reply) => reply,
        Err(error) => return report.fail(REGISTER, format!("{name}: {error}"), refused),
    };
    let answer = reply.json().unwrap_or_default();
    if reply.status != StatusCode::CREATED || !answer.is_object() {
        let error = answer["error"].as_str().unwrap_or_default();
        let seen = format!("{name}: {} {error}", reply.status.as_u16());
        return report.fail(REGISTER, seen.trim_end(), refused);
    }
    let echoed = answer["client_id"].is_string() && answer["redirect_uris"] == body["redirect_uris"];
    let secret = method == "none" || answer["client_secret"].is_string();
    if let Some(member) = null_member(&answer) {
        report.fail(REGISTER, format!("{name}: the answer says null for {member}"), NULLS);
    } else {
        let finding = Finding {
            clients,
            why: "they want client_id, redirect_uris as they were sent, and a secret if they asked for one",
            advice: "answer with all that is registered (RFC 7591, section 3.2.1)",
        };
        report.expect(echoed && secret, REGISTER, format!("{name}: a client was registered"), finding);
    }
    remove(probe, &answer, report).await;
}

/// Removes what was registered (RFC 7592, section 2.3).
async fn remove(probe: &Probe, answer: &Value, report: &mut Report) {
    const CHECK: &str = "unregister";
    let url = answer["registration_client_uri"].as_str().and_then(|url| url.parse::<Uri>().ok());
    let (Some(url), Some(token)) = (url, answer["registration_access_token"].as_str()) else {
        return report.skip(CHECK, "the registration can't be managed: it ends by itself, or stays");
    };
    let bearer = format!("Bearer {token}");
    let reply = probe.web.send(Method::DELETE, &url, &[(AUTHORIZATION, &bearer)], Bytes::new()).await;
    let seen = match reply {
        Ok(reply) if reply.status == StatusCode::NO_CONTENT => {
            return report.pass(CHECK, "the client was removed again");
        }
        Ok(reply) => format!("{url}: {}", reply.status.as_u16()),
        Err(error) => error.to_string(),
    };
    let finding = Finding {
        clients: &[],
        why: "the client of this check stays until it expires",
        advice: "remove the client named \"portcullis doctor\"",
    };
    report.warn(CHECK, seen, finding);
}
