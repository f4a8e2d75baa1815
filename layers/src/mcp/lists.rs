//! Lists cut down to what the caller may use: of tools, prompts, resources and their templates.
//!
//! Only the entries that go are taken out. Everything else keeps its bytes: other members, cursors, the order, even
//! blanks.

use std::borrow::Cow;

use serde::Deserialize;

use super::json::{BadJson, Reader};
use super::message::looks_like;
use super::pins::Pins;
use super::rules::{Call, Decision, Object, Rules};
use crate::context::Principal;

/// The most entries of one list. Clients show them to a model, which reads some hundred.
const MAX_ENTRIES: usize = 65_536;
/// The most members of an envelope, a result or an entry.
const MAX_MEMBERS: usize = 256;

/// An answer that has to be read can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the answer is no list that can be read: {0}")]
pub struct BadList(String);

impl BadList {
    /// What is wrong.
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl From<BadJson> for BadList {
    fn from(error: BadJson) -> Self {
        Self(error.to_string())
    }
}

/// Whether answers to this method have lists in them.
pub fn has_lists(method: &str) -> bool {
    matches!(
        method,
        "tools/list"
            | "prompts/list"
            | "resources/list"
            | "resources/templates/list"
            | "server/discover"
            // What it has is for who may read it: no cache may give it to others.
            | "resources/read"
    )
}

/// Judges the entries of lists for one caller.
#[derive(Debug, Clone, Copy)]
pub struct Review<'a> {
    /// Which tools are as they were approved.
    pub pins: Option<&'a Pins>,
    /// By which rules.
    pub rules: &'a Rules,
    /// For whom.
    pub principal: Option<&'a Principal>,
    /// Whether an entry stays that the caller could use with more scopes.
    pub with_attainable: bool,
}

impl Review<'_> {
    /// Whether an entry stays.
    fn keeps(&self, object: Object<'_>, entry: &str) -> bool {
        // First, so that all of them are seen, whoever asks.
        let pinned = match (self.pins, object) {
            (Some(pins), Object::Tool(name)) => pins.look(name, entry),
            _ => true,
        };
        pinned && self.allows(object)
    }

    /// Takes note of an entry that can be read in more than one way: it may be of a tool that was approved.
    fn look_closer(&self, entry: &str) {
        #[derive(Deserialize)]
        struct Named {
            name: String,
        }
        if let (Some(pins), Ok(Named { name })) = (self.pins, serde_json::from_str(entry)) {
            pins.look(&name, entry);
        }
    }

    fn allows(&self, object: Object<'_>) -> bool {
        match self.rules.decide(&Call::listed(object), self.principal) {
            Ok(Decision::Allow(_)) => true,
            Ok(Decision::Scopes(_)) => self.with_attainable,
            Ok(Decision::Deny(_)) | Err(_) => false,
        }
    }

    /// A message, or a batch of them, without the entries that the caller may not use; `None`: all of them stay.
    ///
    /// # Errors
    ///
    /// When it can't be read, so that nobody can tell what is in it.
    pub fn edit(&self, message: &[u8]) -> Result<Option<Vec<u8>>, BadList> {
        let text = std::str::from_utf8(message).map_err(|error| BadList(error.to_string()))?;
        let mut cuts = Vec::new();
        for message in messages(text)? {
            self.cut(text, message, &mut cuts)?;
        }
        Ok((!cuts.is_empty()).then(|| spliced(text, &cuts)))
    }

    /// Finds the lists of one message.
    fn cut<'a>(&self, whole: &'a str, message: &'a str, cuts: &mut Vec<Cut<'a>>) -> Result<(), BadList> {
        let Some((_, result)) = one_of(members(message)?, &["result"])?.pop() else { return Ok(()) };
        if !result.starts_with('{') {
            return Ok(());
        }
        for (name, list) in one_of(members(result)?, &KNOWN)? {
            // What depends on who asks is nobody else's (revision 2026-07-28).
            if name == "cacheScope" && list != PRIVATE {
                let begin = list.as_ptr() as usize - whole.as_ptr() as usize;
                cuts.push(Cut { begin, end: begin + list.len(), left: Left::Text(PRIVATE) });
                continue;
            }
            let Some(kind) = Listed::of(&name) else { continue };
            if !list.starts_with('[') {
                return Err(BadList(format!("`{name}` is no list")));
            }
            let all = elements(list, MAX_ENTRIES)?;
            let count = all.len();
            let kept: Vec<_> = all
                .into_iter()
                .filter(|entry| match text_of(entry, kind.key()) {
                    Some(name) => self.keeps(kind.object(&name), entry),
                    // An entry that does not say what it is has no place in a list.
                    None => {
                        self.look_closer(entry);
                        false
                    }
                })
                .collect();
            if kept.len() < count {
                let begin = list.as_ptr() as usize - whole.as_ptr() as usize;
                cuts.push(Cut { begin, end: begin + list.len(), left: Left::Entries(kept) });
            }
        }
        Ok(())
    }
}

/// Readers in JavaScript that copy members one by one take what this one has for members of the object itself.
pub(super) const PROTOTYPE: &str = "__proto__";

/// What of a result is looked at.
const KNOWN: [&str; 5] = ["tools", "prompts", "resources", "resourceTemplates", "cacheScope"];

/// The members that are known. One that is known in another case is one to readers who ignore that.
fn one_of<'a>(mut all: Members<'a>, known: &[&str]) -> Result<Members<'a>, BadList> {
    for (name, _) in &all {
        if let Some(other) = known.iter().find(|known| name != **known && looks_like(name, known)) {
            return Err(BadList(format!("a member is `{other}` in another case")));
        }
    }
    all.retain(|(name, _)| known.contains(&&**name));
    Ok(all)
}

/// Whether a member of a result is a list that has to be looked through, in whatever case its name is written.
pub(super) fn is_list(name: &str) -> bool {
    name == PROTOTYPE || KNOWN[..4].iter().any(|known| looks_like(name, known))
}

/// What a list is of.
#[derive(Debug, Clone, Copy)]
enum Listed {
    Tools,
    Prompts,
    Resources,
    Templates,
}

impl Listed {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "tools" => Self::Tools,
            "prompts" => Self::Prompts,
            "resources" => Self::Resources,
            "resourceTemplates" => Self::Templates,
            _ => return None,
        })
    }

    /// Which member of an entry is its name.
    const fn key(self) -> &'static str {
        match self {
            Self::Tools | Self::Prompts => "name",
            Self::Resources => "uri",
            Self::Templates => "uriTemplate",
        }
    }

    const fn object(self, name: &str) -> Object<'_> {
        match self {
            Self::Tools => Object::Tool(name),
            Self::Prompts => Object::Prompt(name),
            Self::Resources | Self::Templates => Object::Resource(name),
        }
    }
}

/// How long an answer may be kept, and by whom: by its client only.
const PRIVATE: &str = "\"private\"";

/// What stands in place of a value.
struct Cut<'a> {
    begin: usize,
    end: usize,
    left: Left<'a>,
}

enum Left<'a> {
    /// Of a list: these.
    Entries(Vec<&'a str>),
    /// Another text.
    Text(&'static str),
}

fn spliced(text: &str, cuts: &[Cut<'_>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    for Cut { begin, end, left } in cuts {
        out.extend_from_slice(&text.as_bytes()[at..*begin]);
        match left {
            Left::Text(other) => out.extend_from_slice(other.as_bytes()),
            Left::Entries(kept) => {
                out.push(b'[');
                for (index, entry) in kept.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(entry.as_bytes());
                }
                out.push(b']');
            }
        }
        at = *end;
    }
    out.extend_from_slice(&text.as_bytes()[at..]);
    out
}

/// The text of a member of an entry; `None` also where another one is that member to readers who ignore case.
fn text_of<'a>(entry: &'a str, key: &str) -> Option<Cow<'a, str>> {
    let all = members(entry).ok()?;
    if all.iter().any(|(name, _)| name != key && looks_like(name, key)) {
        return None;
    }
    let (_, value) = all.into_iter().find(|(name, _)| name == key)?;
    string(value)
}

/// The text that JSON is, if it is one.
pub(super) fn string(json: &str) -> Option<Cow<'_, str>> {
    Reader::of_answer(json).string().ok().flatten()
}

/// The members of an object, unread.
type Members<'a> = Vec<(Cow<'a, str>, &'a str)>;

/// The members of an object, unread, each name once.
pub(super) fn members(text: &str) -> Result<Members<'_>, BadList> {
    let mut all = Members::new();
    let mut reader = Reader::of_answer(text);
    reader.object()?;
    while let Some(name) = reader.member()? {
        if all.len() == MAX_MEMBERS || all.iter().any(|(other, _)| *other == name) {
            return Err(BadList::new("duplicate member, or too many of them"));
        }
        if name == PROTOTYPE {
            return Err(BadList::new("a member is `__proto__`"));
        }
        all.push((name, reader.value()?));
    }
    reader.end()?;
    Ok(all)
}

/// The messages of a batch, or the only one, unread.
pub(super) fn messages(text: &str) -> Result<Vec<&str>, BadList> {
    if !text.trim_ascii_start().starts_with('[') {
        return Ok(vec![text]);
    }
    elements(text, MAX_ENTRIES)
}

/// The elements of a list, unread.
pub(super) fn elements(text: &str, most: usize) -> Result<Vec<&str>, BadList> {
    let mut all = Vec::new();
    let mut reader = Reader::of_answer(text);
    reader.list()?;
    while reader.element()? {
        if all.len() == most {
            return Err(BadList::new("a list is too long"));
        }
        all.push(reader.value()?);
    }
    reader.end()?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::rules::{Effect, Rule, Selector};
    use super::*;

    fn edited(message: &[u8], with_attainable: bool) -> Result<Option<Vec<u8>>, BadList> {
        let deny = |what| Rule { what, effect: Effect::Deny, ..Rule::default() };
        let list = |text: &str| vec![text.into()];
        let scoped = Rule {
            what: Selector { tools: list("write"), ..Selector::default() },
            scopes: list("mcp:write"),
            ..Rule::default()
        };
        let rules = vec![
            deny(Selector { tools: list("secret*"), ..Selector::default() }),
            deny(Selector { prompts: list("p"), ..Selector::default() }),
            deny(Selector { resources: list("file:///etc/*"), ..Selector::default() }),
            scoped,
        ];
        let rules = Rules { rules, ..Rules::default() };
        Review { pins: None, rules: &rules, principal: None, with_attainable }.edit(message)
    }

    #[test]
    fn lists_lose_what_the_caller_may_not_use_and_nothing_else() {
        for (message, expected) in [
            (r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a"}],"nextCursor":"x"}}"#, None),
            (
                r#"{"jsonrpc":"2.0", "id":1,"result":{ "tools" : [ {"name":"a", "x": 1} , {"name":"secret"},{"name":"b"} ] ,"nextCursor":"x"} }"#,
                Some(
                    r#"{"jsonrpc":"2.0", "id":1,"result":{ "tools" : [{"name":"a", "x": 1},{"name":"b"}] ,"nextCursor":"x"} }"#,
                ),
            ),
            (
                r#"{"id":1,"result":{"tools":[{"name":"\u0073ecret"},{"title":"no name"},7,{"name":1},{"name":"a","name":"b"},{"name":"a","Name":"secret"},{"name":"a","__proto__":{}}]}}"#,
                Some(r#"{"id":1,"result":{"tools":[]}}"#),
            ),
            (r#"{"id":1,"result":{"tools":[{"name":"write"}]}}"#, Some(r#"{"id":1,"result":{"tools":[]}}"#)),
            (r#"{"id":1,"result":{"prompts":[{"name":"p"}]}}"#, Some(r#"{"id":1,"result":{"prompts":[]}}"#)),
            (r#"{"id":1,"result":{"prompts":[{"name":"secret"}]}}"#, None),
            (
                r#"{"id":1,"result":{"resources":[{"uri":"file:///etc/x"},{"uri":"file:///y"}],"resourceTemplates":[{"uriTemplate":"file:///etc/{x}"}]}}"#,
                Some(r#"{"id":1,"result":{"resources":[{"uri":"file:///y"}],"resourceTemplates":[]}}"#),
            ),
            (
                r#"[{"id":1,"result":{"tools":[{"name":"secret"}]}},{"id":2,"result":{"tools":[{"name":"secret1"}]}},{"method":"x"}]"#,
                Some(r#"[{"id":1,"result":{"tools":[]}},{"id":2,"result":{"tools":[]}},{"method":"x"}]"#),
            ),
            (r#"{"id":1,"error":{"code":1,"message":"x"}}"#, None),
            (r#"{"id":1,"method":"x","params":{"tools":[{"name":"secret"}]}}"#, None),
            (r#"{"id":1,"result":[]}"#, None),
        ] {
            let edited = edited(message.as_bytes(), false).expect("readable");
            let edited = edited.map(|bytes| String::from_utf8(bytes).expect("text"));
            assert_eq!(edited.as_deref(), expected, "{message}");
        }
        let write = br#"{"id":1,"result":{"tools":[{"name":"write"}]}}"#;
        assert_eq!(edited(write, true), Ok(None), "an entry that a step would reach");
    }

    #[test]
    fn what_can_not_be_read_is_no_list() {
        let long = format!(r#"{{"result":{{"tools":[{}1]}}}}"#, "1,".repeat(MAX_ENTRIES));
        for message in [
            "",
            "{",
            "x",
            r#"{"result":{"tools":[{"name":"a"}}}"#,
            r#"{"result":{"tools":[]}} x"#,
            r#"{"result":{"__proto__":{"tools":[]}}}"#,
            r#"{"__proto__":{"result":{"tools":[]}}}"#,
            r#"{"result":{"tools":{}}}"#,
            r#"{"result":{"tools":"x"}}"#,
            r#"{"result":{"tools":[],"tools":[]}}"#,
            r#"{"result":{},"result":{}}"#,
            "[1]",
            &long,
        ] {
            let shown: String = message.chars().take(60).collect();
            assert!(edited(message.as_bytes(), false).is_err(), "{shown}");
        }
        assert!(edited(b"{\"result\":{\"tools\":[{\"name\":\"\xff\"}]}}", false).is_err());
    }
}
