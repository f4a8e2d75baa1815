//! `oauth doctor`: hosts at which some clients can't log in, and others can. It says which ones, why, and what to do;
//! and nothing else is wrong with such a host.

use serde_json::{Value, json};

use crate::broken::{self, Asked, Said};
use crate::site::err;
use crate::support::daemon::command;

const SERVER: &str = "/.well-known/oauth-authorization-server";
const RESOURCE: &str = "/.well-known/oauth-protected-resource";

/// A fault, and what is told about it.
struct Case {
    name: &'static str,
    twist: fn(&Asked, &mut Said),
    check: &'static str,
    result: &'static str,
    /// Some of those that would fail.
    clients: &'static [&'static str],
    /// Parts of what is seen, why that is wrong, and what to do.
    seen: &'static str,
    why: &'static str,
    advice: &'static str,
}

/// Whether this is a question of a client that has no token yet, at the resource.
fn knocks(asked: &Asked) -> bool {
    asked.path == "/mcp" && asked.method != "OPTIONS" && !asked.headers.contains_key("authorization")
}

/// The challenge names the root form of the metadata, so that the path's form is not what clients are sent to.
fn names_the_root(asked: &Asked, said: &mut Said) {
    if asked.path == "/mcp" && asked.method != "OPTIONS" {
        said.edit("www-authenticate", |value| {
            value.replace("oauth-protected-resource/mcp", "oauth-protected-resource")
        });
    }
}

/// Whether a page asks whether it may call a place.
fn preflight(asked: &Asked, path: &str) -> bool {
    asked.method == "OPTIONS" && asked.path.starts_with(path)
}

/// The issuer is another host than the resource: the same server under another name. Whether this is the resource's.
fn apart(asked: &Asked, said: &mut Said) -> bool {
    if asked.path.starts_with(RESOURCE) && asked.method == "GET" {
        let issuer = asked.origin.replace("127.0.0.1", "localhost");
        said.change(|value| value["authorization_servers"] = json!([issuer]));
    }
    asked.origin.contains("127.0.0.1")
}

const CASES: &[Case] = &[
    Case {
        name: "an error although no token was sent",
        twist: |asked, said| {
            if knocks(asked) {
                said.edit("www-authenticate", |value| format!("{value}, error=\"invalid_token\""));
            }
        },
        check: "challenge-error",
        result: "warn",
        clients: &["TypeScript SDK", "Python SDK", "Claude Code"],
        seen: "no token was sent",
        why: "they take it for a refusal of a token that they do not have (RFC 6750, section 3)",
        advice: "send an error code only where a token was sent",
    },
    Case {
        name: "offline_access in the challenge",
        twist: |asked, said| {
            if knocks(asked) {
                said.edit("www-authenticate", |value| value.replace("mcp:read", "mcp:read offline_access"));
            }
        },
        check: "challenge-scope",
        result: "warn",
        clients: &["TypeScript SDK", "Python SDK", "Claude Code"],
        seen: "offline_access",
        why: "they ask for what the challenge names",
        advice: "auth_scope_required",
    },
    Case {
        name: "nothing at the path's form",
        twist: |asked, said| {
            names_the_root(asked, said);
            if asked.path == "/.well-known/oauth-protected-resource/mcp" && asked.method == "GET" {
                said.status = 404;
            }
        },
        check: "metadata-path",
        result: "warn",
        clients: &["clients that do not read the challenge"],
        seen: "/.well-known/oauth-protected-resource/mcp: 404",
        why: "its well-known places only",
        advice: "the path's form",
    },
    Case {
        name: "a broken path's form",
        twist: |asked, said| {
            names_the_root(asked, said);
            if asked.path == "/.well-known/oauth-protected-resource/mcp" && asked.method == "GET" {
                said.status = 502;
            }
        },
        check: "metadata-path",
        result: "fail",
        clients: &["Python SDK"],
        seen: "/.well-known/oauth-protected-resource/mcp: 502",
        why: "it gives up at an error of the server instead of trying the next place",
        advice: "answer 404",
    },
    Case {
        name: "pages may not read the resource's metadata",
        twist: |asked, said| {
            if preflight(asked, RESOURCE) {
                said.header("access-control-allow-origin", Some("https://other.example"));
            }
        },
        check: "cors-metadata",
        result: "warn",
        clients: &["MCP Inspector (direct mode)"],
        seen: "http://localhost:6274 is not let in",
        why: "the browser keeps the answer",
        advice: "resource_allowed_origins",
    },
    Case {
        name: "pages may not read the server's metadata",
        twist: |asked, said| {
            if preflight(asked, SERVER) {
                said.header("access-control-allow-headers", Some("authorization"));
            }
        },
        check: "cors-server",
        result: "warn",
        clients: &["MCP Inspector (direct mode)"],
        seen: "the header mcp-protocol-version is not allowed",
        why: "the browser keeps the answer",
        advice: "resource_allowed_origins",
    },
    Case {
        name: "pages may not register",
        twist: |asked, said| {
            if preflight(asked, "/register") {
                said.status = 405;
            }
        },
        check: "cors-register",
        result: "warn",
        clients: &["MCP Inspector (direct mode)"],
        seen: "/register: the preflight gets 405",
        why: "the browser keeps the answer",
        advice: "resource_allowed_origins",
    },
    Case {
        name: "nothing of the server at the resource's host",
        twist: |asked, said| {
            if apart(asked, said) && asked.path == SERVER {
                said.status = 404;
            }
        },
        check: "older-clients",
        result: "warn",
        clients: &["clients of 2025-03-26", "Python SDK after a restart"],
        seen: "/.well-known/oauth-authorization-server: 404",
        why: "they look for the authorization server's metadata on the resource's host",
        advice: "set resource_endpoint of the host",
    },
    Case {
        name: "an error where older clients look",
        twist: |asked, said| {
            if apart(asked, said) && asked.path == SERVER {
                said.status = 500;
            }
        },
        check: "older-clients",
        result: "fail",
        clients: &["Python SDK"],
        seen: "/.well-known/oauth-authorization-server: 500",
        why: "they look for the authorization server's metadata on the resource's host",
        advice: "set resource_endpoint of the host",
    },
    Case {
        name: "another issuer at the resource's host",
        twist: |asked, said| {
            // What it says of itself is what it says everywhere: its own name.
            apart(asked, said);
        },
        check: "older-clients",
        result: "fail",
        clients: &["clients of 2025-03-26"],
        seen: "http://127.0.0.1:",
        why: "there is one issuer",
        advice: "publish the issuer that the resource names",
    },
];

fn look_at(url: &str, more: &[&str]) -> (Option<i32>, Value) {
    let home = tempfile::tempdir().unwrap();
    let args = [more, &["--format", "json", "oauth", "doctor", url]].concat();
    let output = tokio::task::block_in_place(|| command(home.path()).args(args).output().unwrap());
    let report =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", err(&output)));
    (output.status.code(), report)
}

/// What did not pass, but for the address of this machine, which is no public one.
fn complaints(report: &Value) -> Vec<&Value> {
    let checks = report["checks"].as_array().unwrap().iter();
    let checks = checks.filter(|entry| entry["result"] == "warn" || entry["result"] == "fail");
    checks.filter(|entry| entry["check"] != "dns").collect()
}

fn is_told(entry: &Value, case: &Case) {
    let name = case.name;
    assert_eq!((&entry["check"], &entry["result"]), (&json!(case.check), &json!(case.result)), "{name}");
    for (member, part) in [("seen", case.seen), ("why", case.why), ("advice", case.advice)] {
        let told = entry[member].as_str().unwrap_or_default();
        assert!(told.contains(part), "{name}: {member}: {entry}");
    }
    let clients = entry["clients"].as_array().unwrap();
    for client in case.clients {
        assert!(clients.contains(&json!(client)), "{name}: {client}: {entry}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_some_clients_fail_at_is_told_who_they_are_and_why() {
    for case in CASES {
        let url = format!("http://{}/mcp", broken::host(case.twist).await);
        let (code, report) = look_at(&url, &[]);
        let complaints = complaints(&report);
        let [entry] = &complaints[..] else { panic!("{}: not one complaint: {report:#}", case.name) };
        is_told(entry, case);
        assert_eq!(code, Some(i32::from(case.result == "fail")), "{}: {report:#}", case.name);
    }
}

/// The issuer's own metadata is at the resource's host, too: older clients are well.
#[tokio::test(flavor = "multi_thread")]
async fn older_clients_find_the_issuer_at_a_host_that_publishes_it() {
    let address = broken::host(|asked, said| {
        if apart(asked, said) && asked.path == SERVER && asked.method == "GET" {
            said.body = said.body.replace("127.0.0.1", "localhost");
        }
    })
    .await;
    let (code, report) = look_at(&format!("http://{address}/mcp"), &[]);
    assert_eq!((code, complaints(&report).len()), (Some(0), 0), "{report:#}");
    let checks = report["checks"].as_array().unwrap();
    assert!(
        checks.iter().any(|entry| entry["check"] == "older-clients" && entry["result"] == "pass"),
        "{report:#}"
    );
}

/// The address is one of documentation's (RFC 3849), where nobody answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_an_address_of_ipv4_is_told_who_calls_over_that() {
    let (code, report) = look_at("https://[2001:db8::1]/mcp", &["--timeout", "2"]);
    let checks = report["checks"].as_array().unwrap();
    let entry =
        checks.iter().find(|entry| entry["check"] == "dns-ipv4").unwrap_or_else(|| panic!("{report:#}"));
    is_told(
        entry,
        &Case {
            name: "no address of IPv4",
            twist: |_, _| (),
            check: "dns-ipv4",
            result: "warn",
            clients: &["Claude (web, desktop, mobile)"],
            seen: "no public address of IPv4",
            why: "its servers call over IPv4 only",
            advice: "add an A record for the host",
        },
    );
    assert_eq!(code, Some(1), "nobody answers there: {report:#}");
    // One that has such an address is told nothing of the kind.
    let (_, report) = look_at(&format!("http://{}/mcp", broken::host(|_, _| ()).await), &[]);
    assert!(report["checks"].as_array().unwrap().iter().all(|entry| entry["check"] != "dns-ipv4"));
}
