//! The built daemon as a process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use super::PATIENCE;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");

/// A running daemon.
pub struct Daemon {
    child: Child,
    pub dir: Arc<TempDir>,
    pub http: SocketAddr,
    pub https: SocketAddr,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
}

impl Log {
    fn wait_for<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        let mut lines = self.lines.lock().unwrap();
        let mut seen = 0;
        loop {
            if let Some(found) = lines[seen..].iter().find_map(|line| find(line)) {
                return found;
            }
            seen = lines.len();
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the daemon never logged {what}:\n{}", lines.join("\n"));
            lines = self.grown.wait_timeout(lines, left).unwrap().0;
        }
    }
}

impl Daemon {
    /// Starts the daemon on an embedded store of its own.
    pub fn start() -> Self {
        Self::start_with(|_| ())
    }

    /// Starts the daemon with a changed command: more variables, more arguments.
    pub fn start_with(change: impl FnOnce(&mut Command)) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), change)
    }

    /// Starts the daemon on a data folder that may have been used before.
    pub fn start_in(dir: Arc<TempDir>, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = command(dir.path());
        command.arg("serve");
        change(&mut command);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Log::default());
        follow(child.stderr.take().unwrap(), &log);
        follow(child.stdout.take().unwrap(), &log);
        let (http, https) = log.wait_for("\"listening\"", |line| {
            let entry: Value = serde_json::from_str(line).ok()?;
            let field = |name: &str| entry[name].as_str()?.parse().ok();
            (entry["message"] == "listening").then(|| Some((field("http")?, field("https")?)))?
        });
        Self { child, dir, http, https, log }
    }

    /// Runs a command of the CLI against this daemon.
    pub fn cli(&self, args: &[&str]) -> Output {
        command(self.dir.path()).args(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command that must succeed; its answer as JSON.
    pub fn run(&self, args: &[&str]) -> Value {
        let output = self.cli(&[&["--format", "json"], args].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {}\n{stderr}", output.status);
        if output.stdout.is_empty() {
            return Value::Null;
        }
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}"))
    }

    /// Creates a proxy by the command line; `fields` are its other fields as JSON.
    pub fn proxy(&self, host: &str, target: &str, fields: &Value) -> Value {
        let flags: Vec<_> =
            fields.as_object().unwrap().iter().map(|(name, value)| flag(name, value)).collect();
        let flags = flags.iter().map(String::as_str);
        self.run(&["proxy", "create", host, target].into_iter().chain(flags).collect::<Vec<_>>())
    }

    /// Where the metrics are, with `PORTCULLIS_METRICS_ADDR=127.0.0.1:0`.
    pub fn metrics(&self) -> SocketAddr {
        let line = self.wait_for_log("\"listening\"");
        let entry: Value = serde_json::from_str(&line).unwrap();
        entry["metrics"].as_str().unwrap().parse().unwrap()
    }

    /// Waits for a line on standard output or standard error.
    pub fn wait_for_log(&self, text: &str) -> String {
        self.log.wait_for(text, |line| line.contains(text).then(|| line.to_owned()))
    }

    /// Everything that was printed so far.
    pub fn logged(&self) -> String {
        self.log.lines.lock().unwrap().join("\n")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([&format!("-{signal}"), &self.pid().to_string()]).status();
        assert!(done.unwrap().success());
    }

    /// Waits until the process has ended; its exit code.
    pub fn ended(&mut self) -> Option<i32> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < end, "the daemon did not end:\n{}", self.logged());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails when the process has ended by itself, as some tests want.
        let _ended = self.child.kill();
        let _status = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the daemon's log:\n{}", self.logged());
        }
    }
}

/// The binary with a clean environment: nothing of the developer's own settings leaks in.
pub fn command(dir: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command.env_clear().current_dir(dir);
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", dir).env("PORTCULLIS_DATA", dir.join("data"));
    command.env("SERVER_HOST", "127.0.0.1").env("HTTP_PORT", "0").env("HTTPS_PORT", "0");
    // Nobody outside is asked for certificates.
    command.env("PORTCULLIS_ACME_AUTOMATIC", "false");
    command.env("LOG_FORMAT", "json").env("PORTCULLIS_WORKERS", "2");
    command
}

/// A field as a flag: `--auth-enabled=true`.
fn flag(name: &str, value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    format!("--{}={text}", name.replace('_', "-"))
}

fn follow(pipe: impl std::io::Read + Send + 'static, log: &Arc<Log>) {
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            log.lines.lock().unwrap().push(line);
            log.grown.notify_all();
        }
    });
}
