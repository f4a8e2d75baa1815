//! What the documents promise: `.env.example`, README.md, justfile, compose.yml, and what the demo prints.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use clap::CommandFactory as _;
use portcullis::settings::Settings;
use serde_json::Value;
use support::PATIENCE;
use support::daemon::{BINARY, command};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn document(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The settings of the daemon: variable and default.
fn settings() -> BTreeMap<String, String> {
    #[derive(clap::Parser)]
    struct Serve {
        #[command(flatten)]
        _settings: Settings,
    }
    let command = Serve::command();
    let known = command.get_arguments().filter_map(|arg| {
        let default =
            arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect::<Vec<_>>();
        // A flag that is not given is off.
        let flag = matches!(arg.get_action(), clap::ArgAction::SetTrue).then(|| "false".to_owned());
        Some((arg.get_env()?.to_str()?.to_owned(), flag.unwrap_or_else(|| default.join(","))))
    });
    known.collect()
}

/// The variables of `.env.example`, without the part for the client and `just`.
fn example() -> BTreeMap<String, String> {
    let text = document(".env.example");
    let (daemon, _) = text.split_once("# ---- the command line client").expect("a part for the client");
    let lines = daemon.lines().filter_map(|line| line.trim_start_matches("# ").split_once('='));
    let variables = lines
        .filter(|(name, _)| name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_'));
    variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_example_of_an_environment_has_every_setting_with_its_default() {
    let (settings, example) = (settings(), example());
    assert!(settings.len() > 40, "{settings:?}");
    for (name, default) in &settings {
        assert_eq!(example.get(name), Some(default), "{name} in .env.example");
    }
    for name in example.keys() {
        assert!(settings.contains_key(name), "{name} of .env.example is no setting of the daemon");
    }
    let help = Command::new(BINARY).args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for name in settings.keys() {
        assert!(help.contains(&format!("[env: {name}")), "{name} in `serve --help`");
    }
}

/// The recipes of the justfile.
fn recipes() -> BTreeSet<String> {
    let text = document("justfile");
    let heads = text
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()) && !line.contains(":="));
    heads
        .filter(|line| line.contains(':'))
        .filter_map(|line| Some(line.split([' ', ':']).next()?.to_owned()))
        .collect()
}

/// The command lines of the README's shell blocks, without comments.
fn pasted() -> Vec<String> {
    let readme = document("README.md");
    let blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines = blocks.flat_map(str::lines).map(|line| line.split(" #").next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn the_commands_of_the_readme_exist() {
    let dir = tempfile::tempdir().unwrap();
    let (lines, recipes) = (pasted(), recipes());
    for needed in ["cargo run --release -- demo", "./justw test"] {
        assert!(lines.iter().any(|line| line == needed), "{needed} is in the README");
    }
    let mode = std::fs::metadata(root().join("justw")).unwrap().permissions().mode();
    assert!(mode & 0o111 != 0, "justw can be run");
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ours = match words.as_slice() {
            ["./justw", recipe, rest @ ..] => {
                assert!(recipes.contains(*recipe), "{line}: no such recipe");
                if rest.is_empty() {
                    continue;
                }
                [&[*recipe], rest].concat()
            }
            ["cargo", "run", "--release", "--", rest @ ..] | ["portcullis", rest @ ..] => rest.to_vec(),
            ["git" | "cd" | "cargo", ..] => continue,
            _ => panic!("nobody checks {line}"),
        };
        // The daemon would run for ever, and a login asks its gateway; a call is printed instead of sent.
        let last = if ["serve", "demo", "login", "logout", "oauth"].contains(&ours[0]) {
            "--help"
        } else {
            "--dry-run"
        };
        let output = command(dir.path()).args(&ours).arg(last).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_readme_lists_every_example_and_its_links_lead_somewhere() {
    let readme = document("README.md");
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let listed: BTreeSet<_> = rows.map(|(name, _)| name.to_owned()).collect();
    let entries = std::fs::read_dir(root().join("examples")).unwrap().map(|entry| entry.unwrap().path());
    let there: BTreeSet<_> =
        entries.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(listed, there);
    // What stands between fences is code.
    let text = readme.split("```").step_by(2).collect::<String>();
    let headings: BTreeSet<_> = text
        .lines()
        .filter_map(|line| {
            Some(line.trim_start_matches('#').strip_prefix(' ')?.to_lowercase().replace(' ', "-"))
        })
        .collect();
    for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        match link.strip_prefix('#') {
            Some(anchor) => assert!(headings.contains(anchor), "{link}"),
            None if link.contains("://") => {}
            None => assert!(root().join(link.split('#').next().unwrap_or_default()).exists(), "{link}"),
        }
    }
}

#[test]
fn the_socket_proxy_for_compose_fits_beside_the_gateway() {
    let read = |name: &str| serde_norway::from_str::<Value>(&document(name)).unwrap();
    let (compose, proxy) = (read("compose.yml"), read("deploy/docker-socket-proxy/compose.yml"));
    let gateway = &proxy["services"]["portcullis"];
    assert!(compose["services"]["portcullis"].is_object());
    let known = settings();
    for name in gateway["environment"].as_object().unwrap().keys() {
        assert!(known.contains_key(name), "{name} is no setting");
    }
    assert_eq!(proxy["networks"]["services"]["name"], known["PORTCULLIS_DOCKER_NETWORK"].as_str());
    assert_eq!(proxy["networks"]["engine"]["internal"], true);
    let mounted = proxy["services"]["docker-proxy"]["volumes"][0].as_str().unwrap();
    let (file, rest) = mounted.split_once(':').unwrap();
    assert!(root().join(file).exists() && rest == "/etc/nginx/nginx.conf:ro", "{mounted}");
    // What is allowed is what the document says.
    let (allowed, told) = (document("deploy/docker-socket-proxy/nginx.conf"), document("docs/services.md"));
    for call in
        ["/events", "/containers/create?name=portcullis-", "/networks/create", "/images/create?fromImage="]
    {
        let pattern = call.replace('?', "\\?");
        assert!(told.contains(call) && allowed.contains(&pattern), "{call}");
    }
    assert_eq!(allowed.matches("#exec ").count(), 3);
}

/// The lines of a recipe's script.
fn script(recipe: &str) -> String {
    let text = document("justfile");
    let lines = text.lines().skip_while(|line| !line.starts_with(&format!("{recipe}:"))).skip(1);
    lines
        .take_while(|line| line.is_empty() || line.starts_with(' '))
        .fold(String::new(), |all, line| all + line + "\n")
}

#[test]
fn setup_writes_secrets_that_only_the_owner_reads_and_compose_needs_no_more() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(root().join(".env.example"), dir.path().join(".env.example")).unwrap();
    let run = || Command::new("sh").args(["-c", &script("setup")]).current_dir(dir.path()).output().unwrap();
    let first = run();
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let file = dir.path().join(".env");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let written = std::fs::read_to_string(&file).unwrap();
    let set: BTreeMap<_, _> = dotenvy::from_path_iter(&file).unwrap().map(Result::unwrap).collect();
    for secret in ["REDIS_PASSWORD", "PORTCULLIS_SECRET_KEY"] {
        assert!(set[secret].len() >= 32, "{secret}: {set:?}");
    }
    assert_ne!(set["REDIS_PASSWORD"], set["PORTCULLIS_SECRET_KEY"]);
    assert_eq!(set["PORTCULLIS_CLI"], "docker compose exec -T portcullis portcullis");
    run();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), written, "a second run changes nothing");

    let compose = document("compose.yml");
    let services: Value = serde_norway::from_str::<Value>(&compose).unwrap()["services"].clone();
    let portcullis = &services["portcullis"];
    assert_eq!(portcullis["env_file"], ".env", "its secret key comes from there");
    let known = settings();
    for name in portcullis["environment"].as_object().unwrap().keys() {
        assert!(known.contains_key(name), "{name} of compose.yml is no setting");
    }
    for part in compose.split("${").skip(1) {
        let (variable, rest) = part.split_once([':', '}']).unwrap();
        let optional = rest.starts_with('-');
        assert!(optional || set.contains_key(variable), "{variable} of compose.yml is not written by setup");
    }
    for (name, service) in services.as_object().unwrap() {
        for (field, expected) in [("read_only", Value::Bool(true)), ("cap_drop", serde_json::json!(["ALL"]))]
        {
            assert_eq!(service[field], expected, "{name}.{field}");
        }
        assert!(service["healthcheck"]["test"].is_array() && service["user"].is_string(), "{name}");
    }
    let redis = services["redis"]["command"].to_string();
    assert!(redis.contains("--requirepass") && redis.contains("--appendonly yes"), "{redis}");
    // What the container asks itself is a command of ours.
    let test: Vec<_> =
        portcullis["healthcheck"]["test"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let [_, "portcullis", words @ ..] = test.as_slice() else { panic!("{test:?}") };
    assert!(command(dir.path()).args(words).arg("--help").output().unwrap().status.success(), "{words:?}");
}

/// A demo, and what it printed.
struct Demo {
    child: Child,
    text: String,
}

impl Demo {
    fn start(dir: &Path) -> Self {
        let mut child = command(dir)
            .args(["demo", "--http-port", "0", "--https-port", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, told) = mpsc::channel();
        let mut out = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            let (mut text, mut piece) = (String::new(), [0; 4096]);
            while let Ok(count @ 1..) = std::io::Read::read(&mut out, &mut piece) {
                text.push_str(&String::from_utf8_lossy(&piece[..count]));
                // The last of the lines to paste.
                if text.contains("limit=1\"\n") && tell.send(std::mem::take(&mut text)).is_err() {
                    return;
                }
            }
        });
        let Ok(text) = told.recv_timeout(PATIENCE) else {
            let _ended = child.kill();
            panic!("the demo printed nothing to paste");
        };
        Self { child, text }
    }

    /// The lines to paste, each with the comment above it; the tokens come first in each.
    fn pasted(&self) -> Vec<(String, String)> {
        let text = self.text.replace("\\\n", " ");
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        let tokens: Vec<_> =
            lines.iter().filter(|line| line.starts_with("TOKEN=") || line.starts_with("STRANGER=")).collect();
        assert_eq!(tokens.len(), 2, "{text}");
        let pairs = lines.windows(2).filter(|two| {
            two[0].starts_with("# ") && ["curl ", "printf "].iter().any(|start| two[1].starts_with(start))
        });
        pairs.map(|two| (two[0].to_owned(), format!("{}\n{}\n{}", tokens[0], tokens[1], two[1]))).collect()
    }

    fn interrupted(mut self) -> Option<i32> {
        let told = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        assert!(told.success());
        self.child.wait().unwrap().code()
    }
}

/// Runs a line in a shell, as if it had been pasted; what it printed.
fn paste(dir: &Path, line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).current_dir(dir).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until a line prints what it should.
fn pasted_until(dir: &Path, line: &str, expected: &[&str]) {
    let end = std::time::Instant::now() + PATIENCE;
    loop {
        let said = paste(dir, line);
        if expected.iter().all(|part| said.contains(part)) {
            return;
        }
        assert!(std::time::Instant::now() < end, "{line}\nprinted\n{said}\nwithout {expected:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_demo_that_can_not_be_set_up_fails() {
    let dir = tempfile::tempdir().unwrap();
    // In the way of what the demo writes.
    std::fs::create_dir_all(dir.path().join("data/demo/demo-chain.pem")).unwrap();
    std::fs::set_permissions(
        dir.path().join("data/demo"),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    let output =
        command(dir.path()).args(["demo", "--http-port", "0", "--https-port", "0"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the demo can't be set up"), "{said}");
}

#[test]
fn every_line_that_the_demo_prints_works_when_it_is_pasted() {
    let dir = tempfile::tempdir().unwrap();
    let expected: [(&str, &[&str]); 7] = [
        ("# HTTPS", &["\"path\":\"/hello\""]),
        ("# 401", &[" 401", "www-authenticate: Bearer", "resource_metadata="]),
        ("# 403", &[" 403", "\"status\":403"]),
        ("# 200", &["\"x-auth-user\":\"service:demo\""]),
        (
            "# hand",
            &[
                "HTTP/1.1 101 Switching Protocols",
                "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
                // The frame of the answer: a text of five bytes.
                "\u{fffd}\u{5}hello",
            ],
        ),
        ("# server-sent events", &["data: beat 0", "data: beat 1"]),
        ("# the log line", &["\"proxy_hostname\":\"app.localhost\"", "\"total\":"]),
    ];
    for start in 0..2 {
        let demo = Demo::start(dir.path());
        let lines = demo.pasted();
        assert_eq!(lines.len(), expected.len(), "{}", demo.text);
        for ((comment, line), (begin, expected)) in lines.iter().zip(expected) {
            assert!(comment.starts_with(begin), "{comment}");
            // The second start proves that it finds its configuration again: the first lines will do.
            if start == 0 || begin.starts_with("# HTTPS") || begin.starts_with("# 200") {
                pasted_until(dir.path(), line, expected);
            }
        }
        let (_, protected) = &lines[3];
        assert!(
            !paste(dir.path(), protected).to_lowercase().contains("authorization"),
            "the token stays here"
        );
        assert_eq!(demo.interrupted(), Some(0), "Ctrl-C ends it well");
    }
    let kept: Vec<PathBuf> =
        std::fs::read_dir(dir.path().join("data/demo")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(
        kept.iter().all(|path| !path.ends_with("demo-key.pem")),
        "the key is in the store only: {kept:?}"
    );
}

/// The texts of the repository, with their names.
fn texts(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if ![".git", ".tools", "target", "node_modules", "corpus"].contains(&name.as_str()) {
                texts(&path, found);
            }
        } else if name != "Cargo.lock"
            && name != ".env"
            && let Ok(text) = std::fs::read_to_string(&path)
        {
            found.push((path, text));
        }
    }
}

/// Whether a line has a URL with a password in it that is no placeholder.
fn has_url_with_password(line: &str) -> bool {
    line.match_indices("://").any(|(at, found)| {
        let rest = &line[at + found.len()..];
        let end =
            rest.find(|char: char| char.is_whitespace() || "/\"'`<>,)".contains(char)).unwrap_or(rest.len());
        let Some((user, _)) = rest[..end].rsplit_once('@') else { return false };
        let Some((_, password)) = user.split_once(':') else { return false };
        let placeholder = password.contains(['$', '{', '[', '%', '.']) || password.contains("PASS");
        !password.is_empty() && !placeholder && !user.contains('[')
    })
}

/// Whether a line gives a variable for a secret a value of its own.
fn has_secret(line: &str) -> bool {
    ["PASSWORD", "PASSWD", "SECRET", "SECRET_KEY", "TOKEN", "CLIENT_SECRET", "PRIVATE_KEY_B64"].iter().any(
        |name| {
            line.match_indices(name).any(|(at, found)| {
                let value = line[at + found.len()..].trim_start();
                let value = value.strip_prefix('=').or_else(|| value.strip_prefix(": "));
                let value = value.map(|value| value.trim_start().trim_start_matches(['"', '\'']));
                value.is_some_and(|value| {
                    value
                        .chars()
                        .take_while(|char| char.is_ascii_alphanumeric() || "-_+/=".contains(*char))
                        .count()
                        >= 6
                })
            })
        },
    )
}

/// The predecessor's scripts had the password of its Redis in them, and its code one for when none was set (catalogue
/// 14.2, number 39).
#[test]
fn no_script_no_document_and_no_default_has_a_password() {
    for (line, bad) in [
        ("REDIS_URL=redis://:test@localhost:6379/0", true),
        ("connect('redis://user:hunter2@cache/0')", true),
        ("redis://[USER:PASSWORD@]HOST", false),
        ("redis://:${REDIS_PASSWORD}@redis:6379", false),
        ("redis://localhost:6379/0", false),
    ] {
        assert_eq!(has_url_with_password(line), bad, "{line}");
    }
    for (line, bad) in [
        ("REDIS_PASSWORD=hunter2", true),
        ("export PORTCULLIS_SECRET_KEY=\"0123456789abcdef\"", true),
        ("  GITHUB_CLIENT_SECRET: 0123456789", true),
        ("REDIS_PASSWORD=", false),
        ("REDIS_PASSWORD: ${REDIS_PASSWORD:?run}", false),
        ("REDIS_PASSWORD=$(secret)", false),
    ] {
        assert_eq!(has_secret(line), bad, "{line}");
    }

    let mut found = Vec::new();
    texts(root(), &mut found);
    assert!(found.len() > 100, "{}", found.len());
    for (path, text) in &found {
        let path = path.strip_prefix(root()).unwrap().to_string_lossy();
        let is_code = path.ends_with(".rs");
        // Tests look for such things, and show what is refused.
        if is_code && (path.contains("tests/") || path.ends_with("tests.rs") || path.ends_with("testing.rs"))
        {
            continue;
        }
        let text = if is_code { text.split("#[cfg(").next().unwrap_or_default() } else { text };
        for line in text.lines() {
            assert!(!has_url_with_password(line), "{path}: {line}");
            assert!(is_code || !has_secret(line), "{path}: {line}");
        }
    }
    for (name, default) in settings() {
        let secret =
            ["PASSWORD", "SECRET", "TOKEN", "SECRET_KEY", "KEY_B64"].iter().any(|end| name.ends_with(end));
        assert!(!secret || default.is_empty() || default == "false", "{name} has a default: {default}");
        assert!(!has_url_with_password(&default), "{name}: {default}");
    }
}
