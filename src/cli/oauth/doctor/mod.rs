//! `oauth doctor`: looks at a protected host as real clients do, from outside, and at a token for it, if there is one.
//!
//! | file | looks at |
//! | --- | --- |
//! | `network.rs` | names, certificates, plain HTTP, clocks |
//! | `resource.rs` | the challenge, and the resource's metadata (RFC 6750, RFC 9728) |
//! | `server.rs` | the authorization server's metadata and keys (RFC 8414, RFC 7517), unknown well-known paths |
//! | `endpoints.rs` | how its endpoints refuse, and whether clients can register (RFC 6749, RFC 7591) |
//! | `cors.rs` | what clients in browsers need |
//! | `token.rs` | whom a token is for, and whether it is good here (RFC 8707, RFC 9068) |
//! | `report.rs` | what is said about it |
//!
//! Nothing is written at the host, unless `--register` asks for it.

mod cors;
mod endpoints;
mod network;
mod report;
mod resource;
mod server;
mod token;

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderName, Method, Uri};

use self::report::Report;
use self::token::Presented;
use super::discovery::origin;
use crate::cli::Failure;
use crate::cli::client::{Client, ClientError};
use crate::cli::output::Format;
use crate::cli::print_text;
use crate::cli::web::{Reply, Web};

/// The longest that one question may take: no client waits longer.
const PATIENCE: Duration = Duration::from_secs(15);

/// The first message of an MCP client: what a client sends before it has a token.
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"portcullis-doctor","version":"1"}}}"#;

/// Which host to look at.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The protected host: HOST, HOST:PORT, or the URL that clients are given.
    #[arg(value_name = "HOST")]
    host: String,

    /// The path that clients are given.
    #[arg(long, value_name = "PATH", default_value = "/mcp")]
    resource_path: String,

    /// Register a client, too, and remove it again: the only check that writes.
    #[arg(long)]
    register: bool,

    /// The origin of a client that runs in a browser.
    #[arg(long, value_name = "ORIGIN", default_value = "http://localhost:6274")]
    origin: String,

    /// The port of plain HTTP [default: 80 where HTTPS is on port 443, else it is not looked at]
    #[arg(long, value_name = "PORT")]
    http_port: Option<u16>,

    /// Whether the token was named with this command, so that it has to be for this host.
    #[arg(skip)]
    pub(super) token_named: bool,
}

/// What all checks work with.
struct Probe {
    web: Web,
    /// The URL that clients are given.
    url: Uri,
    origin: String,
    register: bool,
    http_port: Option<u16>,
    presented: Option<Presented>,
}

/// Looks at a host and tells about it. The exit code is 1 when a check fails.
pub(super) async fn run(client: &Client, options: Options, format: Format) -> Result<(), Failure> {
    let Some(url) = target(&options) else { return Err(Failure::BadUrl(options.host)) };
    let probe = Probe {
        web: Web::new(client.timeout.min(PATIENCE), client.cacert.clone()),
        url,
        origin: options.origin,
        register: options.register,
        http_port: options.http_port,
        presented: client.token.clone().map(|token| Presented { token, named: options.token_named }),
    };
    let report = examine(&probe).await;
    let text = report.render(format).map_err(|error| Failure::Render(error.to_string()))?;
    print_text(&text);
    match report.failures() {
        0 => Ok(()),
        count => Err(Failure::Unwell(count)),
    }
}

async fn examine(probe: &Probe) -> Report {
    let mut report = Report::new(&probe.url);
    if !network::names(probe, &mut report).await {
        return report;
    }
    let Some(first) = network::connection(probe, &mut report).await else { return report };
    network::clock(&first, &mut report);
    network::plain_http(probe, &mut report).await;
    let challenge = resource::challenge(probe, &mut report).await;
    resource::bad_token(probe, &mut report).await;
    let found = resource::metadata(probe, challenge, &mut report).await;
    cors::resource(probe, &found, &mut report).await;
    server::unknown(probe, "the host", &probe.url, &mut report).await;
    token::token(probe, &found, &mut report).await;
    let Some(issuer) = found.issuer else { return report };
    if let Some(server) = server::metadata(probe, &issuer, &mut report).await {
        server::at_the_host(probe, &issuer, &mut report).await;
        server::keys(probe, &server, &mut report).await;
        server::unknown(probe, "the issuer", &server.place, &mut report).await;
        endpoints::authorize(probe, &server, &mut report).await;
        endpoints::token(probe, &server, &mut report).await;
        endpoints::register(probe, &server, &mut report).await;
        cors::server(probe, &server, &mut report).await;
    }
    report
}

/// The URL that clients are given.
fn target(options: &Options) -> Option<Uri> {
    let named =
        if options.host.contains("://") { options.host.clone() } else { format!("https://{}", options.host) };
    let url: Uri = named.parse().ok()?;
    if !matches!(url.scheme_str()?, "http" | "https") || url.query().is_some() {
        return None;
    }
    let path = if url.path() == "/" { options.resource_path.as_str() } else { url.path() };
    let slash = if path.starts_with('/') { "" } else { "/" };
    format!("{}{slash}{path}", origin(&url)).parse().ok()
}

impl Probe {
    /// Posts what a client sends first.
    async fn knock(&self, more: &[(HeaderName, &str)]) -> Result<Reply, ClientError> {
        let own = [(ACCEPT, "application/json, text/event-stream"), (CONTENT_TYPE, "application/json")];
        let headers = [&own[..], more].concat();
        self.web.send(Method::POST, &self.url, &headers, Bytes::from_static(INITIALIZE.as_bytes())).await
    }

    /// A URL at the host.
    fn at(&self, path: &str) -> Option<Uri> {
        format!("{}{path}", origin(&self.url)).parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_can_be_named_in_several_ways() {
        let named = |host: &str, resource_path: &str| {
            let options = Options {
                host: host.to_owned(),
                resource_path: resource_path.to_owned(),
                register: false,
                origin: String::new(),
                http_port: None,
                token_named: false,
            };
            target(&options).map(|url| url.to_string())
        };
        let said = |text: &str| Some(text.to_owned());
        assert_eq!(named("a.example", "/mcp"), said("https://a.example/mcp"));
        assert_eq!(named("a.example:8443", "x"), said("https://a.example:8443/x"));
        assert_eq!(named("https://a.example/own", "/mcp"), said("https://a.example/own"));
        assert_eq!(named("http://127.0.0.1:1/", "/mcp"), said("http://127.0.0.1:1/mcp"));
        assert_eq!(named("[::1]:8443", "/"), said("https://[::1]:8443/"));
        for bad in ["", "a b", "ftp://a", "https://a.example/?x=1"] {
            assert_eq!(named(bad, "/mcp"), None, "{bad}");
        }
    }
}
