//! An authorization server over a store in memory, with GitHub's stand-in behind it, and browsers in front.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD as BASE64};
use http::header::{CONTENT_TYPE, COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::BodyExt;
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use portcullis_layers::deadline::Ticker;
use portcullis_layers::forward::{Client, Forward, PoolSettings, Target, Tunnels};
use portcullis_layers::users::Users;
use portcullis_layers::{Body, ClientAddr, HostName, RequestContext};
use portcullis_services::config::Proxy;
use portcullis_services::config::access::{Lists, Site};
use portcullis_services::logs::Writer;
use portcullis_services::logs::Writers;
use portcullis_services::mirror::Mirror;
use portcullis_services::oauth::authorization_server::{AuthorizationServer, Parts, Settings};
use portcullis_services::oauth::clients::{ConfiguredClient, Exceptions, Guard, registration};
use portcullis_services::oauth::endpoints::{self, Original};
use portcullis_services::oauth::github::{self, App, Apps, Github};
use portcullis_services::oauth::host::OAuthHost;
use portcullis_services::oauth::server::metadata::Issuer;
use portcullis_services::oauth::{Keys, Revocations, Trust, grants, sessions};
use portcullis_services::store::embedded::Embedded;
use portcullis_services::store::{Expect, Key, Kind, Store, Stream, Write};
use portcullis_services::vault::Vault;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::counted::Counted;
use crate::standin::{self, Person, User, field, pairs};

/// The authorization server.
pub(crate) const ISSUER: &str = "https://auth.example.com";

/// A host that is protected, for Mona and those on its lists.
pub(crate) const APP: &str = "https://app.example.com";

/// Another one, which is nobody's.
pub(crate) const CLOSED: &str = "https://closed.example.com";

/// Where a test client gets its codes.
pub(crate) const REDIRECT: &str = "https://client.example.com/callback";

/// The numeric ids of those who have an account.
pub(crate) const MONA: u64 = 583_231;
pub(crate) const HUBOT: u64 = 7;

/// The deployment's own app at GitHub.
pub(crate) const APP_ID: &str = "Iv1.0123456789abcdef";
pub(crate) const APP_SECRET: &str = "0123456789abcdef0123456789abcdef01234567";

/// A deployment.
pub(crate) struct World {
    pub(crate) github: standin::Github,
    pub(crate) store: Arc<Counted>,
    pub(crate) mirror: Mirror,
    pub(crate) server: Arc<AuthorizationServer>,
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) vault: Arc<Vault>,
    /// What happened, for administrators.
    pub(crate) events: Writer,
    /// What our own tokens are verified with.
    pub(crate) trust: Trust,
    clock: Arc<Clock>,
    hosts: Mutex<BTreeSet<String>>,
    router: Router,
    web: Client,
}

/// How a deployment differs from the usual one.
pub(crate) struct Setup {
    pub(crate) settings: Settings,
    /// What may be fetched beside public addresses, and the authority of its certificates.
    pub(crate) fetches: (Exceptions, Option<Arc<str>>),
    /// Where everything is kept; in memory if nothing is said.
    pub(crate) directory: Option<PathBuf>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { settings: settings(), fetches: (Exceptions::default(), None), directory: None }
    }
}

/// The server's clock. It is the system's, until a test moves it: then it stands still.
#[derive(Debug, Default)]
struct Clock {
    stopped: Mutex<Option<Timestamp>>,
}

impl Clock {
    fn now(&self) -> Timestamp {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(Timestamp::now)
    }

    fn advance(&self, by: Duration) {
        let by = jiff::SignedDuration::try_from(by).expect("some time");
        let later = self.now().checked_add(by).expect("a time");
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = Some(later);
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// A browser: it keeps cookies by host, and follows redirects between the issuer, hosts and GitHub.
pub(crate) struct Browser<'a> {
    world: &'a World,
    cookies: Mutex<BTreeMap<(String, String), String>>,
    /// Its address.
    pub(crate) address: IpAddr,
}

/// How a client asks to be authorized, with its verifier.
pub(crate) struct Authorization {
    pub(crate) verifier: String,
    /// The request's URL.
    pub(crate) url: String,
}

/// The settings that tests begin with.
pub(crate) fn settings() -> Settings {
    Settings {
        tokens: grants::Lifetimes::default(),
        sessions: sessions::Lifetimes::default(),
        host_session: Duration::from_secs(3600),
        login: Duration::from_secs(600),
        groups: Some(Duration::from_secs(604_800)),
        registration: Some(registration::Settings::new(format!("{ISSUER}/register"))),
        assertion_grants: false,
        assertion_issuers: Vec::new(),
    }
}

impl World {
    /// Two hosts, one of them for Mona; who is signed in at GitHub is Mona.
    pub(crate) async fn new() -> Self {
        Self::with(settings()).await
    }

    /// The same with other settings.
    pub(crate) async fn with(settings: Settings) -> Self {
        Self::of(Setup { settings, ..Setup::default() }).await
    }

    /// The same with whatever differs.
    pub(crate) async fn of(setup: Setup) -> Self {
        let Setup { settings, fetches: (exceptions, ca), directory } = setup;
        let github = standin::Github::start().await;
        github.add_app(standin::App::new(APP_ID, APP_SECRET, &format!("{ISSUER}/callback")));
        github.add_user(User { name: Some("Mona Lisa".to_owned()), ..User::new(MONA, "Mona") });
        github.add_user(User::new(HUBOT, "hubot"));
        github.person(Person::SignedIn("Mona".to_owned()));
        let web = Client::new(1, Ticker::new(1), Tunnels::new(1), PoolSettings::default());
        let upstream = github::Settings::new(github.url().parse().expect("a URL"), None);
        let kept = match directory {
            Some(directory) => Embedded::open(&directory).expect("a directory"),
            None => Embedded::in_memory().expect("memory"),
        };
        let counted = Arc::new(Counted::new(Arc::new(kept)));
        let store: Arc<dyn Store> = Arc::<Counted>::clone(&counted);
        let mirror = Mirror::new(Arc::clone(&store));
        let vault = Vault::new(&SecretString::from("0123456789abcdef0123456789abcdef")).expect("a key");
        let vault = Arc::new(vault);
        let now = Timestamp::now();
        let keys = Keys::ensure_active(&*store, &vault, None, now, now).await.expect("a key");
        let trust = Trust::new(ISSUER, &keys, 1).expect("keys");
        let revocations = Arc::new(Revocations::new(Arc::clone(&store), Arc::clone(trust.revoked())));
        let writer = |stream| Writer::new(stream, 1, 1 << 20);
        let events = writer(Stream::Oauth);
        let defaults = Lists { admin: Users::parse(["Mona"]).expect("users"), ..Lists::default() };
        let app = App::new(APP_ID.parse().expect("an id"), APP_SECRET.into()).expect("an app");
        let parts = Parts {
            mirror: mirror.clone(),
            apps: Apps::new(Arc::clone(&store), Arc::clone(&vault), Some(app)),
            vault: Arc::clone(&vault),
            site: Site {
                issuer: ISSUER.to_owned(),
                port_suffix: String::new(),
                defaults,
                localhost: Lists::default(),
            },
            issuer: Issuer::parse(ISSUER).expect("an issuer"),
            revocations: Arc::clone(&revocations),
            keys: Arc::new(keys),
            verifier: Arc::new(trust.verifier([])),
            github: Github::new(&web, upstream).expect("a client"),
            guard: Guard::new(web.clone(), ca, exceptions),
            writers: Writers {
                requests: writer(Stream::Requests),
                diagnostics: writer(Stream::Diagnostics),
                audit: writer(Stream::Audit),
                oauth: events.clone(),
                mcp: writer(Stream::Mcp),
            },
            settings,
        };
        let clock = Arc::new(Clock::default());
        let time = Arc::clone(&clock);
        let server = Arc::new(AuthorizationServer::new(parts).with_clock(move || time.now()));
        let router = endpoints::router(&server);
        let hosts = Mutex::default();
        let store = counted;
        let world = Self {
            github,
            store,
            mirror,
            server,
            revocations,
            vault,
            events,
            trust,
            clock,
            hosts,
            router,
            web,
        };
        world
            .put_host("app.example.com", json!({ "oauth_user_users": ["Mona"], "oauth_mcp_users": ["Mona"] }))
            .await;
        world.put_host("closed.example.com", json!({ "auth_required_users": ["somebody"] })).await;
        world
    }

    /// Lets the server's time go on, which stands still from now on but for this.
    pub(crate) fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// The server's time stands still.
    pub(crate) fn stop_time(&self) {
        self.advance(Duration::ZERO);
    }

    /// The server's time.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Gives a host an app of its own at GitHub, which is known there with the secret `secret-of-ID`.
    pub(crate) async fn put_app(&self, host: &str, id: &str, more: Value) {
        let secret = format!("secret-of-{id}");
        self.github.add_app(standin::App::new(id, &secret, &format!("{ISSUER}/callback")));
        self.put_app_of(host, id, &secret).await;
        let (mut fields, Value::Object(more)) = (json!({ "github_client_id": id }), more) else {
            panic!("an object")
        };
        fields.as_object_mut().expect("an object").extend(more);
        self.put_host(host, fields).await;
    }

    /// Lets the node see what was written, as its reconciler does.
    pub(crate) async fn see(&self) {
        self.mirror.latest().await.expect("read");
    }

    /// Sets up a protected host.
    pub(crate) async fn put_host(&self, host: &str, more: Value) {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).insert(format!("https://{host}"));
        let mut value = json!({
            "proxy_hostname": host,
            "target_url": "http://10.0.0.5:80",
            "auth_enabled": true,
            "auth_mode": "redirect",
        });
        let (Value::Object(all), Value::Object(more)) = (&mut value, more) else { panic!("an object") };
        all.extend(more);
        let write = Write::Put { key: Key::new(Kind::Proxy, host), value, expect: Expect::Any };
        self.store.commit(vec![write]).await.expect("stored");
    }

    pub(crate) async fn put_route(&self, id: &str, value: Value) {
        let write = Write::Put { key: Key::new(Kind::Route, id), value, expect: Expect::Any };
        self.store.commit(vec![write]).await.expect("stored");
    }

    /// Seals the secret of a host's own app.
    pub(crate) async fn put_app_of(&self, host: &str, id: &str, secret: &str) {
        let sealed = json!({ "client_id": id, "client_secret": secret }).to_string();
        let name = Proxy::github_secret_id(&host.parse().expect("a host"));
        let write = self.vault.put(&name, sealed.as_bytes(), Expect::Any).expect("sealed");
        self.store.commit(vec![write]).await.expect("stored");
    }

    /// Sets up a client as an administrator does; returns its secret, if it has one.
    pub(crate) async fn put_client(&self, id: &str, metadata: Value) -> Option<String> {
        self.put_party(id, metadata, false).await
    }

    /// The same; `first` says that it is a part of the deployment.
    pub(crate) async fn put_party(&self, id: &str, metadata: Value, first: bool) -> Option<String> {
        let Value::Object(fields) = metadata else { panic!("an object") };
        let (client, secret) = ConfiguredClient::new(&fields, first).expect("metadata");
        self.store.commit(vec![client.put(id, Expect::Any).expect("an id")]).await.expect("stored");
        secret.map(|secret| secret.expose_secret().to_owned())
    }

    /// The same for a resource server, which may introspect everything.
    pub(crate) async fn put_resource_server(&self, id: &str) -> String {
        let fields = json!({ "grant_types": ["client_credentials"] });
        let (mut client, secret) =
            ConfiguredClient::new(fields.as_object().expect("an object"), false).expect("metadata");
        client.introspect = true;
        self.store.commit(vec![client.put(id, Expect::Any).expect("an id")]).await.expect("stored");
        secret.expect("a secret").expose_secret().to_owned()
    }

    /// A public client, `web`, with the grants of people.
    pub(crate) async fn put_public_client(&self) {
        let metadata = json!({
            "client_name": "Web",
            "redirect_uris": [REDIRECT],
            "token_endpoint_auth_method": "none",
            "grant_types": [
                "authorization_code",
                "refresh_token",
                "urn:ietf:params:oauth:grant-type:device_code",
            ],
        });
        self.put_client("web", metadata).await;
    }

    /// A request from an address, with headers and a body.
    pub(crate) async fn request(
        &self,
        address: IpAddr,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: String,
    ) -> Answer {
        let (host, path) = split(url);
        let mut request = Request::new(axum::body::Body::from(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect("a path");
        *request.headers_mut() = headers;
        // As the edge does it, before it removes these headers.
        if let Some(original) = Original::of(request.headers()) {
            request.extensions_mut().insert(original);
        }
        let name: HostName = host.parse().expect("a host");
        request.extensions_mut().insert(self.host(&name).await);
        request.extensions_mut().insert(RequestContext {
            host: Some(name),
            scheme: Some("https"),
            client: Some(ClientAddr(SocketAddr::new(address, 40_000))),
            ..RequestContext::default()
        });
        let Ok(response) = self.router.clone().oneshot(request).await;
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 20).await.expect("a body").to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// A form that a client posts, at the issuer.
    pub(crate) async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        self.post_with(path, fields, HeaderMap::new()).await
    }

    /// The same with further headers.
    pub(crate) async fn post_with(
        &self,
        path: &str,
        fields: &[(&str, &str)],
        mut headers: HeaderMap,
    ) -> Answer {
        headers.insert(CONTENT_TYPE, FORM);
        self.request(CLIENT, Method::POST, &format!("{ISSUER}{path}"), headers, form(fields)).await
    }

    /// A request with a bearer token, at the issuer.
    pub(crate) async fn get_with(&self, path: &str, token: &str) -> Answer {
        let headers = header("authorization", &format!("Bearer {token}"));
        self.request(CLIENT, Method::GET, &format!("{ISSUER}{path}"), headers, String::new()).await
    }

    /// A browser without cookies.
    pub(crate) fn browser(&self) -> Browser<'_> {
        Browser { world: self, cookies: Mutex::default(), address: IpAddr::from([203, 0, 113, 9]) }
    }

    /// Signs Mona in with the client `web` for a resource; returns the token endpoint's answer.
    pub(crate) async fn tokens(&self, browser: &Browser<'_>, scope: &str, resource: &str) -> Value {
        self.tokens_of(browser, "web", "", &[("scope", scope), ("resource", resource)]).await
    }

    /// The same with another client, and its secret if it has one; `asked` are parameters of its question.
    pub(crate) async fn tokens_of(
        &self,
        browser: &Browser<'_>,
        client: &str,
        secret: &str,
        asked: &[(&str, &str)],
    ) -> Value {
        let asked = Authorization::new(client, REDIRECT, asked);
        let code = browser.code(&asked.url).await;
        let fields = [
            ("grant_type", "authorization_code"),
            ("client_id", client),
            ("client_secret", secret),
            ("code", &code),
            ("code_verifier", &asked.verifier),
        ];
        let answer = self.post("/token", &fields).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        answer.json()
    }

    /// Redeems a code of the client `web`; `more` are further fields.
    pub(crate) async fn redeem(&self, code: &str, verifier: &str, more: &[(&str, &str)]) -> Answer {
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("client_id", "web"),
            ("code", code),
            ("code_verifier", verifier),
        ];
        fields.extend(more);
        self.post("/token", &fields).await
    }

    /// Uses a refresh token of the client `web`; `more` are further fields.
    pub(crate) async fn refresh(&self, token: &str, more: &[(&str, &str)]) -> Answer {
        let mut fields =
            vec![("grant_type", "refresh_token"), ("client_id", "web"), ("refresh_token", token)];
        fields.extend(more);
        self.post("/token", &fields).await
    }

    /// What the resource server `rs` is told of a token.
    pub(crate) async fn introspect(&self, secret: &str, token: &str) -> Value {
        let fields = [("client_id", "rs"), ("client_secret", secret), ("token", token)];
        self.post("/introspect", &fields).await.json()
    }

    /// What another proxy is told about a request to a URL with a token.
    pub(crate) async fn verify(&self, url: &str, token: &str) -> Answer {
        self.see().await;
        let (host, path) = split(url);
        let mut headers = header("authorization", &format!("Bearer {token}"));
        for (name, value) in [
            ("x-forwarded-method", "GET"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", &host),
            ("x-forwarded-uri", &path),
        ] {
            headers.insert(name, value.parse().expect("a value"));
        }
        self.request(CLIENT, Method::GET, &format!("{ISSUER}/verify"), headers, String::new()).await
    }

    /// Where a request comes in, as the stack of the host says it. The issuer's own has nothing of note.
    async fn host(&self, name: &HostName) -> OAuthHost {
        let is_issuer = ISSUER.ends_with(&format!("/{name}"));
        let known = if is_issuer { None } else { self.mirror.latest().await.ok() };
        let proxy = known.and_then(|view| view.config.proxy_of(name).cloned()).unwrap_or_else(|| {
            let pattern = name.as_str().parse().expect("a host");
            Arc::new(Proxy::new(&pattern, &"builtin:oauth".parse().expect("a target")))
        });
        OAuthHost { name: name.clone(), proxy, is_issuer }
    }

    /// Whether a URL is on the issuer's host or a protected one.
    fn is_ours(&self, url: &str) -> bool {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = |origin: &str| url.strip_prefix(origin).is_some_and(|rest| rest.starts_with(['/', '?']));
        rest(ISSUER) || hosts.iter().any(|host| rest(host))
    }

    /// A request of a browser to GitHub.
    pub(crate) async fn at_github(&self, url: &str) -> Answer {
        let path = url.strip_prefix(&self.github.url()).expect("at GitHub");
        self.send_to_github(Request::get(path), String::new()).await
    }

    /// A form that somebody posts there.
    pub(crate) async fn post_to_github(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        self.send_to_github(Request::post(path), form(fields)).await
    }

    async fn send_to_github(&self, request: http::request::Builder, body: String) -> Answer {
        let target = Target::new(self.github.url().parse().expect("a URL"));
        let forward = Forward::new(&self.web, target, CancellationToken::new()).expect("a target");
        let request = request.body(Body::from(body)).expect("a request");
        let (parts, body) = forward.send(request).await.expect("an answer").into_parts();
        let body = body.collect().await.expect("a body").to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }
}

/// Where requests of clients come from.
pub(crate) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));

const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }

    pub(crate) fn location(&self) -> &str {
        self.header("location")
    }

    /// The parameters of the redirect.
    pub(crate) fn redirected(&self) -> Vec<(String, String)> {
        pairs(self.location().split_once('?').map_or("", |(_, query)| query))
    }

    /// The error code of the redirect.
    pub(crate) fn redirected_error(&self) -> String {
        assert!(self.location().starts_with(REDIRECT), "{} {} {}", self.status, self.location(), self.text());
        field(&self.redirected(), "error").to_owned()
    }

    /// When to come back, in seconds.
    pub(crate) fn retry_after(&self) -> Duration {
        let text = self.header("retry-after");
        Duration::from_secs(text.parse().unwrap_or_else(|_| panic!("no Retry-After: {self:?}")))
    }

    /// The error code of a JSON answer.
    pub(crate) fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }

    /// The hidden fields of the form on a page.
    pub(crate) fn fields(&self) -> Vec<(String, String)> {
        let attribute = |tag: &str, name: &str| {
            let (_, rest) = tag.split_once(&format!("{name}=\""))?;
            rest.split_once('"').map(|(value, _)| value.replace("&amp;", "&"))
        };
        let text = self.text();
        let inputs = text.split("<input").skip(1).filter_map(|rest| rest.split_once('>'));
        let inputs = inputs.map(|(tag, _)| tag).filter(|tag| tag.contains("type=\"hidden\""));
        inputs.filter_map(|tag| Some((attribute(tag, "name")?, attribute(tag, "value")?))).collect()
    }
}

impl Browser<'_> {
    /// One request; redirects are not followed.
    pub(crate) async fn send(&self, method: Method, url: &str, body: Option<&[(&str, &str)]>) -> Answer {
        let (host, _) = split(url);
        let mut headers = HeaderMap::new();
        let cookies: Vec<String> = self
            .jar()
            .iter()
            .filter(|((of, _), _)| *of == host)
            .map(|((_, name), value)| format!("{name}={value}"))
            .collect();
        if !cookies.is_empty() {
            headers.insert(COOKIE, cookies.join("; ").parse().expect("cookies"));
        }
        if body.is_some() {
            headers.insert(CONTENT_TYPE, FORM);
        }
        let body = body.map(form).unwrap_or_default();
        let answer = self.world.request(self.address, method, url, headers, body).await;
        for set in answer.headers.get_all(SET_COOKIE) {
            self.keep(&host, set.to_str().expect("ASCII"));
        }
        answer
    }

    /// Goes to a page, and on where it is sent to, until there is a page or a host that is none of ours.
    pub(crate) async fn go(&self, url: &str) -> Answer {
        let answer = self.send(Method::GET, url, None).await;
        self.follow(answer).await
    }

    /// Sends the form of a page with further fields, and goes on where that leads.
    pub(crate) async fn submit(&self, page: &Answer, url: &str, more: &[(&str, &str)]) -> Answer {
        let hidden = page.fields();
        let mut fields: Vec<(&str, &str)> =
            hidden.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        fields.extend(more);
        let answer = self.send(Method::POST, url, Some(&fields)).await;
        self.follow(answer).await
    }

    /// Goes on where an answer leads.
    pub(crate) async fn follow(&self, mut answer: Answer) -> Answer {
        for _ in 0..10 {
            let location = answer.location().to_owned();
            answer = if location.starts_with(&self.world.github.url()) {
                self.world.at_github(&location).await
            } else if self.world.is_ours(&location) {
                self.send(Method::GET, &location, None).await
            } else {
                return answer;
            };
        }
        panic!("sent round and round: {answer:?}");
    }

    /// Agrees to what a page asks, where there is one. Returns the answer that comes of it, not followed.
    pub(crate) async fn agree(&self, answer: Answer) -> Answer {
        if answer.status != StatusCode::OK {
            return answer;
        }
        let hidden = answer.fields();
        let mut fields: Vec<(&str, &str)> =
            hidden.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        fields.push(("decision", "approve"));
        self.send(Method::POST, &format!("{ISSUER}/consent"), Some(&fields)).await
    }

    /// Begins a login; returns where it leads at GitHub, where nobody goes yet.
    pub(crate) async fn to_github(&self, url: &str) -> String {
        let answer = self.send(Method::GET, url, None).await;
        let answer = self.agree(answer).await;
        let location = answer.location().to_owned();
        assert!(location.starts_with(&self.world.github.url()), "{url}: {answer:?}");
        location
    }

    /// Does all that a client's request asks for; returns what the client gets.
    pub(crate) async fn authorize(&self, url: &str) -> Answer {
        let answer = self.go(url).await;
        let answer = self.agree(answer).await;
        self.follow(answer).await
    }

    /// Lets a client have its code: signs in and agrees, as far as that is asked.
    pub(crate) async fn code(&self, url: &str) -> String {
        let answer = self.authorize(url).await;
        let back = answer.redirected();
        let code = field(&back, "code").to_owned();
        assert!(!code.is_empty(), "no code: {} {}", answer.location(), answer.text());
        code
    }

    /// Signs in at the issuer, without a client.
    pub(crate) async fn sign_in(&self) {
        let answer = self.go(&format!("{ISSUER}/login")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        assert!(self.cookie("auth.example.com", "__Host-portcullis-session").is_some());
    }

    /// Signs in on the protected host; returns the token in its cookie.
    pub(crate) async fn host_session(&self) -> String {
        // What the layer of the host does: it keeps the state that it sends along.
        let state = "s".repeat(43);
        self.set_cookie("app.example.com", "__Host-portcullis-state", &state);
        let to = form(&[("return_url", &format!("{APP}/page")), ("state", &state)]);
        let mut answer = self.send(Method::GET, &format!("{ISSUER}/login?{to}"), None).await;
        while answer.location() != format!("{APP}/page") {
            let location = answer.location().to_owned();
            answer = if location.starts_with(&self.world.github.url()) {
                self.world.at_github(&location).await
            } else {
                self.send(Method::GET, &location, None).await
            };
        }
        self.cookie("app.example.com", "__Host-unified_auth_token").expect("a session on the host")
    }

    pub(crate) fn cookie(&self, host: &str, name: &str) -> Option<String> {
        self.jar().get(&(host.to_owned(), name.to_owned())).cloned()
    }

    /// The values of all its cookies.
    pub(crate) fn cookies(&self) -> Vec<String> {
        self.jar().values().cloned().collect()
    }

    pub(crate) fn set_cookie(&self, host: &str, name: &str, value: &str) {
        self.jar().insert((host.to_owned(), name.to_owned()), value.to_owned());
    }

    fn keep(&self, host: &str, set: &str) {
        let pair = set.split(';').next().expect("a pair");
        let (name, value) = pair.split_once('=').expect("a pair");
        let key = (host.to_owned(), name.to_owned());
        if set.contains("Max-Age=0") {
            self.jar().remove(&key);
        } else {
            self.jar().insert(key, value.to_owned());
        }
    }

    fn jar(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, String), String>> {
        self.cookies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Authorization {
    /// A request of a client; `more` are further parameters.
    pub(crate) fn new(client: &str, redirect_uri: &str, more: &[(&str, &str)]) -> Self {
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".to_owned();
        let challenge = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes());
        let challenge = BASE64.encode(challenge);
        let mut fields = vec![
            ("response_type", "code"),
            ("client_id", client),
            ("redirect_uri", redirect_uri),
            ("state", "af0ifjsldkj"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        fields.extend(more);
        let url = format!("{ISSUER}/authorize?{}", form(&fields));
        Self { verifier, url }
    }
}

/// The claims of a token, not verified.
pub(crate) fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("a JWT");
    serde_json::from_slice(&BASE64.decode(payload).expect("base64")).expect("JSON")
}

/// A member of an answer.
pub(crate) fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_else(|| panic!("no {member} in {value}"))
}

/// How a client with a secret says who it is in a header.
pub(crate) fn basic(id: &str, secret: &str) -> HeaderMap {
    header("authorization", &format!("Basic {}", BASE64_STANDARD.encode(format!("{id}:{secret}"))))
}

/// One header.
pub(crate) fn header(name: &'static str, value: &str) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().expect("a value"))])
}

/// Fields as a form has them.
pub(crate) fn form(fields: &[(&str, &str)]) -> String {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let pairs: Vec<String> =
        fields.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    pairs.join("&")
}

/// Host, and path with query, of an `https` URL.
pub(crate) fn split(url: &str) -> (String, String) {
    let rest = url.strip_prefix("https://").unwrap_or_else(|| panic!("not https: {url}"));
    match rest.find(['/', '?']) {
        Some(at) if rest[at..].starts_with('/') => (rest[..at].to_owned(), rest[at..].to_owned()),
        Some(at) => (rest[..at].to_owned(), format!("/{}", &rest[at..])),
        None => (rest.to_owned(), "/".to_owned()),
    }
}
