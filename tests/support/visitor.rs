//! A browser without a screen: keeps cookies as browsers do, follows redirects, fills in forms.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::client::{self, Answer};

/// As many redirects as browsers follow.
const MAX_REDIRECTS: usize = 20;

/// Somebody with a browser. Every `https` host is the daemon's, but for those that are told to be elsewhere; `http`
/// goes where the URL says.
#[derive(Debug, Clone)]
pub struct Visitor {
    https: SocketAddr,
    elsewhere: BTreeMap<String, SocketAddr>,
    /// By host and name.
    cookies: BTreeMap<(String, String), String>,
}

/// Where a visitor is.
#[derive(Debug)]
pub struct Page {
    pub url: String,
    /// None where the visitor was sent to a client's redirect URI.
    pub answer: Option<Answer>,
}

/// A form of a page.
#[derive(Debug, Clone, Default)]
pub struct Form {
    pub action: String,
    pub fields: Vec<(String, String)>,
    /// Buttons with a name.
    pub buttons: Vec<(String, String)>,
}

impl Visitor {
    /// One who visits a daemon for the first time.
    pub const fn new(https: SocketAddr) -> Self {
        Self { https, elsewhere: BTreeMap::new(), cookies: BTreeMap::new() }
    }

    /// One for whom a host is at an address of its own.
    #[must_use]
    pub fn knowing(mut self, host: &str, address: SocketAddr) -> Self {
        self.elsewhere.insert(host.to_owned(), address);
        self
    }

    /// The cookie of a host.
    pub fn cookie(&self, host: &str, name: &str) -> Option<&str> {
        self.cookies.get(&(host.to_owned(), name.to_owned())).map(String::as_str)
    }

    /// The names of the cookies of a host.
    pub fn cookie_names(&self, host: &str) -> Vec<&str> {
        self.cookies.keys().filter(|(of, _)| of == host).map(|(_, name)| name.as_str()).collect()
    }

    /// The values of all cookies.
    pub fn cookie_values(&self) -> Vec<&str> {
        self.cookies.values().map(String::as_str).collect()
    }

    /// Forgets a cookie.
    pub fn forget(&mut self, host: &str, name: &str) {
        self.cookies.remove(&(host.to_owned(), name.to_owned()));
    }

    /// Opens a URL, and follows redirects up to one that begins with `stop`.
    pub async fn open(&mut self, url: &str, stop: &str) -> Page {
        self.go(Method::GET, url.to_owned(), String::new(), stop).await
    }

    /// Sends the form of a page by one of its buttons.
    pub async fn submit(&mut self, page: &Page, button: (&str, &str), stop: &str) -> Page {
        self.submit_with(page, button, &[], stop).await
    }

    /// The same with some fields filled in.
    pub async fn submit_with(
        &mut self,
        page: &Page,
        button: (&str, &str),
        filled: &[(&str, &str)],
        stop: &str,
    ) -> Page {
        let form = page.form();
        let named = |(name, value): &(String, String)| (name.as_str(), value.as_str()) == button;
        assert!(button.0.is_empty() || form.buttons.iter().any(named), "{button:?} in {form:?}");
        let kept = form.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let kept = kept.filter(|(name, _)| filled.iter().all(|(other, _)| other != name));
        let pairs = kept.chain(filled.iter().copied()).chain([button]).filter(|(name, _)| !name.is_empty());
        let body = form_of(pairs);
        self.go(Method::POST, resolve(&page.url, &form.action), body, stop).await
    }

    /// One request, no redirects, as it would be sent from a page of `site`.
    pub async fn send(
        &mut self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Answer {
        let uri: Uri = url.parse().unwrap_or_else(|error| panic!("{url}: {error}"));
        let authority = uri.authority().unwrap().as_str();
        let host = uri.host().unwrap().to_owned();
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder().method(method).uri(path).header("host", authority);
        let sent: Vec<String> = self
            .cookies
            .iter()
            .filter(|((of, _), _)| *of == host)
            .map(|((_, name), value)| format!("{name}={value}"))
            .collect();
        if !sent.is_empty() {
            request = request.header("cookie", sent.join("; "));
        }
        if !body.is_empty() {
            request = request.header("content-type", "application/x-www-form-urlencoded");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let answer = if uri.scheme_str() == Some("https") {
            client::secure(*self.elsewhere.get(&host).unwrap_or(&self.https), request).await
        } else {
            client::plain(authority.parse().unwrap(), request).await
        };
        self.keep(&host, uri.scheme_str() == Some("https"), &answer);
        answer
    }

    async fn go(&mut self, method: Method, url: String, body: String, stop: &str) -> Page {
        let (mut method, mut url, mut body) = (method, url, body);
        for _ in 0..MAX_REDIRECTS {
            if !stop.is_empty() && url.starts_with(stop) {
                return Page { url, answer: None };
            }
            let headers = [("accept", "text/html,*/*;q=0.8"), ("sec-fetch-mode", "navigate")];
            let answer = self.send(method, &url, &headers, body).await;
            let location =
                answer.headers.get("location").map(|location| location.to_str().unwrap().to_owned());
            match location {
                Some(location) if answer.status.is_redirection() => {
                    assert_ne!(answer.status, StatusCode::TEMPORARY_REDIRECT, "a form would be sent again");
                    url = resolve(&url, &location);
                    (method, body) = (Method::GET, String::new());
                }
                _ => return Page { url, answer: Some(answer) },
            }
        }
        panic!("redirected without end, lately to {url}");
    }

    /// Keeps cookies by the rules of the prefix `__Host-`, which all of ours have.
    fn keep(&mut self, host: &str, secure: bool, answer: &Answer) {
        for value in answer.headers.get_all("set-cookie") {
            let text = value.to_str().unwrap();
            let (pair, attributes) = text.split_once(';').unwrap_or((text, ""));
            let (name, value) = pair.split_once('=').unwrap();
            let attributes: Vec<_> =
                attributes.split(';').map(|one| one.trim().to_ascii_lowercase()).collect();
            let has = |name: &str| attributes.iter().any(|one| one == name);
            assert!(name.starts_with("__Host-"), "{text}");
            assert!(secure && has("secure") && has("path=/") && has("httponly"), "{text}");
            assert!(has("samesite=lax") && !attributes.iter().any(|one| one.starts_with("domain")), "{text}");
            let key = (host.to_owned(), name.to_owned());
            if has("max-age=0") {
                self.cookies.remove(&key);
            } else {
                self.cookies.insert(key, value.to_owned());
            }
        }
    }
}

impl Page {
    /// What is shown.
    pub fn answer(&self) -> &Answer {
        self.answer.as_ref().unwrap_or_else(|| panic!("sent to {}", self.url))
    }

    /// The text of the page.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.answer().body).into_owned()
    }

    /// A parameter of the URL that the visitor was sent to.
    pub fn param(&self, name: &str) -> Option<String> {
        let query = self.url.split_once('?')?.1;
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|(own, _)| *own == name).map(
            |(_, value)| percent_decode_str(&value.replace('+', " ")).decode_utf8().unwrap().into_owned(),
        )
    }

    /// The form of the page.
    pub fn form(&self) -> Form {
        let html = self.text();
        let mut form = None::<Form>;
        for tag in html.split('<').skip(1) {
            let tag = tag.split('>').next().unwrap();
            let name = tag.split([' ', '\n']).next().unwrap();
            match (name, &mut form) {
                ("form", _) => {
                    form = Some(Form { action: attribute(tag, "action").unwrap(), ..Form::default() });
                }
                ("input", Some(form)) => {
                    if let Some(name) = attribute(tag, "name") {
                        form.fields.push((name, attribute(tag, "value").unwrap_or_default()));
                    }
                }
                ("button", Some(form)) => {
                    if let Some(name) = attribute(tag, "name") {
                        form.buttons.push((name, attribute(tag, "value").unwrap_or_default()));
                    }
                }
                ("/form", Some(_)) => break,
                _ => {}
            }
        }
        form.unwrap_or_else(|| panic!("no form at {}:\n{html}", self.url))
    }
}

/// `application/x-www-form-urlencoded`.
pub fn form_of<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let pairs = pairs.into_iter().map(|(name, value)| format!("{}={}", encode(name), encode(value)));
    pairs.collect::<Vec<_>>().join("&")
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let start = tag.find(&format!(" {name}=\""))? + name.len() + 3;
    let value = tag[start..].split('"').next()?;
    let entities =
        [("&#34;", "\""), ("&quot;", "\""), ("&#39;", "'"), ("&#x27;", "'"), ("&#60;", "<"), ("&lt;", "<")];
    let more = [("&#62;", ">"), ("&gt;", ">"), ("&#38;", "&"), ("&amp;", "&")];
    let decoded = entities.into_iter().chain(more);
    Some(decoded.fold(value.to_owned(), |text, (entity, char)| text.replace(entity, char)))
}

/// A reference, as seen from a page.
fn resolve(base: &str, reference: &str) -> String {
    if reference.contains("://") {
        return reference.to_owned();
    }
    assert!(reference.starts_with('/'), "{reference}");
    let (scheme, rest) = base.split_once("://").unwrap();
    format!("{scheme}://{}{reference}", rest.split(['/', '?']).next().unwrap())
}
