//! Updates of a DNS server (RFC 2136), signed with a shared key (RFC 8945). There are no unsigned ones.

use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::op::{Message, OpCode, Query, ResponseCode, UpdateMessage};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::time::{Instant, sleep_until, timeout};

use super::delegation::{Knows, Resolvers, Step, told};
use super::exchange::{About, Server};
use super::{DnsError, DnsProvider, TsigKey, parse, shows};

/// How long a change may take, until all servers of the zone show it.
const LIMIT: Duration = Duration::from_secs(120);

/// How long the server that takes updates is given to show a record, and how often it is asked.
const SHOWN: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(250);

/// How long resolvers may keep a record, in seconds: an order rarely takes longer.
const TTL: u32 = 60;

/// Where DNS servers are asked by everybody.
const PORT: u16 = 53;

/// A DNS server that takes updates. A record is there when it shows it, and all other servers of the zone that answer.
#[derive(Debug, Clone)]
pub struct Rfc2136 {
    server: Server,
    key: TsigKey,
    zone: Option<Name>,
    pub(super) resolvers: Resolvers,
    pub(super) port: u16,
}

impl Rfc2136 {
    /// Updates go to this server, signed with this key.
    pub fn new(server: Server, key: TsigKey) -> Self {
        Self { server, key, zone: None, resolvers: Resolvers::default(), port: PORT }
    }

    /// All names are in this zone; without it, the server is asked which of its zones a name is in.
    ///
    /// # Errors
    ///
    /// When it is no name.
    pub fn in_zone(self, zone: &str) -> Result<Self, DnsError> {
        Ok(Self { zone: Some(parse(zone)?), ..self })
    }

    /// Who is asked about delegations of names that the server has no authority over.
    #[must_use]
    pub fn with_resolvers(self, resolvers: Resolvers) -> Self {
        Self { resolvers, ..self }
    }

    /// The port at which the servers of a zone are asked what they show, where it is not the usual one.
    #[must_use]
    pub fn with_port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// The server's address, the name after delegations, and its zone.
    async fn place(&self, name: &str) -> Result<Place, DnsError> {
        let name = parse(name)?;
        let server = self.server.address().await?;
        let name = self.resolvers.follow(&name, Some(&At { provider: self, server })).await?;
        let zone = match &self.zone {
            Some(zone) if zone.zone_of(&name) => zone.clone(),
            Some(zone) => return Err(DnsError::OtherZone { zone: zone.to_ascii(), name: name.to_ascii() }),
            None => self.zone_of(server, &name).await?,
        };
        Ok(Place { server, name, zone })
    }

    /// The closest zone above a name that the server has authority over: the first name on the way up with a SOA record.
    async fn zone_of(&self, server: SocketAddr, name: &Name) -> Result<Name, DnsError> {
        let mut at = name.clone();
        while !at.is_root() {
            let about = About { server, name: &at };
            let answer = self.ask(about, RecordType::SOA).await?;
            let apex = |record: &Record| record.name == at && matches!(record.data, RData::SOA(_));
            match answer.response_code {
                ResponseCode::NoError if answer.authoritative && answer.answers.iter().any(apex) => {
                    return Ok(at);
                }
                // No zone here, or none of this server; perhaps higher up.
                ResponseCode::NoError
                | ResponseCode::NXDomain
                | ResponseCode::Refused
                | ResponseCode::NotAuth => {}
                _ => return Err(about.refused("query", &answer)),
            }
            at = at.base_name();
        }
        Err(DnsError::NoZone { server, name: name.to_ascii() })
    }

    /// Asks as everybody, and with the key where everybody is refused: most servers have their zones for all, and some
    /// let a key that is for updates do nothing else.
    pub(super) async fn ask(&self, about: About<'_>, kind: RecordType) -> Result<Message, DnsError> {
        let answer = about.ask(kind, false, None).await?;
        match answer.response_code {
            ResponseCode::Refused | ResponseCode::NotAuth => about.ask(kind, false, Some(&self.key)).await,
            _ => Ok(answer),
        }
    }

    async fn update(&self, place: &Place, change: Record) -> Result<(), DnsError> {
        let mut message = Message::query();
        message.metadata.op_code = OpCode::Update;
        message.metadata.recursion_desired = false;
        message.add_zone(Query::query(place.zone.clone(), RecordType::SOA));
        message.add_update(change);
        let about = place.about();
        let answer = about.exchange(message, Some(&self.key)).await?;
        match answer.response_code {
            ResponseCode::NoError => Ok(()),
            _ => Err(about.refused("update", &answer)),
        }
    }

    /// Waits until the server answers with the record: it may take updates before it serves them.
    async fn shown(&self, place: &Place, expected: &RData) -> Result<(), DnsError> {
        let end = Instant::now() + SHOWN;
        loop {
            let answer = self.ask(place.about(), RecordType::TXT).await?;
            if shows(&answer, &place.name, expected) {
                return Ok(());
            }
            let next = Instant::now() + PAUSE;
            if next > end {
                return Err(DnsError::NotShown { server: place.server, name: place.name.to_ascii() });
            }
            sleep_until(next).await;
        }
    }
}

#[async_trait]
impl DnsProvider for Rfc2136 {
    async fn present(&self, name: &str, value: &str) -> Result<(), DnsError> {
        bounded(async {
            let place = self.place(name).await?;
            // Added to the others of the name (RFC 2136, section 2.5.1).
            let record = Record::from_rdata(place.name.clone(), TTL, text(value));
            let data = record.data.clone();
            self.update(&place, record).await?;
            self.shown(&place, &data).await?;
            self.spread(&place, &data).await
        })
        .await
    }

    async fn cleanup(&self, name: &str, value: &str) -> Result<(), DnsError> {
        bounded(async {
            let place = self.place(name).await?;
            // This one of the name, wherever its TTL (RFC 2136, section 2.5.4).
            let mut record = Record::from_rdata(place.name.clone(), 0, text(value));
            record.dns_class = DNSClass::NONE;
            self.update(&place, record).await
        })
        .await
    }
}

/// The server as one who knows where names of its zones lead.
struct At<'a> {
    provider: &'a Rfc2136,
    server: SocketAddr,
}

#[async_trait]
impl Knows for At<'_> {
    async fn step(&self, at: &Name) -> Result<Step, DnsError> {
        let answer = self.provider.ask(About { server: self.server, name: at }, RecordType::CNAME).await?;
        // Without authority it knows no more than others.
        Ok(if answer.authoritative && told(&answer) { Step::of(at, &answer) } else { Step::Unknown })
    }
}

/// Where a record goes.
pub(super) struct Place {
    pub(super) server: SocketAddr,
    pub(super) name: Name,
    pub(super) zone: Name,
}

impl Place {
    fn about(&self) -> About<'_> {
        About { server: self.server, name: &self.name }
    }
}

fn text(value: &str) -> RData {
    RData::TXT(TXT::from_bytes(value.as_bytes().chunks(255).collect()))
}

async fn bounded(change: impl Future<Output = Result<(), DnsError>>) -> Result<(), DnsError> {
    timeout(LIMIT, change).await.unwrap_or(Err(DnsError::TimedOut(LIMIT)))
}
