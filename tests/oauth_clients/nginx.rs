//! nginx in front of an application of its own, which asks `/verify` about every request (`auth_request`).

use std::path::Path;
use std::process::Command;

use http::{HeaderName, HeaderValue};
use serde_json::json;
use tokio::net::UnixStream;

use crate::site::{ISSUER, Site};
use crate::support::client::{self, Answer, get};
use crate::support::eventually;
use crate::support::programs::Program;
use crate::support::upstream::Upstream;

/// The host that nginx serves. Portcullis knows it for its lists, and is never asked for its pages.
const HOST: &str = "wiki.example.test";

/// A running nginx, on a socket in the data folder of the daemon.
struct Nginx {
    socket: std::path::PathBuf,
    _program: Program,
}

impl Nginx {
    async fn start(site: &Site, application: &str) -> Self {
        let dir = site.daemon.dir.path();
        let socket = dir.join("nginx.sock");
        let file = dir.join("nginx.conf");
        std::fs::write(&file, config(site, dir, &socket, application)).unwrap();
        let mut command = Command::new("nginx");
        // Users who are not root have no servers in the path.
        command.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap()));
        command.arg("-p").arg(dir).arg("-c").arg(&file).args(["-e", "stderr"]);
        let program = Program::start(command);
        eventually("nginx", async || UnixStream::connect(&socket).await.ok()).await;
        Self { socket, _program: program }
    }

    async fn ask(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = get(HOST, path);
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).unwrap();
            request.headers_mut().append(name, HeaderValue::try_from(*value).unwrap());
        }
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        client::read(client::open(stream, request).await).await
    }
}

/// What an operator writes, but for the paths.
fn config(site: &Site, dir: &Path, socket: &Path, application: &str) -> String {
    let (dir, socket) = (dir.display(), socket.display());
    let (port, authority) = (site.daemon.https.port(), site.authority_file());
    let authority = authority.display();
    format!(
        r#"
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
    server {{
        listen unix:{socket};
        server_name {HOST};
        location / {{
            auth_request /verify;
            auth_request_set $user $upstream_http_x_auth_user;
            proxy_set_header X-Auth-User $user;
            proxy_set_header Authorization "";
            proxy_pass {application};
        }}
        location = /verify {{
            internal;
            proxy_pass https://127.0.0.1:{port};
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {authority};
            proxy_ssl_server_name on;
            proxy_ssl_name {ISSUER};
            proxy_set_header Host {ISSUER}:{port};
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header X-Forwarded-Proto https;
            proxy_set_header X-Forwarded-Host $host;
            proxy_set_header X-Forwarded-Uri $request_uri;
            proxy_set_header X-Forwarded-Method $request_method;
        }}
    }}
}}
"#
    )
}

#[tokio::test]
async fn nginx_lets_pass_whom_verify_lets_pass() {
    let site = Site::start().await;
    let fields = json!({ "auth_enabled": true, "auth_required_users": ["service:robot"] });
    site.daemon.host(HOST, "builtin:echo", fields).await;
    let upstream = Upstream::start("wiki").await;
    let nginx = Nginx::start(&site, &upstream.url()).await;
    let bearer = |token: &str| format!("Bearer {token}");

    let good = bearer(&site.daemon.token("robot", HOST).await);
    let answer = nginx.ask("/page?q=1", &[("authorization", &good), ("x-auth-user", "root")]).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-upstream")), (200, "wiki"));
    assert_eq!(answer.seen("x-auth-user"), ["service:robot"], "what it was told, not what the client says");
    assert_eq!(answer.seen("authorization"), [""; 0]);

    let nobody = nginx.ask("/page", &[]).await;
    assert_eq!((nobody.status.as_u16(), nobody.header("x-upstream")), (401, ""));
    let challenge = nobody.header("www-authenticate");
    assert!(challenge.starts_with("Bearer ") && !challenge.contains("error="), "{challenge}");

    let forged = nginx.ask("/page", &[("authorization", &format!("{good}x"))]).await;
    assert_eq!(forged.status, 401);
    let challenge = forged.header("www-authenticate");
    assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");

    let other = bearer(&site.daemon.token("other", HOST).await);
    let answer = nginx.ask("/page", &[("authorization", &other)]).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-upstream")), (403, ""), "not on the list");

    let elsewhere = bearer(&site.daemon.token("tourist", "localhost").await);
    let answer = nginx.ask("/page", &[("authorization", &elsewhere)]).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-upstream")), (401, ""), "for another host");

    site.daemon.api(http::Method::DELETE, "/tokens/robot", serde_json::Value::Null).await;
    eventually("the token is revoked for nginx, too", async || {
        (nginx.ask("/page", &[("authorization", &good)]).await.status == 401).then_some(())
    })
    .await;
}
