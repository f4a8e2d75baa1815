//! The PROXY protocol header that opens a connection to an upstream which asks for it. Pure.

use crate::proxy_protocol::header::{Addresses, encode_v1, encode_v2};

/// Which PROXY protocol header an upstream expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyHeader {
    /// Text.
    V1,
    /// Binary.
    V2,
}

impl ProxyHeader {
    /// The header for a connection between these addresses; "unknown" when we don't know them.
    pub(super) fn encode(self, addresses: Option<&Addresses>) -> Vec<u8> {
        let mut header = Vec::new();
        match self {
            Self::V1 => encode_v1(addresses, &mut header),
            Self::V2 => encode_v2(addresses, &[], false, &mut header).expect("addresses alone always fit"),
        }
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy_protocol::header::{Parsed, Version, parse};

    #[test]
    fn each_version_is_written() {
        let addresses = Addresses {
            source: "192.0.2.1:1000".parse().expect("valid"),
            destination: "198.51.100.2:443".parse().expect("valid"),
        };
        for (header, version) in [(ProxyHeader::V1, Version::V1), (ProxyHeader::V2, Version::V2)] {
            for addresses in [Some(addresses), None] {
                let bytes = header.encode(addresses.as_ref());
                let Parsed::Complete { header, consumed } = parse(&bytes) else { panic!("{bytes:?}") };
                assert_eq!((header.version, header.addresses, consumed), (version, addresses, bytes.len()));
            }
        }
    }
}
