//! What a host changes in headers: rules for requests and responses, and CORS.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::{HeaderKey, HeaderText, MethodName, Origin};

/// Header names and the value of each.
pub type HeaderValues = BTreeMap<HeaderKey, HeaderText>;

/// Changes to the headers of a message: first `remove`, then `set`, then `append`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HeaderRules {
    /// Replaces every value of the header.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set: HeaderValues,
    /// Adds a value beside those that are there.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub append: HeaderValues,
    /// Removes the header.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub remove: BTreeSet<HeaderKey>,
}

impl HeaderRules {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.append.is_empty() && self.remove.is_empty()
    }

    /// These rules and a shorthand's `set`; the rules win over the shorthand.
    #[must_use]
    pub fn with_set(&self, shorthand: &HeaderValues) -> Self {
        let mut rules = self.clone();
        for (name, value) in shorthand {
            rules.set.entry(name.clone()).or_insert_with(|| value.clone());
        }
        rules
    }
}

/// Which other origins' pages may call this host (the Fetch standard's CORS protocol).
///
/// Credentials are never allowed: tokens travel in the `Authorization` header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// The origins, or `*`.
    pub origins: Vec<Origin>,
    /// The methods that a preflight allows.
    #[serde(default = "safe_methods")]
    pub methods: Vec<MethodName>,
    /// The request headers that a preflight allows.
    #[serde(default)]
    pub headers: Vec<HeaderKey>,
    /// The response headers that a page may read.
    #[serde(default)]
    pub expose: Vec<HeaderKey>,
    /// How long a browser may keep the answer to a preflight, in seconds.
    #[serde(default = "ten_minutes")]
    pub max_age: u32,
}

fn safe_methods() -> Vec<MethodName> {
    ["GET", "HEAD", "POST"].map(|name| name.parse().expect("a method name")).into()
}

const fn ten_minutes() -> u32 {
    600
}
