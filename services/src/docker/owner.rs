//! Whose containers these are.

use crate::config::NodeName;

/// Whose containers these are: what two deployments or nodes run on one engine does not mix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The issuer of the deployment.
    pub deployment: String,
    /// The node.
    pub node: NodeName,
}
