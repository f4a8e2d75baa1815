//! A real DNS server (Knot) with zones of the test's own, which takes signed updates (RFC 2136, RFC 8945).

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A key that the server knows.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub name: &'static str,
    pub algorithm: &'static str,
    /// In Base64.
    pub secret: &'static str,
}

/// Good for updates of all zones.
pub const KEY: Key = Key {
    name: "acme-update",
    algorithm: "hmac-sha256",
    secret: "VGhpcyBrZXkgaXMgZm9yIHRlc3RzIG9ubHkuIDMyIGI=",
};

/// The same with the longer algorithm.
pub const LONG_KEY: Key = Key {
    name: "acme-update-long",
    algorithm: "hmac-sha512",
    secret: "VGhpcyBrZXkgaXMgZm9yIHRlc3RzIG9ubHkgdG9vLCBhbmQgaXQgaGFzIHRoZSA2NCBieXRlcyBvZiBhIGhhc2gu",
};

/// Known to the server, but good for nothing.
pub const OTHER_KEY: Key = Key {
    name: "bystander",
    algorithm: "hmac-sha256",
    secret: "QW5vdGhlciBrZXkgdGhhdCBtYXkgY2hhbmdlIG5vdGg=",
};

/// A zone besides what each has: every name in it has the address 127.0.0.1.
#[derive(Debug, Clone, Copy)]
pub struct Zone<'a> {
    pub name: &'a str,
    /// More records, as in a zone's file; names without a dot at the end are in the zone.
    pub records: &'a str,
}

/// Where a server gets its zones from, and whom it tells of changes.
#[derive(Clone, Copy)]
enum Role {
    Alone,
    /// Another one gets the zones from it.
    Primary(SocketAddr),
    /// It gets the zones from another one.
    Secondary(SocketAddr),
}

/// A server that ends with its value.
pub struct Dns {
    child: Option<Child>,
    dir: TempDir,
    address: SocketAddr,
}

impl Dns {
    /// With these zones.
    pub fn start(zones: &[&str]) -> Self {
        Self::start_with(&zones.iter().map(|&name| Zone { name, records: "" }).collect::<Vec<_>>())
    }

    pub fn start_with(zones: &[Zone<'_>]) -> Self {
        let mut log = String::new();
        // A port that is free now may be taken before the server binds it.
        for _ in 0..10 {
            match Self::try_start(zones, free_address(), Role::Alone) {
                Ok(server) => return server,
                Err(said) => log = said,
            }
        }
        panic!("knotd does not start: {log}");
    }

    /// A server that takes updates of a zone, and a second one that gets the zone from it. Both have the same port, and are
    /// name servers of the zone.
    pub fn start_pair(zone: &str) -> (Self, Self) {
        for _ in 0..10 {
            let (one, two) = free_pair();
            let records = format!("@ NS ns2\nns2 A {}", two.ip());
            let zones = [Zone { name: zone, records: &records }];
            let Ok(primary) = Self::try_start(&zones, one, Role::Primary(two)) else { continue };
            let Ok(secondary) = Self::try_start(&zones, two, Role::Secondary(one)) else { continue };
            let end = Instant::now() + Duration::from_secs(20);
            while !secondary.control(&["zone-read", zone, "@", "SOA"]).status.success() {
                assert!(Instant::now() < end, "it does not get the zone: {}", secondary.log());
                std::thread::sleep(Duration::from_millis(10));
            }
            return (primary, secondary);
        }
        panic!("knotd does not start twice");
    }

    /// The log, if it does not start.
    fn try_start(zones: &[Zone<'_>], address: SocketAddr, role: Role) -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        // A secondary has none of its own.
        let written = if matches!(role, Role::Secondary(_)) { &[] } else { zones };
        for zone in written {
            let always = "@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\n@ A 127.0.0.1\n* A 127.0.0.1\nns A 127.0.0.1\n";
            let text = format!("$ORIGIN {}.\n$TTL 60\n{always}{}\n", zone.name, zone.records);
            std::fs::write(dir.path().join(format!("{}.zone", zone.name)), text).unwrap();
        }
        let names: Vec<_> = zones.iter().map(|zone| zone.name).collect();
        let text = configuration(dir.path(), address, &names, role);
        let mut server = Self { child: None, dir, address };
        std::fs::write(server.file("knot.conf"), text).unwrap();
        if server.launch() { Ok(server) } else { Err(server.log()) }
    }

    /// Where it listens, over UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The TXT values of a name in a zone, by the server's own account.
    pub fn texts(&self, zone: &str, name: &str) -> Vec<String> {
        let output = self.control(&["zone-read", zone, &format!("{name}."), "TXT"]);
        let text = String::from_utf8(output.stdout).unwrap();
        // `[zone] owner ttl TXT "value"`
        let values = text.lines().filter_map(|line| line.split_once(" TXT "));
        values.map(|(_, value)| value.trim().trim_matches('"').to_owned()).collect()
    }

    /// Adds a record to a zone: `set("example.test", "www", "CAA", "0 issue \";\"")`. Replaces none.
    pub fn set(&self, zone: &str, owner: &str, kind: &str, data: &str) {
        self.change(zone, &["zone-set", zone, owner, "60", kind, data]);
    }

    /// Removes the records of a type.
    pub fn unset(&self, zone: &str, owner: &str, kind: &str) {
        self.change(zone, &["zone-unset", zone, owner, kind]);
    }

    /// Takes no updates of the zone until [`thaw`](Self::thaw); questions are answered.
    pub fn freeze(&self, zone: &str) {
        self.must(&["-b", "zone-freeze", zone]);
    }

    pub fn thaw(&self, zone: &str) {
        self.must(&["-b", "zone-thaw", zone]);
    }

    /// Ends it; what was changed is kept.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it again at the same address.
    pub fn restart(&mut self) {
        self.stop();
        assert!(self.launch(), "knotd does not come back: {}", self.log());
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    fn change(&self, zone: &str, words: &[&str]) {
        self.must(&["zone-begin", zone]);
        self.must(words);
        self.must(&["-b", "zone-commit", zone]);
    }

    fn must(&self, words: &[&str]) {
        let output = self.control(words);
        assert!(output.status.success(), "{words:?}: {output:?}\n{}", self.log());
    }

    fn control(&self, words: &[&str]) -> Output {
        let mut command = program("knotc");
        command.arg("-c").arg(self.file("knot.conf")).args(words).stdin(Stdio::null());
        command.output().expect("knotc is installed")
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the process; tells whether it serves.
    fn launch(&mut self) -> bool {
        let log = std::fs::File::create(self.file("log")).unwrap();
        let mut command = program("knotd");
        command.arg("-c").arg(self.file("knot.conf"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = command.spawn().expect("knotd is installed: `just test-deps` installs it");
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            // It serves when its zones are loaded; then it answers at its socket too.
            if self.log().contains("server started") && self.control(&["status"]).status.success() {
                self.child = Some(child);
                return !self.log().contains("cannot bind");
            }
            if child.try_wait().unwrap().is_some() || Instant::now() > end {
                drop(child.kill());
                drop(child.wait());
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop();
    }
}

fn configuration(dir: &Path, address: SocketAddr, zones: &[&str], role: Role) -> String {
    let dir = dir.display();
    let mut text = format!(
        "server:\n    rundir: {dir}\n    listen: {}@{}\n    udp-workers: 1\n    tcp-workers: 1\n    background-workers: 1\n\
         database:\n    storage: {dir}\n    journal-db-max-size: 16M\n    kasp-db-max-size: 8M\n    timer-db-max-size: 1M\n    catalog-db-max-size: 8M\n\
         log:\n  - target: stderr\n    any: info\nkey:\n",
        address.ip(),
        address.port(),
    );
    for Key { name, algorithm, secret } in [KEY, LONG_KEY, OTHER_KEY] {
        text += &format!("  - id: {name}\n    algorithm: {algorithm}\n    secret: {secret}\n");
    }
    if let Role::Primary(other) | Role::Secondary(other) = role {
        text += &format!("remote:\n  - id: other\n    address: {}@{}\n", other.ip(), other.port());
    }
    text += &format!(
        "acl:\n  - id: update\n    key: [{}, {}]\n    action: update\n  - id: other\n    address: 127.0.0.0/8\n    action: [transfer, notify]\nzone:\n",
        KEY.name, LONG_KEY.name
    );
    for zone in zones {
        text += &format!("  - domain: {zone}\n    zonefile-sync: -1\n");
        text += &match role {
            Role::Alone => {
                format!("    file: {dir}/{zone}.zone\n    zonefile-load: difference\n    acl: update\n")
            }
            Role::Primary(_) => format!(
                "    file: {dir}/{zone}.zone\n    zonefile-load: difference\n    acl: [update, other]\n    notify: other\n"
            ),
            Role::Secondary(_) => {
                "    master: other\n    acl: other\n    zonefile-load: none\n    journal-content: all\n"
                    .to_owned()
            }
        };
    }
    text
}

/// Servers are not in every user's path.
fn program(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("/usr/bin/env");
    command.env("PATH", format!("{path}:/usr/sbin")).arg(name);
    command
}

/// An address that is free for UDP and TCP. The server shares its port with whoever asks for that too, as others of its
/// kind do: so each test process has loopback addresses of its own.
fn free_address() -> SocketAddr {
    let host = own_host();
    loop {
        let socket = UdpSocket::bind((host, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Two with the same port.
fn free_pair() -> (SocketAddr, SocketAddr) {
    loop {
        let one = free_address();
        let two = SocketAddr::from((own_host(), one.port()));
        if two != one && UdpSocket::bind(two).is_ok() && TcpListener::bind(two).is_ok() {
            return (one, two);
        }
    }
}

fn own_host() -> Ipv4Addr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let host = ((std::process::id() << 2) | (COUNT.fetch_add(1, Ordering::Relaxed) & 3)) & 0x00ff_ffff;
    Ipv4Addr::from(0x7f00_0000 | host.max(1))
}
