//! A message of JSON-RPC 2.0, or a batch of them, read once and within bounds.
//!
//! Only what a gateway decides by is read: the envelope, and of the parameters the names. Arguments are checked, and stay
//! text until a rule asks for them.
//!
//! What two readers could read in two ways is refused, because the upstream may be the other reader: a member that is
//! there twice, or in another case than the protocol's (some readers, Go's among them, ignore case), text that is no
//! UTF-8, more than one kind of message at once. So is what has no honest use: deep nesting, huge ids.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use smallvec::SmallVec;

use super::json::{BadJson, Reader};
use super::lists::string;
use crate::body::{Body, BoxError, RequestBodyError};

/// The longest id as text. Clients count, or make UUIDs.
pub const MAX_ID: usize = 256;
/// The deepest nesting. Recursive readers of other languages give up at about a thousand.
pub const MAX_DEPTH: usize = 64;
/// The most values of what is read as a tree, which takes up to a hundred times its bytes; an object or a list counts
/// for eight.
pub const MAX_VALUES: usize = 100_000;
/// The most messages of a batch.
pub const MAX_BATCH: usize = 64;
/// The longest method, name or URI. Also a bound for what a record of a call holds.
pub const MAX_NAME: usize = 2048;
/// The most members of an envelope or of parameters, besides those that arguments have.
const MAX_MEMBERS: usize = 64;

/// Why a body is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// It is no JSON (`-32700`).
    #[error("the body is no JSON: {0}")]
    Parse(String),
    /// It is JSON, but no message of JSON-RPC 2.0, or one that can be read in two ways (`-32600`).
    #[error("the body is no valid message: {0}")]
    Invalid(Cow<'static, str>),
}

impl MessageError {
    /// The code of the JSON-RPC error.
    pub const fn code(&self) -> i64 {
        match self {
            Self::Parse(_) => super::error::PARSE,
            Self::Invalid(_) => super::error::INVALID_REQUEST,
        }
    }
}

impl From<BadJson> for MessageError {
    fn from(error: BadJson) -> Self {
        match error {
            BadJson::Syntax { .. } => Self::Parse(error.to_string()),
            BadJson::Deep => Self::Invalid(error.to_string().into()),
        }
    }
}

#[cold]
fn invalid(why: impl Into<Cow<'static, str>>) -> MessageError {
    MessageError::Invalid(why.into())
}

/// What a body holds.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one, and a box would be an allocation more"
)]
pub enum Payload<'a> {
    /// One message.
    Single(Message<'a>),
    /// Several, as revision 2025-03-26 has them. Never none.
    Batch(Vec<Message<'a>>),
}

impl<'a> Payload<'a> {
    /// Reads a body.
    ///
    /// # Errors
    ///
    /// When it is neither a message nor a batch, or not unambiguous.
    pub fn read(body: &'a [u8]) -> Result<Self, MessageError> {
        let text = std::str::from_utf8(body).map_err(|error| MessageError::Parse(error.to_string()))?;
        let mut reader = Reader::new(text);
        if reader.peek() == Some(b'[') {
            return Self::batch(reader);
        }
        let mut message = Message::empty();
        message.read(&mut reader)?;
        reader.end()?;
        Ok(Self::Single(message))
    }

    #[cold]
    fn batch(mut reader: Reader<'a>) -> Result<Self, MessageError> {
        let mut batch = Vec::new();
        reader.list()?;
        while reader.element()? {
            if batch.len() == MAX_BATCH {
                return Err(invalid("the batch has too many messages"));
            }
            let mut message = Message::empty();
            message.read(&mut reader)?;
            batch.push(message);
        }
        reader.end()?;
        if batch.is_empty() { Err(invalid("the batch is empty")) } else { Ok(Self::Batch(batch)) }
    }

    /// The messages.
    pub fn messages(&self) -> &[Message<'a>] {
        match self {
            Self::Single(message) => std::slice::from_ref(message),
            Self::Batch(messages) => messages,
        }
    }
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Asks for an answer.
    Request,
    /// Asks for none.
    Notification,
    /// Answers a request of the server.
    Response,
}

/// One message.
#[derive(Debug)]
pub struct Message<'a> {
    /// What it is.
    pub kind: Kind,
    /// The id as it stands there: an integer or a string, with its quotes. `None`: it has none.
    pub id: Option<&'a str>,
    /// The method; empty for a response.
    pub method: Cow<'a, str>,
    /// What the parameters say.
    pub params: Params<'a>,
}

/// The parameters, as far as they matter to a gateway.
#[derive(Debug, Default)]
pub struct Params<'a> {
    /// The name of a tool or a prompt.
    pub name: Option<Cow<'a, str>>,
    /// The URI of a resource.
    pub uri: Option<Cow<'a, str>>,
    /// The id of a task.
    pub task: Option<Cow<'a, str>>,
    /// What `completion/complete` is about.
    pub reference: Option<Reference<'a>>,
    /// The arguments: JSON, unread.
    pub arguments: Option<&'a str>,
    /// What `subscriptions/listen` wants to be told of: JSON, unread.
    pub notifications: Option<&'a str>,
    /// `_meta`.
    pub meta: Option<Meta<'a>>,
}

/// What a completion is for.
#[derive(Debug, Default)]
pub struct Reference<'a> {
    /// The name of a prompt.
    pub name: Option<Cow<'a, str>>,
    /// The URI or template of a resource.
    pub uri: Option<Cow<'a, str>>,
}

/// `_meta` of parameters.
#[derive(Debug, Default)]
pub struct Meta<'a> {
    /// `io.modelcontextprotocol/protocolVersion`, which every request of 2026-07-28 has.
    pub version: Option<Cow<'a, str>>,
    /// `traceparent` (W3C Trace Context).
    pub traceparent: Option<Cow<'a, str>>,
}

impl<'a> Message<'a> {
    /// A message of which nothing has been read.
    fn empty() -> Self {
        Self { kind: Kind::Notification, id: None, method: Cow::Borrowed(""), params: Params::default() }
    }

    fn read(&mut self, reader: &mut Reader<'a>) -> Result<(), MessageError> {
        const KNOWN: &[&str] = &["jsonrpc", "id", "method", "params", "result", "error"];
        let (mut is_version_2, mut has_method, mut has_params, mut answers) = (false, false, false, 0);
        let mut members = Members::of(reader, KNOWN)?;
        while let Some(at) = members.next(reader)? {
            match at {
                0 => is_version_2 = name(reader)? == "2.0",
                1 => self.id = Some(reader.value()?),
                2 => {
                    has_method = true;
                    self.method = name(reader)?;
                }
                3 if reader.peek() == Some(b'n') => drop(reader.value()?),
                3 => {
                    has_params = true;
                    self.params.read(reader)?;
                }
                _ => {
                    answers += 1;
                    reader.value()?;
                }
            }
        }
        if !is_version_2 {
            return Err(invalid("`jsonrpc` is not \"2.0\""));
        }
        if self.id.is_some_and(|id| !is_id(id)) {
            return Err(invalid("`id` is no integer and no string of a usual length"));
        }
        self.kind = match (has_method, answers) {
            (true, 0) if self.id.is_some() => Kind::Request,
            (true, 0) => Kind::Notification,
            (false, 1) if !has_params => Kind::Response,
            _ => return Err(invalid("it is not exactly one of request, notification and response")),
        };
        Ok(())
    }
}

impl<'a> Params<'a> {
    fn read(&mut self, reader: &mut Reader<'a>) -> Result<(), MessageError> {
        const KNOWN: &[&str] = &["name", "uri", "taskId", "ref", "arguments", "notifications", "_meta"];
        let mut members = Members::of(reader, KNOWN)?;
        while let Some(at) = members.next(reader)? {
            match at {
                0 => self.name = Some(name(reader)?),
                1 => self.uri = Some(name(reader)?),
                2 => self.task = Some(name(reader)?),
                3 => self.reference = Some(Reference::read(reader)?),
                4 => self.arguments = Some(reader.value()?),
                5 => self.notifications = Some(reader.value()?),
                _ => self.meta.insert(Meta::default()).read(reader)?,
            }
        }
        Ok(())
    }
}

impl<'a> Reference<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        let mut reference = Self::default();
        let mut members = Members::of(reader, &["name", "uri"])?;
        while let Some(at) = members.next(reader)? {
            match at {
                0 => reference.name = Some(name(reader)?),
                _ => reference.uri = Some(name(reader)?),
            }
        }
        Ok(reference)
    }
}

impl<'a> Meta<'a> {
    fn read(&mut self, reader: &mut Reader<'a>) -> Result<(), MessageError> {
        const KNOWN: &[&str] = &["io.modelcontextprotocol/protocolVersion", "traceparent"];
        let mut members = Members::of(reader, KNOWN)?;
        while let Some(at) = members.next(reader)? {
            match at {
                0 => self.version = Some(name(reader)?),
                // What traces a call is no reason to refuse it.
                _ => self.traceparent = string(reader.value()?),
            }
        }
        Ok(())
    }
}

/// A method, a name, a URI.
fn name<'a>(reader: &mut Reader<'a>) -> Result<Cow<'a, str>, MessageError> {
    let text = reader.string()?.ok_or_else(|| invalid("a name is no string"))?;
    if text.len() > MAX_NAME { Err(invalid("a name is too long")) } else { Ok(text) }
}

/// The members of an object: no member is there twice, and none only looks like a known one.
struct Members<'a> {
    known: &'static [&'static str],
    /// Which of the known ones were there, a bit for each.
    seen: u32,
    others: SmallVec<[Cow<'a, str>; 4]>,
}

impl<'a> Members<'a> {
    /// Goes into the next value.
    fn of(reader: &mut Reader<'a>, known: &'static [&'static str]) -> Result<Self, MessageError> {
        if reader.peek() != Some(b'{') {
            // What is no JSON at all is said to be that.
            reader.value()?;
            return Err(invalid("a message, `params`, `ref` or `_meta` is no object"));
        }
        reader.object()?;
        Ok(Self { known, seen: 0, others: SmallVec::new() })
    }

    /// The place of the next known member, whose value is to be read next; `None`: there is none any more.
    #[inline(never)]
    fn next(&mut self, reader: &mut Reader<'a>) -> Result<Option<usize>, MessageError> {
        while let Some(name) = reader.member()? {
            if let Some(at) = self.known.iter().position(|known| *known == name) {
                if self.seen & (1 << at) != 0 {
                    return Err(invalid(format!("duplicate member `{name}`")));
                }
                self.seen |= 1 << at;
                return Ok(Some(at));
            }
            if let Some(known) = self.known.iter().find(|known| looks_like(&name, known)) {
                return Err(invalid(format!("a member is `{known}` in another case")));
            }
            if self.others.contains(&name) {
                return Err(invalid("duplicate member"));
            }
            if self.others.len() == MAX_MEMBERS {
                return Err(invalid("too many members"));
            }
            self.others.push(name);
            reader.value()?;
        }
        Ok(None)
    }
}

/// Whether readers that ignore case take one name for the other. Two letters beyond ASCII fold to ASCII ones.
pub(super) fn looks_like(name: &str, known: &str) -> bool {
    // Most names differ in their first letter, and of the others most are ASCII.
    if let ([first, ..], [other, ..]) = (name.as_bytes(), known.as_bytes())
        && first.is_ascii()
        && other.is_ascii()
        && !first.eq_ignore_ascii_case(other)
    {
        return false;
    }
    if name.is_ascii() && known.is_ascii() {
        return name.eq_ignore_ascii_case(known);
    }
    let fold = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    name.chars().map(fold).eq(known.chars().map(fold))
}

/// Whether a JSON value is an id as the protocol wants it: never `null`, and no fraction.
fn is_id(text: &str) -> bool {
    if text.starts_with('"') { text.len() <= MAX_ID } else { text.parse::<i64>().is_ok() }
}

/// JSON that nobody should read as a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unwieldy {
    /// Deeper than [`MAX_DEPTH`].
    #[error("it is nested too deeply")]
    Deep,
    /// More than [`MAX_VALUES`].
    #[error("it has more than {MAX_VALUES} values")]
    Many,
}

/// Looks how deep and how manifold JSON is, in text that need not be valid: before anybody reads it.
///
/// # Errors
///
/// What it has too much of.
pub fn check_shape(bytes: &[u8]) -> Result<(), Unwieldy> {
    shape_within(bytes, MAX_DEPTH, MAX_VALUES)
}

fn shape_within(bytes: &[u8], deepest: usize, most: usize) -> Result<(), Unwieldy> {
    let (mut depth, mut values, mut bytes) = (0_usize, 0_usize, bytes.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            // To the end of the string.
            b'"' => loop {
                match bytes.next() {
                    Some(b'\\') => drop(bytes.next()),
                    Some(b'"') | None => break,
                    Some(_) => {}
                }
            },
            b'[' | b'{' => {
                depth += 1;
                values += 8;
                if depth > deepest {
                    return Err(Unwieldy::Deep);
                }
            }
            b',' => values += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if values > most {
            return Err(Unwieldy::Many);
        }
    }
    Ok(())
}

/// The whole of a body, up to a bound. The usual body is one frame and is not copied.
///
/// # Errors
///
/// [`RequestBodyError::TooLarge`] beyond the bound, or the error of the body.
pub async fn gather(mut body: Body, limit: usize) -> Result<Bytes, BoxError> {
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large(limit));
    }
    let first = loop {
        let Some(frame) = body.frame().await else { return Ok(Bytes::new()) };
        match frame?.into_data() {
            Ok(data) if data.len() > limit => return Err(too_large(limit)),
            Ok(data) if !data.is_empty() => break data,
            _ => {}
        }
    };
    // Whoever says how long it is need not be asked whether that was all.
    if body.is_end_stream() { Ok(first) } else { Box::pin(gather_behind(first, body, limit)).await }
}

/// The same where there may be more than the first frame.
async fn gather_behind(first: Bytes, mut body: Body, limit: usize) -> Result<Bytes, BoxError> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if first.len().max(all.len()) + data.len() > limit {
            return Err(too_large(limit));
        }
        if all.is_empty() && !data.is_empty() {
            all.reserve(first.len() + data.len() * 2);
            all.extend_from_slice(&first);
        }
        all.extend_from_slice(&data);
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

#[cold]
fn too_large(limit: usize) -> BoxError {
    RequestBodyError::TooLarge { limit: limit as u64 }.into()
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;

    use super::*;

    fn one(text: &str) -> Result<Message<'_>, MessageError> {
        match Payload::read(text.as_bytes())? {
            Payload::Single(message) => Ok(message),
            Payload::Batch(_) => panic!("a batch"),
        }
    }

    #[test]
    fn what_decides_is_read_and_the_rest_is_left() {
        let text = r#"{"jsonrpc":"2.0","id":"a\"b","method":"tools/c\u0061ll","params":{"name":"del","arguments":{"a":[1, 2]},
            "_meta":{"progressToken":1,"traceparent":"00-x","io.modelcontextprotocol/protocolVersion":"2026-07-28"},"x":null}}"#;
        let message = one(text).expect("valid");
        assert_eq!((message.kind, &*message.method), (Kind::Request, "tools/call"));
        assert_eq!(message.id, Some(r#""a\"b""#));
        let params = message.params;
        assert_eq!(params.name.as_deref(), Some("del"));
        assert!(matches!(params.name, Some(Cow::Borrowed(_))), "nothing is copied that need not be");
        assert_eq!(params.arguments, Some(r#"{"a":[1, 2]}"#));
        let meta = params.meta.expect("there");
        assert_eq!(
            (meta.version.as_deref(), meta.traceparent.as_deref()),
            (Some("2026-07-28"), Some("00-x"))
        );
        let text = r#"{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"p"}}}"#;
        let reference = one(text).expect("valid").params.reference.expect("there");
        assert_eq!((reference.name.as_deref(), reference.uri), (Some("p"), None));
    }

    #[test]
    fn messages_are_of_exactly_one_kind() {
        for (members, kind) in [
            (r#""id":1,"method":"ping""#, Some(Kind::Request)),
            (r#""id":-1,"method":"ping","params":{}"#, Some(Kind::Request)),
            (r#""id":"","method":"ping","params":null"#, Some(Kind::Request)),
            (r#""method":"notifications/initialized""#, Some(Kind::Notification)),
            (r#""id":1,"result":{"method":"ping"}"#, Some(Kind::Response)),
            (r#""id":1,"error":{"code":1,"message":"x"}"#, Some(Kind::Response)),
            (r#""error":{"code":1,"message":"x"}"#, Some(Kind::Response)),
            (r#""id":1"#, None),
            ("", None),
            (r#""id":1,"result":{},"error":{}"#, None),
            (r#""id":1,"method":"ping","result":{}"#, None),
            (r#""id":1,"params":{},"result":{}"#, None),
        ] {
            let comma = if members.is_empty() { "" } else { "," };
            let text = format!(r#"{{"jsonrpc":"2.0"{comma}{members}}}"#);
            let read = one(&text);
            assert_eq!(read.as_ref().ok().map(|message| message.kind), kind, "{text}");
            assert!(read.err().is_none_or(|error| error.code() == -32600));
        }
    }

    #[test]
    fn hostile_messages_are_refused() {
        let deep = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"a":{}{}}}}}"#,
            "[".repeat(64),
            "]".repeat(64)
        );
        let long_id = format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"x"}}"#, "x".repeat(MAX_ID));
        let digits = format!(r#"{{"jsonrpc":"2.0","id":{},"method":"x"}}"#, "9".repeat(400));
        let long_name = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{}"}}"#, "x".repeat(MAX_NAME + 1));
        let members: String = (0..100).map(|n| format!(r#","m{n}":1"#)).collect();
        let many = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x"{members}}}"#);
        let batch =
            format!("[{}]", vec![r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#; MAX_BATCH + 1].join(","));
        for (text, code) in [
            ("", -32700),
            ("{", -32700),
            ("nonsense", -32700),
            ("\u{feff}{}", -32700),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x"} {}"#, -32700),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"arguments":{"a":}}}"#, -32700),
            (r#"{"jsonrpc":"2.0","id":01,"method":"x"}"#, -32700),
            ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"x\n\"}", -32700),
            ("[] x", -32700),
            ("[]", -32600),
            ("[[]]", -32600),
            ("[1]", -32600),
            ("null", -32600),
            ("\"x\"", -32600),
            ("{}", -32600),
            (r#"{"id":1,"method":"x"}"#, -32600),
            (r#"{"jsonrpc":"1.0","id":1,"method":"x"}"#, -32600),
            (r#"{"jsonrpc":2.0,"id":1,"method":"x"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":null,"method":"x"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1.5,"method":"x"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":{},"method":"x"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x","params":[1]}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"name":1}}"#, -32600),
            // Twice, by an escape, in another case, in a letter that folds to another.
            (r#"{"jsonrpc":"2.0","id":1,"method":"x","method":"y"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x","m\u0065thod":"y"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x","Method":"y"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x","a":1,"a":2}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"name":"a","name":"b"}}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"name":"a","NAME":"b"}}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"name":"a","argument\u017f":{}}}"#, -32600),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"traceparent":"a","traceparent":"b"}}}"#,
                -32600,
            ),
            (&deep, -32600),
            (&long_id, -32600),
            (&digits, -32600),
            (&long_name, -32600),
            (&many, -32600),
            (&batch, -32600),
        ] {
            let shown: String = text.chars().take(100).collect();
            let error = Payload::read(text.as_bytes()).expect_err(&shown);
            assert_eq!(error.code(), code, "{shown}: {error}");
        }
        let not_utf8 = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}";
        assert_eq!(Payload::read(not_utf8).expect_err("no UTF-8").code(), -32700);
        let overlong =
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"x\",\"params\":{\"arguments\":\"\xc0\xaf\"}}";
        assert_eq!(Payload::read(overlong).expect_err("no UTF-8").code(), -32700);
    }

    #[test]
    fn nesting_is_counted_outside_of_strings_only() {
        let wide = format!("[{}]", vec![r#"["[[[[\"[[["]"#; 100].join(","));
        assert_eq!(shape_within(wide.as_bytes(), 2, MAX_VALUES), Ok(()));
        assert_eq!(shape_within(wide.as_bytes(), 1, MAX_VALUES), Err(Unwieldy::Deep));
        assert_eq!(shape_within(b"\"\\", 1, 1), Ok(()), "an escape at the end");
        assert_eq!(shape_within(br#"["a,b,c,[{", 1]"#, 1, 9), Ok(()), "texts don't count");
        assert_eq!(shape_within(b"[1,2,3]", 1, 9), Err(Unwieldy::Many));
    }

    #[test]
    fn a_batch_has_messages_of_all_kinds() {
        let text = r#" [{"jsonrpc":"2.0","id":1,"method":"a"},{"jsonrpc":"2.0","method":"b"},{"jsonrpc":"2.0","id":2,"result":0}]"#;
        let payload = Payload::read(text.as_bytes()).expect("valid");
        let kinds: Vec<_> = payload.messages().iter().map(|message| message.kind).collect();
        assert_eq!(kinds, [Kind::Request, Kind::Notification, Kind::Response]);
    }

    #[tokio::test]
    async fn a_body_is_gathered_up_to_a_bound() {
        let pieces = |pieces: &'static [&'static str]| {
            let frames =
                pieces.iter().map(|text| Ok::<_, BoxError>(http_body::Frame::data(Bytes::from(*text))));
            Body::new(StreamBody::new(futures_util::stream::iter(frames)))
        };
        let whole = Bytes::from_static(b"hello");
        let gathered = gather(Body::from(whole.clone()), 5).await.expect("short");
        assert_eq!(gathered.as_ptr(), whole.as_ptr(), "one frame is not copied");
        assert_eq!(gather(pieces(&["he", "l", "lo"]), 5).await.expect("short"), "hello");
        assert_eq!(gather(pieces(&["", "he", "", "llo", ""]), 5).await.expect("short"), "hello");
        for nothing in [Body::empty(), pieces(&[]), pieces(&["", ""])] {
            assert_eq!(gather(nothing, 5).await.expect("short"), "");
        }
        let trailers = || Ok::<_, BoxError>(http_body::Frame::trailers(http::HeaderMap::new()));
        let frames = |first: &'static str, last| {
            let first = Ok(http_body::Frame::data(Bytes::from_static(first.as_bytes())));
            Body::new(StreamBody::new(futures_util::stream::iter([first, last])))
        };
        assert_eq!(gather(frames("hello", trailers()), 5).await.expect("short"), "hello");
        for first in ["", "hel"] {
            let broken = gather(frames(first, Err("gone".into())), 5).await.expect_err("broken off");
            assert_eq!(broken.to_string(), "gone");
        }
        let too_long: [&[&str]; 4] = [&["hello!"], &["", "hello!"], &["hel", "lo!"], &["h", "e", "l", "lo!"]];
        for too_long in too_long.map(pieces).into_iter().chain([Body::from("hello!")]) {
            let error = gather(too_long, 5).await.expect_err("too long");
            assert!(matches!(error.downcast_ref(), Some(RequestBodyError::TooLarge { limit: 5 })));
        }
    }
}
