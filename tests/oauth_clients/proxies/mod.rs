//! Other proxies in front of an application of their own, which ask `/verify` about every request: the real
//! programs, with the configurations of `docs/forward-auth.md`. Replaced in those is only where they listen, where
//! the application is, and whom they trust; `auth.example.com` is the daemon.

mod caddy;
mod documented;
mod nginx;
mod traefik;
mod tunnel;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use http::{Method, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::site::{CLIENT_ID, CLIENT_SECRET, MONA, MONA_ID, Site};
use crate::support::certificate::Authority;
use crate::support::client::{self, Answer};
use crate::support::eventually;
use crate::support::github::App;
use crate::support::programs::Program;
use crate::support::upstream::Upstream;
use crate::support::visitor::Visitor;

/// The issuer of the document.
const ISSUER: &str = "auth.example.com";
/// The host that the other proxy serves. Portcullis knows it for its lists, and is never asked for its pages.
const HOST: &str = "app.example.com";

/// The cookie of a host's session.
const SESSION: &str = "__Host-unified_auth_token";

/// What a navigation sends (Fetch metadata).
const NAVIGATION: &[(&str, &str)] =
    &[("accept", "text/html,*/*;q=0.8"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];

/// Headers by which somebody could claim to be another.
const CLAIMS: &[&str] = &[
    "x-auth-user",
    "x-auth-user-id",
    "x-auth-user-name",
    "x-auth-email",
    "x-auth-groups",
    "x-auth-scopes",
    "x-auth-client-id",
    "x-auth-issuer",
    "x-auth-identity",
    "x-auth-request-user",
    "x-auth-request-preferred-username",
    "x-auth-request-email",
    "x-auth-request-groups",
];

/// The daemon and the application, before there is a proxy.
struct Ground {
    site: Site,
    application: Upstream,
    /// Certificate and key of the host.
    pair: [PathBuf; 2],
}

impl Ground {
    async fn new() -> Self {
        let authority = Authority::new();
        let site = Site::start_with(&authority, |command| {
            command.env("BASE_DOMAIN", "example.com").env("PORTCULLIS_PUBLIC_HTTPS_PORT", "443");
        })
        .await;
        site.github.add_app(App::new(CLIENT_ID, CLIENT_SECRET, &format!("https://{ISSUER}/callback")));
        let dir = site.daemon.dir.path();
        let flags = authority.sign(&[ISSUER, HOST, "localhost"]).flags(dir, "documented");
        site.daemon.run(&["cert", "upload", "documented", &flags[0], &flags[1]]);
        let pair = [dir.join("documented.pem"), dir.join("documented.key")];
        let fields = json!({
            "auth_enabled": true, "auth_mode": "redirect", "auth_required_users": ["service:robot", MONA],
        });
        site.daemon.host(HOST, "http://10.0.0.5", fields).await;
        Self { site, application: Upstream::start("application").await, pair }
    }

    fn dir(&self) -> &Path {
        self.site.daemon.dir.path()
    }
}

/// A running proxy.
struct Front {
    ground: Ground,
    address: SocketAddr,
    _program: Program,
}

impl Front {
    async fn start(ground: Ground, port: u16, program: Program) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        // Some listen before they know their configuration.
        eventually("the proxy", async || {
            let stream = client::handshake(address, HOST, &[b"http/1.1"]).await.ok()?;
            let answer = client::open(stream, client::get(HOST, "/")).await;
            (answer.status() == StatusCode::UNAUTHORIZED).then_some(())
        })
        .await;
        Self { ground, address, _program: program }
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = http::Request::builder().method(method).uri(path).header("host", HOST);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        client::secure(self.address, request.body(Full::default()).unwrap()).await
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask(Method::GET, path, headers).await
    }
}

/// A bearer token for this host.
async fn bearer(front: &Front, name: &str, host: &str) -> String {
    format!("Bearer {}", front.ground.site.daemon.token(name, host).await)
}

/// Clients with tokens: who passes, who does not, and what the application sees of them.
async fn judges_tokens(front: &Front) {
    let good = bearer(front, "robot", HOST).await;
    let mut headers = vec![("authorization", good.as_str()), ("cookie", "theme=dark")];
    headers.extend(CLAIMS.iter().map(|name| (*name, "root")));
    let answer = front.get("/page?q=1", &headers).await;
    assert_eq!((answer.status, answer.header("x-upstream")), (StatusCode::OK, "application"));
    assert_eq!(answer.json()["uri"], "/page?q=1");
    assert_eq!(
        answer.seen("x-auth-user"),
        ["service:robot"],
        "what the proxy was told, not what the client says"
    );
    let claimed = |name: &&str| answer.seen(name).iter().any(|value| value == "root");
    assert_eq!(CLAIMS.iter().find(|name| claimed(name)), None, "{}", answer.json());
    assert_eq!(answer.seen("authorization").concat(), "", "the token is not for the application");
    assert_eq!(answer.seen("cookie"), ["theme=dark"]);
    // The same with names that some servers read as the same.
    let answer = front.get("/", &[("authorization", &good), ("x_auth_user", "root")]).await;
    assert_eq!(answer.seen("x_auth_user").concat(), "", "{}", answer.json());
    // A header that is named here is removed before the next server; that must not be ours.
    let trick = [("authorization", good.as_str()), ("connection", "x-auth-user"), ("x-auth-user", "root")];
    let answer = front.get("/", &trick).await;
    assert_eq!(answer.seen("x-auth-user"), ["service:robot"], "{}", answer.json());

    let posted = front.ask(Method::POST, "/page", &[("authorization", &good)]).await;
    assert_eq!(posted.json()["method"], "POST");
    let nobody = front.get("/page", &[]).await;
    assert_eq!((nobody.status, nobody.header("x-upstream")), (StatusCode::UNAUTHORIZED, ""));
    let challenges: Vec<_> = nobody.headers.get_all("www-authenticate").iter().collect();
    assert_eq!(challenges.len(), 1, "clients read one: {challenges:?}");
    let challenge = nobody.header("www-authenticate");
    assert!(challenge.starts_with("Bearer ") && !challenge.contains("error="), "{challenge}");
    let nobody = front.get("/page", &CLAIMS.map_to("root")).await;
    assert_eq!(nobody.status, StatusCode::UNAUTHORIZED);

    let forged = front.get("/page", &[("authorization", &format!("{good}x"))]).await;
    assert_eq!(forged.status, StatusCode::UNAUTHORIZED);
    assert!(forged.header("www-authenticate").contains("error=\"invalid_token\""));
    let other = bearer(front, "other", HOST).await;
    let answer = front.get("/page", &[("authorization", &other)]).await;
    assert_eq!((answer.status, answer.header("x-upstream")), (StatusCode::FORBIDDEN, ""), "not on the list");
    let elsewhere = bearer(front, "tourist", "localhost").await;
    let answer = front.get("/page", &[("authorization", &elsewhere)]).await;
    assert_eq!(
        (answer.status, answer.header("x-upstream")),
        (StatusCode::UNAUTHORIZED, ""),
        "for another host"
    );

    // What a client says of another request is not what the proxy says of this one.
    let lies = [
        ("authorization", good.as_str()),
        ("x-forwarded-host", "localhost"),
        ("x-forwarded-uri", "/else"),
        ("x-forwarded-method", "PUT"),
        ("x-forwarded-proto", "http"),
    ];
    assert_eq!(front.get("/page", &lies).await.json()["uri"], "/page");
    let lies = [("authorization", good.as_str()), ("x-original-url", "https://localhost/")];
    let lied = front.get("/page", &lies).await;
    assert!(lied.status.is_success() || lied.header("x-upstream").is_empty(), "{}", lied.status);

    front.ground.site.daemon.api(Method::DELETE, "/tokens/robot", Value::Null).await;
    eventually("the token is revoked for the proxy, too", async || {
        (front.get("/page", &[("authorization", &good)]).await.status == StatusCode::UNAUTHORIZED)
            .then_some(())
    })
    .await;
}

/// A browser signs in, and comes back to the page with a session.
async fn signs_browsers_in(front: &Front, hides_cookie: bool) {
    let site = &front.ground.site;
    let mut visitor = Visitor::new(site.daemon.https).knowing(HOST, front.address);
    let wanted = format!("https://{HOST}/deep/page?q=a%20b");
    let sent = front.get("/deep/page?q=a%20b", NAVIGATION).await;
    assert_eq!(sent.status, StatusCode::FOUND);
    assert!(
        sent.header("location").starts_with(&format!("https://{ISSUER}/login?")),
        "{}",
        sent.header("location")
    );

    let page = visitor.open(&wanted, "").await;
    assert!(page.url.starts_with(&site.github.url()), "at {}: {}", page.url, page.text());
    let page = visitor.submit(&page, ("user", MONA), "").await;
    assert_eq!(
        (page.url.as_str(), page.answer().status),
        (wanted.as_str(), StatusCode::OK),
        "{}",
        page.text()
    );
    let answer = page.answer();
    assert_eq!(answer.seen("x-auth-user"), [MONA]);
    assert_eq!(answer.seen("x-auth-user-id"), [MONA_ID]);

    let session = visitor.cookie(HOST, SESSION).expect("a session").to_owned();
    let cookies = format!("a=1; {SESSION}={session}; b=2");
    let answer = front.get("/", &[("cookie", &cookies)]).await;
    assert_eq!(answer.seen("x-auth-user"), [MONA]);
    if hides_cookie {
        assert_eq!(answer.seen("cookie"), ["a=1; b=2"], "the session is not for the application");
        let alone = front.get("/", &[("cookie", &format!("{SESSION}={session}"))]).await;
        assert_eq!(alone.seen("cookie").concat(), "");
    }
    // Another site's form has the cookie in old browsers, but is no request of this user's.
    let foreign = [("cookie", cookies.as_str()), ("origin", "https://evil.example")];
    assert_eq!(front.ask(Method::POST, "/", &foreign).await.status, StatusCode::FORBIDDEN);

    // Requests of scripts are not sent to a page that they can't read.
    let script = [("accept", "text/html"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")];
    assert_eq!(front.get("/", &script).await.status, StatusCode::UNAUTHORIZED);
}

/// What the application answers is what the client gets; and without an answer of `/verify` nothing is.
async fn fails_closed(front: &Front) {
    let good = bearer(front, "robot", HOST).await;
    let good = [("authorization", good.as_str())];
    for code in [401, 403, 404, 500, 503] {
        let answer = front.get(&format!("/status/{code}"), &good).await;
        assert_eq!(answer.status.as_u16(), code, "an error of the application");
        assert_eq!(answer.header("www-authenticate"), "");
    }
    front.ground.site.daemon.signal("KILL");
    let answer = eventually("portcullis is gone", async || {
        let answer = front.get("/page", &good).await;
        (answer.status != StatusCode::OK).then_some(answer)
    })
    .await;
    assert!(!answer.status.is_success() && !answer.status.is_redirection(), "{}", answer.status);
    assert_eq!(answer.header("x-upstream"), "");
}

/// Header names with one value for all.
trait MapTo {
    fn map_to<'a>(&self, value: &'a str) -> Vec<(&'a str, &'a str)>;
}

impl MapTo for &'static [&'static str] {
    fn map_to<'a>(&self, value: &'a str) -> Vec<(&'a str, &'a str)> {
        self.iter().map(|name| (*name, value)).collect()
    }
}
