//! What the authorization server remembers, on both stores and with two nodes each.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, join_all};
use jiff::Timestamp;
use portcullis_services::oauth::codes::{self, Authorization, Codes, Presented, Taken};
use portcullis_services::oauth::consents::{self, Consents, Missing};
use portcullis_services::oauth::devices::{self, Approval, Devices, Poll, UserCode};
use portcullis_services::oauth::grants::{self, Client, Grants, Issued, NewGrant, Wanted, new_id};
use portcullis_services::oauth::server::request::pkce::Challenge;
use portcullis_services::oauth::sessions::{self, Sessions};
use portcullis_services::oauth::{Filter, Identity, Revocations, Scopes};
use portcullis_services::store::embedded::Embedded;
use portcullis_services::store::redis::{Options, RedisStore};
use portcullis_services::store::{RecordKey, RecordKind, Store};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::redis::RedisServer;

type Case = fn([Node; 2]) -> LocalBoxFuture<'static, ()>;

const CASES: &[(&str, Case)] = &[
    ("a code is taken once on all nodes", |n| a_code_is_taken_once_on_all_nodes(n).boxed_local()),
    ("a code that is presented twice ends what it yielded", |n| {
        a_code_that_is_presented_twice_ends_what_it_yielded(n).boxed_local()
    }),
    ("a code that comes twice at once yields tokens once", |n| {
        a_code_that_comes_twice_at_once_yields_tokens_once(n).boxed_local()
    }),
    ("a device code is taken once on all nodes", |n| {
        a_device_code_is_taken_once_on_all_nodes(n).boxed_local()
    }),
    ("a code expires", |n| a_code_expires(n).boxed_local()),
    ("a grant yields what was agreed to", |n| a_grant_yields_what_was_agreed_to(n).boxed_local()),
    ("a grant needs a session that has not ended", |n| {
        a_grant_needs_a_session_that_has_not_ended(n).boxed_local()
    }),
    ("ten parallel refreshes have one successor", |n| {
        ten_parallel_refreshes_have_one_successor(n).boxed_local()
    }),
    ("a late replay ends the family everywhere", |n| {
        a_late_replay_ends_the_family_everywhere(n).boxed_local()
    }),
    ("without a window a token is good once", |n| without_a_window_a_token_is_good_once(n).boxed_local()),
    ("an ancestor of long ago ends the family", |n| an_ancestor_of_long_ago_ends_the_family(n).boxed_local()),
    ("a refresh narrows the token, not the grant", |n| {
        a_refresh_narrows_the_token_not_the_grant(n).boxed_local()
    }),
    ("a refresh token is its client's", |n| a_refresh_token_is_its_clients(n).boxed_local()),
    ("grants end when idle and at last", |n| grants_end_when_idle_and_at_last(n).boxed_local()),
    ("access tokens of a grant are bounded", |n| access_tokens_of_a_grant_are_bounded(n).boxed_local()),
    ("what can be taken can be revoked", |n| what_can_be_taken_can_be_revoked(n).boxed_local()),
    ("grants are listed and ended by owner", |n| grants_are_listed_and_ended_by_owner(n).boxed_local()),
    ("an end and a refresh do not miss each other", |n| {
        an_end_and_a_refresh_do_not_miss_each_other(n).boxed_local()
    }),
    ("sessions live while they are used", |n| sessions_live_while_they_are_used(n).boxed_local()),
    ("sessions end by subject", |n| sessions_end_by_subject(n).boxed_local()),
    ("consent is asked for the difference", |n| consent_is_asked_for_the_difference(n).boxed_local()),
    ("parallel consents add up", |n| parallel_consents_add_up(n).boxed_local()),
];

async fn run(make: impl Fn(usize) -> [Arc<dyn Store>; 2]) {
    let running = CASES.iter().enumerate().map(|(number, (name, case))| {
        let case = tokio::time::timeout(Duration::from_secs(60), case(make(number).map(Node::new)));
        AssertUnwindSafe(case).catch_unwind().map(move |result| match result {
            Ok(Ok(())) => None,
            Ok(Err(_)) => Some(format!("{name} (takes too long)")),
            Err(_) => Some((*name).to_owned()),
        })
    });
    let failed: Vec<String> = join_all(running).await.into_iter().flatten().collect();
    assert!(failed.is_empty(), "cases that do not hold: {failed:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_is_kept_embedded() {
    run(|_| {
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().expect("a store"));
        [store.clone(), store]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_is_kept_in_redis() {
    let server = RedisServer::start();
    run(|number| {
        let prefix = format!("state-{number}");
        [0, 1].map(|_| {
            let options = Options { prefix: prefix.clone(), ..Options::new(server.url().into()) };
            Arc::new(RedisStore::new(&options).expect("a good URL")) as Arc<dyn Store>
        })
    })
    .await;
}

/// What one node has of its own.
struct Node {
    store: Arc<dyn Store>,
    revocations: Arc<Revocations>,
}

impl Node {
    fn new(store: Arc<dyn Store>) -> Self {
        let revocations = Arc::new(Revocations::new(store.clone(), Arc::default()));
        Self { store, revocations }
    }

    fn grants(&self) -> Grants {
        self.grants_with(grants::Lifetimes::default())
    }

    fn grants_with(&self, lifetimes: grants::Lifetimes) -> Grants {
        Grants::new(self.store.clone(), self.revocations.clone(), lifetimes)
    }

    fn sessions(&self) -> Sessions {
        Sessions::new(self.store.clone(), sessions::Lifetimes::default())
    }

    async fn refuses(&self, issued: &Issued) -> bool {
        self.revocations.catch_up().await.expect("read");
        let expires_at = u64::try_from(issued.access.expires_at.as_second()).expect("after 1970");
        self.revocations.revoked().contains(Some(&issued.access.jti), expires_at)
    }
}

fn scopes(scopes: &[&str]) -> Scopes {
    scopes.iter().map(|&scope| scope.to_owned()).collect()
}

fn identity(subject: &str) -> Identity {
    Identity {
        subject: subject.into(),
        login: format!("login-{subject}"),
        name: Some("A Name".into()),
        emails: vec!["a@example.com".into()],
        memberships: Vec::new(),
    }
}

fn new_grant(subject: &str, client: &str) -> NewGrant {
    NewGrant {
        id: new_id(),
        subject: subject.into(),
        identity: Some(identity(subject)),
        client: Client { id: client.into(), snapshot: json!({ "client_name": "A Client" }) },
        resources: vec!["https://a.example".into(), "https://b.example".into()],
        scopes: scopes(&["mcp", "user"]),
        session: None,
        refreshable: true,
    }
}

fn authorization(grant: &str) -> Authorization {
    Authorization {
        grant: grant.into(),
        client_id: "c".into(),
        client: Value::Null,
        redirect_uri: "https://c.example/cb".into(),
        resources: vec!["https://a.example".into()],
        scopes: scopes(&["mcp"]),
        code_challenge: Challenge::parse(Some("E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"), Some("S256"))
            .expect("valid"),
        authenticated_at: Timestamp::UNIX_EPOCH,
        identity: identity("1"),
        session: Some("s".into()),
        nonce: Some("n".into()),
    }
}

const ALL: Wanted<'_> = Wanted { scopes: None, resources: &[] };

async fn create(grants: &Grants, new: NewGrant, now: Timestamp) -> (Issued, SecretString) {
    let mut issued = grants.create(new, ALL, now).await.expect("made");
    let refresh = issued.refresh.take().expect("refreshable");
    (issued, refresh)
}

async fn refresh(
    grants: &Grants,
    token: &SecretString,
    now: Timestamp,
) -> Result<(Issued, SecretString), grants::Error> {
    let mut issued = grants.refresh(token.expose_secret(), "c", ALL, now).await?;
    let refresh = issued.refresh.take().expect("rotated");
    Ok((issued, refresh))
}

fn later(now: Timestamp, seconds: u64) -> Timestamp {
    now.checked_add(Duration::from_secs(seconds)).expect("soon")
}

/// All that a store keeps of a kind, as text.
async fn kept(store: &dyn Store) -> String {
    let mut kept = String::new();
    for kind in portcullis_services::store::RecordKind::ALL {
        for record in store.list_records(kind, None, None, 100).await.expect("listed").records {
            kept.push_str(&record.key.id);
            kept.push_str(&String::from_utf8_lossy(&record.value));
        }
    }
    kept
}

async fn a_code_is_taken_once_on_all_nodes([one, two]: [Node; 2]) {
    let now = Timestamp::now();
    let wanted = authorization("g");
    let code = Codes::new(one.store.clone()).issue(wanted.clone(), now).await.expect("issued");
    assert!(!kept(&*one.store).await.contains(code.expose_secret()), "the store alone yields no code");
    let mut takers = JoinSet::new();
    for taker in 0..10 {
        let codes = Codes::new(if taker % 2 == 0 { one.store.clone() } else { two.store.clone() });
        let code = code.clone();
        takers.spawn(async move { codes.take(code.expose_secret(), now).await.expect("asked") });
    }
    let (first, rest): (Vec<_>, Vec<_>) =
        takers.join_all().await.into_iter().partition(|taken| matches!(taken, Taken::First(_)));
    assert_eq!(first, [Taken::First(Box::new(wanted))]);
    assert_eq!(rest.len(), 9);
    assert!(rest.iter().all(|taken| *taken == Taken::Replayed { grant: "g".into() }), "{rest:?}");
    let codes = Codes::new(two.store.clone());
    for unknown in ["", "x", &"A".repeat(43), &"A".repeat(1 << 16)] {
        assert_eq!(codes.take(unknown, now).await.expect("asked"), Taken::Unknown);
    }
    assert!(!kept(&*one.store).await.contains("a@example.com"), "what was taken is not kept");
}

async fn a_device_code_is_taken_once_on_all_nodes([one, two]: [Node; 2]) {
    let now = Timestamp::now();
    let request = devices::Request {
        client_id: "tv".into(),
        client: Value::Null,
        resources: vec!["https://a.example".into()],
        scopes: scopes(&["mcp"]),
    };
    let nodes = [&one, &two].map(|node| Devices::new(node.store.clone()));
    let codes = nodes[0].issue(request, now).await.expect("issued");
    let device_code = codes.device_code.expose_secret();
    let kept_of_it = kept(&*one.store).await;
    assert!(
        !kept_of_it.contains(device_code) && !kept_of_it.contains(&codes.user_code.shown().replace('-', ""))
    );
    let typed = UserCode::parse(&codes.user_code.shown()).expect("a code");
    let pending = nodes[1].find(&typed, now).await.expect("read").expect("it waits");
    let approval = Approval {
        identity: identity("1"),
        session: "s".into(),
        authenticated_at: now,
        scopes: scopes(&["mcp"]),
    };
    assert!(nodes[1].decide(&pending, Some(approval), now).await.expect("decided"));
    assert!(nodes[0].find(&typed, now).await.expect("read").is_none());
    let mut takers = JoinSet::new();
    for taker in 0..10 {
        let (devices, code) = (nodes[taker % 2].clone(), codes.device_code.clone());
        takers.spawn(async move {
            match devices.poll(code.expose_secret(), "tv", now).await.expect("asked") {
                Poll::Ready(ready) => devices.take(&ready, now).await.expect("asked"),
                // Somebody was faster.
                Poll::Unknown => false,
                other => panic!("{other:?}"),
            }
        });
    }
    assert_eq!(takers.join_all().await.into_iter().filter(|taken| *taken).count(), 1);
    assert!(!kept(&*one.store).await.contains("a@example.com"), "what was taken is not kept");
}

async fn a_code_that_is_presented_twice_ends_what_it_yielded([one, two]: [Node; 2]) {
    let now = Timestamp::now();
    // Both orders: the loser may come before the winner has made the grant.
    for winner_is_first in [true, false] {
        let new = new_grant("1", "c");
        let id = new.id.clone();
        let code = Codes::new(one.store.clone()).issue(authorization(&id), now).await.expect("issued");
        let take = async |node: &Node| {
            Codes::new(node.store.clone()).take(code.expose_secret(), now).await.expect("asked")
        };
        assert!(matches!(take(&one).await, Taken::First(_)));
        assert_eq!(take(&two).await, Taken::Replayed { grant: id.clone() });
        let grants = one.grants();
        if winner_is_first {
            let (issued, token) = create(&grants, new, now).await;
            two.grants().forbid(&id, now).await.expect("ended");
            assert!(one.refuses(&issued).await && two.refuses(&issued).await);
            let refused = refresh(&grants, &token, now).await.expect_err("ended");
            assert!(matches!(refused, grants::Error::Invalid), "{refused}");
        } else {
            two.grants().forbid(&id, now).await.expect("forbidden");
            let refused = grants.create(new, ALL, now).await.expect_err("forbidden");
            assert!(matches!(refused, grants::Error::Invalid), "{refused}");
        }
        assert_eq!(grants.get(&id, now).await.expect("read"), None);
        assert_eq!(grants.count(Filter::All).await.expect("counted"), 0);
        assert_eq!(grants.count_access(Filter::All).await.expect("counted"), 0);
    }
}

async fn a_code_that_comes_twice_at_once_yields_tokens_once([one, two]: [Node; 2]) {
    let now = Timestamp::now();
    for _ in 0..5 {
        let new = new_grant("1", "c");
        let code = Codes::new(one.store.clone()).issue(authorization(&new.id), now).await.expect("issued");
        let mut clients = JoinSet::new();
        for node in [&one, &two, &one, &two] {
            let (codes, grants, new, code) =
                (Codes::new(node.store.clone()), node.grants(), new.clone(), code.clone());
            clients.spawn(async move {
                match codes.find(code.expose_secret(), now).await.expect("asked") {
                    Presented::Fresh(fresh) => {
                        match grants.create_with(new, ALL, Some(fresh.used), now).await {
                            Ok(issued) => Some(issued),
                            Err(grants::Error::Taken) => None,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    Presented::Replayed { grant } => {
                        // There is something to end by now.
                        assert!(grants.get(&grant, now).await.expect("read").is_some());
                        None
                    }
                    Presented::Unknown => panic!("it was issued"),
                }
            });
        }
        let issued: Vec<_> = clients.join_all().await.into_iter().flatten().collect();
        assert_eq!(issued.len(), 1, "one of them wins");
        two.grants().forbid(&new.id, now).await.expect("ended");
        assert!(one.refuses(&issued[0]).await);
    }
    // Who may have nothing has not used the code.
    let new = NewGrant { session: Some("none".into()), ..new_grant("1", "c") };
    let codes = Codes::new(one.store.clone());
    let code = codes.issue(authorization(&new.id), now).await.expect("issued");
    let Presented::Fresh(fresh) = codes.find(code.expose_secret(), now).await.expect("asked") else {
        panic!("it is fresh")
    };
    let refused = one.grants().create_with(new, ALL, Some(fresh.used), now).await.expect_err("no session");
    assert!(matches!(refused, grants::Error::SessionEnded), "{refused}");
    assert!(matches!(codes.find(code.expose_secret(), now).await.expect("asked"), Presented::Fresh(_)));
}

async fn a_code_expires([one, two]: [Node; 2]) {
    let now = Timestamp::now();
    let codes = Codes::new(one.store.clone());
    let code = codes.issue(authorization("g"), now).await.expect("issued");
    let end = now.checked_add(codes::LIFETIME).expect("soon");
    let other = Codes::new(two.store.clone());
    assert_eq!(other.take(code.expose_secret(), end).await.expect("asked"), Taken::Unknown);
    let before = end.checked_sub(Duration::from_millis(1)).expect("soon");
    assert!(matches!(other.take(code.expose_secret(), before).await.expect("asked"), Taken::First(_)));
}

async fn a_grant_yields_what_was_agreed_to([one, two]: [Node; 2]) {
    let now = Timestamp::now();
    let new = new_grant("1", "c");
    let (issued, token) = create(&one.grants(), new.clone(), now).await;
    let Issued { grant, access, .. } = issued;
    assert_eq!((grant.id.as_str(), grant.scopes.clone()), (new.id.as_str(), new.scopes.clone()));
    assert_eq!((access.grant.as_str(), access.resources.clone()), (new.id.as_str(), new.resources.clone()));
    let claims = access.claims("https://auth.example", grant.identity.as_ref()).expect("valid");
    assert_eq!(
        (claims.sub.as_str(), claims.client_id.as_str(), claims.scope.as_str()),
        ("1", "c", "mcp user")
    );
    assert_eq!(
        (claims.aud, claims.jti, claims.exp - claims.iat),
        (new.resources.clone(), access.jti.clone(), 1800)
    );
    assert_eq!(
        (claims.username.as_deref(), claims.email.as_deref()),
        (Some("login-1"), Some("a@example.com"))
    );
    let other = two.grants();
    assert_eq!(other.get(&grant.id, now).await.expect("read"), Some(grant.clone()));
    assert_eq!(other.get_access(&access.jti, now).await.expect("read"), Some(access.clone()));
    assert_eq!(other.get_access(&access.jti, access.expires_at).await.expect("read"), None);
    assert_eq!(other.find_refresh(token.expose_secret(), now).await.expect("read"), Some(grant));
    let kept = kept(&*one.store).await;
    assert!(!kept.contains(&token.expose_secret()[30..]), "the store alone yields no token");

    let twice = other.create(new, ALL, now).await.expect_err("an id is used once");
    assert!(matches!(twice, grants::Error::Invalid), "{twice}");
    let nothing = NewGrant { resources: Vec::new(), ..new_grant("1", "c") };
    let nothing = other.create(nothing, ALL, now).await.expect_err("for nothing");
    assert!(matches!(nothing, grants::Error::Target), "{nothing}");
    let short = NewGrant { refreshable: false, ..new_grant("1", "c") };
    let short = other.create(short, ALL, now).await.expect("made");
    assert!(short.refresh.is_none());
    assert_eq!(other.get(&short.grant.id, later(now, 1800)).await.expect("read"), None);
}

async fn a_grant_needs_a_session_that_has_not_ended([one, two]: [Node; 2]) {
    let now = Timestamp::now();
    let (_, session) = one.sessions().create(identity("1"), now).await.expect("made");
    let in_session = || NewGrant { session: Some(session.id.clone()), ..new_grant("1", "c") };
    let (issued, token) = create(&one.grants(), in_session(), now).await;
    assert!(two.sessions().revoke(&session.id).await.expect("ended"));
    let late = one.grants().create(in_session(), ALL, now).await.expect_err("ended");
    assert!(matches!(late, grants::Error::SessionEnded), "{late}");
    let ended = two.grants().revoke_all(Filter::Session(&session.id), now).await.expect("ended");
    assert_eq!((ended.grants, ended.tokens), (1, 2));
    assert!(one.refuses(&issued).await);
    assert!(refresh(&one.grants(), &token, now).await.is_err());
}

async fn ten_parallel_refreshes_have_one_successor([one, two]: [Node; 2]) {
    let now = Timestamp::now();
    let (_, mut token) = create(&one.grants(), new_grant("1", "c"), now).await;
    for _ in 0..3 {
        let mut clients = JoinSet::new();
        for client in 0..10 {
            let grants = if client % 2 == 0 { one.grants() } else { two.grants() };
            let token = token.clone();
            clients.spawn(async move { refresh(&grants, &token, now).await.expect("refreshed") });
        }
        let all = clients.join_all().await;
        let successors: std::collections::HashSet<_> =
            all.iter().map(|(_, token)| token.expose_secret().to_owned()).collect();
        assert_eq!(successors.len(), 1, "all processes of a client go on with one token");
        let ids: std::collections::HashSet<_> =
            all.iter().map(|(issued, _)| issued.access.jti.clone()).collect();
        assert_eq!(ids.len(), 10);
        for (issued, _) in &all {
            assert!(!one.refuses(issued).await);
        }
        token = all[0].1.clone();
    }
    assert_eq!(one.grants().count(Filter::All).await.expect("counted"), 1, "one family is alive");
    assert_eq!(one.grants().count_access(Filter::Client("c")).await.expect("counted"), 31);
    refresh(&two.grants(), &token, later(now, 100)).await.expect("and it goes on");
}

async fn a_late_replay_ends_the_family_everywhere([one, two]: [Node; 2]) {
    let now = Timestamp::now();
    let (first, token) = create(&one.grants(), new_grant("1", "c"), now).await;
    let (second, successor) = refresh(&one.grants(), &token, now).await.expect("refreshed");
    let (third, again) = refresh(&two.grants(), &token, later(now, 30)).await.expect("within the window");
    assert_eq!(again.expose_secret(), successor.expose_secret());
    let replayed = refresh(&two.grants(), &token, later(now, 31)).await.expect_err("after the window");
    assert!(matches!(&replayed, grants::Error::Replayed { grant } if *grant == first.grant.id), "{replayed}");
    for issued in [&first, &second, &third] {
        assert!(two.refuses(issued).await, "the node that notices refuses at once");
        assert!(one.refuses(issued).await, "the other one when it reads next");
    }
    for token in [&token, &successor] {
        let refused = refresh(&one.grants(), token, later(now, 31)).await.expect_err("ended");
        assert!(matches!(refused, grants::Error::Invalid), "{refused}");
    }
}

async fn without_a_window_a_token_is_good_once([one, two]: [Node; 2]) {
    let now = Timestamp::now();
    let lifetimes = grants::Lifetimes { window: Duration::ZERO, ..grants::Lifetimes::default() };
    let (one, two) = (one.grants_with(lifetimes), two.grants_with(lifetimes));
    let (_, token) = create(&one, new_grant("1", "c"), now).await;
    let (_, successor) = refresh(&one, &token, now).await.expect("refreshed");
    let replayed = refresh(&two, &token, now).await.expect_err("used");
    assert!(matches!(replayed, grants::Error::Replayed { .. }), "{replayed}");
    assert!(refresh(&two, &successor, now).await.is_err());
}

async fn an_ancestor_of_long_ago_ends_the_family([one, _]: [Node; 2]) {
    let mut now = Timestamp::now();
    let grants = one.grants();
    let (_, first) = create(&grants, new_grant("1", "c"), now).await;
    let mut token = first.clone();
    for _ in 0..20 {
        now = later(now, 3600);
        token = refresh(&grants, &token, now).await.expect("refreshed").1;
    }
    // Whoever has no token of the family can't end it.
    let forged = format!("{}{}", &token.expose_secret()[..30], "A".repeat(60));
    let refused = grants.refresh(&forged, "c", ALL, now).await.expect_err("forged");
    assert!(matches!(refused, grants::Error::Invalid), "{refused}");
    token = refresh(&grants, &token, now).await.expect("unharmed").1;
    let replayed = refresh(&grants, &first, now).await.expect_err("used");
    assert!(matches!(replayed, grants::Error::Replayed { .. }), "{replayed}");
    assert!(refresh(&grants, &token, now).await.is_err());
    // Several rotations within the window: each token before still leads to the newest one.
    let (_, first) = create(&grants, new_grant("1", "c"), now).await;
    let second = refresh(&grants, &first, now).await.expect("refreshed").1;
    let third = refresh(&grants, &second, now).await.expect("refreshed").1;
    let again = refresh(&grants, &first, later(now, 5)).await.expect("within the window").1;
    assert_eq!(again.expose_secret(), second.expose_secret());
    refresh(&grants, &third, later(now, 5)).await.expect("refreshed");
}

async fn a_refresh_narrows_the_token_not_the_grant([one, two]: [Node; 2]) {
    let now = Timestamp::now();
    let (_, token) = create(&one.grants(), new_grant("1", "c"), now).await;
    let grants = two.grants();
    let (mcp, admin) = (scopes(&["mcp"]), scopes(&["mcp", "admin"]));
    let a = ["https://a.example".to_owned()];
    let c = ["https://a.example".to_owned(), "https://c.example".to_owned()];
    let more = Wanted { scopes: Some(&admin), resources: &[] };
    let refused = grants.refresh(token.expose_secret(), "c", more, now).await.expect_err("too much");
    assert!(matches!(refused, grants::Error::Scope), "{refused}");
    let more = Wanted { scopes: None, resources: &c };
    let refused = grants.refresh(token.expose_secret(), "c", more, now).await.expect_err("too much");
    assert!(matches!(refused, grants::Error::Target), "{refused}");
    let wanted = Wanted { scopes: Some(&mcp), resources: &a };
    let narrow = grants.refresh(token.expose_secret(), "c", wanted, now).await.expect("not rotated before");
    assert_eq!((&narrow.access.scopes, &narrow.access.resources[..]), (&mcp, &a[..]));
    let next = narrow.refresh.expect("rotated");
    let (wide, _) = refresh(&grants, &next, now).await.expect("refreshed");
    assert_eq!((wide.access.scopes, wide.access.resources.len()), (scopes(&["mcp", "user"]), 2));
}

async fn a_refresh_token_is_its_clients([one, two]: [Node; 2]) {
    let now = Timestamp::now();
    let (issued, token) = create(&one.grants(), new_grant("1", "c"), now).await;
    let grants = two.grants();
    let text = token.expose_secret();
    for client in ["", "C", "other"] {
        let refused = grants.refresh(text, client, ALL, now).await.expect_err("another client");
        assert!(matches!(refused, grants::Error::Invalid), "{refused}");
        assert!(!grants.revoke_refresh(text, client, now).await.expect("asked"));
    }
    let (_, next) = refresh(&grants, &token, now).await.expect("unharmed");
    assert!(grants.find_refresh(text, now).await.expect("asked").is_none(), "rotated: not active");
    assert!(grants.revoke_refresh(next.expose_secret(), "c", now).await.expect("ended"));
    assert!(!grants.revoke_refresh(next.expose_secret(), "c", now).await.expect("asked"));
    assert!(one.refuses(&issued).await, "RFC 7009: access tokens go along");
    for unknown in ["", "pcr_", "pcr_x", &"x".repeat(1 << 16)] {
        assert!(grants.refresh(unknown, "c", ALL, now).await.is_err());
        assert!(!grants.revoke_refresh(unknown, "c", now).await.expect("asked"));
    }
}

async fn grants_end_when_idle_and_at_last([one, _]: [Node; 2]) {
    let now = Timestamp::now();
    let lifetimes = grants::Lifetimes {
        idle: Duration::from_secs(7200),
        absolute: Duration::from_secs(10_000),
        ..grants::Lifetimes::default()
    };
    let grants = one.grants_with(lifetimes);
    let (_, idle) = create(&grants, new_grant("1", "c"), now).await;
    assert!(refresh(&grants, &idle, later(now, 7200)).await.is_err());
    let (_, used) = create(&grants, new_grant("1", "c"), now).await;
    let (_, used) = refresh(&grants, &used, later(now, 7199)).await.expect("in time");
    let (last, used) = refresh(&grants, &used, later(now, 9999)).await.expect("in time");
    assert!(last.access.expires_at <= last.grant.expires_at, "no token outlives its grant");
    assert!(refresh(&grants, &used, later(now, 10_000)).await.is_err());
    assert!(grants.find_refresh(used.expose_secret(), later(now, 10_000)).await.expect("read").is_none());
}

async fn access_tokens_of_a_grant_are_bounded([one, two]: [Node; 2]) {
    let now = Timestamp::now();
    let grants = one.grants();
    let (first, mut token) = create(&grants, new_grant("1", "c"), now).await;
    for _ in 0..63 {
        token = refresh(&grants, &token, now).await.expect("refreshed").1;
    }
    let of_grant = Filter::Grant(&first.grant.id);
    assert_eq!(grants.count_access(of_grant).await.expect("counted"), 64);
    let refused = refresh(&two.grants(), &token, now).await.expect_err("too many");
    let grants::Error::Full { retry_after } = refused else { panic!("{refused}") };
    assert!(retry_after > Duration::from_secs(1700) && retry_after < Duration::from_secs(2000));
    assert!(!two.refuses(&first).await, "nothing is revoked to make room");
    assert_eq!(one.revocations.revoked().len(), 0);
    // To revoke them makes no room either, or the list of revocations could be filled that way.
    grants.revoke_access(&first.access.jti, first.access.expires_at).await.expect("revoked");
    assert!(two.refuses(&first).await);
    assert_eq!(grants.get_access(&first.access.jti, now).await.expect("read"), None);
    assert_eq!(grants.count_access(of_grant).await.expect("counted"), 63);
    assert_eq!(grants.count_access(Filter::All).await.expect("counted"), 63);
    let refused = refresh(&grants, &token, now).await.expect_err("still too many");
    assert!(matches!(refused, grants::Error::Full { .. }), "{refused}");
    // The token was not rotated: it is the current one.
    assert!(two.grants().find_refresh(token.expose_secret(), now).await.expect("read").is_some());
    grants.revoke(&first.grant.id, now).await.expect("ended");
    assert_eq!(one.revocations.revoked().len(), 64);
    assert_eq!(grants.count_access(Filter::All).await.expect("counted"), 0);
}

async fn what_can_be_taken_can_be_revoked([one, two]: [Node; 2]) {
    let now = Timestamp::now();
    let new = NewGrant { refreshable: false, ..new_grant("1", "c") };
    let issued = one.grants().create(new, ALL, now).await.expect("made");
    let leeway = 60_000;
    let ends = u64::try_from(issued.access.expires_at.as_millisecond()).expect("after 1970");
    for key in [
        RecordKey::new(RecordKind::Access, &issued.access.jti),
        RecordKey::new(RecordKind::Grant, &issued.grant.id),
    ] {
        let record = one.store.get_record(&key).await.expect("read").expect("it is there");
        assert!(record.until.expect("it ends") >= ends + leeway, "{key}");
    }
    let late = later(now, 1830);
    assert_eq!(two.grants().get(&issued.grant.id, late).await.expect("read"), None, "it has ended");
    assert!(two.grants().revoke(&issued.grant.id, late).await.expect("ended"));
    assert!(one.refuses(&issued).await);
}

async fn grants_are_listed_and_ended_by_owner([one, two]: [Node; 2]) {
    let now = Timestamp::now();
    let grants = one.grants();
    let mut made = Vec::new();
    for n in 0..12 {
        let new = new_grant(if n % 2 == 0 { "even" } else { "odd" }, if n % 3 == 0 { "c3" } else { "c" });
        made.push(create(&grants, new, now).await.0);
    }
    let other = two.grants();
    let mut after = None;
    let mut seen = Vec::new();
    loop {
        let page = other.list(Filter::Subject("even"), after, 4).await.expect("listed");
        seen.extend(page.items.into_iter().map(|grant| grant.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let expected = made.iter().rev().map(|issued| &issued.grant).filter(|grant| grant.subject == "even");
    assert_eq!(seen, expected.map(|grant| grant.id.clone()).collect::<Vec<_>>());
    assert_eq!(other.list_access(Filter::Client("c3"), None, 100).await.expect("listed").items.len(), 4);
    assert_eq!(other.count(Filter::Resource("https://a.example")).await.expect("counted"), 12);

    assert_eq!(other.revoke_all(Filter::Client("c3"), now).await.expect("ended").grants, 4);
    assert_eq!(other.revoke_all(Filter::Client("c3"), now).await.expect("asked"), grants::Ended::default());
    assert_eq!(other.revoke_all(Filter::Subject("odd"), now).await.expect("ended").grants, 4);
    assert_eq!(grants.count(Filter::All).await.expect("counted"), 4);
    assert_eq!(grants.list(Filter::All, None, 100).await.expect("listed").items.len(), 4);
    for issued in &made {
        let ended = issued.grant.client.id == "c3" || issued.grant.subject == "odd";
        assert_eq!(one.refuses(issued).await, ended);
        assert_eq!(grants.get(&issued.grant.id, now).await.expect("read").is_none(), ended);
    }
    let left = made.iter().find(|issued| issued.grant.client.id == "c" && issued.grant.subject == "even");
    let left = left.expect("some are left");
    other.revoke_access(&left.access.jti, left.access.expires_at).await.expect("revoked");
    assert!(one.refuses(left).await);
    assert!(grants.get(&left.grant.id, now).await.expect("read").is_some(), "the grant goes on");
    assert!(grants.revoke(&left.grant.id, now).await.expect("ended"));
    assert!(!grants.revoke(&left.grant.id, now).await.expect("asked"));
    assert!(!grants.revoke("unknown", now).await.expect("asked"));
}

async fn an_end_and_a_refresh_do_not_miss_each_other([one, two]: [Node; 2]) {
    let now = Timestamp::now();
    for _ in 0..5 {
        let (first, token) = create(&one.grants(), new_grant("1", "c"), now).await;
        let mut clients = JoinSet::new();
        for _ in 0..6 {
            let (grants, token) = (one.grants(), token.clone());
            clients.spawn(async move { refresh(&grants, &token, now).await });
        }
        assert!(two.grants().revoke(&first.grant.id, now).await.expect("ended"));
        let issued: Vec<_> = clients.join_all().await.into_iter().flatten().collect();
        for (issued, _) in &issued {
            assert!(one.refuses(issued).await, "what was issued before the end has ended with it");
        }
        assert_eq!(one.grants().count_access(Filter::All).await.expect("counted"), 0);
    }
}

async fn sessions_live_while_they_are_used([one, two]: [Node; 2]) {
    let now = Timestamp::now();
    let hours = |hours: u64| later(now, hours * 3600);
    let sessions = one.sessions();
    let (secret, session) = sessions.create(identity("1"), now).await.expect("made");
    let cookie = secret.expose_secret();
    assert!(!kept(&*one.store).await.contains(cookie), "the store alone opens no session");
    assert_ne!(cookie, session.id);
    let other = two.sessions();
    assert_eq!(other.find(cookie, now).await.expect("read"), Some(session.clone()));
    assert_eq!(other.find(&session.id, now).await.expect("read"), None, "an id opens nothing");
    for unknown in ["", "x", &"A".repeat(43)] {
        assert_eq!(other.find(unknown, now).await.expect("read"), None);
    }
    assert_eq!(other.find(cookie, hours(24)).await.expect("read"), None, "not used for a day");
    for hour in (23..720).step_by(23) {
        let found = sessions.find(cookie, hours(hour)).await.expect("read").expect("used in time");
        assert_eq!((found.seen_at, found.created_at), (hours(hour), session.created_at));
    }
    assert_eq!(sessions.find(cookie, hours(720)).await.expect("read"), None, "a month has passed");
    assert_eq!(sessions.get(&session.id, hours(720)).await.expect("read"), None);
}

async fn sessions_end_by_subject([one, two]: [Node; 2]) {
    let now = Timestamp::now();
    let (one, two) = (one.sessions(), two.sessions());
    let mut cookies = Vec::new();
    for subject in ["1", "2", "1", "1"] {
        cookies.push((subject, one.create(identity(subject), now).await.expect("made")));
    }
    let listed = two.list(Filter::Subject("1"), None, 2).await.expect("listed");
    assert_eq!(listed.items, [cookies[3].1.1.clone(), cookies[2].1.1.clone()]);
    assert!(listed.next.is_some());
    assert_eq!(two.count(Filter::All).await.expect("counted"), 4);
    let (_, (secret, session)) = &cookies[0];
    assert!(two.revoke(&session.id).await.expect("ended"));
    assert!(!two.revoke(&session.id).await.expect("asked"));
    assert_eq!(one.find(secret.expose_secret(), now).await.expect("read"), None);
    let mut ended = two.revoke_subject("1").await.expect("ended");
    ended.sort_unstable();
    let mut expected = [cookies[2].1.1.id.clone(), cookies[3].1.1.id.clone()];
    expected.sort_unstable();
    assert_eq!(ended, expected);
    for (subject, (secret, _)) in &cookies {
        let found = one.find(secret.expose_secret(), now).await.expect("read");
        assert_eq!(found.is_some(), *subject == "2");
    }
}

async fn consent_is_asked_for_the_difference([one, two]: [Node; 2]) {
    let now = Timestamp::now();
    let (one, two) = (Consents::new(one.store), Consents::new(two.store));
    let (a, ab) = (["https://a".to_owned()], ["https://a".to_owned(), "https://b".to_owned()]);
    let (mcp, both) = (scopes(&["mcp"]), scopes(&["mcp", "user"]));
    let request = consents::Request {
        subject: "1",
        client_id: "c",
        redirect_host: "c.example",
        resources: &a,
        scopes: &mcp,
        memorable: true,
    };
    let missing = |resource: &str, names: &[&str], first| Missing {
        resource: resource.into(),
        scopes: scopes(names),
        first,
    };
    assert_eq!(one.missing(&request, now).await.expect("read"), [missing("https://a", &["mcp"], true)]);
    one.remember(&request, now).await.expect("stored");
    assert_eq!(two.missing(&request, now).await.expect("read"), []);
    let more = consents::Request { resources: &ab, scopes: &both, ..request };
    assert_eq!(
        two.missing(&more, now).await.expect("read"),
        [missing("https://a", &["user"], false), missing("https://b", &["mcp", "user"], true)]
    );
    let none = Scopes::new();
    let others = [
        consents::Request { subject: "2", ..request },
        consents::Request { client_id: "d", ..request },
        consents::Request { redirect_host: "d.example", ..request },
        consents::Request { memorable: false, ..request },
        consents::Request { resources: &[], ..request },
        consents::Request { resources: &ab[1..], scopes: &none, ..request },
    ];
    for other in &others {
        assert_eq!(two.missing(other, now).await.expect("read").len(), 1, "{other:?} was never agreed to");
    }
    // Any local program can say that it is this client, so its consent does not hold.
    let local = consents::Request { client_id: "local", memorable: false, ..request };
    one.remember(&local, now).await.expect("ignored");
    assert_eq!(
        one.missing(&consents::Request { memorable: true, ..local }, now).await.expect("read").len(),
        1
    );

    two.remember(&more, later(now, 5)).await.expect("stored");
    assert_eq!(one.missing(&more, now).await.expect("read"), []);
    let end = now.checked_add(consents::LIFETIME).expect("soon");
    assert_eq!(one.missing(&more, end).await.expect("read"), [], "confirmed 5 s later");
    assert_eq!(one.missing(&more, later(end, 5)).await.expect("read").len(), 2, "it has ended");
    assert_eq!(one.missing(&request, now).await.expect("read"), [], "less than before needs no question");
    let listed = one.list(Filter::Subject("1"), None, 9).await.expect("listed").items;
    assert_eq!(
        listed.iter().map(|consent| consent.resource.as_str()).collect::<Vec<_>>(),
        ["https://b", "https://a"]
    );
    assert_eq!((listed[1].created_at, listed[1].updated_at), (now, later(now, 5)));
    let second = consents::Request { client_id: "d", ..request };
    two.remember(&second, now).await.expect("stored");
    assert_eq!(one.forget_client("1", "c").await.expect("forgotten"), 2);
    assert_eq!(two.missing(&request, now).await.expect("read").len(), 1);
    assert_eq!(two.missing(&second, now).await.expect("read"), []);
    assert_eq!(one.forget_all(Filter::Client("d")).await.expect("forgotten"), 1);
    assert_eq!(two.missing(&second, now).await.expect("read").len(), 1);
}

async fn parallel_consents_add_up([one, two]: [Node; 2]) {
    let now = Timestamp::now();
    let mut windows = JoinSet::new();
    let names = ["a", "b", "c", "d", "e", "f"];
    for (n, name) in names.into_iter().enumerate() {
        let consents = Consents::new(if n % 2 == 0 { one.store.clone() } else { two.store.clone() });
        windows.spawn(async move {
            let (resources, scopes) = (["https://a".to_owned()], scopes(&[name]));
            let request = consents::Request {
                subject: "1",
                client_id: "c",
                redirect_host: "c.example",
                resources: &resources,
                scopes: &scopes,
                memorable: true,
            };
            consents.remember(&request, now).await.expect("stored");
        });
    }
    windows.join_all().await;
    let listed = Consents::new(one.store).list(Filter::All, None, 9).await.expect("listed").items;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].scopes, scopes(&names));
}
