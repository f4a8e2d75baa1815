//! JSON (RFC 8259) read in one pass and without a tree: each value is checked, and found as the text that it is.
//!
//! Who reads says what it wants of an object or a list, and takes everything else as text. It is as strict as the
//! standard; beyond it there is a bound for the nesting.

use std::borrow::Cow;

use wide::u8x16;

use super::message::MAX_DEPTH;

/// The deepest nesting of an answer. Recursive readers give up here, too.
pub(super) const MAX_ANSWER_DEPTH: usize = 128;

/// Why a text is not read. It is small enough to be returned in a register, by functions that are called for each value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadJson {
    /// It is no JSON.
    #[error("{what} at byte {at}")]
    Syntax {
        /// Where.
        at: u32,
        /// What is there, or is not.
        what: What,
    },
    /// Deeper than it may be.
    #[error("it is nested too deeply")]
    Deep,
}

/// What is not JSON about a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum What {
    #[error("no object")]
    NoObject,
    #[error("no list")]
    NoList,
    #[error("no value")]
    NoValue,
    #[error("no name of a member")]
    NoName,
    #[error("no colon")]
    NoColon,
    #[error("neither a comma nor the end")]
    NoComma,
    #[error("no digit")]
    NoDigit,
    #[error("no escape")]
    NoEscape,
    #[error("no end of a string")]
    NoEnd,
    #[error("no text before this quote")]
    NoText,
    #[error("a control character in a string")]
    Control,
    #[error("something behind the end")]
    Behind,
}

/// Reads a text from its beginning to its end.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// How many objects and lists the reader is in, and may be in.
    depth: usize,
    deepest: usize,
    /// Nothing has been read yet of the innermost one.
    fresh: bool,
}

// One bit for each object or list that a value is in.
const _: () = assert!(MAX_DEPTH <= MAX_ANSWER_DEPTH && MAX_ANSWER_DEPTH <= u128::BITS as usize);

impl<'a> Reader<'a> {
    /// Reads what a client sends.
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0, deepest: MAX_DEPTH, fresh: false }
    }

    /// Reads what a server answers: data may be nested more deeply than arguments.
    pub(super) const fn of_answer(text: &'a str) -> Self {
        Self { deepest: MAX_ANSWER_DEPTH, ..Self::new(text) }
    }

    /// The byte that the next value begins with.
    pub(super) fn peek(&mut self) -> Option<u8> {
        self.blanks();
        self.byte()
    }

    /// The next value, whatever it is, as it stands there.
    pub(super) fn value(&mut self) -> Result<&'a str, BadJson> {
        self.blanks();
        let begin = self.at;
        self.skip()?;
        Ok(&self.text[begin..self.at])
    }

    /// The next value, if it is a string, without its escapes.
    pub(super) fn string(&mut self) -> Result<Option<Cow<'a, str>>, BadJson> {
        if self.peek() != Some(b'"') {
            self.skip()?;
            return Ok(None);
        }
        self.at += 1;
        self.text_behind_quote().map(Some)
    }

    /// Goes into the next value, which has to be an object: [`member`](Self::member) is read until there is none.
    pub(super) fn object(&mut self) -> Result<(), BadJson> {
        self.enter(b'{', What::NoObject)
    }

    /// The name of the next member, whose value is to be read next; `None`: that was the last one.
    ///
    /// One function for all objects: what is read here is read once for each request, and not in a loop that would be
    /// worth a copy of its own.
    #[inline(never)]
    pub(super) fn member(&mut self) -> Result<Option<Cow<'a, str>>, BadJson> {
        if self.is_over(b'}')? {
            return Ok(None);
        }
        self.expect(b'"', What::NoName)?;
        let name = self.text_behind_quote()?;
        self.expect(b':', What::NoColon)?;
        Ok(Some(name))
    }

    /// Goes into the next value, which has to be a list: [`element`](Self::element) is asked until there is none.
    pub(super) fn list(&mut self) -> Result<(), BadJson> {
        self.enter(b'[', What::NoList)
    }

    /// Whether there is another element, which is to be read next.
    pub(super) fn element(&mut self) -> Result<bool, BadJson> {
        self.is_over(b']').map(|over| !over)
    }

    /// Nothing may come any more.
    pub(super) fn end(mut self) -> Result<(), BadJson> {
        if self.peek().is_none() { Ok(()) } else { Err(self.bad(What::Behind)) }
    }

    #[cold]
    fn bad(&self, what: What) -> BadJson {
        BadJson::Syntax { at: u32::try_from(self.at).unwrap_or(u32::MAX), what }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.byte() {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8, missing: What) -> Result<(), BadJson> {
        if self.peek() != Some(byte) {
            return Err(self.bad(missing));
        }
        self.at += 1;
        Ok(())
    }

    fn enter(&mut self, byte: u8, missing: What) -> Result<(), BadJson> {
        self.expect(byte, missing)?;
        self.depth += 1;
        self.fresh = true;
        if self.depth > self.deepest { Err(BadJson::Deep) } else { Ok(()) }
    }

    /// Whether the object or list that the reader is in ends here; then it is behind that.
    fn is_over(&mut self, end: u8) -> Result<bool, BadJson> {
        let over = if !std::mem::take(&mut self.fresh) {
            self.is_last(end)?
        } else if self.peek() == Some(end) {
            self.at += 1;
            true
        } else {
            false
        };
        self.depth -= usize::from(over);
        Ok(over)
    }

    /// Whether the object or list ends behind a value, or goes on.
    fn is_last(&mut self, end: u8) -> Result<bool, BadJson> {
        let byte = self.peek();
        if byte != Some(b',') && byte != Some(end) {
            return Err(self.bad(What::NoComma));
        }
        self.at += 1;
        Ok(byte == Some(end))
    }

    /// To the end of the value that begins here.
    fn skip(&mut self) -> Result<(), BadJson> {
        match self.peek() {
            Some(b'{' | b'[') => self.nested(),
            first => self.scalar(first),
        }
    }

    /// To the end of the object or list that begins here.
    fn nested(&mut self) -> Result<(), BadJson> {
        // Which of the levels are objects, the innermost last.
        let (mut objects, mut levels) = (0_u128, 0);
        loop {
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    self.at += 1;
                    if self.depth + levels == self.deepest {
                        return Err(BadJson::Deep);
                    }
                    let empty = self.peek() == Some(if open == b'{' { b'}' } else { b']' });
                    if !empty {
                        levels += 1;
                        objects = objects << 1 | u128::from(open == b'{');
                        if open == b'{' {
                            self.name()?;
                        }
                        continue;
                    }
                    self.at += 1;
                }
                first => self.scalar(first)?,
            }
            // Out of all that ends here.
            loop {
                if levels == 0 {
                    return Ok(());
                }
                let object = objects & 1 == 1;
                if !self.is_last(if object { b'}' } else { b']' })? {
                    if object {
                        self.name()?;
                    }
                    break;
                }
                levels -= 1;
                objects >>= 1;
            }
        }
    }

    /// To the end of the value without parts that begins here, with this byte.
    fn scalar(&mut self, first: Option<u8>) -> Result<(), BadJson> {
        match first {
            Some(b'"') => {
                self.at += 1;
                self.pass_text()
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            _ => Err(self.bad(What::NoValue)),
        }
    }

    /// A member's name, which nobody asks for, and the colon.
    fn name(&mut self) -> Result<(), BadJson> {
        self.expect(b'"', What::NoName)?;
        self.pass_text()?;
        self.expect(b':', What::NoColon)
    }

    fn word(&mut self, word: &str) -> Result<(), BadJson> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.bad(What::NoValue));
        }
        self.at += word.len();
        Ok(())
    }

    fn number(&mut self) -> Result<(), BadJson> {
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        // No zeros in front.
        if self.byte() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), BadJson> {
        let begin = self.at;
        while let Some(b'0'..=b'9') = self.byte() {
            self.at += 1;
        }
        if self.at == begin { Err(self.bad(What::NoDigit)) } else { Ok(()) }
    }

    /// What a string says whose first quote has been read.
    #[inline]
    fn text_behind_quote(&mut self) -> Result<Cow<'a, str>, BadJson> {
        let begin = self.at;
        match self.mark() {
            Some(b'"') => {
                let text = &self.text[begin..self.at];
                self.at += 1;
                Ok(Cow::Borrowed(text))
            }
            mark => self.unescaped(begin - 1, mark),
        }
    }

    /// The same for a string that began here and goes on with an escape, or is none.
    #[cold]
    fn unescaped(&mut self, begin: usize, mark: Option<u8>) -> Result<Cow<'a, str>, BadJson> {
        self.pass_escapes(mark)?;
        // Half a surrogate pair is an escape, but no text.
        let text = serde_json::from_str(&self.text[begin..self.at]);
        text.map(Cow::Owned).map_err(|_| self.bad(What::NoText))
    }

    /// Goes behind the last quote of a string whose first one has been read.
    #[inline]
    fn pass_text(&mut self) -> Result<(), BadJson> {
        match self.mark() {
            Some(b'"') => {
                self.at += 1;
                Ok(())
            }
            // Most have no escapes: what they need goes without this.
            mark => self.pass_escapes(mark),
        }
    }

    /// The same for a string that goes on with an escape, or is none.
    #[inline(never)]
    fn pass_escapes(&mut self, mut mark: Option<u8>) -> Result<(), BadJson> {
        loop {
            match mark {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escape()?;
                }
                Some(_) => return Err(self.bad(What::Control)),
                None => return Err(self.bad(What::NoEnd)),
            }
            mark = self.mark();
        }
    }

    /// Goes to the next byte that a string does not simply go on with: a quote, a backslash, a control character.
    ///
    /// One function for all strings, and what it returns fits into registers.
    #[inline(never)]
    fn mark(&mut self) -> Option<u8> {
        let (sixteens, _) = self.text.as_bytes()[self.at..].as_chunks();
        for sixteen in sixteens {
            let marks = marks(u8x16::new(*sixteen));
            if marks != 0 {
                let byte = marks.trailing_zeros() as usize;
                self.at += byte;
                return sixteen.get(byte).copied();
            }
            self.at += sixteen.len();
        }
        // Near the end of the text they come one by one.
        while let Some(byte) = self.byte() {
            if matches!(byte, b'"' | b'\\' | b'\0'..=b'\x1f') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    fn escape(&mut self) -> Result<(), BadJson> {
        let rest = &self.text.as_bytes()[self.at..];
        let length = match rest {
            [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 1,
            [b'u', a, b, c, d, ..] if [a, b, c, d].iter().all(|digit| digit.is_ascii_hexdigit()) => 5,
            _ => return Err(self.bad(What::NoEscape)),
        };
        self.at += length;
        Ok(())
    }
}

/// The bytes that a string does not simply go on with, a bit for each.
fn marks(bytes: u8x16) -> u32 {
    let is_control = bytes.min(u8x16::splat(0x1f)).simd_eq(bytes);
    (bytes.simd_eq(u8x16::splat(b'"')) | bytes.simd_eq(u8x16::splat(b'\\')) | is_control).to_bitmask()
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    fn whole(text: &str) -> Result<&str, BadJson> {
        let mut reader = Reader::new(text);
        let value = reader.value()?;
        reader.end()?;
        Ok(value)
    }

    /// Pieces of JSON and of what is nearly JSON, put together in all ways that a counter finds.
    fn texts() -> impl Iterator<Item = String> {
        const PIECES: [&str; 40] = [
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\"a\"",
            "\"\\u00e9\"",
            "\"\\ud800\"",
            "\"\\u12g4\"",
            "\"\\x\"",
            "\\",
            "é",
            "\u{1}",
            "\n",
            " ",
            "\t",
            "\u{a0}",
            "0",
            "1",
            "-",
            "-0",
            "01",
            "1.",
            ".5",
            "1.5e+3",
            "1e",
            "E-2",
            "true",
            "false",
            "null",
            "nul",
            "\"a\":",
            "\"a\":1,",
            "[]",
            "{}",
            "\"long text of many words\"",
            "\"long text\\nof lines\"",
            "\"long text \u{7f} é\u{1f}\"",
        ];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        (0..200_000).map(move |_| (0..=next(7)).map(|_| PIECES[next(PIECES.len())]).collect())
    }

    #[test]
    fn it_takes_what_another_reader_takes_and_nothing_else() {
        let mut taken = 0;
        for text in texts() {
            let ours = whole(&text).ok();
            let theirs = serde_json::from_str::<&RawValue>(&text).ok().map(RawValue::get);
            assert_eq!(ours, theirs, "{text:?}");
            taken += usize::from(ours.is_some());
        }
        assert!(taken > 1000, "{taken}");
    }

    /// Reads a value by its members and elements.
    fn by_steps(reader: &mut Reader<'_>) -> Result<(), BadJson> {
        match reader.peek() {
            Some(b'{') => {
                reader.object()?;
                while reader.member()?.is_some() {
                    by_steps(reader)?;
                }
            }
            Some(b'[') => {
                reader.list()?;
                while reader.element()? {
                    by_steps(reader)?;
                }
            }
            _ => drop(reader.value()?),
        }
        Ok(())
    }

    #[test]
    fn by_steps_it_takes_the_same() {
        let lists =
            ["[,1]", "[1,]", "[1 2]", "[[],1]", "[{},[]]", "[[]1]", "[1", "[", r#"{"a":{},"b":[]}"#, "{}{}"];
        for text in texts().chain(lists.map(str::to_owned)) {
            let mut reader = Reader::new(&text);
            let ours = by_steps(&mut reader).and_then(|()| reader.end()).is_ok();
            assert_eq!(ours, serde_json::from_str::<&RawValue>(&text).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn strings_are_read_as_another_reader_reads_them() {
        let mut taken = 0;
        for text in texts().filter(|text| text.trim_ascii_start().starts_with('"')) {
            let mut reader = Reader::new(&text);
            let ours = reader.string().ok().filter(|_| reader.end().is_ok()).flatten();
            assert_eq!(ours.as_deref(), serde_json::from_str::<String>(&text).ok().as_deref(), "{text:?}");
            taken += usize::from(ours.is_some());
        }
        assert!(taken > 100, "{taken}");
    }

    #[test]
    fn each_byte_of_a_string_is_looked_at() {
        for length in 0..36 {
            for at in 0..length {
                let (before, behind) = ("x".repeat(at), "x".repeat(length - at - 1));
                for char in ('\0'..='\u{7f}').chain(['\u{80}', 'é', '€', '😀']) {
                    let text = format!("\"{before}{char}{behind}\"");
                    let theirs = serde_json::from_str::<String>(&text).ok();
                    assert_eq!(whole(&text).is_ok(), theirs.is_some(), "{text:?}");
                    let ours = Reader::new(&text).string().ok().flatten().filter(|_| theirs.is_some());
                    assert_eq!(ours.as_deref(), theirs.as_deref(), "{text:?}");
                }
            }
        }
    }

    #[test]
    fn nesting_has_a_bound_however_it_is_read() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(whole(&nested(MAX_DEPTH)).map(str::len), Ok(2 * MAX_DEPTH));
        assert_eq!(whole(&nested(MAX_DEPTH + 1)), Err(BadJson::Deep));
        assert_eq!(whole(&"[".repeat(1_000_000)), Err(BadJson::Deep));
        let inner = |depth| {
            let text = nested(depth);
            let mut reader = Reader::new(&text);
            reader.list()?;
            assert_eq!(reader.element(), Ok(true));
            reader.value().map(drop)
        };
        assert_eq!(inner(MAX_DEPTH), Ok(()));
        assert_eq!(inner(MAX_DEPTH + 1), Err(BadJson::Deep));
        for (depth, taken) in [(MAX_ANSWER_DEPTH, true), (MAX_ANSWER_DEPTH + 1, false)] {
            assert_eq!(Reader::of_answer(&nested(depth)).value().is_ok(), taken);
        }
        let mixed = format!("{}1{}", r#"{"a":[0,"#.repeat(60), "]}".repeat(60));
        assert_eq!(Reader::of_answer(&mixed).value(), Ok(&*mixed));
        assert!(Reader::of_answer(&mixed.replacen("]}", "}]", 1)).value().is_err());
        let wide = format!("[{}]", vec![r#"["[[[[\"[[["]"#; 100].join(","));
        assert!(whole(&wide).is_ok(), "only what is open counts");
    }

    fn all_members(reader: &mut Reader<'_>) -> Result<(), BadJson> {
        reader.object()?;
        while reader.member()?.is_some() {
            reader.value()?;
        }
        Ok(())
    }

    #[test]
    fn members_and_elements_come_in_order() {
        let mut reader = Reader::new(r#" {"a":[1,{"b":2}], "\u0063" : "x" , "d":{}} "#);
        let mut seen = Vec::new();
        reader.object().expect("an object");
        while let Some(name) = reader.member().expect("a member") {
            if name == "a" {
                reader.list().expect("a list");
                while reader.element().expect("an element") {
                    seen.push(reader.value().expect("a value").to_owned());
                }
                continue;
            }
            seen.push(format!("{name}={}", reader.value().expect("a value")));
        }
        assert_eq!(reader.end(), Ok(()));
        assert_eq!(seen, ["1", r#"{"b":2}"#, r#"c="x""#, "d={}"]);
        for bad in
            ["{", "{,}", r#"{"a"}"#, r#"{"a":1,}"#, r#"{"a":1 "b":2}"#, "{1:2}", "[]", "", r#"{"a":1]"#]
        {
            let read = all_members(&mut Reader::new(bad));
            assert!(matches!(read, Err(BadJson::Syntax { .. })), "{bad}: {read:?}");
        }
    }
}
