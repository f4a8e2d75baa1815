//! Who answers at the addresses of a name, at the places where an authority asks.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use portcullis_layers::acme_challenge::WELL_KNOWN;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::report::{Check, Outcome};
use super::{Question, alpn};
use crate::acme::challenges::Trial;
use crate::config::certificate::ChallengeType;

/// Authorities wait no longer for a connection and an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest answer that is read: ours is much shorter.
const LONGEST: usize = 16 * 1024;

const HTTP: &str = "port 80";
const TLS: &str = "port 443";

const NO_CONNECTION: &str = "this port of this address must lead to this gateway: look at firewalls, port forwarding and \
                             the record. Some routers refuse connections to their own address from inside: then look \
                             from outside, too";

const SOMEBODY: &str = "the address must lead to this gateway and to nothing else. Another node of it does not know what \
                        was tried here: run this there, too";

/// The checks of all addresses. Either way of validation is enough, where a certificate does not say which.
pub(super) async fn look(
    trial: &Trial,
    host: &str,
    addresses: &[IpAddr],
    question: &Question<'_>,
    challenge: Option<ChallengeType>,
) -> Vec<Check> {
    let name = question.name.as_str();
    let at = |port: u16| addresses.iter().map(move |address| SocketAddr::new(*address, port));
    let plain = at(question.http_port).map(|address| http(trial, name, address));
    let secure = at(question.https_port).map(|address| tls(trial, host, address));
    let (plain, secure) = tokio::join!(join_all(plain), join_all(secure));
    let works = |checks: &[Check]| checks.iter().all(|check| check.result == Outcome::Ok);
    let (ease_plain, ease_secure) = match challenge {
        Some(ChallengeType::Http01) => (false, true),
        Some(ChallengeType::TlsAlpn01) => (true, false),
        Some(ChallengeType::Dns01) => (true, true),
        None => (works(&secure), works(&plain)),
    };
    let ease = |check: Check, eased: bool| if eased { check.eased() } else { check };
    let plain = plain.into_iter().zip(addresses).map(|(check, at)| ease(check.at(*at), ease_plain));
    let secure = secure.into_iter().zip(addresses).map(|(check, at)| ease(check.at(*at), ease_secure));
    plain.chain(secure).collect()
}

/// HTTP-01, as an authority would ask (RFC 8555, section 8.3).
async fn http(trial: &Trial, name: &str, address: SocketAddr) -> Check {
    let host = if address.port() == 80 { name.to_owned() } else { format!("{name}:{}", address.port()) };
    let mut answer = Vec::new();
    let outcome = timeout(PATIENCE, fetch(address, &host, trial, &mut answer)).await;
    if is_ours(&answer, trial) {
        return Check::ok(HTTP, "this gateway answers the challenge");
    }
    let Some(head) = Head::read(&answer) else {
        let found = match outcome {
            Err(_) => format!("nothing came from {address} in time"),
            Ok(Err(error)) => format!("no connection to {address}: {error}"),
            Ok(Ok(())) => format!("what answers at {address} speaks no HTTP"),
        };
        return Check::fail(HTTP, found, NO_CONNECTION);
    };
    let server = head.server.map(|server| format!(", Server: {server}")).unwrap_or_default();
    let found = format!("somebody else answers at {address}: status {}{server}", head.status);
    match head.location {
        // An authority follows it (RFC 8555, section 8.3); from here nothing but the name's own addresses is called.
        Some(location) if location.contains(name) && location.contains(trial.token()) => Check::warn(
            HTTP,
            format!("{found}, which leads to {location}"),
            "an authority follows that; see that it ends at this gateway",
        ),
        Some(location) => Check::fail(HTTP, format!("{found}, which leads to {location}"), SOMEBODY),
        None => Check::fail(HTTP, found, SOMEBODY),
    }
}

/// TLS-ALPN-01, as an authority would ask (RFC 8737, section 3).
async fn tls(trial: &Trial, host: &str, address: SocketAddr) -> Check {
    if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return Check::skip(TLS, "addresses are validated at port 80");
    }
    match timeout(PATIENCE, alpn::shown(address, host)).await {
        Ok(Ok(certificate)) if alpn::proves(&certificate, trial.authorization()) => {
            Check::ok(TLS, "this gateway answers the challenge")
        }
        Ok(Ok(_)) if trial.is_hidden().await => {
            Check::skip(TLS, "an authority is validating the name right now")
        }
        Ok(Ok(_)) => Check::fail(TLS, format!("somebody else answers at {address}"), SOMEBODY),
        Ok(Err(alpn::Failure::Connection(error))) => {
            Check::fail(TLS, format!("no connection to {address}: {error}"), NO_CONNECTION)
        }
        Ok(Err(alpn::Failure::Handshake(error))) => Check::fail(
            TLS,
            format!("what answers at {address} does not take the challenge: {error}"),
            "TLS must end at this gateway, and nothing before it may look into it",
        ),
        Err(_) => Check::fail(TLS, format!("nothing came from {address} in time"), NO_CONNECTION),
    }
}

/// Asks for the challenge and reads until ours is there, the other side is done, or it becomes too long.
async fn fetch(address: SocketAddr, host: &str, trial: &Trial, answer: &mut Vec<u8>) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "GET {WELL_KNOWN}{} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: portcullis-doctor\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        trial.token()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut stream = stream.take(LONGEST as u64);
    while stream.read_buf(answer).await? > 0 && !is_ours(answer, trial) {}
    Ok(())
}

/// Nobody else can know what was put up here a moment ago.
fn is_ours(answer: &[u8], trial: &Trial) -> bool {
    memchr::memmem::find(answer, trial.authorization().as_bytes()).is_some()
}

/// What is told of an answer that is not ours.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    server: Option<String>,
    location: Option<String>,
}

impl Head {
    fn read(answer: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(answer);
        let mut lines = text.lines();
        let line = lines.next()?.strip_prefix("HTTP/1.")?;
        let status = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
        let fields: Vec<_> =
            lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':')).collect();
        let field = |name: &str| {
            let found = fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.trim().to_owned())
        };
        Some(Self { status, server: field("server"), location: field("location") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_described() {
        let answer =
            b"HTTP/1.1 301 Moved\r\nServer: nginx\r\nLOCATION: https://a.example/x\r\n\r\nServer: no";
        let head = Head::read(answer).expect("an answer");
        assert_eq!((head.status, head.server.as_deref()), (301, Some("nginx")));
        assert_eq!(head.location.as_deref(), Some("https://a.example/x"));
        for other in [&b""[..], b"SSH-2.0-x", b"HTTP/1.1", b"HTTP/1.1 abc", b"\xff\xff"] {
            assert_eq!(Head::read(other), None, "{other:?}");
        }
    }
}
