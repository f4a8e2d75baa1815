//! Programs that are not ours: what the distribution has, and the clients of `tests/clients`.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;

/// How long a program may take to its next line: real ones sign in meanwhile, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A running program that tells by lines on standard output how far it is; ended when it is dropped.
pub struct Program {
    name: String,
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    complaints: Arc<Mutex<String>>,
}

impl Program {
    /// Starts a command. One that is not there is told with what installs it.
    pub fn start(mut command: Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("{name}: {error}; `just client-deps` installs it"));
        let (sender, lines) = mpsc::unbounded_channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            // The test may have ended before the program.
            stdout.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok());
        });
        let complaints = Arc::new(Mutex::new(String::new()));
        let (mut stderr, kept) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&complaints));
        std::thread::spawn(move || {
            let mut line = String::new();
            while stderr.by_ref().read_line(&mut line).is_ok_and(|count| count > 0) {
                kept.lock().unwrap().push_str(&line);
                line.clear();
            }
        });
        Self { name, child, lines, complaints }
    }

    /// A client of `tests/clients`, which trusts the authority in this file.
    pub fn client(script: &str, arguments: &[&str], authority: &Path) -> Self {
        let (mut command, script) = of_clients(script);
        command.arg(script).args(arguments);
        trust(&mut command, authority);
        Self::start(command)
    }

    /// A program that is installed with the clients in Python.
    pub fn command(name: &str) -> Command {
        Command::new(installed().join("bin").join(name))
    }

    /// A program of a package that `tests/clients` installs, which trusts the authority in this file and keeps what
    /// it keeps in this folder.
    pub fn installed(script: &str, authority: &Path, home: &Path, change: impl FnOnce(&mut Command)) -> Self {
        let (mut command, names) = of_clients("names.mjs");
        let script = names.with_file_name("node_modules").join(script);
        command.arg("--import").arg(names).arg(script).env("HOME", home).current_dir(home);
        trust(&mut command, authority);
        change(&mut command);
        Self::start(command)
    }

    /// The next line.
    pub async fn line(&mut self) -> String {
        let next = tokio::time::timeout(PATIENCE, self.lines.recv()).await;
        let next = next.unwrap_or_else(|_| panic!("{} says nothing\n{}", self.name, self.complaints()));
        next.unwrap_or_else(|| panic!("{} has ended\n{}", self.name, self.complaints()))
    }

    /// The next line that has this member, as JSON, and the member.
    pub async fn tells(&mut self, member: &str) -> Value {
        let line = self.line().await;
        let mut told: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let value = told.as_object_mut().and_then(|told| told.remove(member));
        value.unwrap_or_else(|| panic!("{} tells no {member}: {line}\n{}", self.name, self.complaints()))
    }

    pub fn complaints(&self) -> String {
        self.complaints.lock().unwrap().clone()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Fails when the program has ended by itself.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Makes a client trust the authority in this file.
fn trust(command: &mut Command, authority: &Path) {
    command.env("SSL_CERT_FILE", authority).env("NODE_EXTRA_CA_CERTS", authority);
    // Whatever stands between the developer's machine and the rest of the world is not part of the test.
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(proxy);
    }
}

/// Where the clients are, and what runs this one.
pub fn of_clients(script: &str) -> (Command, PathBuf) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bin = installed().join("bin");
    let own_node = bin.join("node");
    let program = match Path::new(script).extension().and_then(|extension| extension.to_str()) {
        Some("py") => bin.join("python"),
        // There is one of their own where the machine's is too old.
        _ if own_node.exists() => own_node,
        _ => PathBuf::from("node"),
    };
    let mut command = Command::new(program);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    (command, root.join("tests/clients").join(script))
}

/// Where what is written in Python is installed, and Node.js if the machine has none that is new enough.
fn installed() -> PathBuf {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/clients");
    assert!(
        installed.join("wanted").exists(),
        "the test clients are missing: `just client-deps` installs them"
    );
    installed
}
