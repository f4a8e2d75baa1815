//! Caddy, with `forward_auth`.

use std::process::Command;

use super::documented::{blocks, replaced};
use super::{Front, Ground, fails_closed, judges_tokens, signs_browsers_in};
use crate::site::free_port;
use crate::support::programs::Program;

async fn start() -> Front {
    let ground = Ground::new().await;
    let port = free_port();
    let blocks = blocks("Caddy");
    let [host] = blocks[..] else { panic!("{} blocks", blocks.len()) };
    let host = replaced(host, "10.0.0.5:80", 1, &ground.application.address.to_string());
    // It finds hosts by name, and this one is known everywhere.
    let daemon = format!("https://localhost:{}", ground.site.daemon.https.port());
    let host = replaced(&host, "https://auth.example.com", 2, &daemon);
    let dir = ground.dir();
    let file = dir.join("Caddyfile");
    std::fs::write(&file, around(&ground, port, &host)).unwrap();
    let mut command = Command::new("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&file);
    command.env("HOME", dir).env("XDG_CONFIG_HOME", dir).env("XDG_DATA_HOME", dir);
    command.env("SSL_CERT_FILE", ground.site.authority_file());
    Front::start(ground, port, Program::start(command)).await
}

/// What is around a host in Caddy's configuration. The second host is there for its certificate, which is the first's,
/// too.
fn around(ground: &Ground, port: u16, host: &str) -> String {
    let dir = ground.dir().display();
    let [chain, key] = ground.pair.each_ref().map(|path| path.display());
    format!(
        r"{{
	admin off
	auto_https disable_redirects
	https_port {port}
	default_bind 127.0.0.1
	storage file_system {dir}/caddy
}}
{host}
auth.example.com {{
	tls {chain} {key}
	respond 404
}}
"
    )
}

#[tokio::test]
async fn caddy_as_documented_lets_pass_whom_verify_lets_pass() {
    judges_tokens(&start().await).await;
}

#[tokio::test]
async fn caddy_as_documented_signs_browsers_in() {
    signs_browsers_in(&start().await, true).await;
}

#[tokio::test]
async fn caddy_as_documented_fails_closed() {
    fails_closed(&start().await).await;
}
