//! The servers of a zone: an authority may ask any of them, and those that get the zone from another one have a change
//! some time after it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::delegation::told;
use super::exchange::About;
use super::rfc2136::{Place, Rfc2136};
use super::{DnsError, shows};

/// How long the servers of a zone are given to show a record, and how often each is asked.
const SPREAD: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

/// How long a server that may not be there is waited for: time for a second datagram.
const SILENCE: Duration = Duration::from_secs(3);

/// How long it may take to find out where a server is.
const LOOKUP: Duration = Duration::from_secs(5);

/// So many servers are asked; no zone has more.
const SERVERS: usize = 16;

impl Rfc2136 {
    /// Waits until all servers of the zone that answer have the record. Whoever says nothing, or does not have the zone, is
    /// left out: authorities go on to the next one there, too.
    pub(super) async fn spread(&self, place: &Place, expected: &RData) -> Result<(), DnsError> {
        let end = Instant::now() + SPREAD;
        let servers = self.servers(place).await;
        let waits = servers.into_iter().map(|server| shown_at(server, &place.name, expected, end));
        try_join_all(waits).await.map(drop)
    }

    /// Where the servers of the zone are.
    async fn servers(&self, place: &Place) -> Vec<SocketAddr> {
        let about = About { server: place.server, name: &place.zone };
        let records = match self.ask(about, RecordType::NS).await {
            Ok(answer) => answer.answers,
            Err(error) => {
                debug!(%error, zone = %place.zone, "the servers of a zone are not known");
                return Vec::new();
            }
        };
        let names: BTreeSet<Name> = records
            .into_iter()
            .filter_map(|record| match record.data {
                RData::NS(name) if record.name == place.zone => Some(name.0),
                _ => None,
            })
            .take(SERVERS)
            .collect();
        let found = join_all(names.iter().flat_map(|name| {
            [RecordType::A, RecordType::AAAA].map(|kind| self.addresses(place.server, name, kind))
        }));
        let addresses: BTreeSet<IpAddr> = found.await.into_iter().flatten().collect();
        addresses.into_iter().take(SERVERS).map(|address| SocketAddr::new(address, self.port)).collect()
    }

    /// The addresses of a server: as the rest of the world sees them, else as the one that takes updates has them.
    async fn addresses(&self, server: SocketAddr, name: &Name, kind: RecordType) -> Vec<IpAddr> {
        let found = timeout(LOOKUP, self.resolvers.records(name, kind)).await;
        let found = found.ok().and_then(Result::ok).map(|records| addresses(&records)).unwrap_or_default();
        if !found.is_empty() {
            return found;
        }
        let answer = timeout(LOOKUP, self.ask(About { server, name }, kind)).await;
        let answer = answer.ok().and_then(Result::ok).filter(|answer| answer.authoritative);
        answer.map(|answer| addresses(&answer.answers)).unwrap_or_default()
    }
}

/// Those in an answer.
fn addresses(records: &[Record]) -> Vec<IpAddr> {
    let address = |record: &Record| match &record.data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    };
    records.iter().filter_map(address).collect()
}

/// Waits until this server has the record.
async fn shown_at(server: SocketAddr, name: &Name, expected: &RData, end: Instant) -> Result<(), DnsError> {
    let about = About { server, name };
    loop {
        let answer = match timeout(SILENCE, about.ask(RecordType::TXT, false, None)).await {
            Ok(Ok(answer)) if answer.authoritative && told(&answer) => answer,
            _ => {
                debug!(%server, %name, "a server of the zone says nothing about a record, and is not waited for");
                return Ok(());
            }
        };
        if shows(&answer, name, expected) {
            return Ok(());
        }
        let next = Instant::now() + PAUSE;
        if next > end {
            return Err(DnsError::Behind { server, name: name.to_ascii() });
        }
        sleep_until(next).await;
    }
}
