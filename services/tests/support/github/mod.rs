//! A server on a free port that speaks GitHub's wire protocol: sign-in pages, the token endpoint with
//! its errors of status 200, the device flow, the REST API with its pages, scopes and limits.
//!
//! It serves the site and the API at one address; the API also below `/api/v3`, as a server of one's
//! own has it. The daemon's tests include this file, too.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of the support")]

mod api;
mod device;
mod login;
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{delete, get, post};

#[allow(unused_imports, reason = "each test binary uses its own part of the support")]
pub use wire::{field, pairs};

/// An OAuth app.
#[derive(Clone, Debug)]
pub struct App {
    pub client_id: String,
    pub client_secret: String,
    /// The callback URL that the app is registered with; redirect URIs must be it or below it.
    pub callback: String,
    pub suspended: bool,
    /// Whether its devices may ask for tokens. An app that was just made has that off.
    pub device_flow: bool,
}

impl App {
    pub fn new(client_id: &str, client_secret: &str, callback: &str) -> Self {
        Self {
            client_id: client_id.to_owned(),
            client_secret: client_secret.to_owned(),
            callback: callback.to_owned(),
            suspended: false,
            device_flow: false,
        }
    }

    /// One whose devices may ask for tokens.
    #[must_use]
    pub fn with_device_flow(self) -> Self {
        Self { device_flow: true, ..self }
    }

    fn allows(&self, redirect_uri: &str) -> bool {
        let rest = redirect_uri.strip_prefix(self.callback.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
    }
}

/// A user. An address is (address, primary, verified), a team (organisation, slug).
#[derive(Clone, Debug, Default)]
pub struct User {
    pub id: u64,
    pub login: String,
    pub name: Option<String>,
    pub emails: Vec<(String, bool, bool)>,
    pub orgs: Vec<String>,
    pub teams: Vec<(String, String)>,
}

impl User {
    /// One with a verified address, `LOGIN@example.com`.
    pub fn new(id: u64, login: &str) -> Self {
        let emails = vec![(format!("{}@example.com", login.to_lowercase()), true, true)];
        Self { id, login: login.to_owned(), emails, ..Self::default() }
    }

    #[must_use]
    pub fn with_org(mut self, org: &str, teams: &[&str]) -> Self {
        self.orgs.push(org.to_owned());
        self.teams.extend(teams.iter().map(|team| (org.to_owned(), (*team).to_owned())));
        self
    }
}

/// Who answers for the user at the authorization page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Person {
    /// Whoever uses the page.
    #[default]
    AtThePage,
    /// Somebody who has agreed before: there is no page.
    SignedIn(String),
    /// Somebody who refuses.
    Refuses,
}

/// What goes wrong on a path.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The limit of the hour is used up, for so many seconds.
    RateLimit(u64),
    /// Too much at once.
    SecondaryRateLimit(u64),
    /// An empty answer.
    Status(u16),
    /// No answer, ever.
    Hang,
    /// Another answer: status, content type, body.
    Answer(u16, &'static str, String),
    /// The page is elsewhere.
    Redirect(String),
    /// Links to next pages that never end, at this address.
    EndlessPages(String),
}

/// A request, as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
}

#[derive(Clone, Debug)]
struct Grant {
    client_id: String,
    user: u64,
    scopes: Vec<String>,
    redirect_uri: String,
    challenge: Option<String>,
}

#[derive(Debug)]
struct Inner {
    begun: Instant,
    /// The time that a test lets pass.
    passed: Duration,
    apps: HashMap<String, App>,
    users: BTreeMap<u64, User>,
    person: Person,
    codes: HashMap<String, Grant>,
    tokens: HashMap<String, Grant>,
    devices: HashMap<String, device::Device>,
    /// Everything that nobody but the app may ever see.
    secrets: Vec<String>,
    forms: Vec<String>,
    faults: HashMap<String, Fault>,
    seen: Vec<Seen>,
}

impl Inner {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            passed: Duration::ZERO,
            apps: HashMap::new(),
            users: BTreeMap::new(),
            person: Person::default(),
            codes: HashMap::new(),
            tokens: HashMap::new(),
            devices: HashMap::new(),
            secrets: Vec::new(),
            forms: Vec::new(),
            faults: HashMap::new(),
            seen: Vec::new(),
        }
    }

    /// How long there has been this server, by its own clock.
    fn now(&self) -> Duration {
        self.begun.elapsed() + self.passed
    }
}

/// The server; it ends with the test's runtime. A clone is the same one.
#[derive(Clone, Debug)]
pub struct Github {
    pub address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
}

impl Github {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let github = Self { address, inner: Arc::new(Mutex::new(Inner::new())) };
        let api = Router::new()
            .route("/user", get(api::user))
            .route("/user/emails", get(api::emails))
            .route("/user/orgs", get(api::orgs))
            .route("/user/teams", get(api::teams))
            .route("/applications/{client_id}/token", delete(api::revoke))
            .fallback(async || wire::not_found())
            .layer(from_fn_with_state(github.clone(), manners));
        let router = Router::new()
            .route("/login/oauth/authorize", get(login::authorize).post(login::decide))
            .route("/login/oauth/access_token", post(login::access_token))
            .route("/login/device/code", post(device::begin))
            .route("/login/device", get(device::page).post(device::submit))
            .nest("/api/v3", api.clone())
            .merge(api)
            .layer(from_fn_with_state(github.clone(), watch))
            .with_state(github.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        github
    }

    /// Where people sign in.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where the API is, as that of a server of one's own.
    pub fn api_url(&self) -> String {
        format!("http://{}/api/v3", self.address)
    }

    pub fn add_app(&self, app: App) {
        self.inner().apps.insert(app.client_id.clone(), app);
    }

    pub fn change_app(&self, client_id: &str, change: impl FnOnce(&mut App)) {
        change(self.inner().apps.get_mut(client_id).expect("a known app"));
    }

    pub fn add_user(&self, user: User) {
        self.inner().users.insert(user.id, user);
    }

    pub fn change_user(&self, id: u64, change: impl FnOnce(&mut User)) {
        change(self.inner().users.get_mut(&id).expect("a known user"));
    }

    /// Gives an account another login. The id stays.
    pub fn rename(&self, id: u64, login: &str) {
        self.change_user(id, |user| login.clone_into(&mut user.login));
    }

    /// From now on this person answers at the authorization page.
    pub fn person(&self, person: Person) {
        self.inner().person = person;
    }

    /// From now on this goes wrong on a path, given without `/api/v3`.
    pub fn fail(&self, path: &str, fault: Fault) {
        self.inner().faults.insert(path.to_owned(), fault);
    }

    /// Nothing goes wrong any longer.
    pub fn heal(&self) {
        self.inner().faults.clear();
    }

    /// Ten minutes have passed.
    pub fn expire_codes(&self) {
        self.inner().codes.clear();
    }

    /// So much time passes for devices.
    pub fn advance(&self, by: Duration) {
        self.inner().passed += by;
    }

    /// The tokens that are good.
    pub fn tokens(&self) -> Vec<String> {
        self.inner().tokens.keys().cloned().collect()
    }

    /// All that was secret between an app and us so far: codes, tokens, states, PKCE verifiers.
    pub fn secrets(&self) -> Vec<String> {
        self.inner().secrets.clone()
    }

    /// The user ended all grants at the settings page.
    pub fn revoke_all(&self) {
        self.inner().tokens.clear();
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Seen> {
        self.inner().seen.clone()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }
}

async fn watch(State(github): State<Github>, request: Request, next: Next) -> Response {
    let seen = Seen {
        method: request.method().clone(),
        uri: request.uri().clone(),
        headers: request.headers().clone(),
    };
    let path = seen.uri.path().strip_prefix("/api/v3").unwrap_or(seen.uri.path()).to_owned();
    let fault = {
        let mut inner = github.inner();
        inner.seen.push(seen);
        inner.faults.get(&path).cloned()
    };
    match fault {
        None | Some(Fault::EndlessPages(_)) => next.run(request).await,
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Status(status)) => StatusCode::from_u16(status).unwrap().into_response(),
        Some(Fault::Answer(status, kind, body)) => {
            let status = StatusCode::from_u16(status).unwrap();
            (status, [(header::CONTENT_TYPE, kind)], body).into_response()
        }
        Some(Fault::Redirect(to)) => (StatusCode::FOUND, [(header::LOCATION, to)]).into_response(),
        Some(Fault::RateLimit(seconds)) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            let headers = [
                ("x-ratelimit-limit", "5000".to_owned()),
                ("x-ratelimit-remaining", "0".to_owned()),
                ("x-ratelimit-reset", (now + seconds).to_string()),
            ];
            let body = wire::message("API rate limit exceeded for user ID 1.");
            (StatusCode::FORBIDDEN, headers, Json(body)).into_response()
        }
        Some(Fault::SecondaryRateLimit(seconds)) => {
            let body = wire::message("You have exceeded a secondary rate limit. Please wait a few minutes.");
            let headers = [(header::RETRY_AFTER, seconds.to_string())];
            (StatusCode::FORBIDDEN, headers, Json(body)).into_response()
        }
    }
}

/// What the API asks of everybody.
async fn manners(request: Request, next: Next) -> Response {
    let headers = request.headers();
    if !headers.contains_key(header::USER_AGENT) {
        let text = "Request forbidden by administrative rules. Please make sure your request has a User-Agent header";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let version = headers.get("x-github-api-version").map(HeaderValue::as_bytes);
    if version.is_some_and(|version| version != b"2022-11-28") {
        return (StatusCode::BAD_REQUEST, Json(wire::message("Not a supported version"))).into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert("x-github-media-type", HeaderValue::from_static("github.v3; format=json"));
    headers.insert("x-ratelimit-limit", HeaderValue::from_static("5000"));
    headers.insert("x-ratelimit-remaining", HeaderValue::from_static("4999"));
    response
}
