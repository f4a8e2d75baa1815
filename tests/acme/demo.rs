//! What the documents say of trying it out, as it stands there: a Pebble, the demo, and a host that is new.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::PATIENCE;
use crate::support::browser::Browser;
use crate::support::daemon::BINARY;
use crate::support::pebble::free_port;

/// The heading above the lines to paste.
const HEADING: &str = "## Trying it";

/// The ports in them, which others may have at the moment: Pebble's two, its DNS' two, the demo's two.
const PORTS: [&str; 6] = ["14000", "15000", "8053", "8055", "8080", "8443"];

/// The last line that the demo prints.
const LAST: &str = "/hello";

/// How soon a new host must be trusted.
const SECONDS: Duration = Duration::from_secs(20);

/// The lines to paste, for other ports and this binary.
fn pasted(ports: &[String; 6]) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/certificates.md");
    let document = std::fs::read_to_string(file).unwrap();
    let section = document.split(HEADING).nth(1).unwrap_or_else(|| panic!("no {HEADING}"));
    let block = section.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    // The demo's own ports are its defaults.
    let demo = format!("{BINARY} demo --http-port {} --https-port {}", ports[4], ports[5]);
    let text = block.replace("portcullis demo", &demo);
    assert_ne!(text, block, "the demo is among them");
    PORTS.iter().zip(ports).fold(text, |text, (port, free)| text.replace(port, free))
}

/// A shell in which lines were pasted; what it has started ends with it.
struct Shell {
    child: Child,
    dir: TempDir,
    said: String,
}

impl Shell {
    fn paste(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", text]).current_dir(dir.path()).env_remove("API_URL").env_remove("PORTCULLIS_DATA");
        // What runs in the background has this group, too.
        let child = shell.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut started = Self { child, dir, said: String::new() };
        let (tell, told) = mpsc::channel();
        let lines = BufReader::new(started.child.stdout.take().unwrap()).lines();
        // The demo goes on when nobody reads any more.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(tell.send(line))));
        let end = Instant::now() + 4 * PATIENCE;
        while !(started.said.contains("new.localhost") && started.said.trim_end().ends_with(LAST)) {
            let left = end.saturating_duration_since(Instant::now());
            let line = told.recv_timeout(left);
            let line = line.unwrap_or_else(|error| panic!("{error}: the demo has printed\n{}", started.said));
            started.said.push_str(&line);
            started.said.push('\n');
        }
        started
    }

    /// The lines below a comment that the demo has printed.
    fn below(&self, comment: &str) -> Vec<String> {
        let lines = self.said.lines().map(str::trim).skip_while(|line| !line.starts_with(comment)).skip(1);
        lines.take_while(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// What lines print that are pasted into another shell.
    fn run(&self, lines: &[String]) -> String {
        let output =
            Command::new("sh").args(["-ec", &lines.join("\n")]).current_dir(self.dir.path()).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{lines:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let group = format!("-{}", self.child.id());
        // Fails when all of them have ended by themselves.
        let _ended = Command::new("kill").args(["-s", "KILL", "--", &group]).status();
        let _status = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_with_a_local_authority_has_a_new_host_trusted_within_seconds() {
    let ports = PORTS.map(|_| free_port().to_string());
    let shell = Shell::paste(&pasted(&ports));
    for comment in ["# HTTPS", "# 401"] {
        let said = shell.run(&shell.below(comment));
        assert!(said.contains("/hello") || said.contains(" 401"), "{comment}: {said}");
    }
    let lines = shell.below("# a new host");
    let begun = Instant::now();
    let said = shell.run(&lines);
    let took = begun.elapsed();
    assert!(said.contains("Certificate generation started"), "{said}");
    assert!(said.contains("\"status\": \"active\"") && said.contains("\"path\":\"/hello\""), "{said}");
    assert!(took < SECONDS, "{took:?}");

    let words = lines.last().unwrap().split_whitespace();
    let root = words.skip_while(|word| *word != "--cacert").nth(1).unwrap();
    let url = format!("https://new.localhost:{}/hello", ports[5]);
    let browser = Browser::trusting(&shell.dir.path().join(root)).await;
    browser.open(&url).await;
    let page = "\"path\":\"/hello\"";
    assert!(browser.text().await.contains(page));
    // One that trusts somebody else shows a warning in its place: it is the root that counts.
    let stranger = Browser::trusting(&shell.dir.path().join("data/pebble/cert.pem")).await;
    stranger.open(&url).await;
    let warning = stranger.text().await;
    assert!(!warning.contains(page), "{warning}");
}
