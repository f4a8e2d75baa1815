//! Signed updates.

use std::net::SocketAddr;

use portcullis_services::acme::dns::{Algorithm, DnsError, DnsProvider, Resolvers, Rfc2136, TsigKey};
use secrecy::SecretString;
use tokio::net::{TcpListener, UdpSocket};

use crate::dns::{Dns, KEY, Key, LONG_KEY, OTHER_KEY, Zone};

pub(super) const NAME: &str = "_acme-challenge.www.example.test";
pub(super) const VALUE: &str = "gfj9Xq-Rg85nM_V0123456789abcdefghijklmnopqr";

fn key(key: Key) -> TsigKey {
    let algorithm: Algorithm = key.algorithm.parse().unwrap();
    TsigKey::new(key.name, algorithm, &SecretString::from(key.secret)).unwrap()
}

fn provider_at(address: SocketAddr, with: Key) -> Rfc2136 {
    let provider = Rfc2136::new(address.to_string().parse().unwrap(), key(with));
    provider.with_resolvers(Resolvers::Fixed(Vec::new()))
}

pub(super) fn provider(dns: &Dns) -> Rfc2136 {
    provider_at(dns.address(), KEY)
}

/// The error with all that it stems from.
fn told(result: Result<(), DnsError>) -> String {
    let error = result.expect_err("an error");
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

#[tokio::test]
async fn a_record_comes_and_goes() {
    let dns = Dns::start(&["example.test"]);
    let provider = provider(&dns);
    provider.present(NAME, VALUE).await.unwrap();
    assert_eq!(dns.texts("example.test", NAME), [VALUE]);
    // Repeated, it is still one.
    provider.present(NAME, VALUE).await.unwrap();
    assert_eq!(dns.texts("example.test", NAME), [VALUE]);
    provider.present(NAME, "another").await.unwrap();
    provider.cleanup(NAME, VALUE).await.unwrap();
    assert_eq!(dns.texts("example.test", NAME), ["another"]);
    provider.cleanup(NAME, VALUE).await.unwrap();
    provider.cleanup(NAME, "another").await.unwrap();
    assert_eq!(dns.texts("example.test", NAME), [""; 0]);
}

#[tokio::test]
async fn the_longer_algorithm_is_as_good() {
    let dns = Dns::start(&["example.test"]);
    provider_at(dns.address(), LONG_KEY).present(NAME, VALUE).await.unwrap();
    assert_eq!(dns.texts("example.test", NAME), [VALUE]);
}

#[tokio::test]
async fn the_closest_zone_is_found() {
    let dns = Dns::start(&["example.test", "deep.example.test"]);
    let provider = provider(&dns);
    let name = "_acme-challenge.a.b.deep.example.test";
    provider.present(name, VALUE).await.unwrap();
    assert_eq!(dns.texts("deep.example.test", name), [VALUE]);
    provider.present("_acme-challenge.deep.example.test", VALUE).await.unwrap();
    assert_eq!(dns.texts("deep.example.test", "_acme-challenge.deep.example.test"), [VALUE]);
    provider.present("_acme-challenge.example.test", VALUE).await.unwrap();
    assert_eq!(dns.texts("example.test", "_acme-challenge.example.test"), [VALUE]);
    let error = told(provider.present("_acme-challenge.other.test", VALUE).await);
    assert_eq!(
        error,
        format!("the DNS server {} has no zone for _acme-challenge.other.test.", dns.address())
    );
}

#[tokio::test]
async fn a_zone_of_the_settings_is_kept_to() {
    let dns = Dns::start(&["example.test", "other.test"]);
    let provider = provider(&dns).in_zone("example.test").unwrap();
    provider.present(NAME, VALUE).await.unwrap();
    assert_eq!(dns.texts("example.test", NAME), [VALUE]);
    let error = told(provider.present("_acme-challenge.other.test", VALUE).await);
    assert_eq!(error, "_acme-challenge.other.test. is not in the zone example.test.");
}

#[tokio::test]
async fn more_than_a_datagram_holds_is_seen() {
    let dns = Dns::start(&["example.test"]);
    let provider = provider(&dns).in_zone("example.test").unwrap();
    let values: Vec<_> = (0..20).map(|number| format!("{VALUE}-{number:02}")).collect();
    for value in &values {
        provider.present(NAME, value).await.unwrap();
    }
    let mut held = dns.texts("example.test", NAME);
    held.sort();
    assert_eq!(held, values);
}

#[tokio::test]
async fn a_delegation_inside_the_server_is_followed() {
    let records = "_acme-challenge.www CNAME www.example.test.challenges.test.";
    let dns = Dns::start_with(&[
        Zone { name: "example.test", records },
        Zone { name: "challenges.test", records: "" },
    ]);
    let provider = provider(&dns);
    provider.present(NAME, VALUE).await.unwrap();
    assert_eq!(dns.texts("challenges.test", "www.example.test.challenges.test"), [VALUE]);
    provider.cleanup(NAME, VALUE).await.unwrap();
    assert_eq!(dns.texts("challenges.test", "www.example.test.challenges.test"), [""; 0]);
}

#[tokio::test]
async fn a_delegation_that_others_know_is_followed() {
    let records = "_acme-challenge.www CNAME step.example.test.\nstep CNAME www.challenges.test.";
    // Here nothing is written.
    let public = Dns::start_with(&[Zone { name: "example.test", records }]);
    let own = Dns::start(&["challenges.test"]);
    let provider = provider(&own).with_resolvers(Resolvers::Fixed(vec![public.address()]));
    // The resolver of this test knows nothing of the other zone, but there its own server has the last word.
    provider.present(NAME, VALUE).await.unwrap();
    assert_eq!(own.texts("challenges.test", "www.challenges.test"), [VALUE]);
}

#[tokio::test]
async fn a_circle_has_an_end() {
    let records = "_acme-challenge.www CNAME a.example.test.\na CNAME _acme-challenge.www.example.test.";
    let dns = Dns::start_with(&[Zone { name: "example.test", records }]);
    let error = told(provider(&dns).present(NAME, VALUE).await);
    assert_eq!(error, format!("the delegation of {NAME}. does not end"));
}

#[tokio::test]
async fn a_key_that_is_not_right_is_told() {
    let dns = Dns::start(&["example.test"]);
    let wrong = Key { secret: OTHER_KEY.secret, ..KEY };
    let error = told(provider_at(dns.address(), wrong).present(NAME, VALUE).await);
    assert!(
        error.contains("refuses the update") && error.contains("BADSIG: is the TSIG secret right?"),
        "{error}"
    );
    let unknown = Key { name: "nobody", ..KEY };
    let error = told(provider_at(dns.address(), unknown).present(NAME, VALUE).await);
    assert!(error.contains("BADKEY: are the TSIG name and algorithm right?"), "{error}");
    let error = told(provider_at(dns.address(), OTHER_KEY).present(NAME, VALUE).await);
    assert!(error.contains("refuses the update"), "{error}");
    assert_eq!(dns.texts("example.test", NAME), [""; 0]);
    for key in [wrong, unknown, OTHER_KEY] {
        assert!(!error.contains(key.secret));
    }
}

#[tokio::test]
async fn a_zone_that_takes_nothing_is_told() {
    let dns = Dns::start(&["example.test"]);
    dns.freeze("example.test");
    let error = told(provider(&dns).present(NAME, VALUE).await);
    assert!(error.contains(&format!("refuses the update of {NAME}.")), "{error}");
    dns.thaw("example.test");
    provider(&dns).present(NAME, VALUE).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_gone_is_told() {
    let mut dns = Dns::start(&["example.test"]);
    let provider = provider(&dns);
    dns.stop();
    let error = told(provider.present(NAME, VALUE).await);
    assert!(error.contains("no good answer") && error.contains("the connection failed"), "{error}");
    dns.restart();
    provider.present(NAME, VALUE).await.unwrap();
}

#[tokio::test]
async fn forged_answers_are_not_believed() {
    let dns = Dns::start(&["example.test"]);
    let between = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = between.local_addr().unwrap();
    let real = dns.address();
    // Before each true answer it sends rubbish, an answer to something else, and one that is not signed.
    let relay = tokio::spawn(async move {
        let mut question = [0; 4096];
        let mut answer = [0; 4096];
        loop {
            let (length, client) = between.recv_from(&mut question).await.unwrap();
            let question = &question[..length];
            between.send_to(b"rubbish", client).await.unwrap();
            let mut other = question.to_vec();
            other[0] ^= 1;
            other[2] |= 0x80;
            between.send_to(&other, client).await.unwrap();
            // An update that has been taken, by its own word.
            if question[2] & 0x78 == 5 << 3 {
                let mut forged = question.to_vec();
                forged[2] |= 0x80;
                between.send_to(&forged, client).await.unwrap();
            }
            let server = UdpSocket::bind("0.0.0.0:0").await.unwrap();
            server.send_to(question, real).await.unwrap();
            let length = server.recv(&mut answer).await.unwrap();
            between.send_to(&answer[..length], client).await.unwrap();
        }
    });
    let provider = provider_at(address, KEY);
    provider.present(NAME, VALUE).await.unwrap();
    assert_eq!(dns.texts("example.test", NAME), [VALUE]);
    // What the true server refuses stays refused, whatever the forged answer said.
    let wrong = Key { secret: OTHER_KEY.secret, ..KEY };
    let error = told(provider_at(address, wrong).present(NAME, "another").await);
    assert!(error.contains("BADSIG"), "{error}");
    relay.abort();
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_not_waited_for_without_end() {
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let error = told(provider_at(udp.local_addr().unwrap(), KEY).present(NAME, VALUE).await);
    assert!(error.ends_with("nothing came in time"), "{error}");
    drop(tcp);
}

#[tokio::test]
async fn names_that_are_none_go_nowhere() {
    let dns = Dns::start(&["example.test"]);
    for name in ["", "a b.example.test", "_acme-challenge.*.example.test"] {
        let result = provider(&dns).present(name, VALUE).await;
        assert!(matches!(result, Err(DnsError::Name { .. })), "{result:?}");
    }
}
