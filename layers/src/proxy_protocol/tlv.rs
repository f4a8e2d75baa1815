//! The type-length-value fields of PROXY protocol version 2 (section 2.2 of its specification).
//!
//! Everything is checked when the header is parsed, so that reading the fields afterwards can't fail.
//! Types that are not named here are skipped.

use super::header::HeaderError;

const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
pub(super) const CRC32C: u8 = 0x03;
const UNIQUE_ID: u8 = 0x05;
const SSL: u8 = 0x20;
const NETNS: u8 = 0x30;

const SSL_VERSION: u8 = 0x21;
const SSL_CN: u8 = 0x22;
const SSL_CIPHER: u8 = 0x23;

/// "up to 128 bytes" (section 2.2.5).
const MAX_UNIQUE_ID: usize = 128;

/// One field of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tlv<'a> {
    /// The protocol that the sender settled with the client by ALPN.
    Alpn(&'a [u8]),
    /// The host name that the client asked for, usually from SNI.
    Authority(&'a str),
    /// The checksum, which has been compared already.
    Crc32c(u32),
    /// The sender's name for the connection.
    UniqueId(&'a [u8]),
    /// What the sender's TLS handshake with the client settled.
    Ssl(Ssl<'a>),
    /// The sender's network namespace.
    Netns(&'a str),
}

/// The TLS facts of the connection between client and sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ssl<'a> {
    /// Bit 0: over TLS; bit 1: a certificate on this connection; bit 2: one in this session.
    pub client: u8,
    /// 0 when the client's certificate was verified.
    pub verify: u32,
    fields: &'a [u8],
}

impl<'a> Ssl<'a> {
    /// TLS facts without version, name and cipher.
    pub const fn new(client: u8, verify: u32) -> Self {
        Self { client, verify, fields: &[] }
    }

    /// For example `TLSv1.3`.
    pub fn version(&self) -> Option<&'a str> {
        self.text(SSL_VERSION)
    }

    /// The common name of the client's certificate.
    pub fn common_name(&self) -> Option<&'a str> {
        self.text(SSL_CN)
    }

    /// The cipher's name as OpenSSL calls it.
    pub fn cipher(&self) -> Option<&'a str> {
        self.text(SSL_CIPHER)
    }

    fn text(&self, wanted: u8) -> Option<&'a str> {
        let (_, value) = Raw(self.fields).flatten().find(|(kind, _)| *kind == wanted)?;
        std::str::from_utf8(value).ok()
    }
}

impl Tlv<'_> {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Alpn(value) => push(ALPN, &[value], out),
            Self::Authority(value) => push(AUTHORITY, &[value.as_bytes()], out),
            Self::Crc32c(value) => push(CRC32C, &[&value.to_be_bytes()], out),
            Self::UniqueId(value) => push(UNIQUE_ID, &[value], out),
            Self::Ssl(ssl) => push(SSL, &[&[ssl.client], &ssl.verify.to_be_bytes(), ssl.fields], out),
            Self::Netns(value) => push(NETNS, &[value.as_bytes()], out),
        }
    }
}

/// A length that does not fit into 16 bits is written cut off; the header is then refused as too long as a whole.
fn push(kind: u8, parts: &[&[u8]], out: &mut Vec<u8>) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.push(kind);
    out.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// The fields of a header that are known here, in the order of the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tlvs<'a>(&'a [u8]);

impl<'a> Tlvs<'a> {
    /// The host name that the client asked for, if the sender told.
    pub fn authority(self) -> Option<&'a str> {
        self.into_iter().find_map(|tlv| match tlv {
            Tlv::Authority(name) => Some(name),
            _ => None,
        })
    }
}

impl<'a> IntoIterator for Tlvs<'a> {
    type Item = Tlv<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        Iter(Raw(self.0))
    }
}

/// Goes through [`Tlvs`].
#[derive(Debug, Clone)]
pub struct Iter<'a>(Raw<'a>);

impl<'a> Iterator for Iter<'a> {
    type Item = Tlv<'a>;

    fn next(&mut self) -> Option<Tlv<'a>> {
        loop {
            // `check` went through the same bytes: nothing here is malformed any more.
            let (kind, value) = self.0.next()?.ok()?;
            if let Ok(Some(tlv)) = read(kind, value) {
                return Some(tlv);
            }
        }
    }
}

/// Fields as they stand, known or not.
#[derive(Debug, Clone)]
struct Raw<'a>(&'a [u8]);

impl<'a> Iterator for Raw<'a> {
    type Item = Result<(u8, &'a [u8]), HeaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        let kind = *self.0.first()?;
        let Some((head, rest)) = self.0.split_first_chunk::<3>() else {
            self.0 = &[];
            return Some(Err(HeaderError::Tlv(kind)));
        };
        let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let Some((value, rest)) = rest.split_at_checked(length) else {
            self.0 = &[];
            return Some(Err(HeaderError::Tlv(kind)));
        };
        self.0 = rest;
        Some(Ok((kind, value)))
    }
}

fn read(kind: u8, value: &[u8]) -> Result<Option<Tlv<'_>>, HeaderError> {
    let malformed = HeaderError::Tlv(kind);
    let text = || std::str::from_utf8(value).map_err(|_| malformed);
    Ok(Some(match kind {
        ALPN => Tlv::Alpn(value),
        AUTHORITY => Tlv::Authority(text()?),
        CRC32C => Tlv::Crc32c(u32::from_be_bytes(value.try_into().map_err(|_| malformed)?)),
        UNIQUE_ID if value.len() <= MAX_UNIQUE_ID => Tlv::UniqueId(value),
        UNIQUE_ID => return Err(malformed),
        SSL => {
            let (fixed, fields) = value.split_first_chunk::<5>().ok_or(malformed)?;
            let [client, verify @ ..] = *fixed;
            for field in Raw(fields) {
                field?;
            }
            Tlv::Ssl(Ssl { client, verify: u32::from_be_bytes(verify), fields })
        }
        NETNS => Tlv::Netns(text()?),
        _ => return Ok(None),
    }))
}

/// Checks every field; tells where the value of the checksum stands, if there is one.
pub(super) fn check(block: &[u8]) -> Result<(Tlvs<'_>, Option<usize>), HeaderError> {
    let mut raw = Raw(block);
    let mut checksum = None;
    while let Some(field) = raw.next() {
        let (kind, value) = field?;
        read(kind, value)?;
        if kind == CRC32C {
            let at = block.len() - raw.0.len() - value.len();
            // Two checksums could not both be right: each would have to count the other as it stands.
            if checksum.replace(at).is_some() {
                return Err(HeaderError::Tlv(CRC32C));
            }
        }
    }
    Ok((Tlvs(block), checksum))
}

/// Compares the checksum whose four bytes stand `at` in the header; for the sum they count as zeros.
pub(super) fn verify(header: &[u8], at: usize) -> Result<(), HeaderError> {
    let (before, rest) = header.split_at(at);
    let (stated, after) = rest.split_first_chunk::<4>().ok_or(HeaderError::Tlv(CRC32C))?;
    let sum = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]), after);
    if sum == u32::from_be_bytes(*stated) { Ok(()) } else { Err(HeaderError::Checksum) }
}
