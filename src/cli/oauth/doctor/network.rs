//! What comes before OAuth: names, certificates, plain HTTP, clocks.

use std::net::IpAddr;

use http::header::{DATE, LOCATION};
use http::{StatusCode, Uri};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

use super::Probe;
use super::report::{EVERY, Finding, HOSTED, OVER_IPV4, Report, SDKS};
use crate::cli::client::ClientError;
use crate::cli::oauth::discovery::same_origin;
use crate::cli::web::{Place, Reply};

/// How far clocks may differ: tokens of a minute ago must not be from the future.
const SKEW: i64 = 30;

/// How far clocks may differ before tokens are refused.
const BAD_SKEW: i64 = 300;

/// Whether the host's name leads anywhere. Returns false when there is nothing to go on with.
pub(super) async fn names(probe: &Probe, report: &mut Report) -> bool {
    let Some(place) = Place::of(&probe.url) else { return false };
    let bare = place.host.trim_matches(['[', ']']);
    let addresses: Vec<IpAddr> = if let Ok(address) = bare.parse() {
        vec![address]
    } else if place.is_here() {
        vec![IpAddr::from([127, 0, 0, 1])]
    } else {
        match tokio::net::lookup_host((bare, place.port)).await {
            Ok(found) => found.map(|address| address.ip()).collect(),
            Err(error) => {
                report.fail(
                    "dns",
                    error.to_string(),
                    Finding {
                        clients: EVERY,
                        why: "the name can't be resolved",
                        advice: "add an A or AAAA record for the host",
                    },
                );
                return false;
            }
        }
    };
    let said = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    report.prefer(
        addresses.iter().any(|address| is_public(*address)),
        "dns",
        said,
        Finding {
            clients: HOSTED,
            why: "they call from the internet, which does not reach a private address",
            advice: "nothing, if only clients in this network are to connect; else give the host a public address",
        },
    );
    let public = |address: &&IpAddr| is_public(**address);
    if addresses.iter().any(|address| is_public(*address))
        && !addresses.iter().filter(public).any(|address| address.to_canonical().is_ipv4())
    {
        report.warn(
            "dns-ipv4",
            "no public address of IPv4",
            Finding {
                clients: OVER_IPV4,
                why: "its servers call over IPv4 only",
                advice: "add an A record for the host",
            },
        );
    }
    !addresses.is_empty()
}

/// Whether an address can be reached from the internet, as far as one can see.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
            !(v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || shared)
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unique_local() || v6.is_unspecified())
        }
    }
}

/// Connects, with TLS as clients do it. Returns the first answer.
pub(super) async fn connection(probe: &Probe, report: &mut Report) -> Option<Reply> {
    let https = Place::of(&probe.url).is_some_and(|place| place.tls);
    let check = if https { "tls" } else { "connection" };
    match probe.web.get(&probe.url).await {
        Ok(reply) => {
            report.expect(
                https || Place::of(&probe.url).is_some_and(|place| place.is_here()),
                check,
                if https { "the chain is trusted, and covers the name" } else { "plain HTTP" },
                Finding {
                    clients: EVERY,
                    why: "tokens would go over the network in clear; clients refuse that",
                    advice: "use https://",
                },
            );
            Some(reply)
        }
        Err(error) => {
            let seen = chain(&error);
            report.fail(check, seen, explained(&error));
            None
        }
    }
}

/// An error with its causes.
fn chain(error: &ClientError) -> String {
    let mut text = match error {
        // What the message of this one advises is for other commands.
        ClientError::Connect { authority, .. } => format!("no connection to {authority}"),
        ClientError::Tls { authority, .. } => format!("no TLS with {authority}"),
        other => other.to_string(),
    };
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn explained(error: &ClientError) -> Finding {
    let ClientError::Tls { source, .. } = error else {
        return Finding {
            clients: EVERY,
            why: "nobody answers",
            advice: "start the gateway, and let its port through the firewall",
        };
    };
    let inner = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let (why, advice) = match inner {
        Some(rustls::Error::InvalidCertificate(bad)) => match bad {
            rustls::CertificateError::Expired | rustls::CertificateError::ExpiredContext { .. } => {
                ("the certificate has expired", "renew it: portcullis cert list shows it")
            }
            rustls::CertificateError::NotValidForName
            | rustls::CertificateError::NotValidForNameContext { .. } => (
                "the certificate is for other names",
                "supply one that covers the host: portcullis cert upload --help",
            ),
            rustls::CertificateError::UnknownIssuer => (
                "nobody knows who signed the certificate, or the chain lacks an intermediate one",
                "supply a trusted certificate with its whole chain, or name its authority with --cacert",
            ),
            _ => ("the certificate is not accepted", "supply another: portcullis cert upload --help"),
        },
        _ => ("the TLS handshake fails", "does the gateway speak HTTPS at this port, and know the host?"),
    };
    Finding { clients: EVERY, why, advice }
}

/// Whether tokens stay off plain HTTP.
pub(super) async fn plain_http(probe: &Probe, report: &mut Report) {
    const CHECK: &str = "http";
    let Some(place) = Place::of(&probe.url).filter(|place| place.tls) else { return };
    let Some(port) = probe.http_port.or((place.port == 443).then_some(80)) else {
        report.skip(CHECK, "not looked at: name the port with --http-port");
        return;
    };
    let Ok(url) = format!("http://{}:{port}{}", place.host, probe.url.path()).parse::<Uri>() else { return };
    let Ok(reply) = probe.web.get(&url).await else {
        return report.pass(CHECK, format!("nothing answers on port {port}"));
    };
    let target = reply.header(LOCATION).and_then(|to| to.parse::<Uri>().ok());
    let to_https = reply.status.is_redirection()
        && target.as_ref().is_some_and(|target| same_origin(target, &probe.url));
    let refused = reply.status.is_client_error() && reply.status != StatusCode::UNAUTHORIZED;
    let seen = match &target {
        Some(target) => format!("{} to {target}", reply.status.as_u16()),
        None => format!("{}", reply.status.as_u16()),
    };
    report.prefer(
        to_https || refused,
        CHECK,
        seen,
        Finding {
            clients: SDKS,
            why: "a client that is given http:// sends its token in clear",
            advice: "set https_redirect of the host to on: portcullis proxy update HOST --https-redirect on",
        },
    );
}

/// Whether both clocks show the same time.
pub(super) fn clock(reply: &Reply, report: &mut Report) {
    const CHECK: &str = "clock";
    let date = reply.header(DATE).and_then(|date| DateTimeParser::new().parse_timestamp(date).ok());
    let Some(date) = date else {
        return report.skip(CHECK, "the answer has no date");
    };
    let skew = date.duration_since(Timestamp::now()).as_secs();
    let finding = Finding {
        clients: EVERY,
        why: "tokens seem to be from the future, or to have ended, to whoever has another clock",
        advice: "synchronise the clocks of both machines (NTP)",
    };
    let seen = format!("the gateway's clock is {skew} s from this one's");
    if skew.abs() > BAD_SKEW {
        report.fail(CHECK, seen, finding);
    } else {
        report.prefer(skew.abs() <= SKEW, CHECK, seen, finding);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_known() {
        for private in [
            "10.1.2.3",
            "127.0.0.1",
            "192.168.0.1",
            "100.64.0.1",
            "169.254.1.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in ["8.8.8.8", "100.128.0.1", "2001:4860::1"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }
}
