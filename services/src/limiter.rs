//! How often one network may do what costs us or others something: logins, device codes, failed tokens; and how
//! often one browser session may.
//!
//! Counted on each node, in a fixed number of places that networks share by a keyed hash: memory is bounded,
//! and nobody can choose whom they share a place with. Limits that all nodes share are where things are stored.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;

use crate::network;

/// Networks that are told apart at a time.
const PLACES: usize = 8192;

/// What one of a site's networks takes of the site's place: a /48 has a limit four times as large, so that who has
/// all of its 256 networks has not 256 limits.
const OF_SITE: f64 = 0.25;

/// A limit of each network, and one of all of them: what is begun is kept for a while, and must not fill the store. While
/// there is too much, each network may still do a little, so that a few thousand can't keep everybody out.
#[derive(Debug)]
pub(crate) struct Crowd {
    own: Limiter,
    all: Limiter,
    share: Limiter,
}

impl Crowd {
    /// Allows `own` to each network in each `window`, and `share` where all together have more than `all`.
    pub(crate) fn new(own: u32, all: u32, share: u32, window: Duration) -> Self {
        let limiter = |burst| Limiter::new(burst, window);
        Self { own: limiter(own), all: limiter(all), share: limiter(share) }
    }

    /// Counts one more.
    ///
    /// # Errors
    ///
    /// How long to wait, when it is one too many.
    pub(crate) fn count(&self, client: Option<IpAddr>, now: Timestamp) -> Result<(), Duration> {
        self.own.count(client, now)?;
        match self.all.count_name("", now) {
            Ok(()) => Ok(()),
            Err(_) => self.share.count(client, now),
        }
    }
}

/// A limit: so many at once, and so many more in each window.
#[derive(Debug)]
pub(crate) struct Limiter {
    hasher: RandomState,
    burst: f64,
    per_second: f64,
    // What is left, and when that was true, in seconds.
    places: Mutex<Vec<(f64, f64)>>,
}

impl Limiter {
    /// Allows `burst` at once, and as many again in each `window`.
    pub(crate) fn new(burst: u32, window: Duration) -> Self {
        let burst = f64::from(burst);
        Self {
            hasher: RandomState::new(),
            burst,
            per_second: burst / window.as_secs_f64(),
            places: Mutex::new(vec![(burst, f64::MIN); PLACES]),
        }
    }

    /// Counts one more.
    ///
    /// # Errors
    ///
    /// How long to wait, when it is one too many.
    pub(crate) fn count(&self, client: Option<IpAddr>, now: Timestamp) -> Result<(), Duration> {
        self.take_all(&self.places_of(client), now, 1.0)
    }

    /// Counts one more of something with a name, as a browser session, whatever network it is in.
    ///
    /// # Errors
    ///
    /// How long to wait, when it is one too many.
    pub(crate) fn count_name(&self, name: &str, now: Timestamp) -> Result<(), Duration> {
        self.take(name, now, 1.0)
    }

    /// Counts one more of a client in a network: many users of one provider share its addresses.
    ///
    /// # Errors
    ///
    /// How long to wait, when it is one too many.
    pub(crate) fn count_client(
        &self,
        address: Option<IpAddr>,
        client_id: &str,
        now: Timestamp,
    ) -> Result<(), Duration> {
        self.take((network(address), client_id), now, 1.0)
    }

    /// Takes back what was counted before it was known to cost nothing.
    pub(crate) fn forgive(&self, client: Option<IpAddr>, session: &str) {
        self.give_back(self.places_of(client).into_iter().chain([(self.place(session), 1.0)]));
    }

    /// The same where it was counted of the network only.
    pub(crate) fn forgive_network(&self, client: Option<IpAddr>) {
        self.give_back(self.places_of(client).into_iter());
    }

    fn give_back(&self, counted: impl Iterator<Item = (usize, f64)>) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, share) in counted {
            let (left, _) = &mut places[place];
            *left = (*left + share).min(self.burst);
        }
    }

    /// Whether one more would be too many, without counting it.
    ///
    /// # Errors
    ///
    /// How long to wait.
    pub(crate) fn check(&self, client: Option<IpAddr>, now: Timestamp) -> Result<(), Duration> {
        self.take_all(&self.places_of(client), now, 0.0)
    }

    /// The places of who asks, and what one more takes of each.
    fn places_of(&self, client: Option<IpAddr>) -> Vec<(usize, f64)> {
        let own = (self.place(network(client)), 1.0);
        std::iter::once(own)
            .chain(client.and_then(network::site).map(|site| (self.place(site), OF_SITE)))
            .collect()
    }

    #[expect(clippy::cast_possible_truncation, reason = "the remainder is smaller than a usize")]
    fn place(&self, who: impl Hash) -> usize {
        (self.hasher.hash_one(who) % PLACES as u64) as usize
    }

    fn take(&self, who: impl Hash, now: Timestamp, cost: f64) -> Result<(), Duration> {
        self.take_all(&[(self.place(who), 1.0)], now, cost)
    }

    /// Takes of all places, or, where one has too little left, of none.
    fn take_all(&self, wanted: &[(usize, f64)], now: Timestamp, cost: f64) -> Result<(), Duration> {
        let now = now.as_duration().as_secs_f64();
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, share) in wanted {
            let (left, since) = &mut places[*place];
            // A clock that was set back gives nothing.
            let gained = (now - *since).max(0.0) * self.per_second;
            *left = (*left + gained).min(self.burst);
            *since = now;
            if *left < *share {
                return Err(Duration::from_secs_f64(((*share - *left) / self.per_second).ceil()));
            }
        }
        for (place, share) in wanted {
            places[*place].0 -= cost * share;
        }
        Ok(())
    }
}

/// The network of who asks; all whose address is not known share one.
fn network(client: Option<IpAddr>) -> IpNet {
    network::network(client.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_have_to_wait_and_others_do_not() {
        let limiter = Limiter::new(3, Duration::from_secs(60));
        let at = |seconds: i64| Timestamp::from_second(1_700_000_000 + seconds).expect("a time");
        let count =
            |address: &str, seconds| limiter.count(Some(address.parse().expect("an address")), at(seconds));
        for _ in 0..3 {
            assert_eq!(count("192.0.2.1", 0), Ok(()));
        }
        assert_eq!(count("192.0.2.1", 0), Err(Duration::from_secs(20)));
        assert_eq!(count("192.0.2.1", 19), Err(Duration::from_secs(1)));
        assert_eq!(count("192.0.2.1", 20), Ok(()));
        assert!(count("192.0.2.1", 10).is_err(), "a clock that is set back gives nothing");
        let others = (0..32).filter(|last| count(&format!("198.51.100.{last}"), 20).is_ok()).count();
        assert!(others > 16, "others are hardly concerned: {others}");
    }

    #[test]
    fn a_session_has_its_own_count_and_what_was_right_costs_nothing() {
        let limiter = Limiter::new(2, Duration::from_secs(60));
        let now = Timestamp::UNIX_EPOCH;
        let client = Some("192.0.2.1".parse().expect("an address"));
        for _ in 0..5 {
            assert_eq!((limiter.count(client, now), limiter.count_name("s", now)), (Ok(()), Ok(())));
            limiter.forgive(client, "s");
        }
        assert_eq!((limiter.count_name("s", now), limiter.count_name("s", now)), (Ok(()), Ok(())));
        assert!(limiter.count_name("s", now).is_err());
        assert!(limiter.count(client, now).is_ok(), "its network is not concerned");
    }

    #[test]
    fn clients_in_one_network_are_told_apart() {
        let limiter = Limiter::new(2, Duration::from_secs(60));
        let now = Timestamp::UNIX_EPOCH;
        let address = Some("192.0.2.1".parse().expect("an address"));
        let count = |client: &str| limiter.count_client(address, client, now);
        assert_eq!((count("c"), count("c")), (Ok(()), Ok(())));
        assert!(count("c").is_err());
        let others = (0..32).filter(|n| count(&n.to_string()).is_ok()).count();
        assert!(others > 16, "others are hardly concerned: {others}");
    }

    #[test]
    fn a_site_is_one_network_and_a_look_costs_nothing() {
        let limiter = Limiter::new(1, Duration::from_secs(60));
        let now = Timestamp::UNIX_EPOCH;
        let of = |address: &str| Some(address.parse().expect("an address"));
        assert_eq!(limiter.check(of("2001:db8:0:1::1"), now), Ok(()));
        assert_eq!(limiter.count(of("2001:db8:0:1::1"), now), Ok(()));
        assert!(limiter.check(of("2001:db8:0:2::9"), now).is_err());
        assert!(limiter.count(of("::ffff:192.0.2.1"), now).is_ok());
        assert!(limiter.count(of("192.0.2.1"), now).is_err());
    }
    #[test]
    fn in_a_crowd_everybody_has_a_share() {
        let crowd = Crowd::new(10, 20, 1, Duration::from_secs(60));
        let now = Timestamp::UNIX_EPOCH;
        let of = |n: u8| Some(IpAddr::from([192, 0, 2, n]));
        let count = |n| crowd.count(of(n), now).is_ok();
        assert_eq!((0..2).map(|n| (0..12).filter(|_| count(n)).count()).collect::<Vec<_>>(), [10, 10]);
        let late: Vec<usize> = (2..34).map(|n| (0..3).filter(|_| count(n)).count()).collect();
        assert!(late.iter().all(|passed| *passed <= 1), "{late:?}");
        assert!(late.iter().sum::<usize>() > 16, "others are let in: {late:?}");
    }

    #[test]
    fn the_networks_of_a_site_share_a_larger_limit() {
        let limiter = Limiter::new(2, Duration::from_secs(60));
        let at = |seconds: i64| Timestamp::from_second(1_700_000_000 + seconds).expect("a time");
        let of = |address: String| Some(address.parse().expect("an address"));
        let address = |third: u16, fourth: u16| of(format!("2001:db8:{third:x}:{fourth:x}00::1"));
        let count = |third, fourth, seconds| limiter.count(address(third, fourth), at(seconds));
        // One whose place none of its networks shares by chance.
        let apart = |third: &u16| {
            let place = |fourth, which: usize| limiter.places_of(address(*third, fourth))[which].0;
            (1..=9).all(|fourth| place(fourth, 0) != place(1, 1))
        };
        let site = (100..).find(apart).expect("one of many");
        for fourth in 1..=8 {
            assert_eq!(count(site, fourth, 0), Ok(()));
        }
        assert!(limiter.check(address(site, 9), at(0)).is_err());
        assert_eq!(count(site, 9, 0), Err(Duration::from_secs(8)), "a quarter of a limit of 2 a minute");
        assert_eq!(count(site, 9, 8), Ok(()));
        let others = (2..34).filter(|third| count(*third, 1, 8).is_ok()).count();
        assert!(others > 16, "other sites are hardly concerned: {others}");
    }
}
