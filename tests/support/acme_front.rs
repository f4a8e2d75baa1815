//! What newer certificate authorities have and Debian's Pebble lacks, before a real Pebble: renewal information (RFC
//! 9773), profiles, and answers that a test wants, such as rate limits. Everything else goes to Pebble and comes back
//! as it is. Pebble makes its URLs from the Host header and holds the `url` of signed requests against it, so that it
//! is enough to hand that header on: all URLs lead here.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::client::{Answer, get, handshake, open, read, secure};
use super::pebble::Pebble;

/// Where renewal information is.
const RENEWAL: &str = "/renewal-info";

/// When a certificate should be renewed (RFC 9773, section 4.2).
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub start: SystemTime,
    pub end: SystemTime,
    /// When to ask again.
    pub retry_after: Duration,
}

/// A new order, as the client has sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ordered {
    pub names: Vec<String>,
    pub replaces: Option<String>,
    pub profile: Option<String>,
    /// The path of the order's URL.
    pub path: String,
}

/// The front; it ends with its value.
pub struct AcmeFront {
    address: SocketAddr,
    inner: Arc<Inner>,
    serving: Option<AbortHandle>,
}

impl AcmeFront {
    /// With renewal information and no profiles.
    pub async fn before(pebble: &Pebble) -> Self {
        let pair = pebble.authority().sign(&["localhost", "127.0.0.1"]);
        let chain = CertificateDer::pem_slice_iter(pair.chain.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let tls = tls.with_no_client_auth().with_single_cert(chain, key).unwrap();
        let directory = secure(pebble.address(), get("localhost", "/dir")).await.json();
        let inner = Inner {
            pebble: pebble.address(),
            management: pebble.management(),
            tls: TlsAcceptor::from(Arc::new(tls)),
            paths: paths(&directory),
            state: Mutex::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut front =
            Self { address: listener.local_addr().unwrap(), inner: Arc::new(inner), serving: None };
        front.serve(listener);
        front
    }

    /// Where clients begin. It is trusted by the authority of [`Pebble::authority`].
    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.address)
    }

    /// Profiles by name, with what is said of them. An order for another is refused; Pebble issues all alike.
    pub fn offer(&self, profiles: &[(&str, &str)]) {
        self.state(|state| {
            state.profiles = profiles.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect();
        });
    }

    /// What CAA records call it (RFC 8659), as the directory says.
    pub fn is_called(&self, names: &[&str]) {
        self.state(|state| state.identities = names.iter().map(|&name| name.to_owned()).collect());
    }

    /// Sets the window of all certificates. Without one it is the last third of a certificate's life, to be asked for
    /// again after six hours.
    pub fn suggest(&self, window: Window) {
        self.state(|state| state.window = Some(window));
    }

    /// Sets the window of one certificate, by its id.
    pub fn suggest_for(&self, id: &str, window: Window) {
        self.state(|state| state.windows.insert(id.to_owned(), window));
    }

    /// Has no renewal information from now on, or has it again.
    pub fn has_renewal_information(&self, has: bool) {
        self.state(|state| state.silent = !has);
    }

    /// Answers the next `times` requests to a resource of the directory (`newOrder`, `newAccount`, ...) with a rate
    /// limit (RFC 8555, section 6.6); Pebble does not see them.
    pub fn limit(&self, resource: &str, times: usize, retry_after: Duration) {
        let problem = json!({
            "type": "urn:ietf:params:acme:error:rateLimited",
            "detail": "too many certificates already issued for \"example.test\"",
            "status": 429,
        });
        self.answer_next(resource, times, problem, Some(retry_after));
    }

    /// Answers the next requests with a problem.
    pub fn answer_next(&self, resource: &str, times: usize, problem: Value, retry_after: Option<Duration>) {
        let path = self.path(resource);
        self.state(|state| state.refusals.insert(path, Refusal { times, problem, retry_after }));
    }

    /// All new orders that Pebble took, as they were sent.
    pub fn orders(&self) -> Vec<Ordered> {
        self.state(|state| state.orders.clone())
    }

    /// How many orders were under way at the same time, at most.
    pub fn most_open(&self) -> usize {
        self.state(|state| state.most_open)
    }

    /// Begins to count those anew: whoever had them under way has ended. One that is gone on with counts again.
    pub fn forget_open(&self) {
        self.state(|state| {
            state.open.clear();
            state.most_open = 0;
        });
    }

    /// How many orders came that say which certificate they replace.
    pub fn replacements(&self) -> usize {
        self.orders().iter().filter(|order| order.replaces.is_some()).count()
    }

    /// The ids of the certificates whose renewal information was asked for, each time.
    pub fn asked(&self) -> Vec<String> {
        self.state(|state| state.asked.clone())
    }

    /// How many requests to a resource of the directory came, those of [`limit`](Self::limit) included.
    pub fn requests(&self, resource: &str) -> usize {
        let path = self.path(resource);
        self.state(|state| state.requests.get(&path).copied().unwrap_or_default())
    }

    /// Nobody listens from now on, and connections are cut. Pebble keeps what it knows.
    pub fn go_down(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }

    /// Listens again, at the same port.
    pub async fn come_back(&mut self) {
        // The old listener closes when its task has ended.
        let listener =
            super::eventually("the front's port", || async { TcpListener::bind(self.address).await.ok() });
        let listener = listener.await;
        self.serve(listener);
    }

    fn serve(&mut self, listener: TcpListener) {
        let inner = Arc::clone(&self.inner);
        let task = tokio::spawn(async move {
            // Aborted with this task.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let inner = Arc::clone(&inner);
                connections.spawn(async move {
                    // A client that does not trust us has gone.
                    let Ok(stream) = inner.tls.clone().accept(stream).await else { return };
                    let service = service_fn(|request| {
                        let inner = Arc::clone(&inner);
                        async move { Ok::<_, Infallible>(inner.answer(request).await) }
                    });
                    let server = hyper::server::conn::http1::Builder::new();
                    // How a connection ends is for the client to see.
                    let _ended = server.serve_connection(TokioIo::new(stream), service).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        self.serving = Some(task.abort_handle());
    }

    /// Where a resource of the directory is.
    fn path(&self, resource: &str) -> String {
        match resource {
            "renewalInfo" => RENEWAL.to_owned(),
            _ => self.inner.paths.get(resource).expect("a resource of the directory").clone(),
        }
    }

    fn state<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.inner.state.lock().unwrap())
    }
}

impl Drop for AcmeFront {
    fn drop(&mut self) {
        self.go_down();
    }
}

struct Inner {
    pebble: SocketAddr,
    management: SocketAddr,
    tls: TlsAcceptor,
    /// Where the directory's resources are.
    paths: BTreeMap<String, String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    profiles: BTreeMap<String, String>,
    identities: Vec<String>,
    window: Option<Window>,
    windows: BTreeMap<String, Window>,
    silent: bool,
    refusals: BTreeMap<String, Refusal>,
    orders: Vec<Ordered>,
    /// Certificates that an order has replaced.
    replaced: BTreeSet<String>,
    asked: Vec<String>,
    requests: BTreeMap<String, usize>,
    /// The paths of orders that have not ended, and how many there were at most.
    open: BTreeSet<String>,
    most_open: usize,
}

struct Refusal {
    times: usize,
    problem: Value,
    retry_after: Option<Duration>,
}

impl Inner {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let counted = if path.starts_with(RENEWAL) { RENEWAL } else { path.as_str() };
        let refusal = {
            let mut state = self.state.lock().unwrap();
            *state.requests.entry(counted.to_owned()).or_default() += 1;
            state.refusals.get_mut(counted).filter(|refusal| refusal.times > 0).map(|refusal| {
                refusal.times -= 1;
                (refusal.problem.clone(), refusal.retry_after)
            })
        };
        if let Some((text, retry_after)) = refusal {
            return self.refuse(&text, retry_after).await;
        }
        if let Some(id) = path.strip_prefix(RENEWAL) {
            return self.renewal(id.trim_start_matches('/')).await;
        }
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let order = (self.paths.get("newOrder") == Some(&path) && parts.method == Method::POST)
            .then(|| payload(&body));
        if let Some(problem) = order.as_ref().and_then(|order| self.fault(order)) {
            return self.refuse(&problem, None).await;
        }
        let host = parts
            .headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let Ok(mut answer) = self.forward(parts, body).await else {
            return respond(StatusCode::BAD_GATEWAY, HeaderMap::new(), "Pebble does not answer");
        };
        if path == "/dir" && answer.status == 200 {
            let mut directory = answer.json();
            self.extend(&mut directory, &host);
            answer.body = directory.to_string().into();
        } else if answer.status.is_success() {
            self.note(&path, order.as_ref(), &mut answer);
        }
        respond(answer.status, answer.headers, answer.body)
    }

    /// What is wrong with a new order in members that Pebble does not know.
    fn fault(&self, order: &Value) -> Option<Value> {
        let state = self.state.lock().unwrap();
        let profile = order["profile"].as_str();
        if let Some(profile) = profile.filter(|profile| !state.profiles.contains_key(*profile)) {
            return Some(problem(400, "invalidProfile", &format!("profile {profile:?} not recognized")));
        }
        let replaces = order["replaces"].as_str()?;
        // RFC 9773, section 5: each certificate is replaced once.
        let twice = state.replaced.contains(replaces);
        twice.then(|| problem(409, "alreadyReplaced", &format!("{replaces} was replaced already")))
    }

    /// Adds what this front has to the directory.
    fn extend(&self, directory: &mut Value, host: &str) {
        let state = self.state.lock().unwrap();
        if !state.silent {
            directory["renewalInfo"] = json!(format!("https://{host}{RENEWAL}"));
        }
        if !state.profiles.is_empty() {
            directory["meta"]["profiles"] = json!(state.profiles);
        }
        if !state.identities.is_empty() {
            directory["meta"]["caaIdentities"] = json!(state.identities);
        }
    }

    /// Remembers new orders, and shows in orders what Pebble has dropped of them (RFC 9773, section 5).
    fn note(&self, path: &str, new: Option<&Value>, answer: &mut Answer) {
        let mut state = self.state.lock().unwrap();
        if let Some(order) = new {
            let names = order["identifiers"].as_array().into_iter().flatten();
            let location = answer.header("location").parse::<http::Uri>().unwrap();
            let text = |member: &str| order[member].as_str().map(str::to_owned);
            state.orders.push(Ordered {
                names: names.filter_map(|name| name["value"].as_str().map(str::to_owned)).collect(),
                replaces: text("replaces"),
                profile: text("profile"),
                path: location.path().to_owned(),
            });
        }
        let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let own = match answer.headers.get(header::LOCATION) {
            Some(location) => last(location.to_str().unwrap_or_default()),
            None => last(path),
        };
        let Some(order) = state.orders.iter().find(|order| last(&order.path) == own).cloned() else { return };
        let Ok(mut shown) = serde_json::from_slice::<Value>(&answer.body) else { return };
        match shown["status"].as_str() {
            Some("valid" | "invalid") => drop(state.open.remove(&order.path)),
            Some(_) => drop(state.open.insert(order.path.clone())),
            None => {}
        }
        state.most_open = state.most_open.max(state.open.len());
        for (member, value) in [("replaces", &order.replaces), ("profile", &order.profile)] {
            if let Some(value) = value {
                shown[member] = json!(value);
            }
        }
        if let Some(replaces) = order.replaces.filter(|_| shown["status"] == "valid") {
            state.replaced.insert(replaces);
        }
        answer.body = shown.to_string().into();
    }

    /// Answers for a certificate that Pebble has issued.
    async fn renewal(&self, id: &str) -> Response<Full<Bytes>> {
        let set = {
            let mut state = self.state.lock().unwrap();
            state.asked.push(id.to_owned());
            if state.silent { None } else { Some(state.windows.get(id).copied().or(state.window)) }
        };
        let Some(set) = set else { return respond(StatusCode::NOT_FOUND, HeaderMap::new(), "") };
        let Some(pem) = self.issued(id).await else {
            let problem = problem(404, "malformed", "no such certificate");
            return respond(StatusCode::NOT_FOUND, problem_headers(), problem.to_string());
        };
        let window = set.unwrap_or_else(|| last_third(&pem));
        let shown = |time: SystemTime| Timestamp::try_from(time).unwrap().to_string();
        let body = json!({"suggestedWindow": {"start": shown(window.start), "end": shown(window.end)}});
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        headers.insert(header::RETRY_AFTER, window.retry_after.as_secs().into());
        respond(StatusCode::OK, headers, body.to_string())
    }

    /// The certificate with an id: base64url of its authority's key identifier, a dot, and that of its serial number
    /// (RFC 9773, section 4.1).
    async fn issued(&self, id: &str) -> Option<String> {
        let (key, serial) = id.split_once('.')?;
        let serial = BASE64_URL_SAFE_NO_PAD.decode(serial).ok()?;
        let hex: String = serial.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = format!("/cert-status-by-serial/{hex}");
        let answer = secure(self.management, get("localhost", &path)).await;
        let pem =
            (answer.status == 200).then(|| answer.json()["Certificate"].as_str().unwrap().to_owned())?;
        (certificate_id(&pem).split_once('.')?.0 == key).then_some(pem)
    }

    async fn forward(&self, parts: http::request::Parts, body: Bytes) -> std::io::Result<Answer> {
        let stream = handshake(self.pebble, "localhost", &[b"http/1.1"]).await?;
        Ok(read(open(stream, Request::from_parts(parts, Full::new(body))).await).await)
    }

    /// A problem with a fresh nonce, as each answer to a signed request has one (RFC 8555, section 6.5).
    async fn refuse(&self, problem: &Value, retry_after: Option<Duration>) -> Response<Full<Bytes>> {
        let mut headers = problem_headers();
        let nonce = secure(self.pebble, get("localhost", &self.paths["newNonce"])).await;
        headers.insert("replay-nonce", nonce.headers["replay-nonce"].clone());
        if let Some(delay) = retry_after {
            headers.insert(header::RETRY_AFTER, delay.as_secs().into());
        }
        let status = problem["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(500);
        respond(StatusCode::from_u16(status).unwrap(), headers, problem.to_string())
    }
}

/// The id of a certificate in PEM (RFC 9773, section 4.1).
pub fn certificate_id(pem: &str) -> String {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    let key = certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref(),
        _ => None,
    });
    let [key, serial] = [key.expect("an authority key identifier").0, certificate.raw_serial()];
    format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(key), BASE64_URL_SAFE_NO_PAD.encode(serial))
}

/// The window of a certificate that nothing was set for.
fn last_third(pem: &str) -> Window {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    let [from, until] = [certificate.validity().not_before, certificate.validity().not_after]
        .map(|time| u64::try_from(time.timestamp()).unwrap());
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(from + (until - from) * 2 / 3);
    Window {
        start,
        end: start + Duration::from_secs((until - from) / 30),
        retry_after: Duration::from_secs(21_600),
    }
}

fn problem(status: u16, kind: &str, detail: &str) -> Value {
    json!({"type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail, "status": status})
}

fn problem_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, "application/problem+json".parse().unwrap());
    headers
}

/// What a signed request carries (RFC 7515, section 7.2.2).
fn payload(body: &[u8]) -> Value {
    let signed: Value = serde_json::from_slice(body).unwrap_or_default();
    let payload = BASE64_URL_SAFE_NO_PAD.decode(signed["payload"].as_str().unwrap_or_default());
    serde_json::from_slice(&payload.unwrap_or_default()).unwrap_or_default()
}

fn paths(directory: &Value) -> BTreeMap<String, String> {
    let resources = directory.as_object().unwrap().iter();
    let path = |url: &Value| Some(url.as_str()?.parse::<http::Uri>().ok()?.path().to_owned());
    resources.filter_map(|(name, url)| Some((name.clone(), path(url)?))).collect()
}

fn respond(status: StatusCode, mut headers: HeaderMap, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    // The body may be another's by now.
    for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION] {
        headers.remove(name);
    }
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
