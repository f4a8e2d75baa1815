//! Names: of sessions, of nodes, of events, and of what a server asks a client.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use rmcp::model::{NumberOrString, RequestId};
use rmcp::transport::streamable_http_server::session::SessionId;
use secrecy::ExposeSecret;
use smol_str::SmolStr;

use crate::random;

/// A new id of a session: 256 random bits as 43 characters of `[A-Za-z0-9_-]`.
pub(super) fn new_session() -> SessionId {
    random::secret("").expose_secret().into()
}

/// What stands for a session's id in the store and between nodes: its SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SessionKey(Arc<str>);

impl SessionKey {
    pub(super) fn of(id: &str) -> Self {
        Self(BASE64.encode(digest::digest(&digest::SHA256, id.as_bytes())).into())
    }

    /// As another node has named it.
    pub(super) fn named(text: &str) -> Self {
        Self(text.into())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A node, from its start to its end: a node that starts again is another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct NodeName(SmolStr);

impl NodeName {
    pub(super) fn new() -> Self {
        Self(BASE64.encode(random::bytes::<9>()).into())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let good = text.len() == 12 && text.bytes().all(fine);
        good.then(|| Self(text.into())).ok_or(BadName)
    }
}

/// A text that is no name of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a name that this server has given")]
pub(super) struct BadName;

/// A longer id of a request is not repeated in the ids of its events.
const MAX_ASK: usize = 64;

/// The stream of events that answers a request. Another client's streams are out of reach whatever a client makes up:
/// events are looked for among those of its own session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AnswerName {
    pub(super) node: NodeName,
    /// Counted by the node.
    pub(super) number: u64,
    /// The request, so that whoever finds no answer can say so. Not there if it is too long.
    pub(super) ask: Option<RequestId>,
}

impl AnswerName {
    /// The name of the stream among those of its session.
    pub(super) fn stream(&self) -> String {
        format!("{}.{}", self.node.as_str(), self.number)
    }
}

/// An event, for `Last-Event-ID`. No two events have the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EventId {
    /// One of the stream that answers a request: `NODE.aSTREAM.REQUEST.NUMBER`.
    Answer(AnswerName, u64),
    /// One of the stream that belongs to no request: `NODE.s.MILLISECONDS.NUMBER`.
    Standing {
        node: NodeName,
        /// When, in milliseconds since 1970 by the node's clock: for when the event itself is no longer kept.
        time: u64,
        number: u64,
    },
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(AnswerName { node, number: stream, ask }, number) => {
                write!(f, "{}.a{stream}.", node.as_str())?;
                match ask {
                    None => f.write_str("-")?,
                    Some(NumberOrString::Number(ask)) => write!(f, "n{ask}")?,
                    Some(NumberOrString::String(ask)) => write!(f, "s{}", BASE64.encode(&**ask))?,
                }
                write!(f, ".{number}")
            }
            Self::Standing { node, time, number } => write!(f, "{}.s.{time}.{number}", node.as_str()),
        }
    }
}

impl FromStr for EventId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let parts: Vec<&str> = text.splitn(5, '.').collect();
        let [node, stream, about, number] = parts[..] else { return Err(BadName) };
        let (node, number) = (node.parse()?, number.parse().map_err(|_| BadName)?);
        if stream == "s" {
            return Ok(Self::Standing { node, time: about.parse().map_err(|_| BadName)?, number });
        }
        let stream = stream.strip_prefix('a').and_then(|stream| stream.parse().ok()).ok_or(BadName)?;
        let ask = match about.split_at_checked(1) {
            Some(("-", "")) => None,
            Some(("n", ask)) => Some(NumberOrString::Number(ask.parse().map_err(|_| BadName)?)),
            Some(("s", ask)) if ask.len() <= 2 * MAX_ASK => {
                let ask = BASE64.decode(ask).ok().and_then(|ask| String::from_utf8(ask).ok());
                Some(NumberOrString::String(ask.ok_or(BadName)?.into()))
            }
            _ => return Err(BadName),
        };
        Ok(Self::Answer(AnswerName { node, number: stream, ask }, number))
    }
}

/// A request's id, if it is short enough to be repeated.
pub(super) fn short(ask: &RequestId) -> Option<RequestId> {
    match ask {
        NumberOrString::String(ask) if ask.len() > MAX_ASK => None,
        ask => Some(ask.clone()),
    }
}

/// The id of what a server asks a client, and the token of its progress: `NODE.LIFE.NUMBER`.
///
/// The handlers of a session at two nodes, and one that came back into memory, all count from 0: the client must not
/// see two requests of one id, and its answer has to find the node that waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AskedId {
    pub(super) node: NodeName,
    /// Which of the lives of the session at that node.
    pub(super) life: u64,
    /// As the handler counts.
    pub(super) number: i64,
}

impl AskedId {
    pub(super) fn to_request_id(&self) -> RequestId {
        NumberOrString::String(format!("{}.{}.{}", self.node.as_str(), self.life, self.number).into())
    }

    /// What a client repeats, if it is ours.
    pub(super) fn parse(id: &RequestId) -> Option<Self> {
        let NumberOrString::String(text) = id else { return None };
        let mut parts = text.splitn(3, '.');
        let node = parts.next()?.parse().ok()?;
        Some(Self { node, life: parts.next()?.parse().ok()?, number: parts.next()?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_were() {
        let node = NodeName::new();
        assert_ne!(node, NodeName::new());
        for ask in [None, Some(NumberOrString::Number(-7)), Some(NumberOrString::String("a.b é".into()))] {
            let name = AnswerName { node: node.clone(), number: 3, ask };
            let id = EventId::Answer(name, 9);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        let id = EventId::Standing { node: node.clone(), time: 1_800_000_000_000, number: u64::MAX };
        assert_eq!(id.to_string().parse(), Ok(id));
        let asked = AskedId { node, life: 2, number: 0 };
        assert_eq!(AskedId::parse(&asked.to_request_id()), Some(asked));
    }

    #[test]
    fn what_clients_make_up_is_no_name() {
        let good = "abcdefghijkl";
        for bad in [
            String::new(),
            "0".to_owned(),
            format!("{good}.s.1"),
            format!("{good}.s.1.2.3"),
            format!("{good}.s.-1.2"),
            format!("{good}x.s.1.2"),
            format!("{good}.a.-.2"),
            format!("{good}.a1.x.2"),
            format!("{good}.a1..2"),
            format!("{good}.a1.s!.2"),
            format!("{good}.a1.s{}.2", BASE64.encode("x".repeat(200))),
            format!("{good}.a1.n99999999999999999999.2"),
        ] {
            assert_eq!(bad.parse::<EventId>(), Err(BadName), "{bad}");
        }
        for bad in ["", "0", "abcdefghijkl.1", "abcdefghijkl.1.x", "abc.1.1"] {
            assert_eq!(AskedId::parse(&NumberOrString::String(bad.into())), None, "{bad}");
        }
        assert_eq!(AskedId::parse(&NumberOrString::Number(1)), None);
        assert_eq!(short(&NumberOrString::String("x".repeat(65).into())), None);
    }

    #[test]
    fn sessions_differ_and_stand_in_the_store_by_their_hash() {
        let (one, two) = (new_session(), new_session());
        assert!(one != two && one.len() == 43);
        assert_eq!(SessionKey::of("abc").as_str(), "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0");
    }
}
