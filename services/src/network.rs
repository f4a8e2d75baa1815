//! Who shares an address: limits are for subscribers, who have whole networks of addresses.

use std::net::IpAddr;

use ipnet::IpNet;

/// What one subscriber has at least: a /56 (RFC 6177), or of IPv4 as much as is told.
pub(crate) fn network(address: IpAddr, ipv4: u8) -> IpNet {
    let address = address.to_canonical();
    prefix(address, if address.is_ipv4() { ipv4 } else { 56 })
}

/// The prefix of a large site, which whoever has it gives its networks of; IPv4 has none.
pub(crate) fn site(address: IpAddr) -> Option<IpNet> {
    let address = address.to_canonical();
    address.is_ipv6().then(|| prefix(address, 48))
}

fn prefix(address: IpAddr, length: u8) -> IpNet {
    IpNet::new_assert(address, length).trunc()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_network() {
        for (address, ipv4, own, of_site) in [
            ("192.0.2.77", 24, "192.0.2.0/24", None),
            ("::ffff:192.0.2.77", 32, "192.0.2.77/32", None),
            ("2001:db8:1:2345::9", 24, "2001:db8:1:2300::/56", Some("2001:db8:1::/48")),
        ] {
            let address = address.parse().expect("an address");
            assert_eq!(network(address, ipv4).to_string(), own);
            assert_eq!(site(address).map(|site| site.to_string()).as_deref(), of_site);
        }
    }
}
