//! nginx, with `auth_request`.

use std::process::Command;

use super::documented::{blocks, replaced};
use super::{Front, Ground, fails_closed, judges_tokens, signs_browsers_in};
use crate::site::free_port;
use crate::support::programs::Program;

async fn start() -> Front {
    let ground = Ground::new().await;
    let port = free_port();
    let blocks = blocks("nginx");
    let [server, questions] = blocks[..] else { panic!("{} blocks", blocks.len()) };
    let dir = ground.dir();
    let authority = ground.site.authority_file().display().to_string();
    let trusted = "/etc/ssl/certs/ca-certificates.crt";
    let server = replaced(server, "listen 443 ssl", 1, &format!("listen 127.0.0.1:{port} ssl"));
    let server = replaced(&server, trusted, 1, &authority);
    std::fs::create_dir(dir.join("snippets")).unwrap();
    let questions = replaced(questions, trusted, 1, &authority);
    std::fs::write(dir.join("snippets/portcullis.conf"), questions).unwrap();
    let file = dir.join("nginx.conf");
    std::fs::write(&file, around(&ground, &server)).unwrap();
    let mut command = Command::new("nginx");
    // Users who are not root have no servers in the path.
    command.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap()));
    command.arg("-p").arg(dir).arg("-c").arg(&file).args(["-e", "stderr"]);
    Front::start(ground, port, Program::start(command)).await
}

/// What is around a server in nginx's configuration. Its names are where the machines would be.
fn around(ground: &Ground, server: &str) -> String {
    let dir = ground.dir().display();
    let [chain, key] = ground.pair.each_ref().map(|path| path.display());
    let (daemon, application) = (ground.site.daemon.https, ground.application.address);
    format!(
        r"
daemon off;
master_process off;
pid {dir}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    ssl_certificate {chain};
    ssl_certificate_key {key};
    upstream auth.example.com {{ server {daemon}; }}
    upstream 10.0.0.5 {{ server {application}; }}
{server}
}}
"
    )
}

#[tokio::test]
async fn nginx_as_documented_lets_pass_whom_verify_lets_pass() {
    judges_tokens(&start().await).await;
}

#[tokio::test]
async fn nginx_as_documented_signs_browsers_in() {
    signs_browsers_in(&start().await, true).await;
}

#[tokio::test]
async fn nginx_as_documented_fails_closed() {
    fails_closed(&start().await).await;
}
