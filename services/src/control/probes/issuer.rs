//! Whether the issuer answers where clients look for it (RFC 8414).
//!
//! It is asked as a client on this machine would ask: by its name from the system's resolver (`*.localhost` is this
//! machine, RFC 6761), over TLS, with the platform's authorities or those that the deployment names. What another client
//! sees may be different: an answer that fails here is a hint, no proof.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{ACCEPT, HOST};
use http::{HeaderValue, StatusCode};
use portcullis_layers::forward::{
    Client, ForwardError, Protocol, Scheme, Target, Timeouts, TlsOptions, Upstream,
};
use portcullis_layers::{Body, BoxError, HostName};
use serde_json::Value;
use smol_str::SmolStr;

use super::Probes;
use super::call::{Answer, call, cause, reason};
use super::kept::Kept;
use crate::oauth::server::metadata::{Issuer, OAUTH_WELL_KNOWN};

/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(4);

/// How long a finding counts: whoever watches the health of a node must not make it call without end.
const AGE: Duration = Duration::from_secs(10);

/// What is shown of another issuer's name.
const MAX_NAME: usize = 200;

/// What was found: how it is, or what is the matter.
type Found = Result<String, String>;

#[derive(Debug, Default)]
pub(super) struct IssuerProbe {
    kept: Kept<String, Found>,
}

impl Probes {
    /// Asks the issuer for its metadata over the network.
    pub(crate) async fn issuer(&self, issuer: &Issuer) -> Found {
        let look = async {
            let asked = tokio::time::timeout(LIMIT, self.ask_issuer(issuer)).await;
            asked.unwrap_or_else(|_| Err(format!("{} does not answer within {LIMIT:?}", url(issuer))))
        };
        self.issuer.kept.get(issuer.as_str().to_owned(), AGE, look).await
    }

    async fn ask_issuer(&self, issuer: &Issuer) -> Found {
        let url = url(issuer);
        let Some(place) = Place::of(issuer) else { return Err(format!("{url} can't be called")) };
        let begun = Instant::now();
        let mut asked = place.ask(&self.client, TlsOptions::default()).await;
        if let Some(ca) = &self.ca
            && asked.as_ref().is_err_and(|error| untrusted(error).is_some())
        {
            asked = place
                .ask(&self.client, TlsOptions { ca: Some(Arc::clone(ca)), ..TlsOptions::default() })
                .await;
        }
        let answer = match asked {
            Ok(answer) => answer,
            Err(error) => {
                let Some(problem) = untrusted(&error) else {
                    return Err(format!("{url} can't be reached from here: {}", reason(&error)));
                };
                // Who is there all the same? Nothing that is told now is believed.
                let anybody = TlsOptions { verify: false, ..TlsOptions::default() };
                let known =
                    place.ask(&self.client, anybody).await.is_ok_and(|answer| judge(issuer, &answer).is_ok());
                let who = if known { "it answers with our metadata" } else { "something else answers" };
                return Err(format!("{url}: {who}, but its certificate is not trusted here: {problem}"));
            }
        };
        judge(issuer, &answer).map_err(|problem| format!("{url} {problem}"))?;
        Ok(format!("{url} answered in {} ms", begun.elapsed().as_millis()))
    }
}

/// Where the metadata is (RFC 8414, section 3.1).
fn url(issuer: &Issuer) -> String {
    format!("https://{}{OAUTH_WELL_KNOWN}{}", issuer.authority(), issuer.path())
}

/// Whether an answer is the issuer's metadata.
fn judge(issuer: &Issuer, answer: &Answer) -> Result<(), String> {
    if answer.parts.status != StatusCode::OK {
        return Err(format!(
            "answers {} instead of 200: another server, or a disabled host",
            answer.parts.status.as_u16()
        ));
    }
    let document: Value = serde_json::from_slice(&answer.body)
        .map_err(|_| "answers with something else than metadata".to_owned())?;
    match document["issuer"].as_str() {
        // Byte for byte, as clients compare it (RFC 8414, section 3.3).
        Some(name) if name == issuer.as_str() => Ok(()),
        Some(name) => {
            let name: String = name.chars().take(MAX_NAME).collect();
            Err(format!("answers with the metadata of another issuer: {name:?}"))
        }
        None => Err("answers with something else than metadata".to_owned()),
    }
}

/// What is wrong with a certificate, if it was that.
fn untrusted(error: &BoxError) -> Option<String> {
    let Some(ForwardError::Tls { source, .. }) = cause(error) else { return None };
    let tls = source.get_ref()?.downcast_ref::<rustls::Error>()?;
    matches!(tls, rustls::Error::InvalidCertificate(_)).then(|| tls.to_string())
}

/// Where the issuer is called.
struct Place {
    host: HostName,
    dialed: HostName,
    port: u16,
    authority: HeaderValue,
    path: http::Uri,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.dialed, self.port)
    }
}

impl Place {
    fn of(issuer: &Issuer) -> Option<Self> {
        let authority: http::uri::Authority = issuer.authority().parse().ok()?;
        let host: HostName = authority.host().parse().ok()?;
        let name = host.as_str();
        // Resolvers need not know these names, and could only say the same (RFC 6761, section 6.3).
        let here = name == "localhost" || name.ends_with(".localhost");
        let dialed = if here { "127.0.0.1".parse().ok()? } else { host.clone() };
        Some(Self {
            dialed,
            port: authority.port_u16().unwrap_or(443),
            authority: HeaderValue::from_str(issuer.authority()).ok()?,
            path: format!("{OAUTH_WELL_KNOWN}{}", issuer.path()).parse().ok()?,
            host,
        })
    }

    async fn ask(&self, client: &Client, tls: TlsOptions) -> Result<Answer, BoxError> {
        let upstream = Upstream {
            scheme: Scheme::Https,
            host: self.dialed.clone(),
            port: self.port,
            base_path: SmolStr::default(),
            weight: 1,
            tls: TlsOptions { server_name: Some(self.host.clone()), ..tls },
            protocol: Protocol::Http1,
            proxy_header: None,
        };
        let timeouts = Timeouts { connect: LIMIT, head: LIMIT, body_idle: Some(LIMIT) };
        let target = Target { timeouts, protected: Vec::new(), ..Target::new(upstream) };
        let mut request = http::Request::new(Body::empty());
        *request.uri_mut() = self.path.clone();
        request.headers_mut().insert(HOST, self.authority.clone());
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        call(client, target, request, |parts, _| parts.status != StatusCode::OK).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.status = StatusCode::from_u16(status).expect("a status");
        Answer { parts, body: body.to_owned().into() }
    }

    #[test]
    fn only_our_own_metadata_will_do() {
        let issuer = Issuer::parse("https://auth.example.com/a").expect("an issuer");
        assert_eq!(url(&issuer), "https://auth.example.com/.well-known/oauth-authorization-server/a");
        assert_eq!(judge(&issuer, &answer(200, r#"{"issuer": "https://auth.example.com/a"}"#)), Ok(()));
        for (status, body, says) in [
            (404, "", "answers 404"),
            (302, "", "answers 302"),
            (200, "<html>", "something else"),
            (200, r#"{"issuer": 7}"#, "something else"),
            (
                200,
                r#"{"issuer": "https://auth.example.com/a/"}"#,
                "another issuer: \"https://auth.example.com/a/\"",
            ),
        ] {
            let problem = judge(&issuer, &answer(status, body)).expect_err("not ours");
            assert!(problem.contains(says), "{body}: {problem}");
        }
    }

    #[test]
    fn names_of_this_machine_need_no_resolver() {
        for (issuer, dialed) in [
            ("https://auth.localhost:8443", "127.0.0.1:8443"),
            ("https://auth.example.com", "auth.example.com:443"),
            ("https://localhost.example.com", "localhost.example.com:443"),
            ("https://[::1]:9", "[::1]:9"),
        ] {
            let place = Place::of(&Issuer::parse(issuer).expect("an issuer")).expect("a place");
            assert_eq!(format!("{place:?}"), dialed);
        }
    }
}
