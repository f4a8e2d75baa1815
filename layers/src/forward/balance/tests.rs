use std::time::Duration;

use http::HeaderName;

use super::*;
use crate::deadline::Ticker;
use crate::forward::{ForwardError, PoolSettings, Tunnels};

const HOUR: Duration = Duration::from_secs(3600);

fn client() -> Client {
    Client::new(1, Ticker::new(1), Tunnels::new(1), PoolSettings::default())
}

/// A balance over `http://a:1`, `http://a:2` and so on, and what holds their state.
struct Site {
    client: Client,
    target: Target,
    endpoints: Vec<Arc<Endpoint>>,
    balance: Box<Balance>,
}

impl Site {
    fn with(client: &Client, weights: &[u16], balancing: Balancing) -> Self {
        let mut target = Target::new("http://a:1".parse().expect("valid"));
        target.upstreams = (1..)
            .zip(weights)
            .map(|(port, weight)| {
                let upstream = format!("http://a:{port}").parse().expect("valid");
                crate::forward::Upstream { weight: *weight, ..upstream }
            })
            .collect();
        target.balancing = balancing;
        let endpoints = target.upstreams.iter().map(|one| client.endpoint(one).expect("no TLS"));
        let endpoints: Vec<_> = endpoints.collect();
        let balance = Balance::of(client, &target, &endpoints).expect("there is something to balance");
        Self { client: client.clone(), target, endpoints, balance }
    }

    fn new(weights: &[u16], balancing: Balancing) -> Self {
        Self::with(&client(), weights, balancing)
    }

    fn pick(&self) -> Option<usize> {
        self.balance.pick(&self.target.balancing, None, &[])
    }

    /// How often each is picked.
    fn shares(&self, count: usize) -> Vec<usize> {
        let mut shares = vec![0; self.endpoints.len()];
        (0..count).filter_map(|_| self.pick()).for_each(|index| shares[index] += 1);
        shares
    }

    fn fail(&self, index: usize, times: usize) {
        let error = ForwardError::Unsent { upstream: "http://a:1".into() };
        (0..times).for_each(|_| self.balance.failed(&self.target.balancing, index, &error));
    }

    fn state(&self, index: usize) -> UpstreamState {
        let check = self.target.balancing.check.as_ref();
        let status = self.client.upstream_status(&self.target.upstreams[index], check);
        status.expect("it is there").state
    }
}

fn round_robin() -> Balancing {
    Balancing { policy: Policy::RoundRobin, observed: true, ..Balancing::default() }
}

fn ejecting() -> Balancing {
    let passive = PassiveHealth {
        consecutive_failures: 3,
        ejection: Duration::from_secs(10),
        max_ejection: Duration::from_secs(25),
        ..PassiveHealth::default()
    };
    Balancing { passive: Some(passive), ..round_robin() }
}

#[tokio::test(start_paused = true)]
async fn a_list_is_asked_from_its_begin_and_a_weight_of_0_takes_nothing() {
    let site = Site::new(&[0, 1, 1], Balancing::default());
    assert_eq!(site.shares(10), [0, 10, 0]);
    site.endpoints[1].health.avoid();
    assert_eq!(site.shares(10), [0, 0, 10], "it could not be connected to");
    site.endpoints[2].health.avoid();
    assert_eq!(site.shares(10), [0, 10, 0], "neither could, so the order counts");
    tokio::time::advance(Duration::from_secs(6)).await;
    assert_eq!(site.shares(10), [0, 9, 1], "each is tried once, then the order counts");
    assert_eq!(Site::new(&[3, 0, 1], round_robin()).shares(40), [30, 0, 10]);
}

#[tokio::test(start_paused = true)]
async fn one_request_at_a_time_tries_whom_nobody_could_connect_to() {
    let site = Site::new(&[1, 1, 1], round_robin());
    site.endpoints[0].health.avoid();
    assert_eq!(site.shares(30), [0, 15, 15]);
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(site.shares(30)[0], 1);
    }
    site.endpoints[0].health.connected();
    assert!(site.shares(30)[0] >= 10);
}

#[tokio::test(start_paused = true)]
async fn the_one_with_the_fewest_requests_is_next() {
    let balancing = Balancing { policy: Policy::LeastConnections, ..Balancing::default() };
    let site = Site::new(&[1, 1, 2], balancing);
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(site.balance.begin(site.pick().expect("one of them")));
    }
    let in_flight = |at: usize| site.endpoints[at].health.in_flight();
    assert_eq!([0, 1, 2].map(in_flight), [10, 10, 20]);
    drop(held);
    assert_eq!([0, 1, 2].map(in_flight), [0, 0, 0]);
    let _busy: Vec<_> = (0..5).map(|_| site.balance.begin(2)).collect();
    assert_eq!(site.shares(10), [5, 5, 0]);
}

#[tokio::test(start_paused = true)]
async fn what_is_alike_goes_to_the_same_upstream_while_it_is_well() {
    let on = HashOn::Header(HeaderName::from_static("x-tenant"));
    let balancing = Balancing { policy: Policy::Hash(on), ..ejecting() };
    let site = Site::new(&[1, 1, 1], balancing);
    let balancing = &site.target.balancing;
    let key = |tenant: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("x-tenant", tenant.parse().expect("valid"));
        balancing.policy.key(&RequestContext::default(), &headers)
    };
    let homes = || -> Vec<_> {
        (0..300).map(|tenant| site.balance.pick(balancing, key(&format!("t{tenant}")), &[])).collect()
    };
    let before = homes();
    assert_eq!(before, homes());
    site.fail(1, 3);
    for (before, after) in before.iter().zip(homes()) {
        assert!(after != Some(1) && (*before == Some(1) || *before == after));
    }
    tokio::time::advance(Duration::from_millis(10_010)).await;
    assert_eq!(before, homes(), "it is back, and has its own again");
    assert_eq!(balancing.policy.key(&RequestContext::default(), &HeaderMap::new()), None);
    assert_eq!(site.shares(30), [10, 10, 10], "what has no key is spread");

    let on_cookie = Policy::Hash(HashOn::Cookie("sid".into()));
    let mut headers = HeaderMap::new();
    headers.insert("cookie", "a=b; sid=42".parse().expect("valid"));
    assert!(on_cookie.key(&RequestContext::default(), &headers).is_some());
    let on_client = Policy::Hash(HashOn::Client);
    let of = |address: &str| {
        let client = Some(crate::context::ClientAddr(address.parse().expect("valid")));
        on_client.key(&RequestContext { client, ..RequestContext::default() }, &HeaderMap::new())
    };
    assert_eq!(of("192.0.2.1:1"), of("192.0.2.1:2"));
    assert_ne!(of("192.0.2.1:1"), of("192.0.2.2:1"));
}

#[tokio::test(start_paused = true)]
async fn the_share_of_one_that_was_added_grows() {
    let client = client();
    let balancing = Balancing { slow_start: Duration::from_secs(100), ..round_robin() };
    let one =
        Site::with(&client, &[1], Balancing { check: Some(HealthCheck::default()), ..balancing.clone() });
    tokio::time::advance(HOUR).await;
    let both = Site::with(&client, &[1, 1], balancing);
    let share = |both: &Site| both.shares(1100)[1];
    assert!(share(&both).abs_diff(100) <= 2, "a tenth of the other's");
    tokio::time::advance(Duration::from_secs(50)).await;
    assert!(share(&both).abs_diff(366) <= 5, "half of the other's");
    tokio::time::advance(Duration::from_secs(50)).await;
    assert!(share(&both).abs_diff(550) <= 5);
    drop(one);
}

#[tokio::test(start_paused = true)]
async fn failures_in_a_row_eject_for_longer_each_time() {
    let site = Site::new(&[1, 1, 1], ejecting());
    site.fail(0, 2);
    site.balance.answered(&site.target.balancing, 0, 200);
    site.fail(0, 2);
    assert_eq!(site.shares(30), [10, 10, 10], "not in a row");
    for seconds in [10, 20, 25, 25] {
        site.fail(0, 3);
        assert_eq!((site.state(0), site.shares(20)), (UpstreamState::Ejected, vec![0, 10, 10]));
        tokio::time::advance(Duration::from_millis(seconds * 1000 - 10)).await;
        assert_eq!(site.shares(20)[0], 0, "{seconds} are not over");
        tokio::time::advance(Duration::from_millis(20)).await;
        assert_eq!(site.shares(30)[0], 10, "after {seconds}");
        assert_ne!(site.state(0), UpstreamState::Ejected);
    }
    // After a good time it begins anew.
    tokio::time::advance(Duration::from_secs(26)).await;
    site.fail(0, 3);
    tokio::time::advance(Duration::from_millis(10_010)).await;
    assert_eq!(site.shares(30), [10, 10, 10]);
    let status = site.client.upstream_status(&site.target.upstreams[0], None).expect("it is there");
    assert_eq!(status.counts.map(|counts| counts.ejections), Some(5));
}

#[tokio::test(start_paused = true)]
async fn only_a_share_of_them_is_ejected_and_a_single_one_never() {
    let site = Site::new(&[1, 1, 1, 1], ejecting());
    (0..4).for_each(|index| site.fail(index, 10));
    assert_eq!(site.shares(20), [0, 0, 10, 10]);
    let passive = PassiveHealth { max_percent: 0, ..ejecting().passive.expect("set") };
    let site = Site::new(&[1, 1, 0], Balancing { passive: Some(passive), ..round_robin() });
    (0..3).for_each(|index| site.fail(index, 10));
    assert_eq!(site.shares(20), [0, 20, 0], "one may always be");
    let alone = Site::new(&[1], Balancing { check: Some(HealthCheck::default()), ..ejecting() });
    alone.fail(0, 10);
    assert_eq!((alone.shares(5), alone.state(0)), (vec![5], UpstreamState::Unknown));
}

#[tokio::test(start_paused = true)]
async fn when_all_are_bad_all_are_asked() {
    let passive = PassiveHealth { max_percent: 100, ..ejecting().passive.expect("set") };
    let site = Site::new(&[1, 1], Balancing { passive: Some(passive), ..round_robin() });
    (0..2).for_each(|index| site.fail(index, 3));
    assert_eq!((site.state(0), site.state(1)), (UpstreamState::Ejected, UpstreamState::Ejected));
    assert_eq!(site.shares(20), [10, 10]);
    // Who is asked in spite of that is not ejected for longer.
    site.fail(0, 3);
    tokio::time::advance(Duration::from_millis(10_010)).await;
    assert_eq!(site.shares(20), [10, 10]);
    assert_ne!(site.state(0), UpstreamState::Ejected);
}

#[tokio::test(start_paused = true)]
async fn what_is_known_outlives_a_reload() {
    let client = client();
    let before = Site::with(&client, &[1, 1], ejecting());
    before.fail(0, 3);
    let _on_its_way = before.balance.begin(1);
    let other = Balancing { policy: Policy::LeastConnections, ..ejecting() };
    let after = Site::with(&client, &[2, 1, 1], other);
    drop(before);
    assert_eq!(after.state(0), UpstreamState::Ejected);
    assert_eq!(after.endpoints[1].health.in_flight(), 1);
    assert_eq!(after.shares(4)[0], 0);
}

#[tokio::test(start_paused = true)]
async fn retries_are_bounded_when_nobody_answers() {
    let retries = Retries { attempts: Some(1), percent: 20, per_second: 0, ..Retries::default() };
    let site = Site::new(&[1, 1], Balancing { retries, ..round_robin() });
    let mut sent = 0;
    for _ in 0..1000 {
        site.balance.request();
        let first = site.pick().expect("one of them");
        let next =
            site.balance.elsewhere(&site.client, &site.target.balancing, None, &[first], Reason::Unsent);
        assert_ne!(next, Some(first));
        sent += u64::from(next.is_some());
    }
    assert!((190..=200).contains(&sent), "{sent} of 1000");
    assert_eq!((site.client.retries().sent(), site.client.retries().refused()), (sent, 1000 - sent));
    let again = |tried: &[usize], reason| {
        site.balance.elsewhere(&site.client, &Balancing::default(), None, tried, reason)
    };
    assert_eq!(again(&[0, 1], Reason::Unsent), None, "there is nobody left");
}
