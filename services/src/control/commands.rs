//! The list of operations as commands: `NOUN VERB --flag`, read from the same list as REST and OpenAPI.
//!
//! The command line and the tool that takes a command share it.

use std::collections::BTreeMap;
use std::fmt;

use clap::{ArgMatches, Command};
use serde_json::Value;

use super::{Endpoint, Operation, Surface, register};

/// What the words are about that only lead to commands.
const ABOUT: [(&str, &str); 37] = [
    ("acme", "What certificate authorities meet with here"),
    ("admin", "Where the endpoints of the protocol are served"),
    ("auth", "Whether a proxy needs a token, and whose"),
    ("cert", "Certificates: issued by an authority, or uploaded"),
    ("client", "Who may ask the authorization server for tokens"),
    ("config", "The configuration as a whole: export, import, validate"),
    ("credential", "What the upstream of a proxy asks of its callers"),
    ("consent", "What users have agreed to"),
    ("event", "What happened at the authorization server"),
    ("external", "Upstreams that are registered by name"),
    ("github", "Whose GitHub app people sign in through"),
    ("grant", "What an authorization yielded, and ends as a whole"),
    ("headers", "What a proxy changes in headers"),
    ("keys", "The keys that sign tokens"),
    ("level", "How much the daemon says of itself, changed while it runs"),
    ("log", "Requests, the daemon's own diagnostics, and what admins did"),
    ("login", "Which accounts the logins on lists mean"),
    ("mcp", "The MCP server that a proxy publishes"),
    ("oauth proxy", "Protected hosts, and who has a session there"),
    ("oauth upstream-token", "GitHub's tokens that hosts have asked to keep"),
    ("oauth token", "Access and refresh tokens: what is known of them"),
    ("oauth", "The authorization server: clients, tokens, sessions, events"),
    ("oauth-server", "What a proxy says of the authorization server"),
    ("policy", "What clients of the MCP server behind a proxy may do"),
    ("port", "Ports of machines that lead to services"),
    ("proxy", "Public hosts and where their requests go"),
    ("resource", "Protected resources: what tokens are for"),
    ("route", "Paths that go elsewhere than their host"),
    ("routes", "Which routes a proxy takes"),
    ("rule", "Who may call what of the MCP server behind a proxy"),
    ("secret", "Variables of a service whose values nobody sees"),
    ("service", "What hosts and routes can name: containers, and upstreams elsewhere"),
    ("session", "Browsers of people who have signed in"),
    ("system", "Health, facts, and the configuration as a whole"),
    ("token", "Named tokens for services"),
    ("tools", "Definitions of tools: seen, approved, changed"),
    ("upstream", "What requests are sent to, and how it is"),
];

/// All operations, by the words of their command.
pub struct Commands {
    nouns: BTreeMap<&'static str, Command>,
    entries: Vec<Entry>,
}

struct Entry {
    words: &'static [&'static str],
    name: &'static str,
    endpoint: Endpoint,
    read: fn(&ArgMatches) -> Result<Value, clap::Error>,
}

/// An operation, and what it was given.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Its name.
    pub name: &'static str,
    /// Its place in the REST API.
    pub endpoint: &'a Endpoint,
    /// Its input.
    pub input: Value,
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.entries.iter().map(|entry| entry.words)).finish()
    }
}

impl Default for Commands {
    fn default() -> Self {
        Self::new()
    }
}

impl Commands {
    /// Reads the list.
    pub fn new() -> Self {
        let mut commands = Self { nouns: BTreeMap::new(), entries: Vec::new() };
        register(&mut commands);
        commands
    }

    /// The commands as clap wants them.
    pub fn subcommands(&self) -> impl Iterator<Item = Command> + '_ {
        self.nouns.values().cloned()
    }

    /// What was asked for; `None` when the words name no operation.
    ///
    /// # Errors
    ///
    /// When a flag is missing or its value is none that the operation takes.
    pub fn asked(&self, matches: &ArgMatches) -> Result<Option<Asked<'_>>, clap::Error> {
        let words = words(matches);
        let mut leaf = matches;
        while let Some((_, below)) = leaf.subcommand() {
            leaf = below;
        }
        let Some(entry) = self.entries.iter().find(|entry| entry.words == words) else { return Ok(None) };
        let input = (entry.read)(leaf)?;
        Ok(Some(Asked { name: entry.name, endpoint: &entry.endpoint, input }))
    }
}

impl Surface for Commands {
    fn add<O: Operation>(&mut self) {
        let Some((noun, rest)) = O::COMMAND.split_first() else { return };
        let tree = self.nouns.remove(noun).unwrap_or_else(|| noun_command("", noun));
        self.nouns.insert(noun, grow::<O>(tree, rest));
        self.entries.push(Entry {
            words: O::COMMAND,
            name: O::NAME,
            endpoint: O::HTTP,
            read: |matches| {
                let input = O::from_arg_matches(matches)?;
                Ok(serde_json::to_value(input).expect("an input has texts as keys"))
            },
        });
    }
}

/// The words of the command that was given.
pub fn words(matches: &ArgMatches) -> Vec<&str> {
    std::iter::successors(matches.subcommand(), |(_, below)| below.subcommand())
        .map(|(word, _)| word)
        .collect()
}

/// A word that only leads to commands. Below another word it may mean something else than at the top.
fn noun_command(above: &str, noun: &'static str) -> Command {
    let about = |words: &str| ABOUT.iter().find(|(known, _)| *known == words).map(|(_, about)| *about);
    let about = about(&format!("{above} {noun}")).or_else(|| about(noun)).unwrap_or_default();
    Command::new(noun).about(about).subcommand_required(true).arg_required_else_help(true)
}

/// Hangs an operation into the tree, at the place that its words name.
fn grow<O: Operation>(tree: Command, words: &[&'static str]) -> Command {
    match words {
        [] => O::augment_args(tree).subcommand_required(false).arg_required_else_help(false),
        [word, rest @ ..] => {
            if tree.find_subcommand(word).is_some() {
                tree.mut_subcommand(word, |below| grow::<O>(below, rest))
            } else if rest.is_empty() {
                tree.subcommand(O::augment_args(Command::new(*word)))
            } else {
                let noun = noun_command(tree.get_name(), word);
                tree.subcommand(grow::<O>(noun, rest))
            }
        }
    }
}
