//! The client of GitHub against a server that speaks its wire protocol.

#[path = "github/device.rs"]
mod device;
#[path = "support/github/mod.rs"]
mod standin;

use std::time::Duration;

use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use portcullis_layers::Body;
use portcullis_layers::deadline::Ticker;
use portcullis_layers::forward::{Client, Forward, PoolSettings, Target, Tunnels};
use portcullis_services::oauth::github::{
    App, Authorize, Error, Exchange, Github, Identity, Pkce, Refusal, Settings, Token,
};
use portcullis_services::outbound::{CallError, SetupError};
use secrecy::{ExposeSecret, SecretString};
use smol_str::SmolStr;
use standin::{Fault, Person, User, field, pairs};
use tokio_util::sync::CancellationToken;

const ID: &str = "Iv1.0123456789abcdef";
const SECRET: &str = "0123456789abcdef0123456789abcdef01234567";
const CALLBACK: &str = "https://auth.example.com/callback";
const MONA: u64 = 583_231;

/// A client, the server that it calls, and an app that both know.
struct Setting {
    server: standin::Github,
    client: Client,
    github: Github,
    app: App,
}

fn app(secret: &str) -> App {
    App::new(ID.parse().expect("an id"), secret.into()).expect("an app")
}

fn http_client() -> Client {
    Client::new(1, Ticker::new(1), Tunnels::new(1), PoolSettings::default())
}

impl Setting {
    async fn new() -> Self {
        let server = standin::Github::start().await;
        server.add_app(standin::App::new(ID, SECRET, CALLBACK));
        let user = User { name: Some("Mona Lisa".to_owned()), ..User::new(MONA, "Mona") };
        server.add_user(user.with_org("Acme", &["Platform"]).with_org("octo-org", &[]));
        server.person(Person::SignedIn("Mona".to_owned()));
        let api = server.api_url().parse().expect("a URL");
        let settings = Settings::new(server.url().parse().expect("a URL"), Some(api));
        let client = http_client();
        let github = Github::new(&client, settings).expect("a client");
        Self { server, client, github, app: app(SECRET) }
    }

    /// What a browser does: one request, whose redirect is not followed.
    async fn browse(&self, method: Method, path: &str, form: String) -> (StatusCode, String, String) {
        let target = Target::new(self.server.url().parse().expect("a URL"));
        let forward = Forward::new(&self.client, target, CancellationToken::new()).expect("a target");
        let request = Request::builder().method(method).uri(path).body(Body::from(form)).expect("a request");
        let response = forward.send(request).await.expect("an answer");
        let location = response.headers().get(header::LOCATION);
        let location = location.map(|value| value.to_str().expect("text").to_owned()).unwrap_or_default();
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, location, String::from_utf8(body.to_vec()).expect("text"))
    }

    /// Where a browser is sent, as a path of the server.
    fn authorize(&self, pkce: &Pkce, redirect_uri: &str, groups: bool) -> String {
        let url = self.github.authorize_url(&Authorize {
            app: &self.app,
            redirect_uri,
            state: "s t&te",
            groups,
            code_challenge: &pkce.challenge,
            login: Some("Mona"),
            choose_account: true,
        });
        url.strip_prefix(&self.server.url()).expect("at the server").to_owned()
    }

    /// The parameters that come back to the callback.
    async fn come_back(&self, pkce: &Pkce, groups: bool) -> Vec<(String, String)> {
        let (status, location, _) =
            self.browse(Method::GET, &self.authorize(pkce, CALLBACK, groups), String::new()).await;
        assert_eq!(status, StatusCode::FOUND);
        let (uri, query) = location.split_once('?').expect("a query");
        assert_eq!(uri, CALLBACK);
        let back = pairs(query);
        assert_eq!(field(&back, "state"), "s t&te");
        back
    }

    async fn redeem(&self, app: &App, code: &str, verifier: &SecretString) -> Result<Token, Error> {
        let code = code.into();
        self.github.exchange(&Exchange { app, code: &code, verifier, redirect_uri: CALLBACK }).await
    }

    /// A whole login.
    async fn sign_in(&self, groups: bool) -> Token {
        let pkce = Pkce::generate().expect("randomness");
        let back = self.come_back(&pkce, groups).await;
        self.redeem(&self.app, field(&back, "code"), &pkce.verifier).await.expect("a token")
    }

    async fn identity(&self) -> Identity {
        let token = self.sign_in(true).await;
        self.github.identity(&token, true).await.expect("an identity")
    }
}

fn refusal(error: Error) -> Refusal {
    match error {
        Error::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

fn groups(identity: &Identity) -> Vec<&str> {
    identity.groups().map(SmolStr::as_str).collect()
}

/// Whatever is shown of an error: itself and its causes, for people and for programmers.
fn shown(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = format!("{error:?}");
    let mut cause = Some(error);
    while let Some(error) = cause {
        text = format!("{text} {error}");
        cause = error.source();
    }
    text
}

#[tokio::test]
async fn a_login_tells_who_it_is_and_leaves_no_token_behind() {
    let setting = Setting::new().await;
    let token = setting.sign_in(true).await;
    assert_eq!(token.scopes(), ["read:org", "read:user", "user:email"]);
    let identity = setting.github.identity(&token, true).await.expect("an identity");
    assert_eq!((identity.id, identity.login.as_str()), (MONA, "Mona"));
    assert_eq!(identity.name.as_deref(), Some("Mona Lisa"));
    assert_eq!(identity.email(), Some("mona@example.com"));
    assert_eq!(groups(&identity), ["acme", "octo-org", "acme/platform"]);

    assert_eq!(setting.server.tokens().len(), 1);
    setting.github.revoke(&setting.app, &token).await.expect("ended");
    assert_eq!(setting.server.tokens(), [""; 0]);
    setting.github.revoke(&setting.app, &token).await.expect("it has ended already");
    assert!(matches!(setting.github.identity(&token, true).await, Err(Error::TokenRejected)));
}

#[tokio::test]
async fn requests_are_what_github_wants() {
    let setting = Setting::new().await;
    let pkce = Pkce::generate().expect("randomness");
    let path = setting.authorize(&pkce, CALLBACK, false);
    let (path, query) = path.split_once('?').expect("a query");
    assert_eq!(path, "/login/oauth/authorize");
    let asked = pairs(query);
    for (name, value) in [
        ("client_id", ID),
        ("redirect_uri", CALLBACK),
        ("state", "s t&te"),
        ("scope", "read:user user:email"),
        ("code_challenge", &pkce.challenge),
        ("code_challenge_method", "S256"),
        ("login", "Mona"),
        ("prompt", "select_account"),
    ] {
        assert_eq!(field(&asked, name), value, "{name}");
    }
    assert_eq!(asked.len(), 8);

    setting.identity().await;
    let requests = setting.server.requests();
    for seen in requests.iter().filter(|seen| !seen.uri.path().ends_with("authorize")) {
        let header = |name: &str| seen.headers.get(name).map(|value| value.to_str().expect("text"));
        assert!(header("user-agent").is_some_and(|agent| agent.starts_with("portcullis/")), "{seen:?}");
        let accept = header("accept");
        if seen.uri.path().starts_with("/api/v3/") {
            assert_eq!(accept, Some("application/vnd.github+json"));
            assert_eq!(header("x-github-api-version"), Some("2022-11-28"));
            assert!(header("authorization").is_some_and(|value| value.starts_with("Bearer gho_")));
        } else {
            assert_eq!(accept, Some("application/json"));
            assert_eq!(seen.uri.query(), None, "secrets stand in the body");
        }
    }
}

#[tokio::test]
async fn the_page_lets_a_person_choose() {
    let setting = Setting::new().await;
    setting.server.person(Person::AtThePage);
    setting.server.add_user(User::new(7, "hubot"));
    let pkce = Pkce::generate().expect("randomness");
    for (button, expected) in [("user=hubot", "code"), ("cancel=1", "error")] {
        let path = setting.authorize(&pkce, CALLBACK, false);
        let (status, _, page) = setting.browse(Method::GET, &path, String::new()).await;
        assert_eq!(status, StatusCode::OK);
        let mona = page.find("value=\"Mona\"").expect("offered");
        assert!(mona < page.find("value=\"hubot\"").expect("offered"), "who is suggested comes first");
        let fields = page.split("<input type=\"hidden\" name=\"").skip(1).map(|input| {
            let (name, rest) = input.split_once("\" value=\"").expect("a value");
            let value = rest.split_once('"').expect("an end").0.replace("&amp;", "&");
            format!("{name}={}&", value.replace('%', "%25").replace('&', "%26").replace('+', "%2B"))
        });
        let form: String = fields.chain([button.to_owned()]).collect();
        let (status, location, _) = setting.browse(Method::POST, "/login/oauth/authorize", form).await;
        assert_eq!(status, StatusCode::FOUND, "{button}");
        let back = pairs(location.split_once('?').expect("a query").1);
        assert_eq!(field(&back, "state"), "s t&te");
        assert!(!field(&back, expected).is_empty(), "{location}");
        if expected == "code" {
            let token = setting.redeem(&setting.app, field(&back, "code"), &pkce.verifier).await;
            let identity = setting.github.identity(&token.expect("a token"), false).await.expect("a user");
            assert_eq!((identity.id, identity.name), (7, None));
        } else {
            assert_eq!(Refusal::of_code(field(&back, "error")), Refusal::AccessDenied);
        }
    }
}

#[tokio::test]
async fn what_github_refuses_at_the_page_comes_back_as_a_code() {
    let setting = Setting::new().await;
    let pkce = Pkce::generate().expect("randomness");
    setting.server.person(Person::Refuses);
    let back = setting.come_back(&pkce, false).await;
    assert_eq!(Refusal::of_code(field(&back, "error")), Refusal::AccessDenied);

    setting.server.change_app(ID, |app| app.suspended = true);
    let back = setting.come_back(&pkce, false).await;
    assert_eq!(Refusal::of_code(field(&back, "error")), Refusal::ApplicationSuspended);

    let elsewhere = setting.authorize(&pkce, "https://auth.example.com.evil.example/callback", false);
    let (_, location, _) = setting.browse(Method::GET, &elsewhere, String::new()).await;
    let (uri, query) = location.split_once('?').expect("a query");
    assert_eq!(uri, CALLBACK, "never to an unregistered address");
    assert_eq!(Refusal::of_code(field(&pairs(query), "error")), Refusal::RedirectUriMismatch);
}

#[tokio::test]
async fn a_code_is_good_once_for_whoever_asked_for_it() {
    let setting = Setting::new().await;
    let pkce = Pkce::generate().expect("randomness");
    let back = setting.come_back(&pkce, false).await;
    let code = field(&back, "code");
    setting.redeem(&setting.app, code, &pkce.verifier).await.expect("a token");
    let again = setting.redeem(&setting.app, code, &pkce.verifier).await.expect_err("used");
    assert_eq!(refusal(again), Refusal::BadVerificationCode);

    let back = setting.come_back(&pkce, false).await;
    let other = Pkce::generate().expect("randomness");
    let stolen = setting.redeem(&setting.app, field(&back, "code"), &other.verifier).await;
    assert_eq!(refusal(stolen.expect_err("another verifier")), Refusal::BadVerificationCode);

    let back = setting.come_back(&pkce, false).await;
    setting.server.expire_codes();
    let late = setting.redeem(&setting.app, field(&back, "code"), &pkce.verifier).await;
    assert_eq!(refusal(late.expect_err("expired")), Refusal::BadVerificationCode);
}

#[tokio::test]
async fn refusals_of_the_token_endpoint_have_types() {
    let setting = Setting::new().await;
    let pkce = Pkce::generate().expect("randomness");
    let attempt = async |app: &App, redirect_uri: &str| {
        let back = setting.come_back(&pkce, false).await;
        let code = field(&back, "code").into();
        let exchange = Exchange { app, code: &code, verifier: &pkce.verifier, redirect_uri };
        let error = setting.github.exchange(&exchange).await.expect_err("refused");
        let text = shown(&error);
        assert!(
            !text.contains(code.expose_secret()) && !text.contains(pkce.verifier.expose_secret()),
            "{text}"
        );
        assert!(!text.contains(SECRET), "{text}");
        refusal(error)
    };
    assert_eq!(attempt(&app("wrong"), CALLBACK).await, Refusal::IncorrectClientCredentials);
    let elsewhere = format!("{CALLBACK}/elsewhere");
    assert_eq!(attempt(&setting.app, &elsewhere).await, Refusal::RedirectUriMismatch);
    let unknown = App::new("nobody".parse().expect("an id"), SECRET.into()).expect("an app");
    assert_eq!(attempt(&unknown, CALLBACK).await, Refusal::UnknownApp);
    setting.server.change_user(MONA, |user| user.emails[0].2 = false);
    assert_eq!(attempt(&setting.app, CALLBACK).await, Refusal::UnverifiedUserEmail);
}

#[tokio::test]
async fn a_form_is_understood_where_json_was_asked_for() {
    let setting = Setting::new().await;
    let pkce = Pkce::generate().expect("randomness");
    let path = "/login/oauth/access_token";
    let form = "application/x-www-form-urlencoded; charset=utf-8";
    let answer = |body: &str| Fault::Answer(200, form, body.to_owned());
    setting
        .server
        .fail(path, answer("access_token=gho_abc&scope=read%3Auser%2Cuser%3Aemail&token_type=bearer"));
    let token = setting.redeem(&setting.app, "code", &pkce.verifier).await.expect("a token");
    assert_eq!(token.scopes(), ["read:user", "user:email"]);
    setting.server.fail(path, answer("error=incorrect_client_credentials&error_description=The+client_id"));
    let error = setting.redeem(&setting.app, "code", &pkce.verifier).await.expect_err("refused");
    assert_eq!(refusal(error), Refusal::IncorrectClientCredentials);
}

#[tokio::test]
async fn a_token_is_never_shown() {
    let setting = Setting::new().await;
    let token = setting.sign_in(false).await;
    let secret = setting.server.tokens().remove(0);
    assert!(!format!("{token:?}").contains(&secret));
    let pkce = Pkce::generate().expect("randomness");
    for body in [
        r#"{"access_token":"gho_leak","token_type":"mac"}"#,
        r#"{"access_token":["gho_leak"],"token_type":"bearer"}"#,
        r#"{"access_token":"gho_leak two","token_type":"bearer"}"#,
        r#"{"access_token":"gho_leak","token_type":"bearer""#,
        r#"{"access_token":"","token_type":"bearer"}"#,
        "gho_leak",
        "null",
        "",
    ] {
        let answer = Fault::Answer(200, "application/json", body.to_owned());
        setting.server.fail("/login/oauth/access_token", answer);
        let error = setting.redeem(&setting.app, "code", &pkce.verifier).await.expect_err(body);
        assert!(matches!(error, Error::Malformed { .. }), "{error:?}");
        assert!(!shown(&error).contains("gho_leak"), "{error:?}");
    }
    for fault in [Fault::Status(500), Fault::Answer(200, "application/json", secret.clone())] {
        setting.server.fail("/user", fault);
        let error = setting.github.identity(&token, false).await.expect_err("no identity");
        assert!(!shown(&error).contains(&secret), "{error:?}");
    }
}

#[tokio::test]
async fn a_new_login_is_the_same_user() {
    let setting = Setting::new().await;
    let before = setting.identity().await;
    setting.server.rename(MONA, "mona-lisa");
    setting.server.add_user(User::new(99, "Mona"));
    setting.server.person(Person::SignedIn("mona-lisa".to_owned()));
    let after = setting.identity().await;
    assert_eq!((after.id, after.login.as_str()), (before.id, "mona-lisa"));
    setting.server.person(Person::SignedIn("Mona".to_owned()));
    assert_eq!(setting.identity().await.id, 99, "whoever has the old login is somebody else");
}

#[tokio::test]
async fn what_the_grant_does_not_cover_is_left_out() {
    let setting = Setting::new().await;
    let token = setting.sign_in(false).await;
    let identity = setting.github.identity(&token, true).await.expect("an identity");
    assert!(groups(&identity).is_empty(), "403: the scope is missing");
    assert_eq!(identity.email(), Some("mona@example.com"));

    let asked = || setting.server.requests().iter().filter(|seen| seen.uri.path().ends_with("/orgs")).count();
    let before = asked();
    setting.github.identity(&token, false).await.expect("an identity");
    assert_eq!(asked(), before, "nobody asks for groups that nobody needs");

    let denied = r#"{"message":"Resource not accessible by integration"}"#;
    for (status, body) in [(404, r#"{"message":"Not Found"}"#), (403, denied)] {
        let fault = Fault::Answer(status, "application/json", body.to_owned());
        setting.server.fail("/user/emails", fault);
        let identity = setting.github.identity(&token, false).await.expect("an identity");
        assert!(identity.emails.is_empty(), "{status}");
    }
}

#[tokio::test]
async fn an_unverified_address_is_nobodys() {
    let setting = Setting::new().await;
    let token = setting.sign_in(false).await;
    setting.server.change_user(MONA, |user| {
        user.emails =
            vec![("ceo@example.com".to_owned(), true, false), ("old@example.com".to_owned(), false, true)];
    });
    let identity = setting.github.identity(&token, false).await.expect("an identity");
    assert_eq!(identity.email(), None, "not even the primary one");
    let addresses: Vec<_> = identity.emails.iter().map(|email| email.address.as_str()).collect();
    assert_eq!(addresses, ["old@example.com"]);
}

#[tokio::test]
async fn all_pages_are_read_but_not_endlessly() {
    let setting = Setting::new().await;
    setting.server.change_user(MONA, |user| {
        user.orgs = (0..250).map(|n| format!("org{n:03}")).collect();
        user.teams = (0..101).map(|n| ("acme".to_owned(), format!("team{n:03}"))).collect();
    });
    let token = setting.sign_in(true).await;
    let identity = setting.github.identity(&token, true).await.expect("an identity");
    assert_eq!((identity.orgs.len(), identity.teams.len()), (250, 101));
    assert_eq!((identity.orgs[249].as_str(), identity.teams[100].as_str()), ("org249", "acme/team100"));

    let elsewhere = Setting::new().await;
    let count = |server: &standin::Github| {
        server.requests().iter().filter(|seen| seen.uri.path().ends_with("/user/orgs")).count()
    };
    let before = count(&setting.server);
    setting.server.fail("/user/orgs", Fault::EndlessPages(elsewhere.server.url()));
    let identity = setting.github.identity(&token, true).await.expect("an identity");
    assert_eq!(identity.orgs.len(), 250);
    assert_eq!(count(&setting.server) - before, 10);
    assert!(elsewhere.server.requests().is_empty(), "the token goes to the configured address only");
}

#[tokio::test]
async fn limits_mean_later() {
    let setting = Setting::new().await;
    let token = setting.sign_in(true).await;
    for path in ["/user", "/user/emails", "/user/orgs", "/user/teams"] {
        for (fault, longest) in [(Fault::RateLimit(600), 600), (Fault::SecondaryRateLimit(60), 60)] {
            setting.server.fail(path, fault);
            let error = setting.github.identity(&token, true).await.expect_err(path);
            assert_eq!(error.oauth_code(), "temporarily_unavailable");
            let Error::RateLimited { retry_after: Some(wait) } = error else { panic!("{error:?}") };
            assert!((longest - 10..=longest).contains(&wait.as_secs()), "{wait:?}");
        }
        setting.server.heal();
    }
    setting.server.fail("/login/oauth/access_token", Fault::Status(429));
    let pkce = Pkce::generate().expect("randomness");
    let error = setting.redeem(&setting.app, "code", &pkce.verifier).await.expect_err("too much");
    assert!(matches!(error, Error::RateLimited { retry_after: None }));
}

#[tokio::test]
async fn what_is_out_of_order_is_no_identity() {
    let setting = Setting::new().await;
    let token = setting.sign_in(true).await;
    let elsewhere = standin::Github::start().await;
    let answer = |body: &str| Fault::Answer(200, "application/json", body.to_owned());
    let login = |login: &str| answer(&format!(r#"{{"id":1,"login":"{login}"}}"#));
    for (path, fault, code) in [
        ("/user", Fault::Status(500), "temporarily_unavailable"),
        ("/user", Fault::Status(503), "temporarily_unavailable"),
        ("/user", Fault::Status(404), "server_error"),
        ("/user", Fault::Status(204), "server_error"),
        ("/user", Fault::Redirect(format!("{}/user", elsewhere.url())), "server_error"),
        ("/user", answer("{"), "server_error"),
        ("/user", answer("[]"), "server_error"),
        ("/user", answer(r#"{"login":"mona"}"#), "server_error"),
        ("/user", answer(r#"{"id":"1","login":"mona"}"#), "server_error"),
        ("/user", answer(r#"{"id":0,"login":"mona"}"#), "server_error"),
        ("/user", answer(r#"{"id":-1,"login":"mona"}"#), "server_error"),
        ("/user", login(""), "server_error"),
        ("/user", login("mona\\r\\nx-auth-user: root"), "server_error"),
        ("/user", login("service:ci"), "server_error"),
        ("/user", login(&"x".repeat(101)), "server_error"),
        ("/user", answer(&" ".repeat((1 << 20) + 1)), "temporarily_unavailable"),
        ("/user/emails", answer("{}"), "server_error"),
        ("/user/emails", Fault::Status(502), "temporarily_unavailable"),
        ("/user/orgs", answer("not found"), "server_error"),
        ("/user/teams", answer(r#"[{"slug":"a"}]"#), "server_error"),
        ("/user/teams", Fault::Status(401), "server_error"),
    ] {
        setting.server.fail(path, fault.clone());
        let error = setting.github.identity(&token, true).await.expect_err(path);
        assert_eq!(error.oauth_code(), code, "{path} {fault:?}: {error:?}");
        setting.server.heal();
    }
    assert!(elsewhere.requests().is_empty(), "a redirect was followed");
    assert!(setting.github.identity(&token, true).await.is_ok());
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let setting = Setting::new().await;
    let token = setting.sign_in(false).await;
    let api = setting.server.api_url().parse().expect("a URL");
    let settings = Settings::new(setting.server.url().parse().expect("a URL"), Some(api));
    let settings = Settings { time: Duration::from_millis(50), ..settings };
    let hasty = Github::new(&setting.client, settings).expect("a client");
    for path in ["/user", "/login/oauth/access_token"] {
        setting.server.fail(path, Fault::Hang);
    }
    let error = hasty.identity(&token, false).await.expect_err("no answer");
    assert!(matches!(error, Error::Unreachable(CallError::Slow(_))), "{error:?}");
    let pkce = Pkce::generate().expect("randomness");
    let code = "code".into();
    let exchange =
        Exchange { app: &setting.app, code: &code, verifier: &pkce.verifier, redirect_uri: CALLBACK };
    let error = hasty.exchange(&exchange).await.expect_err("no answer");
    assert_eq!(error.oauth_code(), "temporarily_unavailable");
}

#[tokio::test]
async fn a_token_that_can_not_be_ended_is_told() {
    let setting = Setting::new().await;
    let token = setting.sign_in(false).await;
    let error = setting.github.revoke(&app("wrong"), &token).await.expect_err("refused");
    assert_eq!(refusal(error), Refusal::IncorrectClientCredentials);
    let path = format!("/applications/{ID}/token");
    for (fault, code) in [
        (Fault::Status(500), "temporarily_unavailable"),
        (Fault::RateLimit(60), "temporarily_unavailable"),
        (Fault::Status(422), "server_error"),
    ] {
        setting.server.fail(&path, fault);
        let error = setting.github.revoke(&setting.app, &token).await.expect_err("refused");
        assert_eq!(error.oauth_code(), code);
    }
    assert_eq!(setting.server.tokens().len(), 1);
    setting.server.heal();
    setting.github.revoke(&setting.app, &token).await.expect("ended");
    assert_eq!(setting.server.tokens(), [""; 0]);
}

#[tokio::test]
async fn secrets_travel_over_tls_or_on_this_machine() {
    for (url, api) in [
        ("http://git.example.com", "https://git.example.com/api/v3"),
        ("https://git.example.com", "http://git.example.com/api/v3"),
        ("http://10.0.0.1", "http://10.0.0.1"),
    ] {
        let settings = Settings::new(url.parse().expect("a URL"), Some(api.parse().expect("a URL")));
        let refused = Github::new(&http_client(), settings).expect_err(url);
        assert!(matches!(refused, SetupError::Insecure(_)), "{refused:?}");
    }
    let settings = Settings::new("https://git.example.com".parse().expect("a URL"), None);
    let settings = Settings { ca: Some("no certificate".into()), ..settings };
    assert!(matches!(Github::new(&http_client(), settings), Err(SetupError::Target(_))));
}
