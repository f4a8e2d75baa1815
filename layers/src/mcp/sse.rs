//! `text/event-stream` as it comes and as it is written (HTML, section 9.2, "Server-sent events").
//!
//! [`Reader`] takes the bytes of a stream in whatever pieces they arrive and gives them back event by event, as soon as an
//! event is complete and within a bound: an event that is still incomplete at the bound is an error, not memory.
//! Every [`Event`] has its own bytes, as they came, beside what they say, so that who only looks on can pass them on
//! unchanged. [`Events`] does the same with a body. [`Outgoing`] writes events.
//!
//! It knows nothing of JSON-RPC. Text is not decoded: data are bytes, and whoever reads them has to check them.
//!
//! ```
//! use portcullis_layers::mcp::sse::{Outgoing, Reader};
//!
//! let mut reader = Reader::new(1024);
//! reader.push("id: 7\r\ndata: {\"a\":".into());
//! assert!(reader.next().expect("short").is_none());
//! reader.push("1}\r\n\r\ndata: late".into());
//! let event = reader.next().expect("short").expect("complete");
//! assert_eq!((event.id(), event.data()), (Some("7"), Some(&b"{\"a\":1}"[..])));
//! assert_eq!(event.with_data(b"{}"), "id: 7\ndata: {}\n\n");
//! assert_eq!(Outgoing { data: Some(b"x"), ..Outgoing::default() }.to_bytes(), "data: x\n\n");
//! ```

use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr2;

use crate::body::BoxError;

/// An event, or the bytes between two, became longer than the reader's bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is longer than {limit} bytes")]
pub struct TooLong {
    /// The bound, in bytes.
    pub limit: usize,
}

/// The byte order mark that may stand before the first event.
const MARK: &[u8] = b"\xEF\xBB\xBF";

/// Where a line ends. That of a blank one need not be looked for.
fn line_end(bytes: &[u8]) -> Option<usize> {
    if let Some(b'\n' | b'\r') = bytes.first() { Some(0) } else { memchr2(b'\n', b'\r', bytes) }
}

/// Takes a stream apart into its events.
#[derive(Debug)]
pub struct Reader {
    limit: usize,
    /// What has come and was not looked at yet.
    fresh: Bytes,
    /// What was looked at: the beginning of an event.
    held: BytesMut,
    place: Place,
    /// How much of a byte order mark has been seen; `None`: the beginning is over.
    mark: Option<usize>,
}

/// Where the reader stands in an event.
#[derive(Debug)]
struct Place {
    /// Nothing of the present line has come.
    line_is_empty: bool,
    /// The present line is the event's first.
    first_line: bool,
    /// The present line is a comment.
    comment: bool,
    /// The last line ended with CR: an LF now belongs to it.
    after_cr: bool,
}

impl Place {
    /// Finds the end of the event that the bytes begin or go on with.
    ///
    /// A comment in front of an event is one of its own: it keeps a connection open and must not wait for what follows.
    fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if std::mem::take(&mut self.after_cr) && *byte == b'\n' {
                at += 1;
                continue;
            }
            if self.line_is_empty && self.first_line {
                self.comment = *byte == b':';
            }
            let Some(found) = line_end(&bytes[at..]) else {
                self.line_is_empty = false;
                return None;
            };
            let blank = self.line_is_empty && found == 0;
            at += found + 1;
            self.after_cr = bytes[at - 1] == b'\r';
            self.line_is_empty = true;
            self.first_line = blank || self.first_line && self.comment;
            if self.first_line {
                if self.after_cr && bytes.get(at) == Some(&b'\n') {
                    self.after_cr = false;
                    at += 1;
                }
                return Some(at);
            }
        }
        None
    }
}

impl Reader {
    /// A reader of events of up to `limit` bytes each, line ends and comments included.
    pub fn new(limit: usize) -> Self {
        let place = Place { line_is_empty: true, first_line: true, comment: false, after_cr: false };
        Self { limit, fresh: Bytes::new(), held: BytesMut::new(), place, mark: Some(0) }
    }

    /// Takes the next bytes of the stream. Call [`next`](Self::next) until it has nothing more before the next ones.
    pub fn push(&mut self, bytes: Bytes) {
        if self.fresh.is_empty() {
            self.fresh = bytes;
        } else {
            let mut joined = BytesMut::with_capacity(self.fresh.len() + bytes.len());
            joined.extend_from_slice(&self.fresh);
            joined.extend_from_slice(&bytes);
            self.fresh = joined.freeze();
        }
    }

    /// The next event, if one is complete.
    ///
    /// # Errors
    ///
    /// When it is longer than the bound. The stream is then of no use any more: nothing says where the next one begins.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator that has no more items may still get some"
    )]
    pub fn next(&mut self) -> Result<Option<Event>, TooLong> {
        self.skip();
        let Some(end) = self.place.end(&self.fresh) else {
            let fresh = std::mem::take(&mut self.fresh);
            self.fits(fresh.len())?;
            self.held.extend_from_slice(&fresh);
            return Ok(None);
        };
        self.fits(end)?;
        let rest = self.fresh.split_to(end);
        if self.held.is_empty() {
            return Ok(Some(Event::of(rest)));
        }
        self.held.extend_from_slice(&rest);
        Ok(Some(Event::of(self.held.split().freeze())))
    }

    /// How many bytes that it was given it has not looked at yet.
    pub const fn unread(&self) -> usize {
        self.fresh.len()
    }

    /// Whether the stream could end here without breaking an event off.
    pub fn is_between_events(&self) -> bool {
        self.held.is_empty() && self.fresh.is_empty()
    }

    /// Passes over what belongs to no event: a byte order mark, and the LF of a line that was complete without it.
    fn skip(&mut self) {
        while let Some(seen) = self.mark
            && let Some(first) = self.fresh.first()
        {
            if *first != MARK[seen] {
                self.mark = None;
                self.held.extend_from_slice(&MARK[..seen]);
                self.place.line_is_empty = seen == 0;
                break;
            }
            self.fresh.advance(1);
            self.mark = (seen + 1 < MARK.len()).then_some(seen + 1);
        }
        if self.held.is_empty() && self.place.after_cr && self.fresh.first() == Some(&b'\n') {
            self.place.after_cr = false;
            self.fresh.advance(1);
        }
    }

    fn fits(&self, more: usize) -> Result<(), TooLong> {
        let fits = self.held.len().saturating_add(more) <= self.limit;
        if fits { Ok(()) } else { Err(TooLong { limit: self.limit }) }
    }
}

/// An event, or comments and blank lines between events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    raw: Bytes,
    /// Where in the bytes it is.
    name: Option<Range<usize>>,
    id: Option<Range<usize>>,
    retry: Option<u64>,
    data: Option<Data>,
    /// See [`is_plain`](Self::is_plain).
    plain: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Data {
    /// One line of the event.
    Line(Range<usize>),
    /// Several.
    Joined(BytesMut),
}

impl Data {
    /// With one more line of the event.
    #[cold]
    fn and(self, raw: &[u8], line: Range<usize>) -> Self {
        let mut all = match self {
            Self::Joined(all) => all,
            Self::Line(first) => {
                let mut all = BytesMut::with_capacity(raw.len());
                all.extend_from_slice(&raw[first]);
                all
            }
        };
        all.extend_from_slice(b"\n");
        all.extend_from_slice(&raw[line]);
        Self::Joined(all)
    }
}

impl Event {
    /// Reads the fields of an event's bytes.
    fn of(raw: Bytes) -> Self {
        let (mut name, mut id, mut retry, mut data) = (None, None, None, None);
        let mut plain = true;
        let mut at = 0;
        while at < raw.len() {
            let end = line_end(&raw[at..]).map_or(raw.len(), |found| at + found);
            // Names are short: it is found sooner than it would be looked for by a vector.
            let colon = raw[at..end].iter().position(|byte| *byte == b':').map(|found| at + found);
            let field = &raw[at..colon.unwrap_or(end)];
            let begin = colon.map_or(end, |colon| colon + 1);
            let value = begin + usize::from(raw[begin..end].first() == Some(&b' '))..end;
            let ends_alone =
                raw[end..].starts_with(b"\r") && raw.get(end + 1).is_some_and(|next| *next != b'\n');
            plain &= !ends_alone && (field == b"data" || is_plain(&raw[at..end]));
            // The LF of a CRLF makes a blank line here, and those say nothing.
            at = end + 1;
            match field {
                b"data" => {
                    data = Some(match data {
                        None => Data::Line(value),
                        Some(before) => Data::and(before, &raw, value),
                    });
                }
                b"event" => name = Some(value),
                b"id" if !raw[value.clone()].contains(&0) => id = Some(value),
                b"retry" => retry = milliseconds(&raw[value]).or(retry),
                // Comments and blank lines have an empty name; what is unknown is ignored.
                name => plain &= name.is_empty(),
            }
        }
        Self { raw, name, id, retry, data, plain }
    }

    /// The bytes as they came, with the blank line behind them.
    pub const fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The same to be passed on. An event that has come up to the CR of a last CRLF gets its LF, which the reader passes
    /// over when it comes: not all clients know CR alone.
    pub fn into_raw(self) -> Bytes {
        if self.raw.ends_with(b"\r") { [&self.raw, &b"\n"[..]].concat().into() } else { self.raw }
    }

    /// The type; `None` where none is given or it is no UTF-8, which is `message`.
    pub fn name(&self) -> Option<&str> {
        std::str::from_utf8(&self.raw[self.name.clone()?]).ok()
    }

    /// The id, from which a client goes on after a lost connection.
    pub fn id(&self) -> Option<&str> {
        std::str::from_utf8(&self.raw[self.id.clone()?]).ok()
    }

    /// How long a client shall wait before it connects again, in milliseconds.
    pub const fn retry(&self) -> Option<u64> {
        self.retry
    }

    /// The data: the lines of them, joined by LF. `None`: the event has none, and nobody is told of it.
    pub fn data(&self) -> Option<&[u8]> {
        self.data.as_ref().map(|data| match data {
            Data::Line(line) => &self.raw[line.clone()],
            Data::Joined(lines) => lines,
        })
    }

    /// Whether every reader finds the same lines and fields in it. Some take other characters than CR and LF for the end of
    /// a line, some LF alone, and some know fields by names that are none: with a second byte order mark in front, or in
    /// another case.
    /// Of the data nothing is said.
    pub const fn is_plain(&self) -> bool {
        self.plain
    }

    /// The same event with other data, as bytes to send.
    pub fn with_data(&self, data: &[u8]) -> Bytes {
        Outgoing { event: self.name(), id: self.id(), retry: self.retry, data: Some(data) }.to_bytes()
    }
}

/// The number that `retry` says: digits and nothing else.
#[cold]
fn milliseconds(text: &[u8]) -> Option<u64> {
    let text = Some(text).filter(|text| text.iter().all(u8::is_ascii_digit))?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Whether a line has no character that ends it for some readers: no control character but the tab, and no separator of
/// lines.
pub fn is_plain(line: &[u8]) -> bool {
    let is_odd = |c: char| c.is_control() && c != '\t' || matches!(c, '\u{2028}' | '\u{2029}');
    let is_usual = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~');
    line.iter().all(is_usual) || std::str::from_utf8(line).is_ok_and(|line| !line.contains(is_odd))
}

/// An event to be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outgoing<'a> {
    /// The type; absent is `message`.
    pub event: Option<&'a str>,
    /// The id.
    pub id: Option<&'a str>,
    /// How long a client shall wait before it connects again, in milliseconds.
    pub retry: Option<u64>,
    /// The data; every line end in them becomes an LF for the reader.
    pub data: Option<&'a [u8]>,
}

impl Outgoing<'_> {
    /// The event as bytes, with the blank line behind it. A type or an id that no line can hold is left out.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.data.map_or(0, <[u8]>::len) + 64);
        self.write(&mut out);
        out.into()
    }

    /// Appends the event to a buffer.
    pub fn write(&self, out: &mut Vec<u8>) {
        let fits = |text: &&str| !text.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
        for (name, value) in [("event: ", self.event), ("id: ", self.id)] {
            if let Some(value) = value.filter(fits) {
                line(out, name, value.as_bytes());
            }
        }
        if let Some(retry) = self.retry {
            line(out, "retry: ", retry.to_string().as_bytes());
        }
        let mut rest = self.data;
        while let Some(data) = rest {
            let end = memchr2(b'\n', b'\r', data);
            line(out, "data: ", &data[..end.unwrap_or(data.len())]);
            rest = end.map(|end| {
                let length = if data[end..].starts_with(b"\r\n") { 2 } else { 1 };
                &data[end + length..]
            });
        }
        out.push(b'\n');
    }
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// A comment: keeps a connection open that has nothing else to say.
pub const fn heartbeat() -> Bytes {
    Bytes::from_static(b":\n\n")
}

/// Why a stream gives no more events.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// An event is too long.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The body failed.
    #[error("the stream of events broke off")]
    Broken(#[source] BoxError),
}

/// The events of a body.
#[derive(Debug)]
pub struct Events<B> {
    body: B,
    reader: Reader,
    ended: bool,
}

impl<B> Events<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Reads the events of a body, of up to `limit` bytes each.
    pub fn new(body: B, limit: usize) -> Self {
        Self { body, reader: Reader::new(limit), ended: false }
    }

    /// The next event; `None` at the end. An event that the end breaks off is none.
    pub async fn next(&mut self) -> Option<Result<Event, EventsError>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The next event, for who polls. Trailers are not kept.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, EventsError>>> {
        while !self.ended {
            match self.reader.next() {
                Ok(Some(event)) => return Poll::Ready(Some(Ok(event))),
                Ok(None) => {}
                Err(error) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.reader.push(data);
                    }
                }
                Some(Err(error)) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(EventsError::Broken(error.into()))));
                }
                None => self.ended = true,
            }
        }
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{StreamBody, combinators::BoxBody};

    use super::*;

    /// What the readers of a browser would be told.
    #[derive(Debug, PartialEq, Eq)]
    struct Told {
        name: Option<String>,
        id: Option<String>,
        retry: Option<u64>,
        data: Option<String>,
    }

    fn told(event: &Event) -> Option<Told> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let data = event.data().map(|data| String::from_utf8(data.to_vec()).expect("text"));
        let told = Told { name: owned(event.name()), id: owned(event.id()), retry: event.retry(), data };
        let nothing = Told { name: None, id: None, retry: None, data: None };
        (told != nothing).then_some(told)
    }

    fn read(pieces: &[&[u8]]) -> (Vec<Told>, Vec<u8>) {
        let mut reader = Reader::new(1 << 16);
        let (mut events, mut raw) = (Vec::new(), Vec::new());
        for piece in pieces {
            reader.push(Bytes::copy_from_slice(piece));
            while let Some(event) = reader.next().expect("short") {
                raw.extend_from_slice(event.raw());
                events.extend(told(&event));
            }
        }
        (events, raw)
    }

    fn message(data: &str) -> Told {
        Told { name: None, id: None, retry: None, data: Some(data.to_owned()) }
    }

    #[test]
    fn fields_are_read_as_the_standard_says() {
        let id = |id: &str| Told { id: Some(id.to_owned()), ..message("x") };
        for (stream, expected) in [
            ("data: x\n\n", vec![message("x")]),
            ("data:x\n\n", vec![message("x")]),
            ("data:  x\n\n", vec![message(" x")]),
            ("data: x\r\n\r\n", vec![message("x")]),
            ("data: x\r\r", vec![message("x")]),
            ("data: x\r\n\n", vec![message("x")]),
            ("data: x\n\r\n", vec![message("x")]),
            ("data: a\ndata: b\n\n", vec![message("a\nb")]),
            ("data: a\ndata\ndata: b\ndata:\n\n", vec![message("a\n\nb\n")]),
            ("data\n\n", vec![message("")]),
            ("\u{feff}data: x\n\n", vec![message("x")]),
            ("\u{feff}\u{feff}data: x\n\n", vec![]),
            (": hello\n\ndata: x\n\n", vec![message("x")]),
            (": hello\ndata: x\n\n", vec![message("x")]),
            ("data: x\n: hello\ndata: y\n\n", vec![message("x\ny")]),
            ("id: 1\ndata: x\n\n", vec![id("1")]),
            ("id: 1\nid: 2\ndata: x\n\n", vec![id("2")]),
            ("id: 1\0\ndata: x\n\n", vec![message("x")]),
            ("id\ndata: x\n\n", vec![id("")]),
            ("retry: 12\ndata: x\n\n", vec![Told { retry: Some(12), ..message("x") }]),
            ("retry: 1s\nretry:\nretry: +1\nretry: 99999999999999999999\ndata: x\n\n", vec![message("x")]),
            ("event: e\ndata: x\n\n", vec![Told { name: Some("e".to_owned()), ..message("x") }]),
            ("Data: x\ndatax: y\n data: z\n\n", vec![]),
            (
                "id: 1\ndata: \n\ndata: x\n\n",
                vec![Told { data: Some(String::new()), ..id("1") }, message("x")],
            ),
            ("\n\n\r\n\rdata: x\n\n", vec![message("x")]),
            // The end breaks it off.
            ("data: x\n\ndata: y\n", vec![message("x")]),
            ("data: x\n\ndata: y", vec![message("x")]),
        ] {
            assert_eq!(read(&[stream.as_bytes()]).0, expected, "{stream:?}");
        }
    }

    #[test]
    fn where_a_stream_is_cut_does_not_matter() {
        let stream = "\u{feff}: hi\r\n\r\nid: 1\r\nevent: e\r\ndata: {\"é\":\r\ndata: 2}\r\n\r\ndata: x\r\rretry: 3\n\n:\n\ndata: y\n\n";
        let bytes = stream.as_bytes();
        let whole = read(&[bytes]);
        assert_eq!(whole.0.len(), 4);
        assert_eq!(whole.1, bytes[3..], "all but the mark is passed on");
        let apart =
            |raw: Vec<u8>| String::from_utf8(raw).expect("text").replace("\r\n", "\n").replace('\r', "\n");
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                let (events, raw) = read(&pieces);
                assert_eq!(events, whole.0, "{first} {second}");
                assert_eq!(apart(raw), apart(whole.1.clone()), "{first} {second}");
            }
        }
        let single: Vec<_> = bytes.chunks(1).collect();
        assert_eq!(read(&single).0, whole.0);
    }

    #[test]
    fn line_ends_of_two_bytes_are_passed_on_however_they_come() {
        let stream = b": hi\r\n\r\ndata: x\r\n\r\nid: 1\r\ndata: y\r\n\r\n";
        for at in 0..=stream.len() {
            let mut reader = Reader::new(64);
            let mut passed = Vec::new();
            for piece in [&stream[..at], &stream[at..]] {
                reader.push(Bytes::from_static(piece));
                while let Some(event) = reader.next().expect("short") {
                    passed.extend_from_slice(&event.into_raw());
                }
            }
            assert_eq!(passed.escape_ascii().to_string(), stream.escape_ascii().to_string(), "{at}");
        }
    }

    #[test]
    fn an_event_is_there_with_its_last_byte() {
        for stream in ["data: x\n\n", "data: x\r\r", "data: x\r\n\r", ":\n", ": ping\r"] {
            let mut reader = Reader::new(64);
            for (at, byte) in stream.bytes().enumerate() {
                reader.push(Bytes::copy_from_slice(&[byte]));
                let complete = reader.next().expect("short").is_some();
                assert_eq!(complete, at + 1 == stream.len(), "{stream:?} at {at}");
            }
            assert!(reader.is_between_events());
        }
    }

    #[test]
    fn a_mark_that_is_none_belongs_to_the_first_line() {
        let mut reader = Reader::new(64);
        for byte in b"\xEF\xBBdata: x\n\ndata: y\n\n" {
            reader.push(Bytes::copy_from_slice(&[*byte]));
            if let Some(event) = reader.next().expect("short") {
                assert_eq!(event.data().is_some(), event.raw().starts_with(b"data: y"));
            }
        }
    }

    #[test]
    fn an_event_without_an_end_is_an_error_at_the_bound() {
        for endless in ["data: xxxxxxxx", "data: x\n", ": comment", "xxxxxxxx"] {
            let mut reader = Reader::new(100);
            let outcome = (0..100).find_map(|_| {
                reader.push(Bytes::from_static(endless.as_bytes()));
                reader.next().err()
            });
            assert_eq!(outcome, Some(TooLong { limit: 100 }), "{endless:?}");
            assert!(reader.held.len() <= 100);
        }
        let mut reader = Reader::new(9);
        reader.push("data: x\n\ndata: xx\n\n".into());
        assert!(reader.next().expect("nine bytes").is_some());
        assert_eq!(reader.next(), Err(TooLong { limit: 9 }));
        // Comments that keep a connection open add up to nothing.
        let mut reader = Reader::new(9);
        for _ in 0..100 {
            reader.push(": ping\n".into());
            assert!(reader.next().expect("short").is_some());
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        for data in ["", "x", "a\nb", "a\n", "\n", " x", "{\"a\":[1,2]}", ": no comment"] {
            let outgoing =
                Outgoing { event: Some("e"), id: Some("1"), retry: Some(5), data: Some(data.as_bytes()) };
            let bytes = outgoing.to_bytes();
            let expected = Told {
                name: Some("e".into()),
                id: Some("1".into()),
                retry: Some(5),
                data: Some(data.into()),
            };
            assert_eq!(read(&[&bytes]).0, [expected], "{bytes:?}");
        }
        let bytes = Outgoing { data: Some(b"a\r\nb\rc"), ..Outgoing::default() }.to_bytes();
        assert_eq!(bytes, "data: a\ndata: b\ndata: c\n\n");
        let injected = Outgoing { event: Some("e\ndata: x"), id: Some("1\r\n"), ..Outgoing::default() };
        assert_eq!(injected.to_bytes(), "\n");
        assert_eq!(read(&[&heartbeat()]).0, []);
    }

    #[test]
    fn other_data_leave_the_rest_as_it_was() {
        let mut reader = Reader::new(100);
        reader.push("event: e\nid: 4\nretry: 1\n: c\ndata: a\ndata: b\n\n".into());
        let event = reader.next().expect("short").expect("complete");
        assert_eq!(event.with_data(b"c"), "event: e\nid: 4\nretry: 1\ndata: c\n\n");
    }

    fn body(pieces: Vec<Result<&'static str, BoxError>>) -> BoxBody<Bytes, BoxError> {
        let frames =
            pieces.into_iter().map(|piece| piece.map(|text| http_body::Frame::data(Bytes::from(text))));
        BoxBody::new(StreamBody::new(futures_util::stream::iter(frames.collect::<Vec<_>>())))
    }

    #[tokio::test]
    async fn the_events_of_a_body_end_with_it() {
        let mut events = Events::new(body(vec![Ok("data: 1\n"), Ok("\ndata: 2\n\nda"), Ok("ta: 3\n")]), 64);
        let mut read = Vec::new();
        while let Some(event) = events.next().await {
            read.extend(event.expect("short").data().map(<[u8]>::to_vec));
        }
        assert_eq!(read, [b"1", b"2"]);

        let mut events =
            Events::new(body(vec![Ok("data: 1\n\n"), Err("gone".into()), Ok("data: 2\n\n")]), 64);
        assert!(events.next().await.expect("an event").is_ok());
        assert!(matches!(events.next().await, Some(Err(EventsError::Broken(_)))));
        assert!(events.next().await.is_none());

        let mut events = Events::new(body(vec![Ok("data: 1234\n\ndata: 1\n\n")]), 9);
        assert!(matches!(events.next().await, Some(Err(EventsError::TooLong(_)))));
        assert!(events.next().await.is_none());
    }
}
