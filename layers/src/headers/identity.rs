//! Identity headers: who the caller is, for the upstream, and nobody else's word for it.

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body as _, Frame, SizeHint};
use smol_str::SmolStr;
use tower_layer::Layer;
use tower_service::Service;

use crate::body::{Body, BoxError, Request};
use crate::context::Principal;
use crate::header_prefix::HeaderPrefix;

const FIELDS: usize = 8;

/// The headers that tell the upstream about the [`Principal`].
///
/// With the prefix `X-Auth-`: `X-Auth-User` (the login, or the subject of who has none), `-Scopes` (separated
/// by spaces), `-Email`, `-Client-Id`, and with [`detailed`](Self::detailed) `-User-Id` (the subject),
/// `-User-Name` and `-Groups` (separated by commas). What a principal does not have is not sent.
///
/// A user of another issuer than the deployment's own is named `ISSUER/NAME` in `-User` and `-User-Id`, and only then
/// `-Issuer` is sent: an upstream that knows plain names only never takes somebody's `alice` for ours.
#[derive(Debug, Clone)]
pub struct Identity {
    prefix: HeaderPrefix,
    names: Arc<[HeaderName; FIELDS]>,
    detailed: bool,
}

impl Identity {
    /// Headers with this prefix.
    pub fn new(prefix: HeaderPrefix) -> Self {
        // Nearly all hosts have the usual prefix: they share its names.
        static USUAL: LazyLock<Arc<[HeaderName; FIELDS]>> = LazyLock::new(|| names(&HeaderPrefix::default()));
        let is_usual = prefix == HeaderPrefix::default();
        let names = if is_usual { Arc::clone(&USUAL) } else { names(&prefix) };
        Self { names, prefix, detailed: false }
    }

    /// Sends subject, display name and groups, too.
    #[must_use]
    pub fn detailed(self, detailed: bool) -> Self {
        Self { detailed, ..self }
    }

    /// The prefix.
    pub const fn prefix(&self) -> &HeaderPrefix {
        &self.prefix
    }

    /// Writes the headers of the principal and removes all others of the names.
    pub(super) fn write(&self, principal: Option<&Principal>, headers: &mut HeaderMap) {
        let values = principal.map(|principal| self.values(principal)).unwrap_or_default();
        for (name, value) in self.names.iter().zip(values) {
            match value {
                Some(value) => headers.insert(name.clone(), value),
                None => headers.remove(name),
            };
        }
    }

    /// All values are slices of one buffer: one allocation instead of eight.
    fn values(&self, principal: &Principal) -> [Option<HeaderValue>; FIELDS] {
        let mut buffer = BytesMut::with_capacity(256);
        let mut ends = [0; FIELDS];
        let groups = if self.detailed { &principal.groups[..] } else { &[] };
        push(&mut buffer, Some(&principal.full_name()));
        ends[0] = buffer.len();
        join(&mut buffer, &principal.scopes, ' ');
        ends[1] = buffer.len();
        push(&mut buffer, principal.email.as_deref());
        ends[2] = buffer.len();
        push(&mut buffer, principal.client_id.as_deref());
        ends[3] = buffer.len();
        push(&mut buffer, self.detailed.then(|| principal.full_subject()).as_deref());
        ends[4] = buffer.len();
        push(&mut buffer, principal.name.as_deref().filter(|_| self.detailed));
        ends[5] = buffer.len();
        join(&mut buffer, groups, ',');
        ends[6] = buffer.len();
        push(&mut buffer, principal.foreign.then_some(principal.issuer.as_str()));
        ends[7] = buffer.len();
        let bytes = buffer.freeze();
        let mut start = 0;
        ends.map(|end| {
            let value = bytes.slice(std::mem::replace(&mut start, end)..end);
            value_of(value)
        })
    }
}

impl Default for Identity {
    fn default() -> Self {
        Self::new(HeaderPrefix::default())
    }
}

fn names(prefix: &HeaderPrefix) -> Arc<[HeaderName; FIELDS]> {
    let words = ["User", "Scopes", "Email", "Client-Id", "User-Id", "User-Name", "Groups", "Issuer"];
    Arc::new(words.map(|word| prefix.header(word)))
}

fn value_of(bytes: Bytes) -> Option<HeaderValue> {
    if bytes.is_empty() { None } else { HeaderValue::from_maybe_shared(bytes).ok() }
}

/// A text with a control character can't be said and is left out: half of it would be another identity.
fn push(buffer: &mut BytesMut, text: Option<&str>) {
    if let Some(text) = text.filter(|text| !text.contains(char::is_control)) {
        buffer.extend_from_slice(text.as_bytes());
    }
}

/// An entry that holds the separator would be read as two and is left out.
fn join(buffer: &mut BytesMut, entries: &[SmolStr], separator: char) {
    let start = buffer.len();
    for entry in entries {
        if entry.is_empty() || entry.contains(|c: char| c == separator || c.is_control()) {
            continue;
        }
        if buffer.len() > start {
            let _ = buffer.write_char(separator);
        }
        buffer.extend_from_slice(entry.as_bytes());
    }
}

/// Applies [`IdentityStrip`].
#[derive(Debug, Clone)]
pub struct IdentityStripLayer {
    prefixes: Arc<[HeaderPrefix]>,
}

impl IdentityStripLayer {
    /// Removes headers that start with this prefix, in every spelling, and trailers as well.
    ///
    /// For hosts with a prefix of their own, which the firewall in front of all hosts does not know.
    pub fn new(prefix: HeaderPrefix) -> Self {
        Self::all([prefix])
    }

    /// The same for several prefixes: the upstream of another host believes headers with that host's prefix.
    pub fn all(prefixes: impl IntoIterator<Item = HeaderPrefix>) -> Self {
        Self { prefixes: prefixes.into_iter().collect() }
    }
}

impl<S> Layer<S> for IdentityStripLayer {
    type Service = IdentityStrip<S>;

    fn layer(&self, inner: S) -> Self::Service {
        IdentityStrip { inner, prefixes: Arc::clone(&self.prefixes) }
    }
}

/// Hands requests on without identity headers from outside.
#[derive(Debug, Clone)]
pub struct IdentityStrip<S> {
    inner: S,
    prefixes: Arc<[HeaderPrefix]>,
}

impl<S: Service<Request>> Service<Request> for IdentityStrip<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        strip(&self.prefixes, request.headers_mut());
        if !request.body().is_end_stream() {
            let prefixes = Arc::clone(&self.prefixes);
            request = request.map(|body| Body::new(Stripped { body, prefixes }));
        }
        self.inner.call(request)
    }
}

fn strip(prefixes: &[HeaderPrefix], headers: &mut HeaderMap) {
    let is_ours = |name: &&HeaderName| prefixes.iter().any(|prefix| prefix.matches(name));
    let found: Vec<HeaderName> = headers.keys().filter(is_ours).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// A body without such fields in its trailers, which some readers merge into the headers.
struct Stripped {
    body: Body,
    prefixes: Arc<[HeaderPrefix]>,
}

impl http_body::Body for Stripped {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            frame.map(|mut frame| {
                if let Some(trailers) = frame.trailers_mut() {
                    strip(&self.prefixes, trailers);
                }
                frame
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};
    use tower::{ServiceExt, service_fn};

    use super::*;

    fn principal() -> Principal {
        Principal {
            subject: "42".into(),
            username: Some("octocat".into()),
            email: Some("o@example.com".into()),
            name: Some("Ünal".into()),
            groups: vec!["dev".into(), "a,b".into(), "ops".into()],
            scopes: vec!["user".into(), "mcp:read".into(), "a b".into()],
            client_id: Some("cli".into()),
            ..Principal::default()
        }
    }

    fn written(identity: &Identity, principal: Option<&Principal>) -> Vec<(String, Vec<u8>)> {
        let mut headers = HeaderMap::new();
        headers.append("x-auth-groups", HeaderValue::from_static("forged"));
        identity.write(principal, &mut headers);
        let mut all: Vec<_> =
            headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
        all.sort();
        all
    }

    fn expected(entries: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
        entries.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn the_principal_is_written_and_nothing_else_stays() {
        let brief = [
            ("x-auth-client-id", "cli"),
            ("x-auth-email", "o@example.com"),
            ("x-auth-scopes", "user mcp:read"),
            ("x-auth-user", "octocat"),
        ];
        assert_eq!(written(&Identity::default(), Some(&principal())), expected(&brief));
        let detailed = [
            ("x-auth-client-id", "cli"),
            ("x-auth-email", "o@example.com"),
            ("x-auth-groups", "dev,ops"),
            ("x-auth-scopes", "user mcp:read"),
            ("x-auth-user", "octocat"),
            ("x-auth-user-id", "42"),
            ("x-auth-user-name", "Ünal"),
        ];
        assert_eq!(written(&Identity::default().detailed(true), Some(&principal())), expected(&detailed));
        assert_eq!(written(&Identity::default(), None), []);
    }

    #[test]
    fn a_user_of_another_issuer_is_told_from_ours_of_the_same_name() {
        let foreign = Principal {
            issuer: "https://idp.example".into(),
            foreign: true,
            subject: "42".into(),
            username: Some("octocat".into()),
            ..Principal::default()
        };
        let brief =
            [("x-auth-issuer", "https://idp.example"), ("x-auth-user", "https://idp.example/octocat")];
        assert_eq!(written(&Identity::default(), Some(&foreign)), expected(&brief));
        let detailed = [&brief[..], &[("x-auth-user-id", "https://idp.example/42")]].concat();
        assert_eq!(written(&Identity::default().detailed(true), Some(&foreign)), expected(&detailed));
    }

    #[test]
    fn who_has_no_login_is_named_by_subject_and_control_characters_never_leave() {
        let service = Principal {
            subject: "service:ci".into(),
            email: Some("a\r\nx-auth-user: admin".into()),
            ..Principal::default()
        };
        assert_eq!(written(&Identity::default(), Some(&service)), expected(&[("x-auth-user", "service:ci")]));
    }

    #[tokio::test]
    async fn the_hosts_own_prefix_is_stripped_in_every_spelling() {
        let inner = service_fn(|request: Request| async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?;
            let trailers = body.trailers().cloned().expect("trailers");
            assert_eq!(body.to_bytes(), "hello");
            Ok::<_, BoxError>((parts.headers, trailers))
        });
        let mut headers = HeaderMap::new();
        for name in ["x-acme-user", "x_acme_user", "x-acme.email", "x-else-id", "x-other"] {
            headers.append(name, HeaderValue::from_static("a"));
        }
        let trailers = headers.clone();
        let body = Full::from("hello").with_trailers(async { Some(Ok(trailers)) });
        let mut request = http::Request::new(Body::new(body.map_err(BoxError::from)));
        *request.headers_mut() = headers;
        let layer =
            IdentityStripLayer::all(["X-Acme-", "X-Else-"].map(|prefix| prefix.parse().expect("valid")));
        let (headers, trailers) = layer.layer(inner).oneshot(request).await.expect("passed on");
        for left in [headers, trailers] {
            assert_eq!(left.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-other"]);
        }
    }
}
