//! A real certificate authority for tests: Pebble, with `pebble-challtestsrv` as the DNS that it asks.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};

use super::PATIENCE;
use super::certificate::Authority;
use super::client::{Answer, get, handshake, open, plain, read};

/// How Pebble behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where HTTP-01 challenges are fetched; port 80 elsewhere.
    pub http: u16,
    /// Where TLS-ALPN-01 challenges are done; port 443 elsewhere.
    pub tls: u16,
    /// The DNS that is asked, instead of the stand-in that all names lead to 127.0.0.1 by.
    pub resolver: Option<SocketAddr>,
    /// Up to how many seconds each of the three validations waits before it begins; none by default.
    pub validation_delay: Option<u32>,
    /// How many of a hundred good nonces are refused.
    pub bad_nonces: u8,
    /// How many of a hundred names need no new validation if they had one.
    pub reused_authorizations: u8,
    /// Accounts need one of these external ones: their ids and keys (in Base64 for URLs).
    pub external_accounts: Vec<(String, String)>,
    /// How long certificates are good.
    pub lifetime: Duration,
    /// How many chains there are besides the first.
    pub alternates: u8,
    /// Names that are never issued for, with all under them.
    pub blocked: Vec<String>,
    /// The responder that certificates name.
    pub ocsp: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            http: 0,
            tls: 0,
            resolver: None,
            validation_delay: None,
            bad_nonces: 0,
            reused_authorizations: 0,
            external_accounts: Vec::new(),
            lifetime: Duration::from_secs(90 * 86_400),
            alternates: 0,
            blocked: Vec::new(),
            ocsp: None,
        }
    }
}

/// A Pebble that ends with its value. All that it knows is in its memory: when it starts again, it has another root, and
/// no accounts.
pub struct Pebble {
    process: Option<Process>,
    settings: Settings,
    names: Option<Names>,
    authority: Authority,
    dir: TempDir,
    port: u16,
    management: u16,
    earlier: String,
}

impl Pebble {
    pub async fn start(settings: Settings) -> Self {
        let names = match settings.resolver {
            Some(_) => None,
            None => Some(Names::start().await),
        };
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let pair = authority.sign(&["localhost", "127.0.0.1"]);
        std::fs::write(dir.path().join("chain.pem"), pair.chain).unwrap();
        std::fs::write(dir.path().join("key.pem"), pair.key).unwrap();
        std::fs::write(dir.path().join("authority.pem"), &authority.pem).unwrap();
        let [port, management] = [free_port(), free_port()];
        let mut pebble =
            Self { process: None, settings, names, authority, dir, port, management, earlier: String::new() };
        // A port that is free now may be taken before Pebble binds it.
        for _ in 0..10 {
            if pebble.launch().await {
                return pebble;
            }
            [pebble.port, pebble.management] = [free_port(), free_port()];
        }
        panic!("pebble does not start: {}", pebble.log());
    }

    /// Where clients begin.
    pub fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Where what no certificate authority shows is shown.
    pub fn management(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.management))
    }

    /// Who signed the certificate that Pebble is talked to with. No certificate that it issues is signed by it.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The same as a file, for settings.
    pub fn authority_file(&self) -> PathBuf {
        self.dir.path().join("authority.pem")
    }

    /// The DNS that it asks, if that is the stand-in.
    pub fn names(&self) -> &Names {
        self.names.as_ref().expect("the stand-in, as no other resolver is set")
    }

    /// The root of a chain of issued certificates, in PEM; the first chain has number 0, alternates follow.
    pub async fn root(&self, chain: u8) -> String {
        self.certificate(&format!("/roots/{chain}")).await
    }

    /// What signs under that root.
    pub async fn intermediate(&self, chain: u8) -> String {
        self.certificate(&format!("/intermediates/{chain}")).await
    }

    /// The key that signs with it, in PEM.
    pub async fn intermediate_key(&self, chain: u8) -> String {
        self.certificate(&format!("/intermediate-keys/{chain}")).await
    }

    /// What Pebble knows of a certificate by its serial number in hexadecimal: `Status` (`Valid` or `Revoked`) and
    /// `Certificate`.
    pub async fn status(&self, serial: &str) -> Option<Value> {
        let answer = self.manage(&format!("/cert-status-by-serial/{serial}")).await;
        (answer.status == 200).then(|| answer.json())
    }

    /// How many orders were made, since the first start. All counts come from the log: Pebble writes of an order and an
    /// account before it answers, but of what becomes of them just after that can be seen.
    pub fn orders(&self) -> usize {
        self.logged("Added order ")
    }

    /// How many certificates were issued.
    pub fn issued(&self) -> usize {
        self.logged("Issued certificate serial ")
    }

    /// How many accounts were made.
    pub fn accounts(&self) -> usize {
        self.logged(" accounts in memory")
    }

    /// How many authorizations became valid.
    pub fn validated(&self) -> usize {
        self.logged(" set VALID by completed challenge ")
    }

    /// How many became invalid.
    pub fn invalidated(&self) -> usize {
        self.logged(" set INVALID by completed challenge ")
    }

    /// How many times a text stands in the log.
    pub fn logged(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    /// All that was logged, since the first start.
    pub fn log(&self) -> String {
        let now = self.process.as_ref().map(Process::log).unwrap_or_default();
        format!("{}{now}", self.earlier)
    }

    /// Ends it: nobody listens, and all is forgotten but the log.
    pub fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            self.earlier += &process.log();
        }
    }

    /// Starts it again on the same ports.
    pub async fn restart(&mut self) {
        self.stop();
        assert!(self.launch().await, "pebble does not come back: {}", self.log());
    }

    /// It takes connections but answers nothing until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.process.as_ref().expect("running").signal("STOP");
    }

    pub fn resume(&self) {
        self.process.as_ref().expect("running").signal("CONT");
    }

    async fn certificate(&self, path: &str) -> String {
        let answer = self.manage(path).await;
        assert_eq!(answer.status, 200, "{path}");
        String::from_utf8(answer.body.to_vec()).unwrap()
    }

    async fn manage(&self, path: &str) -> Answer {
        fetch(self.management(), path).await.unwrap()
    }

    /// Starts the process; tells whether it answers.
    async fn launch(&mut self) -> bool {
        let file = self.dir.path().join("pebble.json");
        std::fs::write(&file, self.configuration().to_string()).unwrap();
        let resolver = self.settings.resolver.unwrap_or_else(|| self.names().address);
        let mut command = Command::new("pebble");
        command.arg("-strict").arg("-config").arg(file).arg("-dnsserver").arg(resolver.to_string());
        match self.settings.validation_delay {
            // It waits less than it is told.
            Some(seconds) => command.env("PEBBLE_VA_SLEEPTIME", (seconds + 1).to_string()),
            None => command.env("PEBBLE_VA_NOSLEEP", "1"),
        };
        command.env("PEBBLE_WFE_NONCEREJECT", self.settings.bad_nonces.to_string());
        command.env("PEBBLE_AUTHZREUSE", self.settings.reused_authorizations.to_string());
        command.env("PEBBLE_ALTERNATE_ROOTS", self.settings.alternates.to_string());
        let mut process = Process::start(command);
        let up = process.answers(async || {
            fetch(self.address(), "/dir").await.is_ok() && fetch(self.management(), "/roots/0").await.is_ok()
        });
        let up = up.await;
        match up {
            true => self.process = Some(process),
            false => self.earlier += &process.log(),
        }
        up
    }

    fn configuration(&self) -> Value {
        let (settings, dir) = (&self.settings, self.dir.path());
        let external: serde_json::Map<String, Value> =
            settings.external_accounts.iter().map(|(id, key)| (id.clone(), json!(key))).collect();
        json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{}", self.port),
            "managementListenAddress": format!("127.0.0.1:{}", self.management),
            "certificate": dir.join("chain.pem"),
            "privateKey": dir.join("key.pem"),
            "httpPort": settings.http,
            "tlsPort": settings.tls,
            "ocspResponderURL": settings.ocsp.clone().unwrap_or_default(),
            "externalAccountBindingRequired": !external.is_empty(),
            "externalAccountMACKeys": external,
            "domainBlocklist": settings.blocked,
            "certificateValidityPeriod": settings.lifetime.as_secs(),
        }})
    }
}

/// The DNS that Pebble asks: every name has the address 127.0.0.1 unless the test says otherwise. Names are without the
/// dot of the root.
pub struct Names {
    _process: Process,
    address: SocketAddr,
    management: SocketAddr,
}

impl Names {
    async fn start() -> Self {
        for _ in 0..10 {
            let [address, management] =
                [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
            let mut command = Command::new("pebble-challtestsrv");
            command.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""]);
            command.args(["-dns01", &address.to_string(), "-management", &management.to_string()]);
            let mut process = Process::start(command);
            // The DNS listens over UDP and TCP; a taken port ends the process.
            let ports = [address, management];
            let up = process.answers(async || {
                let connected = ports.map(|port| std::net::TcpStream::connect(port).is_ok());
                connected == [true, true]
            });
            if up.await {
                return Self { _process: process, address, management };
            }
        }
        panic!("pebble-challtestsrv does not start");
    }

    /// Where it listens, over UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The addresses of a name; [`fail`](Self::fail) makes it have none.
    pub async fn set(&self, name: &str, addresses: &[IpAddr]) {
        let texts = |v4: bool| -> Vec<String> {
            addresses.iter().filter(|address| address.is_ipv4() == v4).map(IpAddr::to_string).collect()
        };
        for (path, of) in [("/add-a", texts(true)), ("/add-aaaa", texts(false))] {
            if !of.is_empty() {
                self.say(path, &json!({"host": dotted(name), "addresses": of})).await;
            }
        }
    }

    /// The address of all names that nothing else is said of.
    pub async fn set_default(&self, address: &str) {
        self.say("/set-default-ipv4", &json!({"ip": address})).await;
    }

    /// Forgets what was set of a name's addresses.
    pub async fn reset(&self, name: &str) {
        for path in ["/clear-a", "/clear-aaaa"] {
            self.say(path, &json!({"host": dotted(name)})).await;
        }
    }

    /// Adds a TXT value to a name.
    pub async fn text(&self, name: &str, value: &str) {
        self.say("/set-txt", &json!({"host": dotted(name), "value": value})).await;
    }

    /// Who may issue (RFC 8659): `caa("example.test", "issue", "ca.example")`.
    pub async fn caa(&self, name: &str, tag: &str, value: &str) {
        let policies = json!([{"tag": tag, "value": value}]);
        self.say("/add-caa", &json!({"host": dotted(name), "policies": policies})).await;
    }

    /// Leads one name to another.
    pub async fn alias(&self, name: &str, target: &str) {
        self.say("/set-cname", &json!({"host": dotted(name), "target": dotted(target)})).await;
    }

    /// Answers SERVFAIL to all questions about a name.
    pub async fn fail(&self, name: &str) {
        self.say("/set-servfail", &json!({"host": dotted(name)})).await;
    }

    /// Answers about it again.
    pub async fn heal(&self, name: &str) {
        self.say("/clear-servfail", &json!({"host": dotted(name)})).await;
    }

    async fn say(&self, path: &str, body: &Value) {
        let request =
            Request::post(path).header("host", "localhost").body(Full::from(body.to_string())).unwrap();
        let answer = plain(self.management, request).await;
        assert_eq!(answer.status, 200, "{path} {body}");
    }
}

fn dotted(name: &str) -> String {
    format!("{name}.")
}

/// A process that is killed with its value, and the file with what it says: that holds a line as soon as it is written.
struct Process {
    child: Child,
    log: NamedTempFile,
}

impl Process {
    fn start(mut command: Command) -> Self {
        let name = command.get_program().to_owned();
        let log = NamedTempFile::new().unwrap();
        let output = log.reopen().unwrap();
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let child =
            command.spawn().unwrap_or_else(|error| panic!("{name:?}: {error}; `just test-deps` installs it"));
        Self { child, log }
    }

    /// Waits until it answers; false when it has ended.
    async fn answers(&mut self, asked: impl AsyncFn() -> bool) -> bool {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && self.child.try_wait().unwrap().is_none() {
            // Someone else may have the port: then the process ends.
            if asked().await && self.child.try_wait().unwrap().is_none() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log.path()).unwrap()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails when it has ended by itself.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Fetches a path over HTTPS, whoever answers.
async fn fetch(address: SocketAddr, path: &str) -> std::io::Result<Answer> {
    let stream = handshake(address, "localhost", &[b"http/1.1"]).await?;
    Ok(read(open(stream, get(&address.to_string(), path)).await).await)
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
