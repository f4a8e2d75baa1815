//! The framing of a stream of HTTP/1 requests: an incremental scanner that does no I/O.
//!
//! It says how many of the bytes may be passed on, and stops at the first request that could be
//! read in two ways. It follows bodies only to find where the next request starts: bytes of a body
//! with a length are skipped by arithmetic, those of a chunk, too.

use memchr::memchr_iter;

use super::line;
use super::violation::Violation;

/// How large the parts of a request may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the request line and all header lines together. Default: 16 KiB.
    pub head: usize,
    /// Bytes of the request target. Default: 8 KiB.
    pub target: usize,
    /// Header fields of a request, and of its trailers. Default: 100.
    pub fields: usize,
    /// Bytes of all trailer lines together. Default: 4 KiB.
    pub trailers: usize,
    /// Bytes of the extensions of one chunk. Default: 256.
    pub extension: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head: 16 * 1024, target: 8 * 1024, fields: 100, trailers: 4 * 1024, extension: 256 }
    }
}

/// What a scan found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scanned {
    /// So many bytes are in order and may be passed on. The others, the start of a head or of
    /// trailers, have to be shown again, with more after them.
    pub good: usize,
    /// Where following the stream ends for good.
    pub stop: Option<Stop>,
}

/// Why the scanner does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// In the head of a request: nobody has seen anything of it.
    Head(Violation),
    /// In the body of a request whose head was passed on.
    Body(Violation),
}

/// Follows the requests of one connection.
#[derive(Debug)]
pub struct Scanner {
    limits: Limits,
    state: State,
    heads: u64,
    /// The current request asks for a tunnel.
    upgrade: bool,
}

#[derive(Debug)]
enum State {
    Head(Section),
    Sized(u64),
    Chunked(Chunk),
    Trailers(Section),
    Undecided,
}

impl Scanner {
    /// At the start of a connection.
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: State::Head(Section::default()), heads: 0, upgrade: false }
    }

    /// How many heads were passed on.
    pub const fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether the last request asked for a tunnel (`Upgrade`, `CONNECT`): what follows it is not
    /// looked at, because only the response decides whether it is HTTP. See [`resume`](Self::resume).
    pub const fn is_undecided(&self) -> bool {
        matches!(self.state, State::Undecided)
    }

    /// Whether all requests up to here are complete.
    pub const fn is_between_requests(&self) -> bool {
        matches!(self.state, State::Head(Section { seen: 0, .. }) | State::Undecided)
    }

    /// The tunnel was declined: what follows is HTTP.
    pub fn resume(&mut self) {
        if self.is_undecided() {
            self.upgrade = false;
            self.state = State::Head(Section::default());
        }
    }

    /// Looks at bytes that come from the client: those that the last call did not call good, and new ones.
    pub fn scan(&mut self, bytes: &[u8]) -> Scanned {
        let mut good = 0;
        while good < bytes.len() {
            let rest = &bytes[good..];
            match self.step(rest) {
                Ok(0) => break,
                Ok(count) => good += count,
                Err((count, stop)) => return Scanned { good: good + count, stop: Some(stop) },
            }
        }
        Scanned { good, stop: None }
    }

    fn step(&mut self, rest: &[u8]) -> Result<usize, (usize, Stop)> {
        match &mut self.state {
            State::Head(section) => {
                let end = section.head(rest, &self.limits).map_err(|violation| (0, Stop::Head(violation)))?;
                let Some(end) = end else { return Ok(0) };
                self.heads += 1;
                self.upgrade = section.facts.upgrade;
                self.state = match (section.facts.chunked, section.facts.length) {
                    (true, _) => State::Chunked(Chunk::START),
                    (false, 1..) => State::Sized(section.facts.length),
                    (false, 0) => self.between(),
                };
                Ok(end)
            }
            State::Sized(left) => {
                let count = usize::try_from(*left).map_or(rest.len(), |left| left.min(rest.len()));
                *left -= count as u64;
                if *left == 0 {
                    self.state = self.between();
                }
                Ok(count)
            }
            State::Chunked(chunk) => {
                let (count, done) = chunk
                    .advance(rest, self.limits.extension)
                    .map_err(|(count, violation)| (count, Stop::Body(violation)))?;
                if done {
                    self.state = State::Trailers(Section::default());
                }
                Ok(count)
            }
            State::Trailers(section) => {
                let end = section.trailers(rest, &self.limits).map_err(|v| (0, Stop::Body(v)))?;
                if end.is_some() {
                    self.state = self.between();
                }
                Ok(end.unwrap_or(0))
            }
            State::Undecided => Ok(0),
        }
    }

    fn between(&self) -> State {
        if self.upgrade { State::Undecided } else { State::Head(Section::default()) }
    }
}

/// A head or trailers, of which some lines are checked.
#[derive(Debug, Default)]
struct Section {
    /// Bytes that were searched for line ends.
    seen: usize,
    /// The start of the line that is not complete.
    line: usize,
    fields: usize,
    request: Option<line::RequestLine>,
    /// An empty line before the request line was skipped (RFC 9112, section 2.2).
    blank: bool,
    facts: Facts,
}

#[derive(Debug, Default)]
struct Facts {
    host: bool,
    sized: bool,
    length: u64,
    chunked: bool,
    upgrade: bool,
}

const fn once(seen: &mut bool, violation: Violation) -> Result<(), Violation> {
    if std::mem::replace(seen, true) { Err(violation) } else { Ok(()) }
}

impl Section {
    /// The end of the head, if it is there.
    fn head(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Violation> {
        // What cannot be a method, such as a TLS record on a plain port, needs no line end to be refused.
        if self.seen == 0 && !line::is_token(bytes[0]) && bytes[0] != b'\r' {
            return Err(match bytes[0] {
                b'\n' => Violation::BareLf,
                _ => Violation::RequestLine,
            });
        }
        let from = self.seen;
        for lf in memchr_iter(b'\n', &bytes[from..]) {
            self.check_head_size(from + lf + 1, limits)?;
            let line = self.take_line(bytes, from + lf)?;
            if let Some(request) = self.request {
                if line.is_empty() {
                    return self.finish(request).map(|()| Some(self.line));
                }
                self.head_field(line, limits)?;
            } else if line.is_empty() && !self.blank {
                self.blank = true;
            } else {
                self.request = Some(line::request_line(line, limits.target)?);
            }
        }
        self.seen = bytes.len();
        self.check_head_size(bytes.len(), limits).map(|()| None)
    }

    // Before anything else is said of a line, so that the verdict does not depend on how it was cut.
    const fn check_head_size(&self, size: usize, limits: &Limits) -> Result<(), Violation> {
        if self.request.is_none() && size - self.line > limits.target + MAX_AROUND_TARGET {
            return Err(Violation::TargetTooLong);
        }
        if size > limits.head { Err(Violation::HeadTooLarge) } else { Ok(()) }
    }

    /// The end of the trailers, if it is there.
    fn trailers(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Violation> {
        let from = self.seen;
        for lf in memchr_iter(b'\n', &bytes[from..]) {
            if from + lf + 1 > limits.trailers {
                return Err(Violation::TrailersTooLarge);
            }
            let line = self.take_line(bytes, from + lf)?;
            if line.is_empty() {
                return Ok(Some(self.line));
            }
            self.count_field(limits)?;
            line::field(line)?;
        }
        self.seen = bytes.len();
        if bytes.len() > limits.trailers { Err(Violation::TrailersTooLarge) } else { Ok(None) }
    }

    fn take_line<'a>(&mut self, bytes: &'a [u8], lf: usize) -> Result<&'a [u8], Violation> {
        let line = bytes[self.line..lf].strip_suffix(b"\r").ok_or(Violation::BareLf)?;
        self.line = lf + 1;
        Ok(line)
    }

    const fn count_field(&mut self, limits: &Limits) -> Result<(), Violation> {
        self.fields += 1;
        if self.fields > limits.fields { Err(Violation::TooManyFields) } else { Ok(()) }
    }

    fn head_field(&mut self, line: &[u8], limits: &Limits) -> Result<(), Violation> {
        self.count_field(limits)?;
        let (name, value) = line::field(line)?;
        let facts = &mut self.facts;
        // The length of a name tells most of them apart for nothing.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => once(&mut facts.host, Violation::SeveralHosts)?,
            7 if name.eq_ignore_ascii_case(b"upgrade") => facts.upgrade = true,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = line::content_length(value)?;
                once(&mut facts.sized, Violation::SeveralLengths)?;
                facts.length = length;
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                line::transfer_encoding(value)?;
                once(&mut facts.chunked, Violation::TransferEncoding)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, request: line::RequestLine) -> Result<(), Violation> {
        let facts = &mut self.facts;
        if facts.chunked && facts.sized {
            return Err(Violation::LengthAndEncoding);
        }
        if facts.chunked && !request.http11 {
            return Err(Violation::EncodingInHttp10);
        }
        if request.http11 && !facts.host {
            return Err(Violation::MissingHost);
        }
        // HTTP/1.0 knows no upgrade (RFC 9110, section 7.8).
        facts.upgrade = request.connect || (facts.upgrade && request.http11);
        Ok(())
    }
}

/// The method and the version beside the target: `M-SEARCH`-like methods and some room.
const MAX_AROUND_TARGET: usize = 64;

/// A place in a chunked body (RFC 9112, section 7.1).
#[derive(Debug, Clone, Copy)]
enum Chunk {
    Size { digits: u8, size: u64 },
    Extension { length: usize, size: u64 },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
}

impl Chunk {
    const START: Self = Self::Size { digits: 0, size: 0 };

    /// How many bytes are in order, and whether the last chunk was among them.
    fn advance(&mut self, bytes: &[u8], extension: usize) -> Result<(usize, bool), (usize, Violation)> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at).copied() {
            if let Self::Data { left } = *self {
                let rest = bytes.len() - at;
                let count = usize::try_from(left).map_or(rest, |left| left.min(rest));
                at += count;
                let left = left - count as u64;
                *self = if left == 0 { Self::DataCr } else { Self::Data { left } };
                continue;
            }
            *self = self.byte(byte, extension).map_err(|violation| (at, violation))?;
            at += 1;
            if matches!(self, Self::Data { left: 0 }) {
                return Ok((at, true));
            }
        }
        Ok((at, false))
    }

    fn byte(self, byte: u8, extension: usize) -> Result<Self, Violation> {
        match (self, byte) {
            (Self::Size { digits, size }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == 15 {
                    return Err(Violation::ChunkSize);
                }
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                Ok(Self::Size { digits: digits + 1, size: size << 4 | u64::from(digit) })
            }
            (Self::Size { digits: 1.., size }, b'\r') => Ok(Self::SizeLf { size }),
            (Self::Size { digits: 1.., size }, b';') => Ok(Self::Extension { length: 1, size }),
            (Self::Size { digits: 1.., .. } | Self::Extension { .. } | Self::DataCr, b'\n') => {
                Err(Violation::BareLf)
            }
            (Self::Size { .. }, _) => Err(Violation::ChunkSize),
            (Self::Extension { size, .. }, b'\r') => Ok(Self::SizeLf { size }),
            (Self::Extension { length, size }, _) => {
                if length >= extension || line::is_control(byte) {
                    return Err(Violation::ChunkExtension);
                }
                Ok(Self::Extension { length: length + 1, size })
            }
            (Self::SizeLf { size }, b'\n') => Ok(Self::Data { left: size }),
            (Self::SizeLf { .. }, _) => Err(Violation::BareCr),
            (Self::DataCr, b'\r') => Ok(Self::DataLf),
            (Self::DataLf, b'\n') => Ok(Self::START),
            (Self::DataCr | Self::DataLf | Self::Data { .. }, _) => Err(Violation::ChunkEnd),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &[u8]) -> (Scanned, u64) {
        let mut scanner = Scanner::new(Limits::default());
        (scanner.scan(bytes), scanner.heads())
    }

    /// Feeds the bytes in pieces, as a connection does.
    fn split(bytes: &[u8], size: usize) -> (Scanned, u64) {
        let mut scanner = Scanner::new(Limits::default());
        let mut held = Vec::new();
        let mut good = 0;
        for piece in bytes.chunks(size) {
            held.extend_from_slice(piece);
            let scanned = scanner.scan(&held);
            good += scanned.good;
            held.drain(..scanned.good);
            if scanned.stop.is_some() {
                return (Scanned { good, ..scanned }, scanner.heads());
            }
        }
        (Scanned { good, stop: None }, scanner.heads())
    }

    const REQUESTS: &str = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n\
        POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
        \r\nPOST /c HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
        5;x=\"y\"\r\nhello\r\n00A\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n\
        GET /d HTTP/1.0\r\n\r\n";

    #[test]
    fn requests_pass_however_they_are_cut() {
        for size in 1..=REQUESTS.len() {
            let (scanned, heads) = split(REQUESTS.as_bytes(), size);
            assert_eq!(scanned, Scanned { good: REQUESTS.len(), stop: None }, "pieces of {size}");
            assert_eq!(heads, 4);
        }
    }

    #[test]
    fn a_violation_is_found_however_the_bytes_are_cut() {
        let text = format!(
            "{REQUESTS}POST /e HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ncontent-length: 5\r\n\r\nhello"
        );
        for size in 1..=text.len() {
            let (scanned, heads) = split(text.as_bytes(), size);
            let stop = Some(Stop::Head(Violation::SeveralLengths));
            assert_eq!(scanned, Scanned { good: REQUESTS.len(), stop }, "pieces of {size}");
            assert_eq!(heads, 4);
        }
    }

    #[test]
    fn a_changed_byte_gives_one_verdict_however_the_bytes_are_cut() {
        let text = format!("{REQUESTS}GET /e HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n");
        for at in 0..text.len() {
            for byte in *b"\0\t\n\r 05;:,aZ\x7f\xff" {
                let mut bytes = text.clone().into_bytes();
                bytes[at] = byte;
                let expected = whole(&bytes);
                for size in [1, 7] {
                    assert_eq!(split(&bytes, size), expected, "{byte:?} at {at}, pieces of {size}");
                }
            }
        }
    }

    #[test]
    fn ambiguous_heads_are_refused() {
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: b\r\n".repeat(100));
        let large = format!("GET / HTTP/1.1\r\nHost: a\r\na: {}\r\n\r\n", "b".repeat(16 * 1024));
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "b".repeat(8 * 1024));
        let endless = format!("GET /{}", "b".repeat(9 * 1024));
        for (head, violation) in [
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                Violation::LengthAndEncoding,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                Violation::TransferEncoding,
            ),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Violation::EncodingInHttp10),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Violation::SeveralHosts),
            ("GET / HTTP/1.1\r\n\r\n", Violation::MissingHost),
            ("GET / HTTP/1.1\nHost: a\r\n\r\n", Violation::BareLf),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", Violation::BareLf),
            ("GET / HTTP/1.1\r\nHost: a\r\n\n", Violation::BareLf),
            ("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", Violation::BareCr),
            ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Violation::Fold),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", Violation::Fold),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Violation::SpaceBeforeColon),
            ("\n", Violation::BareLf),
            ("\r\n\r\n\r\n", Violation::RequestLine),
            ("\x16\x03\x01", Violation::RequestLine),
            (many.as_str(), Violation::TooManyFields),
            (large.as_str(), Violation::HeadTooLarge),
            (long.as_str(), Violation::TargetTooLong),
            (endless.as_str(), Violation::TargetTooLong),
        ] {
            let stop = Some(Stop::Head(violation));
            let name = &head[..head.len().min(80)];
            assert_eq!(whole(head.as_bytes()), (Scanned { good: 0, stop }, 0), "{name:?}");
            assert_eq!(split(head.as_bytes(), 1), (Scanned { good: 0, stop }, 0), "{name:?}, byte by byte");
        }
    }

    #[test]
    fn bad_chunks_are_refused_and_what_stood_before_them_passes() {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let extension = format!("5;{}\r\n", "x".repeat(300));
        let trailers = format!("0\r\nX: {}\r\n\r\n", "x".repeat(5000));
        for (body, good, violation) in [
            ("0x5\r\n", 1, Violation::ChunkSize),
            ("+5\r\n", 0, Violation::ChunkSize),
            (" 5\r\n", 0, Violation::ChunkSize),
            ("5 \r\n", 1, Violation::ChunkSize),
            ("\r\n", 0, Violation::ChunkSize),
            (";x\r\n", 0, Violation::ChunkSize),
            ("fffffffffffffffff\r\n", 15, Violation::ChunkSize),
            ("5\nhello\r\n", 1, Violation::BareLf),
            ("5\rhello\r\n", 2, Violation::BareCr),
            ("5\r\nhello\n", 8, Violation::BareLf),
            ("5\r\nhello!\r\n", 8, Violation::ChunkEnd),
            ("5\r\nhello\r!", 9, Violation::ChunkEnd),
            ("5;a\nhello", 3, Violation::BareLf),
            ("5;a\0", 3, Violation::ChunkExtension),
            (extension.as_str(), 257, Violation::ChunkExtension),
            ("0\r\nX : 1\r\n\r\n", 3, Violation::SpaceBeforeColon),
            ("0\r\nX: 1\n\r\n", 3, Violation::BareLf),
            (trailers.as_str(), 3, Violation::TrailersTooLarge),
        ] {
            let text = format!("{head}{body}");
            let expected = Scanned { good: head.len() + good, stop: Some(Stop::Body(violation)) };
            let name = &body[..body.len().min(20)];
            assert_eq!(whole(text.as_bytes()), (expected, 1), "{name:?}");
            assert_eq!(split(text.as_bytes(), 1), (expected, 1), "{name:?}, byte by byte");
        }
    }

    #[test]
    fn nothing_after_a_request_for_a_tunnel_is_looked_at_until_it_is_declined() {
        for head in [
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nhi",
            "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            let text = format!("{head}\0\0\0");
            let mut scanner = Scanner::new(Limits::default());
            assert_eq!(scanner.scan(text.as_bytes()), Scanned { good: head.len(), stop: None });
            assert!(scanner.is_undecided());
            assert_eq!(scanner.scan(b"\0\0\0"), Scanned { good: 0, stop: None });
            scanner.resume();
            let stop = Some(Stop::Head(Violation::RequestLine));
            assert_eq!(scanner.scan(b"\0\0\0"), Scanned { good: 0, stop });
        }
    }
}
