//! `portcullis demo`: a gateway with something to try, and the commands to paste.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::Args;
use portcullis_services::config::TargetUrl;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::daemon::{self, Addresses, DaemonError};
use crate::self_signed;
use crate::settings::Settings;

/// The name of the demo's certificate, and of its token.
const DEMO: &str = "demo";

/// The hosts that the demo has.
const HOSTS: [&str; 3] = ["localhost", "app.localhost", "open.localhost"];

/// Days that the demo's certificate is good for.
const DAYS: u32 = 365;

/// How long the authority of the demo may take until the hosts have their certificates.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often they are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Why there is no demo.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The daemon.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// What there would be to try.
    #[error("the demo can't be set up")]
    Furnish(#[source] Failure),
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Where the demo runs.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Port for plain HTTP.
    #[arg(long, default_value_t = 8080)]
    pub http_port: u16,

    /// Port for HTTPS.
    #[arg(long, default_value_t = 8443)]
    pub https_port: u16,

    /// The demo's own data folder.
    #[arg(long, default_value = "data/demo")]
    pub data: PathBuf,

    /// Have the certificates issued by this authority, e.g. a Pebble on this machine, instead of the demo's own: the
    /// URL of its directory.
    #[arg(long, value_name = "DIRECTORY_URL")]
    pub acme: Option<TargetUrl>,

    /// PEM file: what that authority's own server is signed by.
    #[arg(long, value_name = "FILE", requires = "acme")]
    pub acme_ca: Option<PathBuf>,

    /// PEM file: the root of what it issues, for the commands to paste.
    #[arg(long, value_name = "FILE", requires = "acme")]
    pub acme_root: Option<PathBuf>,
}

/// Runs the demo until Ctrl-C.
///
/// # Errors
///
/// When the daemon can't start, or the command line can't furnish it.
pub fn run(options: &Options) -> Result<(), DemoError> {
    let settings = settings(options);
    let stop = CancellationToken::new();
    let ended = stop.clone();
    let of_thread = options.clone();
    let failure = Arc::new(OnceLock::new());
    let failed = Arc::clone(&failure);
    daemon::run_until(settings, stop, move |addresses| {
        // The command line does the rest, as a user would.
        std::thread::spawn(move || match furnish(&of_thread, addresses) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                let _first = failed.set(error);
                // Gone before the daemon ends: then the failure has one owner.
                drop(failed);
                ended.cancel();
            }
        });
    })?;
    match Arc::into_inner(failure).and_then(OnceLock::into_inner) {
        Some(error) => Err(DemoError::Furnish(error)),
        None => Ok(()),
    }
}

fn settings(options: &Options) -> Settings {
    let (http, https) = (options.http_port.to_string(), options.https_port.to_string());
    let data = options.data.display().to_string();
    // Another port is another issuer; the demo's tokens are new with every start.
    let fixed = ["--server-host=127.0.0.1", "--log-level=WARN", "--accept-new-issuer"];
    let mut arguments = vec!["--http-port", &http, "--https-port", &https, "--data", &data];
    let directory = options.acme.as_ref().map(ToString::to_string);
    let ca = options.acme_ca.as_ref().map(|ca| ca.display().to_string());
    match &directory {
        // Who waits for it sees it at once, and an authority on this machine has time.
        Some(directory) => {
            arguments.extend(["--acme-directory-url", directory, "--acme-poll-interval-seconds=0.2"]);
        }
        None => arguments.push("--acme-automatic=false"),
    }
    if let Some(ca) = &ca {
        arguments.extend(["--acme-ca", ca]);
    }
    Settings::of_arguments(fixed.into_iter().chain(arguments)).expect("these arguments are valid")
}

/// Adds what is missing: certificate, hosts, token. A second start finds all but the tokens, which are shown once only.
fn furnish(options: &Options, addresses: Addresses) -> Result<String, Failure> {
    let data = options.data.as_path();
    let cli = Cli { data };
    let authority = match (&options.acme, &options.acme_root) {
        (Some(_), root) => root.clone(),
        (None, _) => Some(own_authority(&cli)?),
    };
    if options.acme.is_some() {
        // What an earlier demo signed itself would stand in the way.
        let _missing = cli.run(&["cert", "delete", DEMO, "--force"]);
    }
    if cli.run(&["proxy", "show", "open.localhost"]).is_err() {
        cli.run(&["proxy", "create", "open.localhost", "builtin:echo"])?;
    }
    if cli.run(&["proxy", "show", "app.localhost"]).is_err() {
        let protected =
            ["--auth-enabled", "--auth-required-users", "service:demo", "--resource-endpoint", "/"];
        cli.run(&[&["proxy", "create", "app.localhost", "builtin:echo"], &protected[..]].concat())?;
    }
    if options.acme.is_some() {
        HOSTS.iter().try_for_each(|host| cli.issued(host))?;
    }
    let token = cli.token(DEMO)?;
    let stranger = cli.token("stranger")?;
    let mut text = text(addresses, authority.as_deref(), &token, &stranger);
    if options.acme.is_some() {
        text.push_str(&a_new_host(data, addresses, authority.as_deref())?);
    }
    Ok(text)
}

/// Signs the certificate of the demo's hosts, if there is none yet; the file of the authority that signed it.
fn own_authority(cli: &Cli<'_>) -> Result<PathBuf, Failure> {
    let data = cli.data;
    let authority = data.join("demo-ca.pem");
    if !authority.exists() || cli.run(&["cert", "show", DEMO]).is_err() {
        let (pair, root) = self_signed::with_authority(&HOSTS.map(str::to_owned), DAYS)?;
        let (chain, key) = (data.join("demo-chain.pem"), data.join("demo-key.pem"));
        std::fs::write(&chain, &pair.chain)?;
        write_private(&key, &pair)?;
        let _missing = cli.run(&["cert", "delete", DEMO, "--force"]);
        let uploaded = cli.run(&["cert", "upload", DEMO, "--cert", &at(&chain), "--key", &at(&key)]);
        // It is sealed in the store now, or of no use.
        std::fs::remove_file(&key)?;
        uploaded?;
        std::fs::write(&authority, root)?;
    }
    Ok(authority)
}

fn at(path: &Path) -> String {
    format!("@{}", path.display())
}

fn write_private(path: &Path, pair: &self_signed::Pair) -> std::io::Result<()> {
    use secrecy::ExposeSecret;
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(pair.key.expose_secret().as_bytes())
}

/// The command line of this very binary, on the demo's admin socket.
struct Cli<'a> {
    data: &'a Path,
}

impl Cli<'_> {
    fn run(&self, args: &[&str]) -> Result<Value, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env_remove("API_URL").env_remove("OAUTH_ACCESS_TOKEN").env("PORTCULLIS_DATA", self.data);
        let output = command.args(["--format", "json"]).args(args).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("portcullis {}: {said}", args.join(" ")).into());
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
    }

    /// Waits until an authority has issued a certificate for a host.
    fn issued(&self, host: &str) -> Result<(), Failure> {
        let end = Instant::now() + PATIENCE;
        loop {
            let all = self.run(&["cert", "list"])?;
            let is_for =
                |one: &&Value| one["domains"].as_array().is_some_and(|names| names.contains(&json!(host)));
            let found = all.as_array().and_then(|all| all.iter().find(is_for));
            if let Some(name) = found.and_then(|one| one["cert_name"].as_str()) {
                return self.run(&["cert", "status", name, "--wait"]).map(drop);
            }
            if Instant::now() >= end {
                return Err(format!("nobody issues a certificate for {host}").into());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// A fresh token: an older one of the name can't be shown again, and may be for another port.
    fn token(&self, name: &str) -> Result<String, Failure> {
        let audience = ["--audience", "app.localhost,localhost", "--scopes", "user"];
        let _missing = self.run(&["token", "delete", name]);
        let answer = self.run(&[&["token", "create", name], &audience[..]].concat())?;
        let token = answer.get("token").and_then(Value::as_str).ok_or_else(|| json!(answer).to_string())?;
        Ok(token.to_owned())
    }
}

/// The beginning of a call of curl that knows these hosts, and trusts what the demo's certificates are signed by.
fn curl(https: u16, authority: Option<&Path>, hosts: &[&str]) -> String {
    let trusted = authority.map(|authority| format!(" --cacert {}", authority.display())).unwrap_or_default();
    // `*.localhost` is this machine (RFC 6761), but not every resolver knows it.
    let resolve: String = hosts.iter().map(|host| format!(" --resolve {host}:{https}:127.0.0.1")).collect();
    format!("curl{trusted}{resolve}")
}

/// What to try where an authority issues certificates.
fn a_new_host(data: &Path, addresses: Addresses, authority: Option<&Path>) -> Result<String, Failure> {
    let (https, program) = (addresses.https.port(), std::env::current_exe()?);
    let (data, program) = (data.display(), program.display());
    let curl = curl(https, authority, &["new.localhost"]);
    Ok(format!(
        r#"
  # a new host, and the certificate that it gets by itself, step by step
  export PORTCULLIS_DATA={data}
  {program} proxy create new.localhost builtin:echo
  {program} cert status proxy-new-localhost --wait
  {curl} https://new.localhost:{https}/hello
"#
    ))
}

fn text(addresses: Addresses, authority: Option<&Path>, token: &str, stranger: &str) -> String {
    let (http, https) = (addresses.http.port(), addresses.https.port());
    let curl = curl(https, authority, &HOSTS[1..]);
    format!(
        r#"
Portcullis is running. Ctrl-C stops it; the next start finds its configuration again.

  https://open.localhost:{https}   public, shows what an upstream sees   (http://open.localhost:{http} redirects there)
  https://app.localhost:{https}    protected: one user may use it
  https://localhost:{https}        the API: /docs, /openapi.json, /health

Paste these:

  TOKEN={token}
  STRANGER={stranger}

  # HTTPS, with a certificate that is trusted
  {curl} https://open.localhost:{https}/hello

  # 401 without a token, with the way to get one in WWW-Authenticate
  {curl} -i https://app.localhost:{https}/hello

  # 403 for somebody who is not on the list
  {curl} -i -H "Authorization: Bearer $STRANGER" https://app.localhost:{https}/hello

  # 200, and the upstream is told who it is: see X-Auth-User; the token itself does not reach it
  {curl} -H "Authorization: Bearer $TOKEN" https://app.localhost:{https}/hello

  # 101, and a WebSocket echo: older versions of curl know no WebSockets, so the frame that says hello is written by
  # hand, and comes back behind the head. Any WebSocket client can use wss://open.localhost:{https}/ws
  printf '\201\205\0\0\0\0hello' | {curl} --http1.1 -s -i -N -X GET -T - -H "Transfer-Encoding:" \
    -H "Connection: Upgrade" -H "Upgrade: websocket" -H "Sec-WebSocket-Version: 13" \
    -H "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==" --max-time 2 https://open.localhost:{https}/ws

  # server-sent events, one a second
  {curl} -N --max-time 4 https://open.localhost:{https}/events

  # the log line of a request that was just made, through the API
  {curl} -s -H "Authorization: Bearer $TOKEN" "https://localhost:{https}/logs/search?hostname=app.localhost&limit=1"
"#
    )
}
