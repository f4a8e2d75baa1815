//! What trusted proxies say of the client. Pure.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

use crate::context::ClientAddr;

/// The header that the trusted proxies write. Only one is read: what a proxy does not write
/// itself it passes on from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Source {
    /// `X-Forwarded-For` and `X-Forwarded-Proto`.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// Proxies in front of us whose word about the client we take: its address and its scheme, never a host.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies {
    networks: Box<[IpNet]>,
    source: Source,
}

/// What is believed of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Believed {
    pub(super) client: Option<ClientAddr>,
    pub(super) scheme: Option<&'static str>,
}

impl TrustedProxies {
    /// Proxies with addresses in these networks.
    pub fn new(networks: impl Into<Box<[IpNet]>>, source: Source) -> Self {
        Self { networks: networks.into(), source }
    }

    /// Whether the address is one of a trusted proxy.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Reads from right to left: each address was written by the hop to its right, so the first
    /// that is not trusted is the client, and everything to its left is the client's own invention.
    pub(super) fn believe(&self, hop: IpAddr, headers: &HeaderMap) -> Believed {
        if !self.contains(hop) {
            return Believed::default();
        }
        match self.source {
            Source::XForwarded => Believed {
                client: self.walk(values(headers, "x-forwarded-for").flat_map(|value| value.rsplit(','))),
                // The hop next to us is the one that we know to be trusted.
                scheme: values(headers, "x-forwarded-proto")
                    .next()
                    .and_then(|value| scheme(value.rsplit(',').next()?)),
            },
            Source::Forwarded => self.forwarded(headers),
        }
    }

    fn walk<'a>(&self, nodes: impl Iterator<Item = &'a str>) -> Option<ClientAddr> {
        let mut client = None;
        for node in nodes {
            let Some(address) = parse_node(node) else { break };
            client = Some(ClientAddr(address));
            if !self.contains(address.ip()) {
                break;
            }
        }
        client
    }

    fn forwarded(&self, headers: &HeaderMap) -> Believed {
        let mut believed = Believed::default();
        for value in values(headers, "forwarded") {
            for element in split_unquoted(value, ',').into_iter().rev() {
                let Some(address) = parameter(element, "for").and_then(parse_node) else { return believed };
                believed.client = Some(ClientAddr(address));
                believed.scheme = parameter(element, "proto").and_then(scheme);
                if !self.contains(address.ip()) {
                    return believed;
                }
            }
        }
        believed
    }
}

/// The values of a header from the last to the first, as far as they are text.
fn values<'a>(headers: &'a HeaderMap, name: &'static str) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().rev().map_while(|value: &HeaderValue| value.to_str().ok())
}

fn scheme(text: &str) -> Option<&'static str> {
    let text = text.trim().trim_matches('"');
    ["http", "https"].into_iter().find(|scheme| text.eq_ignore_ascii_case(scheme))
}

/// An address with or without a port; obfuscated names (RFC 7239, section 6.3) are none.
fn parse_node(text: &str) -> Option<SocketAddr> {
    let text = text.trim().trim_matches('"');
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(SocketAddr::new(address.ip().to_canonical(), address.port()));
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address.to_canonical(), 0))
}

/// A parameter of an element of `Forwarded`; its name is case-insensitive.
fn parameter<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    split_unquoted(element, ';').into_iter().find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn split_unquoted(text: &str, separator: char) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(|character: char| {
        if escaped {
            escaped = false;
            return false;
        }
        match character {
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => return character == separator && !quoted,
        }
        false
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn believed(
        source: Source,
        headers: &[(&'static str, &'static str)],
    ) -> (Option<String>, Option<&'static str>) {
        let proxies = TrustedProxies::new(
            ["10.0.0.0/8".parse().expect("valid"), "fd00::/8".parse().expect("valid")],
            source,
        );
        let headers = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let believed = proxies.believe([10, 0, 0, 1].into(), &headers);
        (believed.client.map(|client| client.0.to_string()), believed.scheme)
    }

    #[test]
    fn the_first_untrusted_address_from_the_right_is_the_client() {
        for (values, client) in [
            (&[][..], None),
            (&["1.2.3.4"], Some("1.2.3.4:0")),
            (&["9.9.9.9, 1.2.3.4, 10.0.0.2"], Some("1.2.3.4:0")),
            (&["9.9.9.9", "1.2.3.4", "10.0.0.2,10.0.0.3"], Some("1.2.3.4:0")),
            (&["10.0.0.9, 10.0.0.2"], Some("10.0.0.9:0")),
            (&["9.9.9.9, garbage, 10.0.0.2"], Some("10.0.0.2:0")),
            (&["garbage"], None),
            (&["1.2.3.4:5678"], Some("1.2.3.4:5678")),
            (&["2001:db8::1"], Some("[2001:db8::1]:0")),
            (&["[2001:db8::1]:99, fd00::7"], Some("[2001:db8::1]:99")),
            (&["::ffff:1.2.3.4"], Some("1.2.3.4:0")),
        ] {
            let headers: Vec<_> = values.iter().map(|value| ("x-forwarded-for", *value)).collect();
            assert_eq!(believed(Source::XForwarded, &headers).0.as_deref(), client, "{values:?}");
        }
    }

    #[test]
    fn the_header_that_was_not_chosen_is_ignored() {
        let headers = [("forwarded", "for=9.9.9.9;proto=https"), ("x-forwarded-for", "1.2.3.4")];
        assert_eq!(believed(Source::XForwarded, &headers), (Some("1.2.3.4:0".to_owned()), None));
        assert_eq!(believed(Source::Forwarded, &headers), (Some("9.9.9.9:0".to_owned()), Some("https")));
    }

    #[test]
    fn the_scheme_is_the_last_word_of_the_hop_next_to_us() {
        for (value, expected) in [
            ("https", Some("https")),
            ("HTTP", Some("http")),
            ("https, http", Some("http")),
            ("gopher", None),
            ("", None),
        ] {
            assert_eq!(believed(Source::XForwarded, &[("x-forwarded-proto", value)]).1, expected, "{value}");
        }
    }

    #[test]
    fn forwarded_is_read_with_its_quotes() {
        for (value, client, scheme) in [
            ("for=\"[2001:db8::1]:47\";proto=https", Some("[2001:db8::1]:47"), Some("https")),
            (
                "for=9.9.9.9, For=\"1.2.3.4\" ; Proto=\"http\", for=10.0.0.2;by=x;proto=https",
                Some("1.2.3.4:0"),
                Some("http"),
            ),
            ("for=9.9.9.9, for=_hidden, for=10.0.0.2", Some("10.0.0.2:0"), None),
            ("for=unknown", None, None),
            ("for=\"9.9.9.9, for=1.2.3.4", None, None),
            ("for=\"a\\\", for=9.9.9.9\", for=1.2.3.4", Some("1.2.3.4:0"), None),
        ] {
            let (got, got_scheme) = believed(Source::Forwarded, &[("forwarded", value)]);
            assert_eq!((got.as_deref(), got_scheme), (client, scheme), "{value}");
        }
    }

    #[test]
    fn strangers_are_not_believed() {
        let proxies = TrustedProxies::new([], Source::XForwarded);
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static("1.2.3.4"));
        assert_eq!(proxies.believe([10, 0, 0, 1].into(), &headers), Believed::default());
    }
}
