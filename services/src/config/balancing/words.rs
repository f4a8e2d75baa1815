//! The words of what is said of several upstreams.

use std::fmt;
use std::str::FromStr;

use http::HeaderName;
use http::uri::PathAndQuery;
use portcullis_layers::forward::HashOn;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::address::TargetUrl;
use crate::config::names::{Expected, parsed};

/// One of several upstreams: a URL, or `{"url": …, "weight": …}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamUrl {
    /// Where it is.
    pub url: TargetUrl,
    /// Its share of the requests, compared with the others'; 0: it gets no new ones.
    pub weight: u16,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Weighted {
    url: TargetUrl,
    #[serde(default = "one")]
    weight: u16,
}

const fn one() -> u16 {
    1
}

impl From<TargetUrl> for UpstreamUrl {
    fn from(url: TargetUrl) -> Self {
        Self { url, weight: 1 }
    }
}

impl Serialize for UpstreamUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // What says no more than its URL is read by nodes of an older release, too.
        if self.weight == 1 {
            return self.url.serialize(serializer);
        }
        Weighted { url: self.url.clone(), weight: self.weight }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for UpstreamUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UpstreamVisitor)
    }
}

struct UpstreamVisitor;

impl<'de> Visitor<'de> for UpstreamVisitor {
    type Value = UpstreamUrl;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a URL such as http://10.0.0.5:8080, or {\"url\": …, \"weight\": …}")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<UpstreamUrl, E> {
        text.trim().parse::<TargetUrl>().map(UpstreamUrl::from).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<UpstreamUrl, A::Error> {
        let Weighted { url, weight } = Weighted::deserialize(MapAccessDeserializer::new(map))?;
        Ok(UpstreamUrl { url, weight })
    }
}

impl JsonSchema for UpstreamUrl {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "UpstreamUrl".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "object"],
            "title": "UpstreamUrl",
            "description": "a URL, or an object with `url` and `weight` (0 to 1000; 0: no new requests)",
            "properties": {
                "url": { "type": "string" },
                "weight": { "type": "integer", "minimum": 0, "maximum": 1000, "default": 1 }
            },
            "required": ["url"],
            "additionalProperties": false
        })
    }
}

/// Answers from one status to another: a number, or `200-299`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusRange {
    /// The first one.
    pub from: u16,
    /// The last one.
    pub to: u16,
}

const STATUS_RANGE: &str = "a status from 100 to 599, or a range such as 200-299";

impl FromStr for StatusRange {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let status = |text: &str| text.trim().parse().ok().filter(|status| (100..=599).contains(status));
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        match (status(from), status(to)) {
            (Some(from), Some(to)) if from <= to => Ok(Self { from, to }),
            _ => Err(Expected(STATUS_RANGE)),
        }
    }
}

impl Serialize for StatusRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.from == self.to {
            return serializer.serialize_u16(self.from);
        }
        serializer.collect_str(&format_args!("{}-{}", self.from, self.to))
    }
}

impl<'de> Deserialize<'de> for StatusRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Statuses;

        impl Visitor<'_> for Statuses {
            type Value = StatusRange;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(STATUS_RANGE)
            }

            fn visit_u64<E: Error>(self, status: u64) -> Result<StatusRange, E> {
                status.to_string().parse().map_err(E::custom)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<StatusRange, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Statuses)
    }
}

impl JsonSchema for StatusRange {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "StatusRange".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "title": "StatusRange", "description": STATUS_RANGE })
    }
}

/// What is alike in requests that go to the same upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// The address of the client.
    Client,
    /// A header.
    Header(HeaderName),
    /// A cookie.
    Cookie(String),
}

const HASH_KEY: &str = "`client`, `header:NAME` or `cookie:NAME`";

impl HashKey {
    /// As the layers want it.
    pub fn on(&self) -> HashOn {
        match self {
            Self::Client => HashOn::Client,
            Self::Header(name) => HashOn::Header(name.clone()),
            Self::Cookie(name) => HashOn::Cookie(name.as_str().into()),
        }
    }
}

impl FromStr for HashKey {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let wrong = Expected(HASH_KEY);
        match text.split_once(':') {
            None if text == "client" => Ok(Self::Client),
            Some(("header", name)) => name.parse().map(Self::Header).map_err(|_| wrong),
            // The names of cookies are tokens, as those of headers are.
            Some(("cookie", name)) if name.parse::<HeaderName>().is_ok() => Ok(Self::Cookie(name.to_owned())),
            _ => Err(wrong),
        }
    }
}

impl fmt::Display for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => f.write_str("client"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
        }
    }
}

impl Serialize for HashKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HashKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

impl JsonSchema for HashKey {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HashKey".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "title": "HashKey", "description": HASH_KEY })
    }
}

/// A path that upstreams are asked for, perhaps with a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckPath(String);

const CHECK_PATH: &str = "a path such as /healthz, with what has to be percent-encoded";

impl CheckPath {
    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CheckPath {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let is_path = text.starts_with('/') && text.len() <= 2048 && !text.contains(['#', '\\']);
        let is_path = is_path && text.parse::<PathAndQuery>().is_ok_and(|path| path.as_str() == text);
        if is_path { Ok(Self(text.to_owned())) } else { Err(Expected(CHECK_PATH)) }
    }
}

impl Serialize for CheckPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for CheckPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

impl JsonSchema for CheckPath {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CheckPath".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "title": "CheckPath", "description": CHECK_PATH })
    }
}
