//! JSON (RFC 8259) read in one pass and without a tree: each value is checked, and found as the text that it is.
//!
//! Who reads says what it wants of an object or a list, and takes everything else as text. It is as strict as the
//! standard; beyond it there is a bound for the nesting.

use std::borrow::Cow;

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
}

// One bit for each object or list that a value is in.
const _: () = assert!(MAX_DEPTH <= MAX_ANSWER_DEPTH && MAX_ANSWER_DEPTH <= u128::BITS as usize);

impl<'a> Reader<'a> {
    /// Reads what a client sends.
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0, deepest: MAX_DEPTH }
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

    /// The members of the next value, which has to be an object: `each` takes the value of each.
    pub(super) fn object<E: From<BadJson>>(
        &mut self,
        mut each: impl FnMut(&mut Self, Cow<'a, str>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.enter(b'{', What::NoObject)?;
        if self.peek() == Some(b'}') {
            self.at += 1;
        } else {
            loop {
                self.expect(b'"', What::NoName)?;
                let name = self.text_behind_quote()?;
                self.expect(b':', What::NoColon)?;
                each(self, name)?;
                if self.is_last(b'}')? {
                    break;
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// The elements of the next value, which has to be a list: `each` takes each.
    pub(super) fn list<E: From<BadJson>>(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.enter(b'[', What::NoList)?;
        if self.peek() == Some(b']') {
            self.at += 1;
        } else {
            loop {
                each(self)?;
                if self.is_last(b']')? {
                    break;
                }
            }
        }
        self.depth -= 1;
        Ok(())
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
        if self.depth > self.deepest { Err(BadJson::Deep) } else { Ok(()) }
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
                self.string_end().map(drop)
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
        self.string_end()?;
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
    fn text_behind_quote(&mut self) -> Result<Cow<'a, str>, BadJson> {
        let begin = self.at;
        let escapes = self.string_end()?;
        if escapes { self.unescaped(begin - 1) } else { Ok(Cow::Borrowed(&self.text[begin..self.at - 1])) }
    }

    /// What the string says that has begun here and was just read.
    #[cold]
    fn unescaped(&self, begin: usize) -> Result<Cow<'a, str>, BadJson> {
        // Half a surrogate pair is an escape, but no text.
        let text = serde_json::from_str(&self.text[begin..self.at]);
        text.map(Cow::Owned).map_err(|_| self.bad(What::NoText))
    }

    /// Goes behind the last quote of a string; whether it has escapes.
    fn string_end(&mut self) -> Result<bool, BadJson> {
        match self.mark() {
            Some(b'"') => {
                self.at += 1;
                Ok(false)
            }
            // Most have none: what they need goes without this.
            mark => self.string_end_from(mark),
        }
    }

    /// The same for a string that goes on with an escape, or is none.
    #[inline(never)]
    fn string_end_from(&mut self, mut mark: Option<u8>) -> Result<bool, BadJson> {
        loop {
            match mark {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(true);
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
    #[inline]
    fn mark(&mut self) -> Option<u8> {
        let (eights, _) = self.text.as_bytes()[self.at..].as_chunks();
        for eight in eights {
            let eight = u64::from_le_bytes(*eight);
            let marks = marks(eight);
            if marks != 0 {
                let byte = marks.trailing_zeros() / u8::BITS;
                self.at += byte as usize;
                return Some((eight >> (byte * u8::BITS)) as u8);
            }
            self.at += size_of_val(&eight);
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

/// The high bit of the first byte that a string does not simply go on with. Bits behind it mean nothing.
const fn marks(eight: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = ONES << 7;
    // With this bit turned over a quote comes right behind the control characters.
    let controls_and_quote = (eight ^ (ONES * 0x02)).wrapping_sub(ONES * 0x21);
    let backslash = (eight ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
    (controls_and_quote | backslash) & !eight & HIGH
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
        for length in 0..20 {
            for at in 0..length {
                for byte in 0..=0x7f_u8 {
                    let mut bytes = vec![b'x'; length];
                    bytes[at] = byte;
                    let text = format!("\"{}\"", String::from_utf8(bytes).expect("ASCII"));
                    let theirs = serde_json::from_str::<&RawValue>(&text).is_ok();
                    assert_eq!(whole(&text).is_ok(), theirs, "{text:?}");
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
            reader.list(|reader| reader.value().map(drop))
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

    #[test]
    fn members_and_elements_come_in_order() {
        let mut reader = Reader::new(r#" {"a":[1,{"b":2}], "\u0063" : "x" , "d":{}} "#);
        let mut seen = Vec::new();
        let all = reader.object(|reader, name| {
            if name == "a" {
                return reader.list(|reader| {
                    seen.push(reader.value()?.to_owned());
                    Ok(())
                });
            }
            seen.push(format!("{name}={}", reader.value()?));
            Ok(())
        });
        assert_eq!(all, Ok::<_, BadJson>(()));
        assert_eq!(reader.end(), Ok(()));
        assert_eq!(seen, ["1", r#"{"b":2}"#, r#"c="x""#, "d={}"]);
        for bad in
            ["{", "{,}", r#"{"a"}"#, r#"{"a":1,}"#, r#"{"a":1 "b":2}"#, "{1:2}", "[]", "", r#"{"a":1]"#]
        {
            let read = Reader::new(bad).object(|reader, _| reader.value().map(drop));
            assert!(matches!(read, Err(BadJson::Syntax { .. })), "{bad}: {read:?}");
        }
    }
}
