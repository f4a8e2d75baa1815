//! What the authority of the tests does: each test shows that one of its settings has an effect.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use instant_acme::{Account, ChallengeType, Error, ExternalAccountKey, NewOrder};
use portcullis_services::acme::dns::{Algorithm, DnsProvider, Resolvers, Rfc2136, TsigKey, challenge_name};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::SecretString;

use crate::challenges::{Http, TlsAlpn};
use crate::client::{Trusting, account, issue, names, problem, trusted};
use crate::support::dns::{Dns, KEY};
use crate::support::eventually;
use crate::support::pebble::{Pebble, Settings};

/// How long the certificate is good.
fn lifetime(pem: &str) -> Duration {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    let [from, until] =
        [certificate.validity().not_before, certificate.validity().not_after].map(|t| t.timestamp());
    Duration::from_secs(u64::try_from(until - from).unwrap())
}

/// Its serial number in hexadecimal.
fn serial(pem: &str) -> String {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Waits for counts that the log tells just after the client has seen what is counted.
async fn counted(reached: impl AsyncFn() -> bool) {
    eventually("the counts", async || reached().await.then_some(())).await;
}

#[tokio::test]
async fn http_01_is_fetched_where_the_name_leads() {
    let http = Http::start().await;
    let settings = Settings { http: http.port, validation_delay: Some(1), ..Settings::default() };
    let pebble = Pebble::start(settings).await;
    let client = Trusting::new(pebble.authority());
    let (account, _) = account(&client, pebble.directory(), None).await.unwrap();
    let order = names(&["www.example.test", "example.test"]);
    let new = NewOrder::new(&order);
    let issued = issue(&account, &new, ChallengeType::Http01, async |challenge| {
        http.prove(challenge);
    });
    let issued = issued.await.unwrap();

    let root = pebble.root(0).await;
    assert!(trusted(&issued, &root, "www.example.test"));
    assert!(trusted(&issued, &root, "example.test"));
    assert!(!trusted(&issued, &root, "other.example.test"));
    assert!(!trusted(&issued, &pebble.authority().pem, "www.example.test"));
    assert_eq!((pebble.accounts(), pebble.orders()), (1, 1));
    counted(async || (pebble.validated(), pebble.issued()) == (2, 1)).await;
    let status = pebble.status(&serial(&issued)).await.unwrap();
    assert_eq!(status["Status"], "Valid");
    assert!(pebble.status("0abc").await.is_none());
    let asked = http.asked.lock().unwrap().clone();
    let host = format!("www.example.test:{}", http.port);
    assert!(
        asked.iter().any(|(name, path)| *name == host && path.starts_with("/.well-known/acme-challenge/")),
        "{asked:?}"
    );
}

#[tokio::test]
async fn tls_alpn_01_is_done_by_handshake() {
    let tls = TlsAlpn::start().await;
    let pebble = Pebble::start(Settings { tls: tls.port, ..Settings::default() }).await;
    let client = Trusting::new(pebble.authority());
    let (account, _) = account(&client, pebble.directory(), None).await.unwrap();
    let order = names(&["www.example.test"]);
    let new = NewOrder::new(&order);
    let issued = issue(&account, &new, ChallengeType::TlsAlpn01, async |challenge| {
        tls.prove("www.example.test", challenge);
    });
    assert!(trusted(&issued.await.unwrap(), &pebble.root(0).await, "www.example.test"));
}

#[tokio::test]
async fn dns_01_is_looked_up_where_updates_put_it() {
    let dns = Dns::start(&["example.test"]);
    let pebble = Pebble::start(Settings { resolver: Some(dns.address()), ..Settings::default() }).await;
    let client = Trusting::new(pebble.authority());
    let (account, _) = account(&client, pebble.directory(), None).await.unwrap();
    let key = TsigKey::new(KEY.name, Algorithm::HmacSha256, &SecretString::from(KEY.secret)).unwrap();
    let provider = Rfc2136::new(dns.address().to_string().parse().unwrap(), key);
    let provider = provider.with_resolvers(Resolvers::Fixed(Vec::new()));
    // Both are proved at the same name, with two values.
    let order = names(&["*.example.test", "example.test"]);
    let mut put = Vec::new();
    let new = NewOrder::new(&order);
    let issued = issue(&account, &new, ChallengeType::Dns01, async |challenge| {
        let name = challenge_name(&challenge.identifier().to_string());
        let value = challenge.key_authorization().dns_value();
        provider.present(&name, &value).await.unwrap();
        put.push((name, value));
    });
    let issued = issued.await.unwrap();
    assert!(trusted(&issued, &pebble.root(0).await, "any.example.test"));
    assert!(trusted(&issued, &pebble.root(0).await, "example.test"));
    assert_eq!(dns.texts("example.test", "_acme-challenge.example.test").len(), 2);
    for (name, value) in &put {
        provider.cleanup(name, value).await.unwrap();
    }
    assert_eq!(dns.texts("example.test", "_acme-challenge.example.test"), [""; 0]);
}

#[tokio::test]
async fn an_account_may_need_an_external_one() {
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let external = vec![("kid-1".to_owned(), key.to_owned())];
    let pebble = Pebble::start(Settings { external_accounts: external, ..Settings::default() }).await;
    let client = Trusting::new(pebble.authority());
    assert_eq!(problem(account(&client, pebble.directory(), None).await), "externalAccountRequired");
    let wrong = ExternalAccountKey::new("kid-1".to_owned(), b"wrong");
    assert_eq!(problem(account(&client, pebble.directory(), Some(&wrong)).await), "unauthorized");
    let right = BASE64_URL_SAFE_NO_PAD.decode(key).unwrap();
    let right = ExternalAccountKey::new("kid-1".to_owned(), &right);
    let (_, _credentials) = account(&client, pebble.directory(), Some(&right)).await.unwrap();
}

#[tokio::test]
async fn good_nonces_may_be_refused() {
    let pebble = Pebble::start(Settings { bad_nonces: 100, ..Settings::default() }).await;
    let client = Trusting::new(pebble.authority());
    assert_eq!(problem(account(&client, pebble.directory(), None).await), "badNonce");
}

#[tokio::test]
async fn what_is_not_proved_is_not_issued() {
    let http = Http::start().await;
    let blocked = vec!["blocked.test".to_owned()];
    let pebble = Pebble::start(Settings { http: http.port, blocked, ..Settings::default() }).await;
    let client = Trusting::new(pebble.authority());
    let (account, _) = account(&client, pebble.directory(), None).await.unwrap();
    // Nothing answers for it.
    let order = names(&["www.example.test"]);
    let failed = issue(&account, &NewOrder::new(&order), ChallengeType::Http01, async |_| ()).await;
    assert_eq!(problem(failed), "unauthorized");
    // It leads nowhere.
    pebble.names().fail("gone.example.test").await;
    let order = names(&["gone.example.test"]);
    let new = NewOrder::new(&order);
    let failed = issue(&account, &new, ChallengeType::Http01, async |challenge| {
        http.prove(challenge);
    });
    assert_eq!(problem(failed.await), "connection");
    let order = names(&["www.blocked.test"]);
    assert_eq!(problem(account.new_order(&NewOrder::new(&order)).await), "rejectedIdentifier");
    counted(async || pebble.invalidated() == 2).await;
    assert_eq!((pebble.orders(), pebble.issued()), (2, 0));
}

#[tokio::test]
async fn lifetimes_authorizations_and_chains_are_as_set() {
    let http = Http::start().await;
    let settings = Settings {
        http: http.port,
        lifetime: Duration::from_secs(3600),
        reused_authorizations: 100,
        alternates: 1,
        ..Settings::default()
    };
    let pebble = Pebble::start(settings).await;
    let client = Trusting::new(pebble.authority());
    let (account, _) = account(&client, pebble.directory(), None).await.unwrap();
    let order = names(&["www.example.test"]);
    let new = NewOrder::new(&order);
    let first = issue(&account, &new, ChallengeType::Http01, async |challenge| http.prove(challenge));
    let first = first.await.unwrap();
    // The end belongs to the certificate's life.
    assert_eq!(lifetime(&first), Duration::from_secs(3599));
    let again = issue(&account, &new, ChallengeType::Http01, async |_| panic!("it was proved before"));
    assert!(again.await.is_ok());
    counted(async || (pebble.validated(), pebble.issued()) == (1, 2)).await;

    let [one, two] = [pebble.root(0).await, pebble.root(1).await];
    assert!(trusted(&first, &one, "www.example.test"));
    assert!(!trusted(&first, &two, "www.example.test"));
    let leaf = first.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
    let other = format!("{leaf}{}", pebble.intermediate(1).await);
    assert!(trusted(&other, &two, "www.example.test"));
}

#[tokio::test]
async fn it_goes_and_comes_back() {
    let mut pebble = Pebble::start(Settings::default()).await;
    let client = Trusting::new(pebble.authority());
    let (first, _) = account(&client, pebble.directory(), None).await.unwrap();
    let order = names(&["www.example.test"]);
    let root = pebble.root(0).await;

    pebble.pause();
    let new = NewOrder::new(&order);
    let mut waiting = Box::pin(first.new_order(&new));
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut waiting).await.is_err());
    pebble.resume();
    waiting.await.unwrap();

    pebble.stop();
    assert!(matches!(first.new_order(&new).await, Err(Error::Other(_))));
    pebble.restart().await;
    // It has forgotten all.
    assert_eq!(problem(first.new_order(&new).await), "accountDoesNotExist");
    assert_ne!(pebble.root(0).await, root);
    assert_eq!(pebble.orders(), 1);
    let known: Result<(Account, _), Error> = account(&client, pebble.directory(), None).await;
    known.unwrap().0.new_order(&new).await.unwrap();
    assert_eq!(pebble.orders(), 2);
}
