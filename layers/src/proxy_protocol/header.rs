//! The header of PROXY protocol, versions 1 and 2: a pure parser and encoder. No I/O and no trust here.
//!
//! Section numbers refer to the specification, `doc/proxy-protocol.txt` of HAProxy. The parser
//! takes whatever has been read so far and tells whether that is too little, a whole header,
//! or certainly none; it fails at the first byte that can't belong to a header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::tlv::{self, CRC32C, Tlv, Tlvs};

/// The longest line of version 1, with its CRLF (section 2.1).
pub const MAX_V1: usize = 107;

/// The longest header of version 2 that is accepted.
///
/// The format could go up to 65,551 bytes, but senders are asked to stay within 536 (section 2.2,
/// "recommended to ... fit in a single segment"); 4 KiB leave room for a client certificate in the SSL TLV.
pub const MAX_V2: usize = 4096;

const V1_PREFIX: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const V2_FIXED: usize = 16;
/// Two paths of 108 bytes (section 2.2, AF_UNIX).
const UNIX_ADDRESSES: usize = 216;

/// The version of the protocol that a header was written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// The two ends of the connection that the sender accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The client.
    pub source: SocketAddr,
    /// What the client connected to.
    pub destination: SocketAddr,
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// How it was written.
    pub version: Version,
    /// `None` when the sender speaks for itself (`LOCAL`) or for a client without
    /// an Internet address (`UNKNOWN`, unspecified, Unix): then the peer is the client.
    pub addresses: Option<Addresses>,
    /// What else the sender told; always empty in version 1 and for `LOCAL`.
    pub tlvs: Tlvs<'a>,
}

/// What the bytes read so far amount to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// The start of a header; at least this many bytes are missing.
    NeedMore(usize),
    /// A whole header.
    Complete {
        /// What it says.
        header: Header<'a>,
        /// Its length; the client's own bytes start behind it.
        consumed: usize,
    },
    /// Whatever follows, this is no header.
    Invalid(HeaderError),
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Neither version starts like this.
    #[error("no PROXY protocol signature")]
    Signature,
    /// No CRLF within 107 bytes.
    #[error("line is longer than {MAX_V1} bytes")]
    LineTooLong,
    /// CR without LF, LF without CR, or something else than printable ASCII.
    #[error("line has a control character or a byte beyond ASCII")]
    Character,
    /// Another protocol than `TCP4`, `TCP6` and `UNKNOWN`.
    #[error("protocol is not TCP4, TCP6 or UNKNOWN")]
    Protocol,
    /// Too few or too many fields, or more than one space between them.
    #[error("line does not have six fields with single spaces between them")]
    Fields,
    /// An address that is none, or of the other family.
    #[error("address does not belong to the protocol")]
    Address,
    /// A port that is no number up to 65535, or has leading zeros.
    #[error("port is not a number from 0 to 65535 without leading zeros")]
    Port,
    /// Another version than 2 after the binary signature.
    #[error("binary header of version {0} instead of 2")]
    Version(u8),
    /// Another command than `LOCAL` and `PROXY`.
    #[error("unknown command {0}")]
    Command(u8),
    /// A reserved family or transport, or datagrams, which no stream can carry.
    #[error("family and transport {0:#04x} do not fit a stream")]
    Family(u8),
    /// The length that the header states is more than we take.
    #[error("header of {0} bytes is longer than {MAX_V2}")]
    TooLong(usize),
    /// The length that the header states is too small for its addresses.
    #[error("{0} bytes are too few for the addresses")]
    TooShort(usize),
    /// A TLV that does not fit into the header, or whose value is not what its type demands.
    #[error("malformed TLV of type {0:#04x}")]
    Tlv(u8),
    /// The bytes were changed on their way.
    #[error("CRC32c does not match")]
    Checksum,
}

/// The addresses or the TLVs do not fit into one header of at most [`MAX_V2`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("header of {0} bytes is longer than {MAX_V2}")]
pub struct TooLong(pub usize);

/// Reads a header from the start of `input`.
///
/// ```
/// use portcullis_layers::proxy_protocol::header::{Parsed, parse};
///
/// let input = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\nGET / HTTP/1.1\r\n";
/// let Parsed::Complete { header, consumed } = parse(input) else { panic!("a whole header") };
/// assert_eq!(header.addresses.unwrap().source, "192.0.2.7:40000".parse().unwrap());
/// assert!(input[consumed..].starts_with(b"GET / "));
/// assert_eq!(parse(b"PROXY"), Parsed::NeedMore(10));
/// ```
pub fn parse(input: &[u8]) -> Parsed<'_> {
    let outcome = if starts_alike(input, V1_PREFIX) {
        parse_v1(input)
    } else if starts_alike(input, V2_SIGNATURE) {
        parse_v2(input)
    } else {
        Err(HeaderError::Signature)
    };
    outcome.unwrap_or_else(Parsed::Invalid)
}

/// Whether what there is agrees with `expected`, as far as both go.
fn starts_alike(input: &[u8], expected: &[u8]) -> bool {
    input.iter().zip(expected).all(|(one, other)| one == other)
}

/// "PROXY UNKNOWN" and CRLF: nothing valid is shorter.
const MIN_V1: usize = 15;

fn parse_v1(input: &[u8]) -> Result<Parsed<'_>, HeaderError> {
    let window = &input[..input.len().min(MAX_V1)];
    let Some(end) = window.iter().position(|byte| !matches!(byte, b' '..=b'~')) else {
        if window.len() == MAX_V1 {
            return Err(HeaderError::LineTooLong);
        }
        return Ok(Parsed::NeedMore(MIN_V1.saturating_sub(window.len()).max(1)));
    };
    // The line ends here or nowhere: a stray CR or LF could be read in two ways.
    match window[end..] {
        [b'\r'] if window.len() == MAX_V1 => return Err(HeaderError::LineTooLong),
        [b'\r'] => return Ok(Parsed::NeedMore(1)),
        [b'\r', b'\n', ..] => {}
        _ => return Err(HeaderError::Character),
    }
    // The prefix is printable, so that the line ends behind it.
    let line = std::str::from_utf8(&window[V1_PREFIX.len()..end]).map_err(|_| HeaderError::Character)?;
    let addresses = parse_line(line)?;
    let header = Header { version: Version::V1, addresses, tlvs: Tlvs::default() };
    Ok(Parsed::Complete { header, consumed: end + 2 })
}

/// What stands between `PROXY ` and CRLF.
fn parse_line(line: &str) -> Result<Option<Addresses>, HeaderError> {
    let mut fields = line.split(' ');
    let protocol = fields.next().unwrap_or_default();
    let (source, destination) = match protocol {
        // What follows is to be ignored (section 2.1).
        "UNKNOWN" => return Ok(None),
        "TCP4" => (address::<Ipv4Addr>(fields.next())?, address::<Ipv4Addr>(fields.next())?),
        "TCP6" => (address::<Ipv6Addr>(fields.next())?, address::<Ipv6Addr>(fields.next())?),
        _ => return Err(HeaderError::Protocol),
    };
    let (source_port, destination_port) = (port(fields.next())?, port(fields.next())?);
    if fields.next().is_some() {
        return Err(HeaderError::Fields);
    }
    Ok(Some(Addresses {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    }))
}

fn address<A: FromStr + Into<IpAddr>>(field: Option<&str>) -> Result<IpAddr, HeaderError> {
    let field = non_empty(field)?;
    field.parse::<A>().map(Into::into).map_err(|_| HeaderError::Address)
}

fn port(field: Option<&str>) -> Result<u16, HeaderError> {
    let field = non_empty(field)?;
    let canonical =
        field.bytes().all(|byte| byte.is_ascii_digit()) && (field == "0" || !field.starts_with('0'));
    if canonical { field.parse().map_err(|_| HeaderError::Port) } else { Err(HeaderError::Port) }
}

fn non_empty(field: Option<&str>) -> Result<&str, HeaderError> {
    field.filter(|field| !field.is_empty()).ok_or(HeaderError::Fields)
}

fn parse_v2(input: &[u8]) -> Result<Parsed<'_>, HeaderError> {
    // Version and command are judged as soon as they are there.
    if let Some(byte) = input.get(12) {
        match (byte >> 4, byte & 0x0f) {
            (2, 0 | 1) => {}
            (2, command) => return Err(HeaderError::Command(command)),
            (version, _) => return Err(HeaderError::Version(version)),
        }
    }
    let Some((fixed, rest)) = input.split_first_chunk::<V2_FIXED>() else {
        return Ok(Parsed::NeedMore(V2_FIXED - input.len()));
    };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let consumed = V2_FIXED + length;
    if consumed > MAX_V2 {
        return Err(HeaderError::TooLong(consumed));
    }
    let Some(block) = rest.get(..length) else {
        return Ok(Parsed::NeedMore(length - rest.len()));
    };
    // LOCAL: the block is to be discarded, "including the family" (section 2.2).
    if fixed[12] & 0x0f == 0 {
        let header = Header { version: Version::V2, addresses: None, tlvs: Tlvs::default() };
        return Ok(Parsed::Complete { header, consumed });
    }
    let (addresses, tlvs) = match fixed[13] {
        0x00 => (None, block),
        0x11 => split_inet(block)?,
        0x21 => split_inet6(block)?,
        0x31 => (None, block.get(UNIX_ADDRESSES..).ok_or(HeaderError::TooShort(length))?),
        family => return Err(HeaderError::Family(family)),
    };
    let tlvs_at = consumed - tlvs.len();
    let (tlvs, checksum_at) = tlv::check(tlvs)?;
    if let Some(at) = checksum_at {
        tlv::verify(&input[..consumed], tlvs_at + at)?;
    }
    Ok(Parsed::Complete { header: Header { version: Version::V2, addresses, tlvs }, consumed })
}

type Split<'a> = (Option<Addresses>, &'a [u8]);

fn split_inet(block: &[u8]) -> Result<Split<'_>, HeaderError> {
    let (fixed, tlvs) = block.split_first_chunk::<12>().ok_or(HeaderError::TooShort(block.len()))?;
    let [a, b, c, d, e, f, g, h, p, q, r, s] = *fixed;
    let source = SocketAddr::from(([a, b, c, d], u16::from_be_bytes([p, q])));
    let destination = SocketAddr::from(([e, f, g, h], u16::from_be_bytes([r, s])));
    Ok((Some(Addresses { source, destination }), tlvs))
}

fn split_inet6(block: &[u8]) -> Result<Split<'_>, HeaderError> {
    let short = HeaderError::TooShort(block.len());
    let (source, rest) = block.split_first_chunk::<16>().ok_or(short)?;
    let (destination, rest) = rest.split_first_chunk::<16>().ok_or(short)?;
    let (ports, tlvs) = rest.split_first_chunk::<4>().ok_or(short)?;
    let source = SocketAddr::from((*source, u16::from_be_bytes([ports[0], ports[1]])));
    let destination = SocketAddr::from((*destination, u16::from_be_bytes([ports[2], ports[3]])));
    Ok((Some(Addresses { source, destination }), tlvs))
}

/// Writes a header of version 1: `TCP4`, `TCP6`, or `UNKNOWN` where there are no addresses.
pub fn encode_v1(addresses: Option<&Addresses>, out: &mut Vec<u8>) {
    let line = match addresses.map(same_family) {
        None => "PROXY UNKNOWN\r\n".to_owned(),
        Some((source, destination)) => format!(
            "PROXY {} {} {} {} {}\r\n",
            if source.is_ipv4() { "TCP4" } else { "TCP6" },
            source.ip(),
            destination.ip(),
            source.port(),
            destination.port()
        ),
    };
    out.extend_from_slice(line.as_bytes());
}

/// Writes a header of version 2: `PROXY`, or `LOCAL` where there are no addresses (our own health checks).
///
/// With `checksum`, a CRC32c TLV is added; a [`Tlv::Crc32c`] among `tlvs` is left out, because its
/// value is known only here.
///
/// # Errors
///
/// When the TLVs do not fit, nothing is written.
pub fn encode_v2(
    addresses: Option<&Addresses>,
    tlvs: &[Tlv<'_>],
    checksum: bool,
    out: &mut Vec<u8>,
) -> Result<(), TooLong> {
    let start = out.len();
    out.extend_from_slice(V2_SIGNATURE);
    match addresses.map(same_family) {
        None => out.extend_from_slice(&[0x20, 0x00, 0, 0]),
        Some((source, destination)) => {
            out.extend_from_slice(&[0x21, if source.is_ipv4() { 0x11 } else { 0x21 }, 0, 0]);
            for end in [source, destination] {
                match end.ip() {
                    IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
                    IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
                }
            }
            out.extend_from_slice(&source.port().to_be_bytes());
            out.extend_from_slice(&destination.port().to_be_bytes());
        }
    }
    for tlv in tlvs.iter().filter(|tlv| !matches!(tlv, Tlv::Crc32c(_))) {
        tlv.encode(out);
    }
    if checksum {
        out.extend_from_slice(&[CRC32C, 0, 4, 0, 0, 0, 0]);
    }
    let total = out.len() - start;
    let length = u16::try_from(total - V2_FIXED).ok().filter(|_| total <= MAX_V2);
    let Some(length) = length else {
        out.truncate(start);
        return Err(TooLong(total));
    };
    let header = &mut out[start..];
    header[14..V2_FIXED].copy_from_slice(&length.to_be_bytes());
    if checksum {
        // The field itself counts as zeros (section 2.2.3).
        let sum = crc32c::crc32c(header);
        header[total - 4..].copy_from_slice(&sum.to_be_bytes());
    }
    Ok(())
}

/// Both ends as IPv4 where they are, also behind an IPv4-mapped address; else both as IPv6: a header has one family.
fn same_family(addresses: &Addresses) -> (SocketAddr, SocketAddr) {
    let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let (source, destination) = (canonical(addresses.source), canonical(addresses.destination));
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    let widen = |end: SocketAddr| match end.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), end.port()),
        IpAddr::V6(_) => end,
    };
    (widen(source), widen(destination))
}

#[cfg(test)]
mod tests {
    use super::super::tlv::Ssl;
    use super::*;

    const V4: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n";
    const V6: &str = "PROXY TCP6 2001:db8::7 2001:db8::1 40000 443\r\n";

    fn addresses(source: &str, destination: &str) -> Addresses {
        Addresses {
            source: source.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
        }
    }

    fn v4() -> Addresses {
        addresses("192.0.2.7:40000", "198.51.100.1:443")
    }

    fn v6() -> Addresses {
        addresses("[2001:db8::7]:40000", "[2001:db8::1]:443")
    }

    /// A binary header from its parts, whether it makes sense or not.
    fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).expect("short");
        [V2_SIGNATURE, &[command, family], &length.to_be_bytes(), block].concat()
    }

    fn encoded(addresses: Option<&Addresses>, tlvs: &[Tlv<'_>], checksum: bool) -> Vec<u8> {
        let mut out = Vec::new();
        encode_v2(addresses, tlvs, checksum, &mut out).expect("fits");
        out
    }

    fn complete(bytes: &[u8]) -> (Option<Addresses>, usize) {
        match parse(bytes) {
            Parsed::Complete { header, consumed } => (header.addresses, consumed),
            other => panic!("{bytes:?} is {other:?}"),
        }
    }

    fn ssl_value() -> Vec<u8> {
        [&[1, 0, 0, 0, 0][..], &[0x21, 0, 7], b"TLSv1.3", &[0x22, 0, 2], b"me", &[0xee, 0, 1, 0]].concat()
    }

    fn valid() -> Vec<(Vec<u8>, Option<Addresses>)> {
        let ssl = [&[0x20, 0, 24][..], &ssl_value()].concat();
        let inet = [192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 1, 0xbb];
        let with_tlvs = [&inet[..], &ssl, &[4, 0, 2, 0, 0], &[0xe0, 0, 0]].concat();
        vec![
            (V4.into(), Some(v4())),
            (V6.into(), Some(v6())),
            (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 0 65535\r\n".to_vec(), {
                Some(addresses("[::ffff:192.0.2.7]:0", "[::1]:65535"))
            }),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff:f...f:ffff whatever 1  2\r\n".to_vec(), None),
            (encoded(Some(&v4()), &[], false), Some(v4())),
            (encoded(Some(&v6()), &[Tlv::Alpn(b"h2"), Tlv::Authority("a.example")], true), Some(v6())),
            (encoded(None, &[], false), None),
            (encoded(None, &[], true), None),
            (binary(0x21, 0x11, &with_tlvs), Some(v4())),
            // LOCAL: whatever the block holds.
            (binary(0x20, 0x11, &[1, 2, 3]), None),
            (binary(0x20, 0xff, &[]), None),
            // Unspecified, and Unix sockets: valid, but without an address.
            (binary(0x21, 0x00, &[]), None),
            (binary(0x21, 0x31, &[b'/'; UNIX_ADDRESSES]), None),
        ]
    }

    #[test]
    fn every_split_of_a_valid_header_asks_for_more_and_then_completes() {
        for (bytes, expected) in valid() {
            for split in 0..bytes.len() {
                let Parsed::NeedMore(missing) = parse(&bytes[..split]) else {
                    panic!("{split} bytes of {bytes:?} are {:?}", parse(&bytes[..split]))
                };
                assert!((1..=bytes.len() - split).contains(&missing), "{missing} after {split} of {bytes:?}");
            }
            for tail in [&b""[..], b"\r\n", b"PROXY TCP4 ", &[0x16, 3, 1]] {
                assert_eq!(complete(&[&bytes, tail].concat()), (expected, bytes.len()), "{bytes:?}");
            }
        }
    }

    #[test]
    fn malformed_lines_are_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
        let longer = "PROXY ".to_owned() + &"x".repeat(200);
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
        assert_eq!(longest.len(), MAX_V1);
        assert!(matches!(parse(longest.as_bytes()), Parsed::Complete { .. }));
        for (line, error) in [
            ("GET / HTTP/1.1\r\n", HeaderError::Signature),
            ("proxy TCP4 192.0.2.7 198.51.100.1 40000 443\r\n", HeaderError::Signature),
            ("PROXY\r\n", HeaderError::Signature),
            ("PROXY\tTCP4 1.1.1.1 2.2.2.2 1 2\r\n", HeaderError::Signature),
            ("PROXY  TCP4 1.1.1.1 2.2.2.2 1 2\r\n", HeaderError::Protocol),
            ("PROXY \r\n", HeaderError::Protocol),
            ("PROXY TCP 1.1.1.1 2.2.2.2 1 2\r\n", HeaderError::Protocol),
            ("PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n", HeaderError::Protocol),
            ("PROXY UNKNOWNX\r\n", HeaderError::Protocol),
            ("PROXY tcp4 1.1.1.1 2.2.2.2 1 2\r\n", HeaderError::Protocol),
            ("PROXY TCP4\r\n", HeaderError::Fields),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n", HeaderError::Fields),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n", HeaderError::Fields),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n", HeaderError::Fields),
            ("PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n", HeaderError::Fields),
            ("PROXY TCP4 1.1.1.1 2.2.2.2  1 2\r\n", HeaderError::Fields),
            ("PROXY TCP4 ::1 ::1 1 2\r\n", HeaderError::Address),
            ("PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n", HeaderError::Address),
            ("PROXY TCP4 1.1.1.1 ::1 1 2\r\n", HeaderError::Address),
            ("PROXY TCP4 01.1.1.1 2.2.2.2 1 2\r\n", HeaderError::Address),
            ("PROXY TCP4 1.1.1 2.2.2.2 1 2\r\n", HeaderError::Address),
            ("PROXY TCP4 1.1.1.256 2.2.2.2 1 2\r\n", HeaderError::Address),
            ("PROXY TCP6 [::1] ::1 1 2\r\n", HeaderError::Address),
            ("PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", HeaderError::Address),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n", HeaderError::Port),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 00 2\r\n", HeaderError::Port),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n", HeaderError::Port),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n", HeaderError::Port),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1 -2\r\n", HeaderError::Port),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1 0x2\r\n", HeaderError::Port),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n", HeaderError::Character),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\rX", HeaderError::Character),
            ("PROXY TCP4 1.1.1.1\t2.2.2.2 1 2\r\n", HeaderError::Character),
            ("PROXY TCP4 1.1.1.1 2.2.2.2\0 1 2\r\n", HeaderError::Character),
            ("PROXY UNKNOWN \n\r\n", HeaderError::Character),
            ("PROXY UNKNOWN ü\r\n", HeaderError::Character),
            (&long, HeaderError::LineTooLong),
            (&longer, HeaderError::LineTooLong),
        ] {
            assert_eq!(parse(line.as_bytes()), Parsed::Invalid(error), "{line:?}");
        }
    }

    #[test]
    fn malformed_binary_headers_are_refused() {
        let inet = [192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 1, 0xbb];
        let tlv = |bytes: &[u8]| binary(0x21, 0x11, &[&inet[..], bytes].concat());
        let mut flipped = encoded(Some(&v4()), &[Tlv::UniqueId(b"one")], true);
        flipped[17] ^= 1;
        let crc = [3, 0, 4, 0, 0, 0, 0];
        for (bytes, error) in [
            (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), HeaderError::Signature),
            (b"\r\nGET".to_vec(), HeaderError::Signature),
            (binary(0x11, 0x11, &inet), HeaderError::Version(1)),
            (binary(0x31, 0x11, &inet), HeaderError::Version(3)),
            (binary(0x22, 0x11, &inet), HeaderError::Command(2)),
            (binary(0x2f, 0x11, &inet), HeaderError::Command(15)),
            (binary(0x21, 0x12, &inet), HeaderError::Family(0x12)),
            (binary(0x21, 0x10, &inet), HeaderError::Family(0x10)),
            (binary(0x21, 0x41, &inet), HeaderError::Family(0x41)),
            (binary(0x21, 0x11, &inet[..11]), HeaderError::TooShort(11)),
            (binary(0x21, 0x11, &[]), HeaderError::TooShort(0)),
            (binary(0x21, 0x21, &[0; 35]), HeaderError::TooShort(35)),
            (binary(0x21, 0x31, &[0; 215]), HeaderError::TooShort(215)),
            (binary(0x20, 0x00, &[0; MAX_V2]), HeaderError::TooLong(MAX_V2 + 16)),
            (tlv(&[4]), HeaderError::Tlv(4)),
            (tlv(&[4, 0]), HeaderError::Tlv(4)),
            (tlv(&[4, 0, 1]), HeaderError::Tlv(4)),
            (tlv(&[0xee, 0xff, 0xff, 0]), HeaderError::Tlv(0xee)),
            (tlv(&[2, 0, 1, 0xff]), HeaderError::Tlv(2)),
            (tlv(&[3, 0, 3, 0, 0, 0]), HeaderError::Tlv(3)),
            (tlv(&[crc, crc].concat()), HeaderError::Tlv(3)),
            (tlv(&crc), HeaderError::Checksum),
            (tlv(&[&[5, 0, 129][..], &[0; 129]].concat()), HeaderError::Tlv(5)),
            (tlv(&[0x20, 0, 4, 0, 0, 0, 0]), HeaderError::Tlv(0x20)),
            (tlv(&[0x20, 0, 8, 0, 0, 0, 0, 0, 0x21, 0, 1]), HeaderError::Tlv(0x21)),
            (flipped, HeaderError::Checksum),
        ] {
            assert_eq!(parse(&bytes), Parsed::Invalid(error), "{bytes:?}");
        }
    }

    #[test]
    fn a_wrong_start_is_refused_at_its_first_byte() {
        for byte in (0..=u8::MAX).filter(|byte| !b"P\r".contains(byte)) {
            assert_eq!(parse(&[byte]), Parsed::Invalid(HeaderError::Signature));
        }
        let mut stated = V2_SIGNATURE.to_vec();
        stated.push(0x11);
        assert_eq!(parse(&stated), Parsed::Invalid(HeaderError::Version(1)));
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_it_is_read() {
        let mut bytes = V2_SIGNATURE.to_vec();
        bytes.extend_from_slice(&[0x21, 0x11, 0xff, 0xff]);
        assert_eq!(parse(&bytes), Parsed::Invalid(HeaderError::TooLong(65551)));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mixed = addresses("[::ffff:192.0.2.7]:1", "198.51.100.1:2");
        let both = addresses("192.0.2.7:1", "[2001:db8::1]:2");
        for (given, expected) in [
            (v4(), v4()),
            (v6(), v6()),
            (mixed, addresses("192.0.2.7:1", "198.51.100.1:2")),
            (both, addresses("[::ffff:192.0.2.7]:1", "[2001:db8::1]:2")),
        ] {
            let mut line = Vec::new();
            encode_v1(Some(&given), &mut line);
            assert_eq!(complete(&line), (Some(expected), line.len()));
            for checksum in [false, true] {
                let bytes = encoded(Some(&given), &[Tlv::Netns("blue")], checksum);
                assert_eq!(complete(&bytes), (Some(expected), bytes.len()));
            }
        }
        let mut line = Vec::new();
        encode_v1(None, &mut line);
        assert_eq!(line, b"PROXY UNKNOWN\r\n");
    }

    #[test]
    fn tlvs_come_back_in_order_and_unknown_ones_are_skipped() {
        let ssl_value = ssl_value();
        let written = [
            Tlv::Alpn(b"h2"),
            Tlv::Authority("a.example"),
            Tlv::UniqueId(b"7"),
            Tlv::Ssl(Ssl::new(1, 0)),
            Tlv::Netns("blue"),
        ];
        let bytes = encoded(Some(&v4()), &written, true);
        let Parsed::Complete { header, .. } = parse(&bytes) else { panic!("valid") };
        let read: Vec<_> = header.tlvs.into_iter().collect();
        assert_eq!(read[..5], written);
        assert!(matches!(read[5..], [Tlv::Crc32c(_)]));
        assert_eq!(header.tlvs.authority(), Some("a.example"));

        let inet = &bytes[16..28];
        let block = [inet, &[0xe1, 0, 1, 9], &[0x20, 0, 24], &ssl_value].concat();
        let bytes = binary(0x21, 0x11, &block);
        let Parsed::Complete { header, .. } = parse(&bytes) else { panic!("valid") };
        let [Tlv::Ssl(ssl)] = header.tlvs.into_iter().collect::<Vec<_>>()[..] else { panic!("one field") };
        assert_eq!((ssl.client, ssl.verify), (1, 0));
        assert_eq!((ssl.version(), ssl.common_name(), ssl.cipher()), (Some("TLSv1.3"), Some("me"), None));
    }

    #[test]
    fn what_does_not_fit_is_not_written() {
        for size in [MAX_V2, 70_000] {
            let name = "a".repeat(size);
            let mut out = b"before".to_vec();
            assert!(encode_v2(Some(&v4()), &[Tlv::Authority(&name)], true, &mut out).is_err());
            assert_eq!(out, b"before");
        }
    }

    /// The inputs that the fuzzer starts from, and what it has found.
    #[test]
    fn the_fuzz_corpus_breaks_nothing() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/proxy_header");
        let mut seen = 0;
        for entry in std::fs::read_dir(corpus).expect("the corpus is part of the sources") {
            let bytes = std::fs::read(entry.expect("readable").path()).expect("readable");
            if let Parsed::Complete { consumed, .. } = parse(&bytes) {
                assert!((1..consumed).all(|end| matches!(parse(&bytes[..end]), Parsed::NeedMore(_))));
            }
            seen += 1;
        }
        assert!(seen > 10, "{seen} files");
    }
}
