//! Traefik, with `forwardAuth`.

use super::documented::{blocks, replaced};
use super::{Front, Ground, fails_closed, judges_tokens, signs_browsers_in, tunnel};
use crate::site::free_port;
use crate::support::programs::Program;

async fn start() -> Front {
    let ground = Ground::new().await;
    let port = free_port();
    let blocks = blocks("Traefik");
    let [routing] = blocks[..] else { panic!("{} blocks", blocks.len()) };
    let routing = replaced(routing, "http://10.0.0.5", 1, &ground.application.url());
    let dir = ground.dir().join("traefik");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("routing.yml"), routing).unwrap();
    let [chain, key] = ground.pair.each_ref().map(|path| path.display());
    let certificates = format!("tls:\n  certificates:\n    - certFile: {chain}\n      keyFile: {key}\n");
    std::fs::write(dir.join("certificates.yml"), certificates).unwrap();
    let mut command = Program::command("traefik");
    command.arg(format!("--entryPoints.websecure.address=127.0.0.1:{port}"));
    command.arg(format!("--providers.file.directory={}", dir.display()));
    command.args(["--global.checkNewVersion=false", "--global.sendAnonymousUsage=false"]);
    command.env("SSL_CERT_FILE", ground.site.authority_file()).current_dir(&dir);
    command.env("HTTPS_PROXY", tunnel::to(ground.site.daemon.https).await);
    for proxy in ["https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(proxy);
    }
    Front::start(ground, port, Program::start(command)).await
}

#[tokio::test]
async fn traefik_as_documented_lets_pass_whom_verify_lets_pass() {
    judges_tokens(&start().await).await;
}

#[tokio::test]
async fn traefik_as_documented_signs_browsers_in() {
    signs_browsers_in(&start().await, false).await;
}

#[tokio::test]
async fn traefik_as_documented_fails_closed() {
    fails_closed(&start().await).await;
}
