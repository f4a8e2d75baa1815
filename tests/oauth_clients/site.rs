//! A deployment to sign in at: the daemon, a stand-in for GitHub with two users, an authority that signs the
//! certificates, and hosts.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::certificate::Authority;
use crate::support::client::{Answer, secure};
use crate::support::daemon::Daemon;
use crate::support::examples::Fixture;
use crate::support::github::{App, Github, User};
use crate::support::programs::Program;

/// The issuer's host.
pub const ISSUER: &str = "auth.example.test";
/// A host with an MCP server behind it.
pub const TOOLS: &str = "tools.example.test";
/// A host for browsers, on another site than the issuer.
pub const APP: &str = "app.elsewhere.test";

/// On the lists of the hosts.
pub const MONA: &str = "mona";
/// On none.
pub const HUBOT: &str = "hubot";
/// GitHub's number for the first.
pub const MONA_ID: &str = "583231";

pub const CLIENT_ID: &str = "Iv1.0123456789abcdef";
pub const CLIENT_SECRET: &str = "0123456789abcdef0123456789abcdef01234567";

/// The file with the certificate of the authority, in the folder where the daemon runs.
const AUTHORITY: &str = "authority.pem";

pub struct Site {
    pub daemon: Daemon,
    pub github: Github,
}

impl Site {
    pub async fn start() -> Self {
        Self::start_with(&Authority::new(), |_| ()).await
    }

    /// With a changed command, and certificates of this authority.
    pub async fn start_with(authority: &Authority, change: impl FnOnce(&mut Command)) -> Self {
        let github = Github::start().await;
        github.add_user(User::new(MONA_ID.parse().unwrap(), MONA).with_org("acme", &["platform"]));
        github.add_user(User::new(7, HUBOT));
        // The port is in the issuer, so it must be known before the daemon has it.
        let port = free_port();
        github.add_app(App::new(CLIENT_ID, CLIENT_SECRET, &format!("https://{ISSUER}:{port}/callback")));
        let dir = Arc::new(tempfile::tempdir().unwrap());
        std::fs::write(dir.path().join(AUTHORITY), &authority.pem).unwrap();
        let daemon = Daemon::start_in(dir, |command| {
            command.env("HTTPS_PORT", port.to_string()).env("BASE_DOMAIN", "example.test");
            command.env("GITHUB_CLIENT_ID", CLIENT_ID).env("GITHUB_CLIENT_SECRET", CLIENT_SECRET);
            command.env("GITHUB_URL", github.url()).env("GITHUB_API_URL", github.api_url());
            command.env("PORTCULLIS_OAUTH_FETCH_CA", AUTHORITY);
            change(command);
        });
        let flags = authority.sign(&[ISSUER, TOOLS, APP]).flags(daemon.dir.path(), "hosts");
        daemon.run(&["cert", "upload", "hosts", &flags[0], &flags[1]]);
        Self { daemon, github }
    }

    /// A file with the certificate of the authority.
    pub fn authority_file(&self) -> PathBuf {
        self.daemon.dir.path().join(AUTHORITY)
    }

    /// A URL on a host of this deployment.
    pub fn url(&self, host: &str, path: &str) -> String {
        format!("https://{host}:{}{path}", self.daemon.https.port())
    }

    /// Asks a host, without a browser.
    pub async fn ask(&self, host: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = crate::support::client::get(&format!("{host}:{}", self.daemon.https.port()), path);
        for (name, value) in headers {
            request.headers_mut().append(
                http::HeaderName::try_from(*name).unwrap(),
                http::HeaderValue::try_from(*value).unwrap(),
            );
        }
        secure(self.daemon.https, request).await
    }

    /// Puts a real MCP server behind a protected host, for the first user only. Its URL, and the server.
    pub async fn tools(&self) -> (String, Program) {
        let mut server = Program::client("mcp_server.py", &[TOOLS], &self.authority_file());
        let upstream = format!("http://127.0.0.1:{}", server.tells("port").await);
        (self.protected(&upstream).await, server)
    }

    /// The same with a server that knows all that the protocol has.
    pub async fn fixture(&self) -> (String, Fixture) {
        let fixture = Fixture::start(&["--host", TOOLS]).await;
        (self.protected(fixture.origin()).await, fixture)
    }

    /// Protects an MCP server, for the first user only. Its URL.
    async fn protected(&self, upstream: &str) -> String {
        let fields = json!({
            "auth_enabled": true, "resource_endpoint": "/mcp", "resource_scopes": ["mcp"],
            "oauth_admin_users": [], "oauth_user_users": [], "oauth_mcp_users": [MONA],
        });
        self.daemon.host(TOOLS, upstream, fields).await;
        self.url(TOOLS, "/mcp")
    }

    /// A host for the browsers of the first user.
    pub async fn app(&self, upstream: &str) {
        let fields = json!({
            "auth_enabled": true, "auth_mode": "redirect",
            "oauth_admin_users": [], "oauth_user_users": [MONA], "oauth_mcp_users": [],
        });
        self.daemon.host(APP, upstream, fields).await;
    }

    /// Runs a client whose person signs in with this name: what it tells at the end.
    pub async fn run(&self, script: &str, arguments: &[&str], browser: &Browser, login: &str) -> Value {
        let mut client = Program::client(script, arguments, &self.authority_file());
        let url = client.tells("open").await;
        let end = browser.sign_in(url.as_str().unwrap(), login).await;
        assert!(
            end.starts_with("http://127.0.0.1:"),
            "not back at the client but at {end}:\n{}",
            browser.text().await
        );
        client.tells("result").await
    }
}

/// A port that nobody has. Somebody may take it until it is used, so this is for what can't choose one itself.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
