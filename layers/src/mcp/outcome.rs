//! How a call went, read off its answer: whether there is a `result` or an `error`, the error's `code`, and the result's
//! `isError`. What is no JSON-RPC message leaves nobody with an opinion.
//!
//! [`Seen`] is of a message that is here as a whole, [`Watch`] of one that passes in pieces: it holds nothing but where it
//! stands, and checks nothing.

use memchr::memchr2;

use super::call::Outcome;
use super::json::{BadJson, Reader};
use super::lists::{PROTOTYPE, is_list};
use super::message::looks_like;
use super::sse::is_plain;

/// What a whole message says.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) outcome: Outcome,
    /// The result has a list in it that somebody would have to look through.
    pub(super) lists: bool,
    /// It is one message, no batch, and can be read in one way as far as it matters. Of what is very deep this is an
    /// opinion.
    pub(super) whole: bool,
}

impl Seen {
    pub(super) fn of(message: &[u8]) -> Self {
        let mut seen = Self { whole: true, ..Self::default() };
        let read = std::str::from_utf8(message).map(|text| seen.read(text));
        if let Ok(Ok(())) = read {
            return seen;
        }
        let watch = Watch::of(message);
        // Nobody has looked for characters in it that JSON has not.
        let plain = || message.split(|byte| matches!(byte, b'\r' | b'\n')).all(is_plain);
        let deep = matches!(read, Ok(Err(BadJson::Deep)));
        let whole = seen.whole && deep && watch.is_whole() && plain();
        Self { outcome: watch.outcome, lists: seen.lists || watch.lists, whole }
    }

    fn read(&mut self, message: &str) -> Result<(), BadJson> {
        let Self { outcome, lists, whole } = self;
        let mut reader = Reader::of_answer(message);
        let mut before = 0_u8;
        // Of two members of one name some readers take the first, and some the last.
        let mut once = |name: u8| {
            *whole &= before & (1 << name) == 0;
            before |= 1 << name;
        };
        reader.object()?;
        while let Some(name) = reader.member()? {
            let (result, error) = (name == "result", name == "error");
            match &*name {
                "result" => once(0),
                "error" => once(1),
                "id" => once(2),
                "method" => once(3),
                _ => *lists |= seems_result(&name),
            }
            outcome.answered |= result || error;
            if !(result || error) || reader.peek() != Some(b'{') {
                reader.value()?;
                continue;
            }
            reader.object()?;
            while let Some(name) = reader.member()? {
                *lists |= result && is_list(&name);
                let value = reader.value()?;
                match &*name {
                    "code" if error => {
                        once(4);
                        outcome.error = value.parse().ok();
                    }
                    "isError" if result => {
                        once(5);
                        outcome.is_error = value == "true";
                    }
                    _ => {}
                }
            }
        }
        reader.end()
    }
}

/// Whether some readers take a member of a message for its result, or what is in it.
fn seems_result(name: &str) -> bool {
    name == PROTOTYPE || looks_like(name, "result")
}

/// Reads a message in whatever pieces it comes.
#[derive(Debug, Default)]
pub(super) struct Watch {
    depth: usize,
    /// In a string, and behind a backslash in it.
    string: Option<bool>,
    /// The next string is the name of a member.
    naming: bool,
    /// The text of a name or of a value without quotes, as far as it matters.
    word: Word,
    /// Which member of the message this is.
    member: Member,
    /// Which member of the error or result this is.
    inner: Inner,
    outcome: Outcome,
    /// The string has an escape in it.
    escaped: bool,
    /// The result has a list in it, or a name that only a reader of escapes could tell.
    lists: bool,
    /// Something else than an object has begun.
    strange: bool,
    /// It is no object: a batch, or no message at all.
    other: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Member {
    #[default]
    Other,
    Result,
    Error,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Inner {
    #[default]
    Other,
    Code,
    IsError,
}

/// A short text; a longer one is none that matters.
#[derive(Debug, Default)]
struct Word {
    bytes: [u8; 24],
    length: usize,
}

impl Word {
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
        }
        self.length = self.length.saturating_add(1);
    }

    fn extend(&mut self, bytes: &[u8]) {
        let end = self.length.saturating_add(bytes.len());
        if let Some(places) = self.bytes.get_mut(self.length..end) {
            places.copy_from_slice(bytes);
        }
        self.length = end;
    }

    fn text(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Watch {
    fn of(message: &[u8]) -> Self {
        let mut watch = Self::default();
        watch.feed(message);
        watch
    }

    /// Takes the next piece.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if self.other {
                return;
            }
            at += 1;
            match self.string {
                Some(true) => {
                    // In a name that matters there is none.
                    self.string = Some(false);
                    self.escaped = true;
                    self.word.push(0);
                }
                Some(false) => match byte {
                    b'\\' => self.string = Some(true),
                    b'"' => {
                        self.string = None;
                        if self.naming {
                            self.named();
                        }
                    }
                    _ => {
                        let rest = &bytes[at..];
                        let length = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                        // Nobody looks at the others: images are such strings.
                        if self.naming && self.depth <= 2 {
                            self.word.extend(&bytes[at - 1..at + length]);
                        }
                        at += length;
                    }
                },
                // Nothing so deep matters, but where it ends.
                None if self.depth > 2 => match byte {
                    b'"' => (self.string, self.naming) = (Some(false), false),
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' => (self.depth, self.naming) = (self.depth - 1, false),
                    _ => {}
                },
                None => self.mark(*byte),
            }
        }
    }

    /// How it went, when the message has ended.
    pub(super) const fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Whether one message, and no batch, has begun and ended.
    const fn is_whole(&self) -> bool {
        self.other && self.depth == 0
    }

    /// Whether the result has a list in it that somebody would have to look through.
    pub(super) const fn has_lists(&self) -> bool {
        self.lists
    }

    /// Whether it has begun with something else than an object: no message, or a batch.
    pub(super) const fn is_strange(&self) -> bool {
        self.strange
    }

    /// A byte outside of strings.
    fn mark(&mut self, byte: u8) {
        match byte {
            b'"' => {
                self.strange |= self.depth == 0;
                self.string = Some(false);
                self.escaped = false;
                self.word.length = 0;
            }
            b'{' | b'[' => {
                if self.depth == 0 && byte == b'[' {
                    (self.other, self.strange) = (true, true);
                }
                self.depth += 1;
                self.naming = byte == b'{';
                self.inner = Inner::Other;
                self.word.length = 0;
            }
            b'}' | b']' => {
                self.valued();
                self.depth = self.depth.saturating_sub(1);
                self.naming = false;
                self.other |= self.depth == 0;
            }
            b',' => {
                self.valued();
                // In a list at these depths a string is taken for a name, which means nothing there.
                self.naming = true;
            }
            b':' => {
                self.naming = false;
                self.word.length = 0;
            }
            b' ' | b'\t' | b'\r' | b'\n' => {}
            byte => {
                self.strange |= self.depth == 0;
                self.word.push(byte);
            }
        }
    }

    /// The name of a member has ended.
    fn named(&mut self) {
        match self.depth {
            1 => {
                self.member = match self.word.text() {
                    b"result" => Member::Result,
                    b"error" => Member::Error,
                    name => {
                        let seems_result = std::str::from_utf8(name).is_ok_and(seems_result);
                        self.lists |= self.escaped || seems_result;
                        Member::Other
                    }
                };
                self.outcome.answered |= self.member != Member::Other;
            }
            2 => {
                let name = self.word.text();
                let is_list = self.escaped || std::str::from_utf8(name).is_ok_and(is_list);
                self.lists |= self.member == Member::Result && is_list;
                self.inner = match (self.member, self.word.text()) {
                    (Member::Error, b"code") => Inner::Code,
                    (Member::Result, b"isError") => Inner::IsError,
                    _ => Inner::Other,
                };
            }
            _ => {}
        }
    }

    /// A value without quotes may have ended.
    fn valued(&mut self) {
        if self.depth == 2 {
            let text = std::str::from_utf8(self.word.text()).unwrap_or_default();
            match self.inner {
                Inner::Code => self.outcome.error = text.parse().ok(),
                Inner::IsError => self.outcome.is_error = text == "true",
                Inner::Other => {}
            }
            self.inner = Inner::Other;
        }
        self.word.length = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_is_read_wherever_the_message_is_cut() {
        let ok = Outcome { answered: true, ..Outcome::default() };
        let failed = Outcome { is_error: true, ..ok };
        let error = |code| Outcome { error: Some(code), ..ok };
        for (message, expected) in [
            (r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"x"}]}}"#, ok),
            (r#"{"jsonrpc":"2.0","id":1,"result":{"content":[], "isError" : true }}"#, failed),
            (r#"{"result":{"isError":true,"content":[]}}"#, failed),
            (r#"{"result":{"isError":false}}"#, ok),
            (r#"{"result":{"a":{"isError":true}}}"#, ok),
            (r#"{"result":{"a":["isError",true]}}"#, ok),
            (r#"{"result":{"a":"\"isError\":true"}}"#, ok),
            (r#"{"result":[{"isError":true}]}"#, ok),
            (r#"{"isError":true,"result":{}}"#, ok),
            (r#"{"id":1,"error":{"code":-32602,"message":"x","data":{"code":5}}}"#, error(-32602)),
            (r#"{"id":1,"error":{"data":{"code":5},"message":"x","code": -1 }}"#, error(-1)),
            (r#"{"error":{"code":"x"}}"#, ok),
            (r#"{"error":{"code":99999999999999999999}}"#, ok),
            (r#"{"error":null}"#, ok),
            (r#"{"method":"notifications/progress","params":{"error":{"code":1}}}"#, Outcome::default()),
            (r#"[{"result":{}}]"#, Outcome::default()),
            (r#""result""#, Outcome::default()),
            ("", Outcome::default()),
            ("{{{{]]]]}}}}\"\\", Outcome::default()),
        ] {
            for cut in 0..=message.len() {
                let mut watch = Watch::default();
                watch.feed(&message.as_bytes()[..cut]);
                watch.feed(&message.as_bytes()[cut..]);
                assert_eq!(watch.outcome(), expected, "{message} cut at {cut}");
            }
            assert_eq!(Seen::of(message.as_bytes()).outcome, expected, "{message}");
        }
    }

    #[test]
    fn lists_are_seen_wherever_the_message_is_cut() {
        for (message, expected) in [
            (r#"{"id":1,"result":{"tools":[]}}"#, true),
            (r#"{"id":1,"result":{"Tools":[]}}"#, true),
            (r#"{"id":1,"Result":{"tools":[]}}"#, true),
            (r#"{"id":1,"result":{"t\u006fols":[]}}"#, true),
            (r#"{"id":1,"r\u0065sult":{"tools":[]}}"#, true),
            (r#"{"id":1,"result":{"_meta":{"x":1},"resourceTemplates":[]}}"#, true),
            (r#"{"id":1,"result":{"content":[{"tools":1}],"structuredContent":{"tools":[]}}}"#, false),
            (r#"{"id":1,"result":{"capabilities":{"tools":{}}}}"#, false),
            (r#"{"id":1,"params":{"tools":[]}}"#, false),
        ] {
            for cut in 0..=message.len() {
                let mut watch = Watch::default();
                watch.feed(&message.as_bytes()[..cut]);
                watch.feed(&message.as_bytes()[cut..]);
                assert_eq!(watch.has_lists(), expected, "{message} cut at {cut}");
            }
            let seen = Seen::of(message.as_bytes());
            assert_eq!((seen.lists, seen.whole), (expected, true), "{message}");
        }
    }

    #[test]
    fn no_spelling_hides_a_list() {
        let escaped =
            |name: &str| name.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect::<String>();
        let folded = |name: &str| name.replacen('s', "\u{17f}", 1);
        let upper = |name: &str| name.to_uppercase();
        let deep = format!(r#","x":{}{}"#, "[".repeat(200), "]".repeat(200));
        for name in ["tools", "prompts", "resources", "resourceTemplates"] {
            for spelling in [name.to_owned(), escaped(name), folded(name), upper(name)] {
                for result in ["result".to_owned(), escaped("result"), folded("result"), upper("result")] {
                    for (before, behind) in [("", ""), ("", &*deep), (r#""\ud800":1,"#, "")] {
                        let message = format!(r#"{{"id":1,"{result}":{{{before}"{spelling}":[]{behind}}}}}"#);
                        let mut watch = Watch::default();
                        watch.feed(message.as_bytes());
                        assert!(watch.has_lists(), "{message}");
                        assert!(Seen::of(message.as_bytes()).lists, "{message}");
                    }
                }
            }
        }
        let long = format!(r#"{{"id":1,"result":{{"\u0061{}":1}}}}"#, "b".repeat(99));
        assert!(!Seen::of(long.as_bytes()).lists, "{long}");
    }

    #[test]
    fn what_is_there_twice_is_not_whole() {
        for message in [
            r#"{"id":1,"id":2,"result":{}}"#,
            r#"{"id":1,"result":{},"result":{}}"#,
            r#"{"id":1,"result":{},"r\u0065sult":{}}"#,
            r#"{"id":1,"error":{"code":1,"code":2}}"#,
            r#"{"id":1,"result":{"isError":true,"isError":false}}"#,
        ] {
            assert!(!Seen::of(message.as_bytes()).whole, "{message}");
        }
        assert!(Seen::of(br#"{"id":1,"result":{"a":{"id":1},"b":{"id":1}}}"#).whole);
    }

    #[test]
    fn what_nobody_can_read_as_one_message_is_not_whole() {
        let deep = |begin: &str| {
            format!(r#"{{"id":1,"result":{{{begin}"a":{}{}}}}}"#, "[".repeat(200), "]".repeat(200))
        };
        let seen = Seen::of(deep("").as_bytes());
        assert!(seen.whole && !seen.lists && seen.outcome.answered);
        assert!(Seen::of(deep(r#""tools":[],"#).as_bytes()).lists);
        for message in
            ["", "{", r#"{"result":{}} {}"#, r#"[{"result":{}}]"#, r#"{"result":{"a":tru}}"#, "null"]
        {
            assert!(!Seen::of(message.as_bytes()).whole, "{message}");
        }
        assert!(!Seen::of(b"{\"result\":{\"a\":\"\xff\"}}").whole);
    }
}
