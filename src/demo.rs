//! `portcullis demo`: a gateway with something to try, and the commands to paste.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use clap::Args;
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
    let data = options.data.clone();
    let failure = Arc::new(OnceLock::new());
    let failed = Arc::clone(&failure);
    daemon::run_until(settings, stop, move |addresses| {
        // The command line does the rest, as a user would.
        std::thread::spawn(move || match furnish(&data, addresses) {
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
    let chosen = ["--http-port", &http, "--https-port", &https, "--data", &data];
    Settings::of_arguments(fixed.into_iter().chain(chosen)).expect("these arguments are valid")
}

/// Adds what is missing: certificate, hosts, token. A second start finds all but the tokens, which are shown once only.
fn furnish(data: &Path, addresses: Addresses) -> Result<String, Failure> {
    let cli = Cli { data };
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
    if cli.run(&["proxy", "show", "open.localhost"]).is_err() {
        cli.run(&["proxy", "create", "open.localhost", "builtin:echo"])?;
    }
    if cli.run(&["proxy", "show", "app.localhost"]).is_err() {
        let protected =
            ["--auth-enabled", "--auth-required-users", "service:demo", "--resource-endpoint", "/"];
        cli.run(&[&["proxy", "create", "app.localhost", "builtin:echo"], &protected[..]].concat())?;
    }
    let token = cli.token(DEMO)?;
    let stranger = cli.token("stranger")?;
    Ok(text(addresses, &authority, &token, &stranger))
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

    /// A fresh token: an older one of the name can't be shown again, and may be for another port.
    fn token(&self, name: &str) -> Result<String, Failure> {
        let audience = ["--audience", "app.localhost,localhost", "--scopes", "user"];
        let _missing = self.run(&["token", "delete", name]);
        let answer = self.run(&[&["token", "create", name], &audience[..]].concat())?;
        let token = answer.get("token").and_then(Value::as_str).ok_or_else(|| json!(answer).to_string())?;
        Ok(token.to_owned())
    }
}

fn text(addresses: Addresses, authority: &Path, token: &str, stranger: &str) -> String {
    let (http, https) = (addresses.http.port(), addresses.https.port());
    let authority = authority.display();
    // `*.localhost` is this machine (RFC 6761), but not every resolver knows it.
    let resolve =
        format!("--resolve app.localhost:{https}:127.0.0.1 --resolve open.localhost:{https}:127.0.0.1");
    let curl = format!("curl --cacert {authority} {resolve}");
    format!(
        r#"
Portcullis is running. Ctrl-C stops it; the next start finds its configuration again.

  https://open.localhost:{https}   public, shows what an upstream sees   (http://open.localhost:{http} redirects there)
  https://app.localhost:{https}    protected: one user may use it
  https://localhost:{https}        the API: /docs, /openapi.json, /health

Paste these:

  TOKEN={token}
  STRANGER={stranger}

  # HTTPS, with the demo's own authority
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
