//! The providers of DNS-01 against a real DNS server, and real programs.

#[path = "../../tests/support/dns.rs"]
#[allow(dead_code, unreachable_pub, reason = "the daemon's tests use other parts")]
mod dns;

mod dns01 {
    mod exec;
    mod rfc2136;
    mod spread;
}
