use std::net::SocketAddr;

use portcullis_layers::deadline::Ticker;
use portcullis_layers::forward::{PoolSettings, Tunnels};
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
const ALL: [Algorithm; 3] = ALGORITHMS;

/// So short that a test needs no clock of its own, and a refresh that is not asked for never comes.
const QUICK: Pace = Pace { asked: Duration::from_millis(1), ..PACE };

fn key(id: &str) -> Value {
    json!({ "kty": "OKP", "crv": "Ed25519", "x": X, "kid": id })
}

fn jwks(ids: &[&str]) -> String {
    json!({ "keys": ids.iter().map(|id| key(id)).collect::<Vec<_>>() }).to_string()
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

fn good(ids: &[&str]) -> String {
    answer("200 OK", "content-type: application/json\r\n", &jwks(ids))
}

/// An issuer that answers each request with what it was told last, and remembers the requests.
#[derive(Clone)]
struct IssuerServer {
    address: SocketAddr,
    state: Arc<Mutex<(String, Vec<String>)>>,
}

impl IssuerServer {
    async fn start(answer: String) -> Self {
        Self::listen(answer, None).await
    }

    async fn listen(answer: String, tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new((answer, Vec::new())));
        let server = Self { address, state };
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (server, tls) = (accepting.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                server.converse(stream).await;
                            }
                        }
                        None => server.converse(stream).await,
                    }
                });
            }
        });
        server
    }

    async fn converse(self, mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let answer = {
            let mut state = self.state.lock().unwrap();
            state.1.push(String::from_utf8_lossy(&head).into_owned());
            state.0.clone()
        };
        // The client may have gone already.
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }

    fn says(&self, answer: String) {
        self.state.lock().unwrap().0 = answer;
    }

    fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().1.clone()
    }

    fn uri(&self) -> String {
        format!("http://{}/jwks.json", self.address)
    }
}

fn fetcher(pace: Pace, ca: Option<&str>) -> JwksFetcher {
    let client = Client::new(1, Ticker::new(1), Tunnels::new(1), PoolSettings::default());
    let fetcher = JwksFetcher::with_pace(client, ca.map(Arc::from), pace);
    tokio::spawn(fetcher.clone().run(CancellationToken::new()));
    fetcher
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let wait = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect(what);
}

fn ids(keys: &Keys) -> Vec<String> {
    keys.current().ids().map(|id| id.unwrap_or_default().to_owned()).collect()
}

fn error(fetcher: &JwksFetcher) -> Option<String> {
    fetcher.status().into_iter().find_map(|status| status.error)
}

#[tokio::test]
async fn keys_come_at_once_and_follow_a_rotation() {
    let issuer = IssuerServer::start(good(&["a"])).await;
    let fetcher = fetcher(QUICK, None);
    let keys = fetcher.keys(&issuer.uri(), &ALL);
    assert!(keys.current().is_empty(), "no token passes before the keys are known");
    until("fetched", || ids(&keys) == ["a"]).await;
    let request = issuer.requests().remove(0).to_ascii_lowercase();
    assert!(request.starts_with("get /jwks.json http/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("host: {}\r\n", issuer.address)), "{request}");

    issuer.says(good(&["a", "b"]));
    fetcher.refresh_soon(&issuer.uri());
    until("the rotation is seen", || ids(&keys) == ["a", "b"]).await;
    let status = fetcher.status();
    assert_eq!((status[0].uri.as_str(), status[0].keys), (issuer.uri().as_str(), 2));
    assert!(status[0].fetched_at.is_some() && status[0].error.is_none());
}

#[tokio::test]
async fn bad_answers_leave_the_old_keys_and_are_told() {
    let issuer = IssuerServer::start(good(&["a"])).await;
    let elsewhere = IssuerServer::start(good(&["evil"])).await;
    let fetcher = fetcher(QUICK, None);
    let keys = fetcher.keys(&issuer.uri(), &ALL);
    until("fetched", || ids(&keys) == ["a"]).await;
    let redirect = format!("location: {}\r\n", elsewhere.uri());
    let padded = format!("{}{}", jwks(&["evil"]), " ".repeat(256 * 1024));
    let private = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": X, "d": X }] }).to_string();
    for (bad, told) in [
        (answer("302 Found", &redirect, ""), "302"),
        (answer("307 Temporary Redirect", &redirect, &jwks(&["evil"])), "307"),
        (answer("500 Internal Server Error", "", &jwks(&["evil"])), "500"),
        (answer("200 OK", "", &padded), "longer than 262144"),
        (answer("200 OK", "", "<html>login</html>"), "not valid JSON"),
        (answer("200 OK", "", "{\"keys\":[]}"), "no key for"),
        (answer("200 OK", "", &private), "private key"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"keys\"".to_owned(), "broke off"),
        ("no http at all\r\n\r\n".to_owned(), "no answer"),
    ] {
        issuer.says(bad);
        fetcher.refresh_soon(&issuer.uri());
        until(told, || error(&fetcher).is_some_and(|error| error.contains(told))).await;
        assert_eq!(ids(&keys), ["a"], "{told}");
        assert_eq!(fetcher.status()[0].keys, 1);
    }
    assert_eq!(elsewhere.requests(), [""; 0], "a redirect was followed");
    issuer.says(good(&["b"]));
    fetcher.refresh_soon(&issuer.uri());
    until("recovered", || ids(&keys) == ["b"] && error(&fetcher).is_none()).await;
}

#[tokio::test]
async fn a_failure_is_followed_by_another_attempt() {
    let issuer = IssuerServer::start(answer("503 Service Unavailable", "", "")).await;
    let fetcher = fetcher(Pace { retry: Duration::from_millis(5), ..PACE }, None);
    let keys = fetcher.keys(&issuer.uri(), &ALL);
    until("tried again", || issuer.requests().len() > 2).await;
    assert!(keys.current().is_empty() && error(&fetcher).is_some());
    issuer.says(good(&["a"]));
    until("fetched", || ids(&keys) == ["a"]).await;
}

#[tokio::test]
async fn asking_again_and_again_fetches_once() {
    let issuer = IssuerServer::start(good(&["a"])).await;
    let slow = IssuerServer::start(good(&["a"])).await;
    let fetcher = fetcher(PACE, None);
    let keys = fetcher.keys(&issuer.uri(), &ALL);
    until("fetched", || !keys.current().is_empty()).await;
    for _ in 0..100 {
        fetcher.refresh_soon(&issuer.uri());
        tokio::task::yield_now().await;
    }
    // Another URI's fetch proves that the task went on without fetching the first again.
    let other = fetcher.keys(&slow.uri(), &ALL);
    until("fetched", || !other.current().is_empty()).await;
    assert_eq!(issuer.requests().len(), 1);
    let now = Instant::now();
    let (begin, next) = fetcher.begin_due(AT_ONCE, now);
    assert!(begin.is_empty() && next <= now + PACE.asked, "it is fetched when the 30 s are over");
    assert_eq!(fetcher.begin_due(AT_ONCE, now + PACE.asked).0, [issuer.uri()]);
}

#[tokio::test]
async fn a_host_gets_keys_for_its_algorithms_only() {
    let issuer = IssuerServer::start(good(&["a"])).await;
    let fetcher = fetcher(QUICK, None);
    let all = fetcher.keys(&issuer.uri(), &ALL);
    let same = fetcher.keys(&issuer.uri(), &[Algorithm::EdDsa, Algorithm::Es256, Algorithm::Rs256]);
    assert!(Arc::ptr_eq(&all, &same), "one handle for one question");
    let rsa = fetcher.keys(&issuer.uri(), &[Algorithm::Rs256]);
    until("fetched", || ids(&all) == ["a"]).await;
    assert!(rsa.current().is_empty());
    assert_eq!(error(&fetcher).as_deref(), Some("no key for RS256"));
    let late = fetcher.keys(&issuer.uri(), &[Algorithm::EdDsa]);
    assert_eq!(ids(&late), ["a"], "what is known already is not waited for");
    assert_eq!(issuer.requests().len(), 1);
}

#[tokio::test]
async fn what_no_host_uses_is_forgotten() {
    let (one, two) = (IssuerServer::start(good(&["a"])).await, IssuerServer::start(good(&["b"])).await);
    let fetcher = fetcher(QUICK, None);
    let (_, kept) = (fetcher.keys(&one.uri(), &ALL), fetcher.keys(&two.uri(), &ALL));
    fetcher.retain(&HashSet::from([two.uri()]));
    until("fetched", || ids(&kept) == ["b"]).await;
    let uris: Vec<_> = fetcher.status().into_iter().map(|status| status.uri).collect();
    assert_eq!(uris, [two.uri()]);
    fetcher.refresh_soon(&one.uri());
    assert!(Arc::ptr_eq(&kept, &fetcher.keys(&two.uri(), &ALL)), "what is used goes on");
}

#[tokio::test]
async fn certificates_are_verified() {
    let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![identity.cert.der().clone()], key)
        .unwrap();
    let issuer = IssuerServer::listen(good(&["a"]), Some(Arc::new(config).into())).await;
    let uri = format!("https://localhost:{}/jwks.json", issuer.address.port());

    let trusting = fetcher(QUICK, Some(&identity.cert.pem()));
    let keys = trusting.keys(&uri, &ALL);
    until("fetched", || ids(&keys) == ["a"]).await;
    for ca in [Some(other.cert.pem()), None] {
        let wary = fetcher(QUICK, ca.as_deref());
        let keys = wary.keys(&uri, &ALL);
        until("refused", || error(&wary).is_some_and(|error| error.contains("certificate"))).await;
        assert!(keys.current().is_empty());
    }
}

#[tokio::test]
async fn a_plain_uri_elsewhere_is_not_called() {
    let fetcher = fetcher(QUICK, None);
    let keys = fetcher.keys("http://issuer.example/jwks", &ALL);
    until("refused", || error(&fetcher).is_some_and(|error| error.contains("https"))).await;
    assert!(keys.current().is_empty());
}

#[tokio::test]
async fn an_unknown_key_is_asked_for() {
    struct Unknown;
    impl Verify for Unknown {
        fn verify(&self, token: &str) -> Result<Arc<Verified>, TokenError> {
            Err(match token {
                "unknown" => TokenError::UnknownKey { kid: None, algorithm: "RS256" },
                _ => TokenError::Signature,
            })
        }
    }

    let issuer = IssuerServer::start(good(&["a"])).await;
    let fetcher = fetcher(QUICK, None);
    let keys = fetcher.keys(&issuer.uri(), &ALL);
    until("fetched", || ids(&keys) == ["a"]).await;
    let verifier = fetcher.refreshing(Unknown, [issuer.uri().as_str(), "https://not.known/"]);
    assert!(verifier.verify("bad").is_err());
    assert!(!verifier.asked[0].load(Ordering::Relaxed), "a bad signature is no reason to fetch");
    issuer.says(good(&["b"]));
    assert!(verifier.verify("unknown").is_err());
    until("fetched again", || ids(&keys) == ["b"]).await;
}

#[tokio::test]
async fn keys_of_the_configuration_are_used_as_far_as_their_algorithms_are_allowed() {
    let fetcher = fetcher(QUICK, None);
    let issuer = |algorithms: Value, rest: Value| -> config::TrustedIssuer {
        let mut value = json!({ "issuer": "https://issuer.example", "algorithms": algorithms });
        value.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        serde_json::from_value(value).unwrap()
    };
    let inline = json!({ "jwks": { "keys": [key("a")] } });
    let keys = fetcher.trusted(&issuer(json!(["EdDSA", "RS256"]), inline.clone())).expect("one is good");
    assert_eq!(ids(&keys), ["a"]);
    let error = fetcher.trusted(&issuer(json!(["RS256", "ES256"]), inline)).expect_err("none is allowed");
    assert_eq!(error.to_string(), "issuer https://issuer.example has no key for RS256, ES256");
    let broken = fetcher.trusted(&issuer(json!(["EdDSA"]), json!({ "jwks": { "keys": [1] } })));
    assert!(matches!(broken, Err(InlineKeysError::Invalid { .. })));
    assert!(matches!(
        fetcher.trusted(&issuer(json!(["EdDSA"]), json!({}))),
        Err(InlineKeysError::Nowhere { .. })
    ));
    assert!(fetcher.status().is_empty(), "nothing is to be fetched");

    let server = IssuerServer::start(good(&["b"])).await;
    let fetched =
        fetcher.trusted(&issuer(json!(["EdDSA"]), json!({ "jwks_uri": server.uri() }))).expect("a URI");
    until("fetched", || ids(&fetched) == ["b"]).await;
}

#[test]
fn the_issuer_sets_the_pace_within_bounds() {
    for (max_age, pause) in [(None, 600), (Some(0), 60), (Some(3600), 3600), (Some(u64::MAX), 86400)] {
        let max_age = max_age.map(Duration::from_secs);
        assert_eq!(PACE.after_success(max_age), Duration::from_secs(pause));
    }
}

#[test]
fn attempts_become_rarer_and_are_spread() {
    for (failures, longest) in [(0, 5), (1, 10), (4, 80), (7, 600), (u32::MAX, 600)] {
        let longest = Duration::from_secs(longest);
        assert_eq!(PACE.after_failure(failures, 0), longest);
        let shortest = PACE.after_failure(failures, 255);
        assert!(shortest >= longest / 2 && shortest < longest, "{shortest:?}");
    }
}
