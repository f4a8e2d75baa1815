//! The tools of the MCP server behind a host: which definitions were approved, and which were seen.

use std::collections::BTreeMap;

use jiff::Timestamp;
use portcullis_layers::mcp::pins::{Known, digest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::HostPattern;
use crate::store::{Key, Kind};

/// What the names of their documents begin with.
const PREFIX: &str = "mcp-tools:";

/// The tools of a host. No host's document has them: they are as many and as long as its server wants.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct McpTools {
    /// What was approved, by name: servers may tell each client another form of it.
    #[serde(default)]
    pub approved: BTreeMap<String, Vec<ApprovedTool>>,
    /// What was seen last and is not what was approved, by name.
    #[serde(default)]
    pub seen: BTreeMap<String, SeenTool>,
    /// The document can't be read: nothing counts as approved.
    #[serde(skip)]
    pub unreadable: bool,
}

/// A tool as somebody has approved it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApprovedTool {
    /// SHA-256 of its definition in one form, as hexadecimal digits.
    pub digest: String,
    /// What lists said of it.
    pub definition: Value,
    /// Who has approved it.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// A tool as a list has shown it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SeenTool {
    /// SHA-256 of its definition in one form, as hexadecimal digits.
    pub digest: String,
    /// What the list says of it; `null` where that is too long, or can be read in more than one way.
    #[serde(default)]
    pub definition: Option<Value>,
    /// When it was first seen so.
    pub at: Timestamp,
}

impl McpTools {
    /// The name of the document of a host.
    pub fn key(host: &HostPattern) -> Key {
        Key::new(Kind::Setting, format!("{PREFIX}{host}"))
    }

    /// Whose tools a document of this name describes.
    pub fn host_of(id: &str) -> Option<&str> {
        id.strip_prefix(PREFIX)
    }

    /// Whether a definition is one that was approved.
    pub fn is_approved(&self, name: &str, digest: &str) -> bool {
        self.approved.get(name).is_some_and(|all| all.iter().any(|one| one.digest == digest))
    }

    /// What the edge has to know of it. A digest counts only if it is that of its definition.
    pub fn known(&self) -> Known {
        let approved = self.approved.iter().map(|(name, all)| {
            let digests = all.iter().filter_map(|one| {
                digest(&one.definition.to_string()).filter(|digest| hex(digest) == one.digest)
            });
            (name.into(), digests.collect())
        });
        let seen = self.seen.iter().filter_map(|(name, one)| Some((name.into(), unhex(&one.digest)?)));
        Known { approved: approved.collect(), seen: seen.collect() }
    }
}

/// A digest as it is stored and shown.
pub fn hex(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A digest as it is compared; `None` when it is none.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_come_back_as_they_were() {
        let digest: [u8; 32] = std::array::from_fn(|index| u8::try_from(index * 8 % 256).expect("a byte"));
        assert_eq!(unhex(&hex(&digest)), Some(digest));
        for bad in ["", "0", &"g".repeat(64), &"0".repeat(63), &"é".repeat(32)] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
    }
}
