//! A daemon with trusted certificates, and a user's machine with the command line.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::PATIENCE;
use crate::support::certificate::Authority;
use crate::support::daemon::{Daemon, command};
use crate::support::github::{App, Github, Person, User};
use crate::support::visitor::Visitor;

/// A gateway: `alice` is an admin, `bob` has an account at GitHub only.
pub(crate) struct Site {
    pub(crate) daemon: Daemon,
    pub(crate) github: Github,
    /// The user's home.
    pub(crate) home: TempDir,
    pub(crate) authority: PathBuf,
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Command)) -> Self {
        let github = Github::start().await;
        let daemon = Daemon::start_with(|command| {
            command.env("GITHUB_CLIENT_ID", "Iv1.test").env("GITHUB_CLIENT_SECRET", "app-secret");
            command.env("GITHUB_URL", github.url()).env("GITHUB_API_URL", github.api_url());
            command.env("OAUTH_ADMIN_USERS", "alice");
            change(command);
        });
        let port = daemon.https.port();
        github.add_app(App::new("Iv1.test", "app-secret", &format!("https://auth.localhost:{port}")));
        github.add_user(User::new(1, "alice"));
        github.add_user(User::new(2, "bob"));
        github.person(Person::AtThePage);
        let home = tempfile::tempdir().unwrap();
        let trusted = Authority::new();
        let flags =
            trusted.sign(&["localhost", "auth.localhost", "app.localhost"]).flags(home.path(), "gateway");
        daemon.run(&["cert", "upload", "gateway", &flags[0], &flags[1]]);
        let authority = home.path().join("authority.pem");
        std::fs::write(&authority, &trusted.pem).unwrap();
        Self { daemon, github, home, authority }
    }

    /// The gateway's URL: all that the user knows.
    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.daemon.https.port())
    }

    /// Makes a protected host.
    pub(crate) fn protect(&self, more: &Value) {
        let mut fields = json!({
            "auth_enabled": true,
            "auth_required_users": ["alice"],
            "resource_endpoint": "/mcp",
            "resource_scopes": ["mcp:read"],
        });
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.daemon.proxy("app.localhost", "builtin:echo", &fields);
    }

    /// The command line on the user's machine.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = command(self.home.path());
        command.args(["--format", "json"]).args(args).stdin(Stdio::null());
        command
    }

    /// Runs a command there.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that must succeed; its answer.
    pub(crate) fn good(&self, args: &[&str]) -> Value {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", err(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Starts a login that a person has to finish.
    pub(crate) fn log_in(&self, more: &[&str]) -> Running {
        let url = self.url();
        let login = ["--base-url", &url, "--cacert", self.authority.to_str().unwrap(), "login"];
        Running::of(self.command(&[&login, more].concat()))
    }

    /// Logs `alice` in.
    pub(crate) async fn logged_in(&self) -> Value {
        let login = self.log_in(&["--no-browser"]);
        let url = login.url("/authorize?").await;
        self.sign_in(&url, "alice").await;
        let done = login.ended().await;
        assert!(done.status.success(), "{}", err(&done));
        serde_json::from_slice(&done.stdout).unwrap()
    }

    /// Opens a URL in a browser, agrees where that is asked, and signs in at GitHub. Returns the text of the last page.
    pub(crate) async fn sign_in(&self, url: &str, user: &str) -> String {
        let mut visitor = Visitor::new(self.daemon.https);
        let mut page = visitor.open(url, "").await;
        // Any program on the machine can say that it is the command line, so its user is always asked.
        if !page.url.starts_with(&self.github.url()) {
            page = visitor.submit(&page, ("decision", "approve"), "").await;
        }
        assert!(page.url.starts_with(&self.github.url()), "at {}: {}", page.url, page.text());
        visitor.submit(&page, ("user", user), "").await.text()
    }

    fn profiles(&self) -> PathBuf {
        self.home.path().join(".config/portcullis/profiles.yml")
    }

    /// What the user's file has.
    pub(crate) fn kept(&self) -> String {
        std::fs::read_to_string(self.profiles()).unwrap()
    }

    pub(crate) fn keep(&self, text: &str) {
        std::fs::write(self.profiles(), text).unwrap();
    }

    /// A value of the user's file.
    pub(crate) fn kept_value(&self, name: &str) -> Option<String> {
        let text = self.kept();
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
        line.map(str::to_owned)
    }
}

/// A command that runs.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let stderr = child.stderr.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    /// Waits for a line of standard error with a URL that has `part`.
    pub(crate) async fn url(&self, part: &str) -> String {
        let line = self.line(part).await;
        line.split(' ').find(|word| word.starts_with("https://")).unwrap().to_owned()
    }

    /// Waits for a line of standard error.
    pub(crate) async fn line(&self, part: &str) -> String {
        tokio::task::block_in_place(|| {
            let mut seen = Vec::new();
            while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
                if line.contains(part) {
                    return line;
                }
                seen.push(line);
            }
            panic!("never said {part:?}: {seen:?}");
        })
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> Output {
        tokio::task::block_in_place(|| {
            let mut stdout = Vec::new();
            self.child.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
            let status = self.child.wait().unwrap();
            let stderr = self.lines.iter().collect::<Vec<_>>().join("\n").into_bytes();
            Output { status, stdout, stderr }
        })
    }
}

pub(crate) fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Opens the page that a device has named, signs in, enters the device's code, and agrees.
pub(crate) async fn enter(site: &Site, url: &str, code: &str, user: &str) {
    let mut visitor = Visitor::new(site.daemon.https);
    let page = visitor.open(url, "").await;
    let page = visitor.submit(&page, ("user", user), "").await;
    let page = visitor.submit_with(&page, ("", ""), &[("user_code", code)], "").await;
    assert!(page.text().contains("portcullis command line"), "who asks is said: {}", page.text());
    visitor.submit(&page, ("decision", "approve"), "").await;
}
