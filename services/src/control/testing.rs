//! A control over a store in memory, for tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use portcullis_layers::Principal;
use portcullis_layers::auth::{TokenError, Verified};
use portcullis_layers::deadline::Ticker;
use portcullis_layers::forward::{Client, PoolSettings, Tunnels};
use secrecy::SecretString;
use smol_str::SmolStr;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;

use super::tokens::{Minted, Wanted};
use super::{Caller, Control, Error, Mint, Parts};
use crate::acme::dns::Resolvers;
use crate::acme::policy::LETS_ENCRYPT;
use crate::acme::policy::testing::policy;
use crate::acme::{self, Challenges, Doctor, doctor};
use crate::applied::Applied;
use crate::config::Proxy;
use crate::config::access::{Lists, Site};
use crate::logs::Writers;
use crate::logs::{Levels, Writer};
use crate::mirror::Mirror;
use crate::oauth::Judge;
use crate::oauth::rotation::Policy;
use crate::store::embedded::Embedded;
use crate::store::{Keep, Store, Stream};
use crate::vault::Vault;

/// Counts instead of signing.
#[derive(Debug, Default)]
struct Counter(AtomicU32);

#[async_trait]
impl Mint for Counter {
    async fn mint(&self, wanted: &Wanted) -> Result<Minted, Error> {
        let count = self.0.fetch_add(1, Ordering::Relaxed);
        let now = Timestamp::from_second(Timestamp::now().as_second()).map_err(Error::internal)?;
        Ok(Minted {
            token: format!("{}-token-{count}", wanted.name).into(),
            jti: format!("jti-{count}"),
            key_id: "key".to_owned(),
            issued_at: now,
            expires_at: now + wanted.lifetime,
            guards: Vec::new(),
        })
    }

    async fn revoke(&self, _: &str, _: Timestamp) -> Result<(), Error> {
        Ok(())
    }
}

/// Takes tokens of the form `SUBJECT SCOPE AUDIENCE`.
#[derive(Debug)]
struct Names;

impl Judge for Names {
    fn verify(&self, _: &Proxy, token: &str) -> Result<Arc<Verified>, TokenError> {
        let mut words = token.split(' ').map(SmolStr::new);
        let (Some(subject), Some(scope), Some(audience)) = (words.next(), words.next(), words.next()) else {
            return Err(TokenError::Malformed);
        };
        let (scopes, audience) = (vec![scope], vec![audience]);
        Ok(Arc::new(Verified::new(Principal { subject, scopes, audience, ..Principal::default() }, 0)))
    }
}

/// A control, and the store behind it. Nobody serves, so writes don't wait.
pub(crate) fn control() -> (Arc<Control>, Arc<dyn Store>) {
    let (_, applied) = watch::channel(Applied::default());
    control_serving(applied)
}

/// A control of a node that serves what the channel says.
pub(crate) fn control_serving(applied: watch::Receiver<Applied>) -> (Arc<Control>, Arc<dyn Store>) {
    let (control, store) = build(applied);
    (Arc::new(control), store)
}

/// The same, before it is shared.
pub(crate) fn build(applied: watch::Receiver<Applied>) -> (Control, Arc<dyn Store>) {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().expect("memory"));
    let key = SecretString::from("0123456789abcdef0123456789abcdef");
    let writer = |stream| {
        let writer = Writer::new(stream, 1, 1 << 20);
        let keep = Keep { entries: 1000, age: Duration::from_secs(3600) };
        tokio::spawn(writer.clone().run(store.clone(), keep, CancellationToken::new()));
        writer
    };
    let writers = Writers {
        requests: writer(Stream::Requests),
        diagnostics: writer(Stream::Diagnostics),
        audit: writer(Stream::Audit),
        oauth: writer(Stream::Oauth),
        mcp: writer(Stream::Mcp),
    };
    let doctor = Doctor::new(doctor::Parts {
        client: Client::new(1, Ticker::new(1), Tunnels::new(1), PoolSettings::default()),
        challenges: Challenges::new(store.clone(), tokio::runtime::Handle::current()),
        resolvers: Resolvers::Fixed(Vec::new()),
        // Tests call nobody.
        policy: Arc::new(policy("https://127.0.0.1:9/directory")),
    });
    let control = Control::new(Parts {
        mirror: Mirror::new(store.clone()),
        vault: Arc::new(Vault::new(&key).expect("a key")),
        issuer: "https://auth.example.com".parse().expect("a URL"),
        mint: Arc::new(Counter::default()),
        levels: Levels::new(LevelFilter::INFO),
        writers,
        applied,
        judge: Arc::new(Names),
        site: Site {
            issuer: "https://auth.example.com".to_owned(),
            port_suffix: String::new(),
            defaults: Lists::default(),
            localhost: Lists::default(),
        },
        github_app: None,
        key_policy: Policy { age: None, longest_token: Duration::from_secs(1800) },
        // What a test makes is all that there is.
        acme: Arc::new(acme::Policy { automatic: false, ..policy(LETS_ENCRYPT) }),
        doctor: Arc::new(doctor),
        staples: Arc::default(),
        accept: Arc::default(),
        draining: CancellationToken::new(),
    });
    (control, store)
}

/// A caller with scopes.
pub(crate) fn caller(name: &str, scopes: &[&str]) -> Caller {
    Caller::Principal(Arc::new(Principal {
        subject: name.into(),
        username: Some(name.into()),
        scopes: scopes.iter().map(|scope| (*scope).into()).collect(),
        ..Principal::default()
    }))
}
