//! The loopback port that takes the browser's answer (RFC 8252, section 7.3).

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::LoginError;
use super::tokens::OAuthError;
use crate::cli::web::decode;

/// The path of the redirect URI.
const PATH: &str = "/callback";

/// An open port.
#[derive(Debug)]
pub(super) struct Callback {
    listener: TcpListener,
    authority: String,
}

/// What the answer must agree with.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) state: String,
    pub(super) issuer: String,
    /// Whether the server has said that it names itself in its answers (RFC 9207, section 3).
    pub(super) names_itself: bool,
}

/// What a login ends with: a code, or why there is none.
type Outcome = Result<String, LoginError>;

impl Callback {
    /// Opens a free port of the loopback interface.
    pub(super) async fn open() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let authority = listener.local_addr()?.to_string();
        Ok(Self { listener, authority })
    }

    pub(super) fn redirect_uri(&self) -> String {
        format!("http://{}{PATH}", self.authority)
    }

    /// Waits for the browser's answer. Whatever else reaches the port is told so, and changes nothing.
    pub(super) async fn wait(self, expected: Expected) -> Outcome {
        let Self { listener, authority } = self;
        let shared = Arc::new((expected, authority));
        let (sender, mut receiver) = mpsc::channel(1);
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, _) = accepted.map_err(LoginError::Listen)?;
                    // Browsers open connections that they never use: none holds up another.
                    tokio::spawn(serve(stream, Arc::clone(&shared), sender.clone()));
                }
                Some(outcome) = receiver.recv() => return outcome,
            }
        }
    }
}

/// Answers one request. The outcome is told when its page has been written.
async fn serve(stream: TcpStream, shared: Arc<(Expected, String)>, sender: mpsc::Sender<Outcome>) {
    let found = Arc::new(Mutex::new(None));
    let service = service_fn({
        let found = Arc::clone(&found);
        move |request: Request<Incoming>| {
            let (expected, authority) = &*shared;
            let (response, outcome) = answer(&request, expected, authority);
            if let Some(outcome) = outcome {
                *found.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
            }
            async move { Ok::<_, Infallible>(response) }
        }
    });
    // How a connection ends makes no difference to what came over it.
    let _ended = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    let outcome = found.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(outcome) = outcome {
        // Fails when another connection was faster.
        let _told = sender.try_send(outcome);
    }
}

fn answer<B>(
    request: &Request<B>,
    expected: &Expected,
    authority: &str,
) -> (Response<Full<Bytes>>, Option<Outcome>) {
    // A page elsewhere whose name leads here must not answer in the browser's name (DNS rebinding).
    let ours = request.headers().get(HOST).is_some_and(|host| host.as_bytes() == authority.as_bytes());
    if !ours || request.uri().path() != PATH {
        return (page(StatusCode::NOT_FOUND, "There is nothing here."), None);
    }
    if request.method() != Method::GET {
        return (page(StatusCode::METHOD_NOT_ALLOWED, "Only GET is answered here."), None);
    }
    match judge(request.uri().query().unwrap_or_default(), expected) {
        None => (page(StatusCode::BAD_REQUEST, "This answer belongs to no login that was begun here."), None),
        Some(Ok(code)) => {
            (page(StatusCode::OK, "You can close this window: the command line goes on."), Some(Ok(code)))
        }
        Some(Err(error)) => {
            let text = "The login failed: the command line says why. You can close this window.";
            (page(StatusCode::OK, text), Some(Err(error)))
        }
    }
}

/// Reads the answer's parameters (OAuth 2.1, section 4.1.2). `None`: it is no answer to what was asked.
fn judge(query: &str, expected: &Expected) -> Option<Outcome> {
    let pairs = decode(query)?;
    let one = |name: &str| {
        let mut values = pairs.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let value = values.next();
        if values.next().is_some() { Err(()) } else { Ok(value) }
    };
    let state = one("state").ok()??;
    if aws_lc_rs::constant_time::verify_slices_are_equal(state.as_bytes(), expected.state.as_bytes()).is_err()
    {
        return None;
    }
    // RFC 9207, section 2.4: compared byte by byte, before anything else is believed.
    let named = match one("iss").ok()? {
        Some(issuer) => issuer == expected.issuer,
        None => !expected.names_itself,
    };
    if !named {
        return Some(Err(LoginError::MixedUp));
    }
    if let Some(error) = one("error").ok()? {
        let error_description = one("error_description").ok()?.map(str::to_owned);
        return Some(Err(OAuthError { error: error.to_owned(), error_description }.into()));
    }
    one("code").ok()?.filter(|code| !code.is_empty()).map(|code| Ok(code.to_owned()))
}

fn page(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"color-scheme\" content=\"light dark\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>portcullis</title><p>{text}</p></html>\n"
    );
    let mut response = Response::new(Full::from(html));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://auth.example";

    fn expected(names_itself: bool) -> Expected {
        Expected { state: "s1".to_owned(), issuer: ISSUER.to_owned(), names_itself }
    }

    fn code(query: &str, names_itself: bool) -> Option<Result<String, String>> {
        judge(query, &expected(names_itself)).map(|outcome| outcome.map_err(|error| error.to_string()))
    }

    #[test]
    fn only_the_answer_to_what_was_asked_counts() {
        let iss = "iss=https%3A%2F%2Fauth.example";
        assert_eq!(code(&format!("code=c&state=s1&{iss}"), true), Some(Ok("c".to_owned())));
        assert_eq!(code("code=c&state=s1", false), Some(Ok("c".to_owned())));
        for stranger in [
            "",
            "code=c",
            "code=c&state=s2",
            "code=c&state=s1&state=s1",
            "code=c&code=d&state=s1",
            "state=s1",
            "state=%ff",
        ] {
            assert_eq!(code(stranger, false), None, "{stranger}");
        }
        for mixed_up in
            ["code=c&state=s1", "code=c&state=s1&iss=https%3A%2F%2Fevil.example", "error=x&state=s1"]
        {
            let said = code(mixed_up, true).unwrap().unwrap_err();
            assert!(said.contains("another authorization server"), "{mixed_up}: {said}");
        }
        let slash = code("code=c&state=s1&iss=https%3A%2F%2Fauth.example%2F", false).unwrap();
        assert!(slash.is_err(), "not even a slash may differ");
        let refused = code(&format!("error=access_denied&error_description=not+you&state=s1&{iss}"), true);
        assert!(refused.unwrap().unwrap_err().contains("access_denied (not you)"));
    }

    #[test]
    fn a_page_elsewhere_gets_nothing() {
        let ask = |method: Method, host: &str, path: &str| {
            let request = Request::builder().method(method).uri(path).header(HOST, host).body(()).unwrap();
            let (response, outcome) = answer(&request, &expected(false), "127.0.0.1:4000");
            (response.status().as_u16(), outcome.is_some())
        };
        let good = "/callback?code=c&state=s1";
        assert_eq!(ask(Method::GET, "127.0.0.1:4000", good), (200, true));
        assert_eq!(ask(Method::GET, "evil.example:4000", good), (404, false));
        assert_eq!(ask(Method::GET, "127.0.0.1:4000", "/favicon.ico"), (404, false));
        assert_eq!(ask(Method::POST, "127.0.0.1:4000", good), (405, false));
        assert_eq!(ask(Method::GET, "127.0.0.1:4000", "/callback?code=c&state=x"), (400, false));
    }
}
