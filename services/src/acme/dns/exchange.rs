//! One question to a DNS server and its answer: over UDP, and over TCP where that is cut off or does not come
//! (RFC 1035, section 4.2; RFC 7766).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use hickory_proto::ProtoError;
use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use portcullis_layers::HostName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::{DnsError, TsigKey};

/// How long a datagram is waited for, and how often one is sent.
const DATAGRAM: Duration = Duration::from_secs(2);
const DATAGRAMS: usize = 2;

/// How long a connection may take, with the answer.
const CONNECTION: Duration = Duration::from_secs(10);

/// The port of the DNS.
const PORT: u16 = 53;

/// A DNS server of the settings: `HOST`, `ADDRESS`, each also with `:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    host: HostName,
    port: u16,
}

/// The text is no [`Server`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a host name or an IP address, with :PORT if it is not 53")]
pub struct InvalidServer;

impl FromStr for Server {
    type Err = InvalidServer;

    fn from_str(text: &str) -> Result<Self, InvalidServer> {
        // An IPv6 address without brackets has colons of its own, and no port.
        let (host, port) = match text.rsplit_once(':') {
            _ if text.parse::<Ipv6Addr>().is_ok() => (format!("[{text}]"), PORT),
            Some((host, port)) if !text.ends_with(']') => {
                (host.to_owned(), port.parse().map_err(|_| InvalidServer)?)
            }
            _ => (text.to_owned(), PORT),
        };
        let host = host.parse().map_err(|_| InvalidServer)?;
        if port == 0 { Err(InvalidServer) } else { Ok(Self { host, port }) }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Server {
    /// The first of its addresses.
    pub(super) async fn address(&self) -> Result<SocketAddr, DnsError> {
        let failed = |source| DnsError::Unresolved { server: self.clone(), source };
        let host = self.host.as_str().trim_matches(['[', ']']);
        let mut addresses = tokio::net::lookup_host((host, self.port)).await.map_err(failed)?;
        addresses.next().ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))
    }
}

/// What became of an exchange that brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The connection failed.
    #[error("the connection failed")]
    Connection(#[source] std::io::Error),
    /// Nothing came in time.
    #[error("nothing came in time")]
    Silence,
    /// The answer is none, or not to this question.
    #[error("the answer does not belong to the question")]
    Foreign,
    /// The answer is not signed, or not with this key.
    #[error("the answer is not signed with the key")]
    Unsigned,
    /// The question could not be written.
    #[error("the question can't be written")]
    Written(#[source] ProtoError),
}

/// What a message is about, for errors.
#[derive(Debug, Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) server: SocketAddr,
    pub(super) name: &'a Name,
}

impl About<'_> {
    pub(super) fn refused(self, what: &'static str, answer: &Message) -> DnsError {
        let key_error = answer.signature().and_then(|tsig| tsig.data.error).map(u16::from);
        DnsError::Refused {
            server: self.server,
            what,
            name: self.name.to_ascii(),
            code: answer.response_code,
            key_error,
        }
    }

    /// Sends a message, signed if there is a key, and returns the answer that belongs to it. An answer of success is
    /// signed too then; one of failure may not be, as a server that does not know the key can't sign (RFC 8945,
    /// section 5.3.2).
    pub(super) async fn exchange(
        self,
        mut message: Message,
        key: Option<&TsigKey>,
    ) -> Result<Message, DnsError> {
        let failed = |source| DnsError::Exchange { server: self.server, name: self.name.to_ascii(), source };
        let written = |error| failed(ExchangeError::Written(error));
        if let Some(key) = key {
            message.finalize(key.signer(), now()).map_err(written)?;
        }
        let bytes = message.to_vec().map_err(written)?;
        send(self.server, &bytes, &Expected { message: &message, key }).await.map_err(failed)
    }

    /// Asks for the records of a type.
    pub(super) async fn ask(
        self,
        kind: RecordType,
        recursive: bool,
        key: Option<&TsigKey>,
    ) -> Result<Message, DnsError> {
        let mut message = Message::query();
        message.metadata.recursion_desired = recursive;
        message.add_query(Query::query(self.name.clone(), kind));
        self.exchange(message, key).await
    }
}

/// What an answer is held against.
struct Expected<'a> {
    message: &'a Message,
    key: Option<&'a TsigKey>,
}

impl Expected<'_> {
    fn check(&self, bytes: &[u8]) -> Result<Message, ExchangeError> {
        let answer = Message::from_vec(bytes).map_err(|_| ExchangeError::Foreign)?;
        let same = answer.id == self.message.id
            && answer.message_type == MessageType::Response
            && answer.op_code == self.message.op_code;
        // A server that refuses an update may leave its zone section away (RFC 2136, section 3.8).
        let failed = !matches!(answer.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
        if !same || !(answer.queries == self.message.queries || failed && answer.queries.is_empty()) {
            return Err(ExchangeError::Foreign);
        }
        match self.key.zip(self.message.signature()) {
            // The answer's signature covers the question's (RFC 8945, section 5.3).
            Some((key, asked)) if !failed => {
                let (_, _, times) = key
                    .signer()
                    .verify_message_byte(bytes, Some(&asked.data.mac), true)
                    .map_err(|_| ExchangeError::Unsigned)?;
                if times.contains(&now()) { Ok(answer) } else { Err(ExchangeError::Unsigned) }
            }
            _ => Ok(answer),
        }
    }
}

async fn send(server: SocketAddr, bytes: &[u8], expected: &Expected<'_>) -> Result<Message, ExchangeError> {
    match by_datagram(server, bytes, expected).await {
        Ok(Some(answer)) => Ok(answer),
        // Cut off, lost on the way, or kept back by something between.
        Ok(None) | Err(_) => {
            let connection = timeout(CONNECTION, by_connection(server, bytes)).await;
            let answer =
                connection.map_err(|_| ExchangeError::Silence)?.map_err(ExchangeError::Connection)?;
            expected.check(&answer)
        }
    }
}

/// The answer by UDP; none when it does not fit or does not come.
async fn by_datagram(
    server: SocketAddr,
    bytes: &[u8],
    expected: &Expected<'_>,
) -> std::io::Result<Option<Message>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    for _ in 0..DATAGRAMS {
        socket.send(bytes).await?;
        let answer = timeout(DATAGRAM, async {
            let mut buffer = vec![0; usize::from(u16::MAX)];
            loop {
                let length = socket.recv(&mut buffer).await?;
                // What does not belong here may be forged: the right one may still come (RFC 8945, section 5.3.1).
                if let Ok(answer) = expected.check(&buffer[..length]) {
                    return std::io::Result::Ok(answer);
                }
            }
        });
        match answer.await {
            Ok(answer) => return answer.map(|answer| (!answer.truncation).then_some(answer)),
            Err(_elapsed) => {}
        }
    }
    Ok(None)
}

/// The answer by TCP (RFC 1035, section 4.2.2).
async fn by_connection(server: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// Seconds since 1970, as signatures have them.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_names_or_addresses_with_or_without_a_port() {
        for (text, shown) in [
            ("ns1.example.com", "ns1.example.com:53"),
            ("ns1.example.com:5353", "ns1.example.com:5353"),
            ("192.0.2.1", "192.0.2.1:53"),
            ("192.0.2.1:54", "192.0.2.1:54"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("[2001:db8::1]", "[2001:db8::1]:53"),
            ("[2001:db8::1]:54", "[2001:db8::1]:54"),
        ] {
            assert_eq!(text.parse::<Server>().unwrap().to_string(), shown);
        }
        for wrong in ["", ":53", "a b", "a:b", "a:0", "a:65536", "[::1", "udp://a"] {
            assert_eq!(wrong.parse::<Server>(), Err(InvalidServer), "{wrong}");
        }
    }
}
