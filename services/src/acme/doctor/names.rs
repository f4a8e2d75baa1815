//! Where a name leads, as the rest of the world sees it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use async_trait::async_trait;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::time::timeout;

use super::DNS_PATIENCE;
use super::report::Check;
use crate::acme::dns::{self, Resolvers};
use crate::acme::failure::chain;

/// How many CNAME records may lead on.
const STEPS: usize = 8;

/// So many addresses are called; no name needs more.
const ADDRESSES: usize = 8;

/// Somebody who can be asked for records.
#[async_trait]
pub(super) trait Ask: Send + Sync {
    /// The answer's records; none where the name does not exist.
    async fn ask(&self, name: &Name, kind: RecordType) -> Result<Vec<Record>, String>;
}

#[async_trait]
impl Ask for Resolvers {
    async fn ask(&self, name: &Name, kind: RecordType) -> Result<Vec<Record>, String> {
        self.records(name, kind).await.map_err(|error| chain(&error))
    }
}

/// The name as the DNS has it.
pub(super) fn parse(host: &str) -> Result<Name, String> {
    dns::parse(host).map_err(|error| error.to_string())
}

/// The records of a type that a name has, or the one that its CNAME records lead to (RFC 1034, section 3.6.2).
pub(super) async fn records(ask: &dyn Ask, name: &Name, kind: RecordType) -> Result<Vec<RData>, String> {
    let mut at = name.clone();
    for _ in 0..STEPS {
        let answer = ask.ask(&at, kind).await?;
        let end = follow(&at, &answer);
        let found = answer.into_iter().filter(|record| record.name == end && record.record_type() == kind);
        let found: Vec<RData> = found.map(|record| record.data).collect();
        // Whoever follows the chain himself may still leave away what stands at its end.
        if !found.is_empty() || end == at {
            return Ok(found);
        }
        at = end;
    }
    Err(format!("the CNAME records of {name} lead too far, or in a circle"))
}

/// As far as the answer itself leads.
fn follow(name: &Name, answer: &[Record]) -> Name {
    let mut at = name.clone();
    for _ in 0..STEPS {
        let next = answer.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == at => Some(target.0.clone()),
            _ => None,
        });
        match next {
            Some(next) => at = next,
            None => break,
        }
    }
    at
}

/// The checks of A and AAAA, and the addresses to call.
pub(super) async fn look(ask: &dyn Ask, host: &str, public: bool) -> (Vec<Check>, Vec<IpAddr>) {
    if let Ok(address) = host.trim_matches(['[', ']']).parse() {
        return (vec![judge("address", &[address], public)], vec![address]);
    }
    let name = match parse(host) {
        Ok(name) => name,
        Err(error) => {
            return (vec![Check::fail("dns", error, "ask for a name that the DNS can hold")], Vec::new());
        }
    };
    let (four, six) = tokio::join!(of(ask, &name, RecordType::A), of(ask, &name, RecordType::AAAA));
    let none = [&four, &six].iter().all(|found| found.as_ref().is_ok_and(Vec::is_empty));
    if none {
        let found = "it has neither A nor AAAA records, or does not exist";
        let advice =
            "add a record of the address that this gateway is reached at, and wait until the DNS has it";
        return (vec![Check::fail("dns", found, advice)], Vec::new());
    }
    let mut addresses = Vec::new();
    let mut checks = Vec::new();
    for (check, found) in [("dns a", four), ("dns aaaa", six)] {
        checks.push(match found {
            Ok(found) if found.is_empty() => Check::ok(check, "none: the other family is used"),
            Ok(found) => {
                let said = judge(check, &found, public);
                addresses.extend(found);
                said
            }
            Err(error) => Check::fail(
                check,
                error,
                "an authority that gets no answer either refuses: look at the name's DNS servers",
            ),
        });
    }
    if addresses.len() > ADDRESSES {
        let found = format!("{} addresses, of which {ADDRESSES} are called", addresses.len());
        checks.push(Check::warn("addresses", found, "a name with so many can't be looked at as a whole"));
        addresses.truncate(ADDRESSES);
    }
    (checks, addresses)
}

async fn of(ask: &dyn Ask, name: &Name, kind: RecordType) -> Result<Vec<IpAddr>, String> {
    let found = timeout(DNS_PATIENCE, records(ask, name, kind)).await;
    let found = found.map_err(|_| "nothing came in time".to_owned())??;
    let mut addresses: Vec<IpAddr> = found
        .into_iter()
        .filter_map(|data| match data {
            RData::A(address) => Some(address.0.into()),
            RData::AAAA(address) => Some(address.0.into()),
            _ => None,
        })
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// What addresses are; a public authority reaches public ones only.
fn judge(check: &'static str, addresses: &[IpAddr], public: bool) -> Check {
    let texts = addresses.iter().map(|address| {
        if is_here(*address) { format!("{address} (this machine)") } else { address.to_string() }
    });
    let found = texts.collect::<Vec<_>>().join(", ");
    if public && addresses.iter().any(|address| !is_public(*address)) {
        let advice =
            "a public authority can't reach addresses of private networks: use the public address there";
        return Check::fail(check, found, advice);
    }
    Check::ok(check, found)
}

/// Whether an address is one of this machine's: others can't be bound.
fn is_here(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Whether the world may reach an address (RFC 6890; the ranges that are met with, and those that lead into others).
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            !(address.is_private()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_broadcast()
                || address.is_multicast()
                || a == 0
                || a >= 240
                // Shared by the customers of a provider (RFC 6598).
                || (a == 100 && (64..128).contains(&b))
                // Of a link to the provider, and for measuring (RFC 6333, RFC 2544).
                || (a, b, c) == (192, 0, 0)
                || (a == 198 && b & 0xfe == 18))
        }
        IpAddr::V6(address) => {
            within(address).is_none_or(|address| is_public(address.into()))
                && !(address.is_loopback()
                    || address.is_unspecified()
                    || address.is_unique_local()
                    || address.is_unicast_link_local()
                    || address.is_multicast())
        }
    }
}

/// The IPv4 address that an IPv6 address stands for: the same (RFC 4291, section 2.5.5), over a translator (RFC 6052,
/// section 2.1), through a tunnel (RFC 3056).
fn within(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::collections::HashMap;

    use super::*;

    /// A handmade DNS: what it does not know does not exist.
    #[derive(Default)]
    pub(in super::super) struct Zone {
        records: HashMap<Name, Vec<RData>>,
        broken: Vec<Name>,
    }

    pub(in super::super) fn name(text: &str) -> Name {
        parse(text).expect("a name")
    }

    impl Zone {
        pub(in super::super) fn with(mut self, owner: &str, data: RData) -> Self {
            self.records.entry(name(owner)).or_default().push(data);
            self
        }

        pub(in super::super) fn alias(self, owner: &str, target: &str) -> Self {
            self.with(owner, RData::CNAME(hickory_proto::rr::rdata::CNAME(name(target))))
        }

        /// Questions about a name are not answered.
        pub(in super::super) fn broken(mut self, owner: &str) -> Self {
            self.broken.push(name(owner));
            self
        }
    }

    #[async_trait]
    impl Ask for Zone {
        async fn ask(&self, name: &Name, kind: RecordType) -> Result<Vec<Record>, String> {
            if self.broken.contains(name) {
                return Err("SERVFAIL".to_owned());
            }
            let held = self.records.get(name).into_iter().flatten();
            let told = held.filter(|data| [kind, RecordType::CNAME].contains(&data.record_type()));
            Ok(told.map(|data| Record::from_rdata(name.clone(), 60, data.clone())).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::{A, AAAA};

    use super::super::report::Outcome;
    use super::testing::Zone;
    use super::*;

    fn words(checks: &[Check]) -> Vec<(&str, Outcome)> {
        checks.iter().map(|check| (check.check.as_str(), check.result)).collect()
    }

    #[tokio::test]
    async fn each_family_is_looked_at_over_cname_records() {
        let zone = Zone::default()
            .alias("app.example", "edge.example")
            .with("edge.example", RData::A(A::new(127, 0, 0, 1)))
            .with("edge.example", RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)));
        let (checks, addresses) = look(&zone, "app.example", false).await;
        assert_eq!(words(&checks), [("dns a", Outcome::Ok), ("dns aaaa", Outcome::Ok)]);
        assert_eq!(addresses.len(), 2);
        assert!(checks[0].found.contains("127.0.0.1 (this machine)"), "{checks:?}");
        let (checks, _) = look(&zone, "app.example", true).await;
        assert_eq!(checks[0].result, Outcome::Fail, "no public authority reaches 127.0.0.1");
    }

    #[tokio::test]
    async fn what_does_not_resolve_fails() {
        let zone = Zone::default().alias("a.example", "b.example").alias("b.example", "a.example");
        let zone = zone.broken("lost.example");
        let (checks, addresses) = look(&zone, "none.example", false).await;
        assert_eq!((words(&checks), addresses), (vec![("dns", Outcome::Fail)], Vec::new()));
        for host in ["a.example", "lost.example"] {
            let (checks, addresses) = look(&zone, host, false).await;
            assert_eq!(words(&checks), [("dns a", Outcome::Fail), ("dns aaaa", Outcome::Fail)], "{host}");
            assert!(addresses.is_empty());
        }
    }

    #[test]
    fn private_addresses_are_no_public_ones() {
        for (text, public) in [
            ("8.8.8.8", true),
            ("2606:4700::1", true),
            ("10.1.2.3", false),
            ("100.64.0.1", false),
            ("169.254.1.1", false),
            ("0.0.0.0", false),
            ("::1", false),
            ("fd00::1", false),
            ("fe80::1", false),
            ("::ffff:10.0.0.1", false),
            ("64:ff9b::10.0.0.1", false),
            ("64:ff9b::8.8.8.8", true),
            ("2002:a00:1::1", false),
            ("198.19.0.1", false),
            ("198.20.0.1", true),
            ("192.0.0.8", false),
            ("240.0.0.1", false),
        ] {
            assert_eq!(is_public(text.parse().expect("an address")), public, "{text}");
        }
    }
}
