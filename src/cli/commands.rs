//! The list of operations as commands: `portcullis NOUN VERB`, read from the same list as REST and OpenAPI.

use std::collections::BTreeMap;

use clap::{ArgMatches, Command};
use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use portcullis_services::control::{Endpoint, Operation, Surface, register};
use serde_json::{Map, Value};

/// What may stand in a path segment or a query value as it is (RFC 3986, section 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What may stand as it is where a value may be several segments.
const SEGMENTS: &AsciiSet = &UNRESERVED.remove(b'/').remove(b':');

/// What the words are about that only lead to commands.
const ABOUT: [(&str, &str); 30] = [
    ("acme", "What certificate authorities meet with here"),
    ("admin", "Where the endpoints of the protocol are served"),
    ("auth", "Whether a proxy needs a token, and whose"),
    ("cert", "Certificates: issued by an authority, or uploaded"),
    ("client", "Who may ask the authorization server for tokens"),
    ("config", "The configuration as a whole: export, import, validate"),
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
    ("proxy", "Public hosts and where their requests go"),
    ("resource", "Protected resources: what tokens are for"),
    ("route", "Paths that go elsewhere than their host"),
    ("routes", "Which routes a proxy takes"),
    ("service", "Upstreams that routes can name"),
    ("session", "Browsers of people who have signed in"),
    ("system", "Health, facts, and the configuration as a whole"),
    ("token", "Named tokens for services"),
];

/// All operations, by the words of their command.
pub(crate) struct Commands {
    nouns: BTreeMap<&'static str, Command>,
    entries: Vec<Entry>,
}

struct Entry {
    words: &'static [&'static str],
    endpoint: Endpoint,
    read: fn(&ArgMatches) -> Result<Value, clap::Error>,
}

/// A request to the API, ready to be sent.
#[derive(Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Option<Value>,
}

impl Commands {
    /// Reads the list.
    pub(crate) fn new() -> Self {
        let mut commands = Self { nouns: BTreeMap::new(), entries: Vec::new() };
        register(&mut commands);
        commands
    }

    /// The commands as clap wants them.
    pub(crate) fn subcommands(&self) -> impl Iterator<Item = Command> + '_ {
        self.nouns.values().cloned()
    }

    /// The call that was asked for; `None` when the words name no operation.
    pub(crate) fn call(&self, matches: &ArgMatches) -> Result<Option<Call>, clap::Error> {
        let words = words(matches);
        let mut leaf = matches;
        while let Some((_, below)) = leaf.subcommand() {
            leaf = below;
        }
        let Some(entry) = self.entries.iter().find(|entry| entry.words == words) else { return Ok(None) };
        Ok(Some(entry.endpoint.call((entry.read)(leaf)?)))
    }
}

impl Surface for Commands {
    fn add<O: Operation>(&mut self) {
        let Some((noun, rest)) = O::COMMAND.split_first() else { return };
        let tree = self.nouns.remove(noun).unwrap_or_else(|| noun_command("", noun));
        self.nouns.insert(noun, grow::<O>(tree, rest));
        self.entries.push(Entry {
            words: O::COMMAND,
            endpoint: O::HTTP,
            read: |matches| {
                let input = O::from_arg_matches(matches)?;
                Ok(serde_json::to_value(input).expect("an input has texts as keys"))
            },
        });
    }
}

/// The words of the command that was given.
pub(crate) fn words(matches: &ArgMatches) -> Vec<&str> {
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

trait ToCall {
    fn call(&self, input: Value) -> Call;
}

impl ToCall for Endpoint {
    /// Puts each field of the input where the endpoint wants it: path, else body, or the query where there is no body.
    fn call(&self, input: Value) -> Call {
        let mut fields = match input {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        fields.retain(|_, value| {
            !value.is_null() || self.method == Method::PUT || self.method == Method::PATCH
        });
        let mut path = String::new();
        for segment in self.path.split('/').skip(1) {
            path.push('/');
            match segment.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                Some(name) => {
                    let bare = name.trim_start_matches('*');
                    let keep = if bare == name { UNRESERVED } else { SEGMENTS };
                    let value = fields.remove(bare).map(|value| plain(&value)).unwrap_or_default();
                    path.extend(utf8_percent_encode(&value, keep));
                }
                None => path.push_str(segment),
            }
        }
        let bodiless = self.method == Method::GET || self.method == Method::DELETE;
        if !bodiless {
            return Call { method: self.method.clone(), path, body: Some(Value::Object(fields)) };
        }
        let query: Vec<_> = fields
            .iter()
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(&plain(value), UNRESERVED)))
            .collect();
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        Call { method: self.method.clone(), path, body: None }
    }
}

/// A value as text: lists with commas, anything deeper as JSON.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) if list.iter().all(|item| !item.is_object() && !item.is_array()) => {
            list.iter().map(plain).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}
