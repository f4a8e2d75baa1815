//! The command line of the built binary: help, formats, exit codes, errors, profiles, completions.

mod support;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use support::client;
use support::daemon::{BINARY, Daemon, command};
use support::eventually;
use support::redis::RedisServer;

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs the binary without any gateway.
fn alone(dir: &Path, args: &[&str]) -> Output {
    command(dir).args(args).stdin(Stdio::null()).output().unwrap()
}

/// The commands that a help text lists, without `help` itself.
fn listed(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let words = lines.take_while(|line| line.starts_with("  ")).filter_map(|line| {
        // Longer texts go on in the next lines, further to the right.
        let line = line.strip_prefix("  ")?;
        line.starts_with(|c: char| c.is_ascii_lowercase()).then(|| line.split_whitespace().next())?
    });
    words.filter(|word| *word != "help").map(str::to_owned).collect()
}

#[test]
fn every_noun_and_verb_has_help() {
    let dir = tempfile::tempdir().unwrap();
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    let mut seen = 0;
    while let Some(words) = open.pop() {
        let mut args: Vec<&str> = words.iter().map(String::as_str).collect();
        args.push("--help");
        let output = alone(dir.path(), &args);
        let help = out(&output);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", err(&output));
        let about = help.lines().next().unwrap_or_default();
        assert!(!about.is_empty() && !about.starts_with("Usage"), "{words:?} has no description: {help}");
        for word in listed(&help) {
            seen += 1;
            open.push(words.iter().cloned().chain([word]).collect());
        }
    }
    assert!(seen > 70, "only {seen} commands");
    for noun in ["proxy", "route", "cert", "service", "resource", "token", "log", "system"] {
        let output = alone(dir.path(), &[noun]);
        assert_eq!(output.status.code(), Some(2), "{noun} alone is no command");
        assert!(err(&output).contains("Usage: portcullis"), "{noun}: {}", err(&output));
    }
}

/// Runs the binary on a terminal.
fn on_a_terminal(daemon: &Daemon, args: &str) -> String {
    let mut script = Command::new("script");
    script.args(["-qec", &format!("stty cols 120; {BINARY} {args}"), "/dev/null"]);
    script.env("PORTCULLIS_DATA", daemon.dir.path().join("data")).env_remove("API_URL").env("TERM", "xterm");
    out(&script.stdin(Stdio::null()).output().unwrap())
}

#[test]
fn a_terminal_gets_a_table_and_a_program_what_it_asks_for() {
    let daemon = Daemon::start();
    daemon.run(&["proxy", "create", "app.example.com", "http://10.0.0.5:8080"]);
    let table = on_a_terminal(&daemon, "proxy list");
    assert!(table.contains('┆') && table.contains("app.example.com"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 121), "it fits the terminal: {table}");
    assert!(!table.contains("oauth_server"), "what matters is shown: {table}");

    let piped = daemon.cli(&["proxy", "list"]);
    let piped: Value = serde_json::from_str(&out(&piped)).expect("JSON where nobody reads along");
    assert_eq!(piped.as_array().map(Vec::len), Some(3), "with those of the API and the issuer");
    let yaml = out(&daemon.cli(&["--format", "yaml", "proxy", "show", "app.example.com"]));
    assert!(yaml.contains("proxy_hostname: app.example.com\n"), "{yaml}");
    let csv = out(&daemon.cli(&["proxy", "list", "--format", "csv"]));
    let header = csv.lines().next().unwrap();
    assert!(header.contains("proxy_hostname,") && csv.lines().count() == 4, "{csv}");
    assert!(out(&daemon.cli(&["proxy", "list", "--format", "table"])).contains('┆'));
}

#[test]
fn exit_codes_and_errors_tell_what_to_do_next() {
    let daemon = Daemon::start();
    let user = daemon.run(&["token", "create", "reader", "--scopes", "user", "--audience", "localhost"]);
    let user = user["token"].as_str().unwrap();
    let url = format!("http://localhost:{}", daemon.http.port());
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nowhere = format!("http://{free}");
    let cases: &[(i32, &[&str], &[&str])] = &[
        (0, &["proxy", "list"], &[]),
        (0, &["system", "health"], &[]),
        (
            1,
            &["proxy", "show", "none.example"],
            &["there is no proxy \"none.example\" (404)", "portcullis proxy --help"],
        ),
        (
            1,
            &["proxy", "create", "b.example", "ftp://x"],
            &["target_url: \"ftp://x\"", "portcullis proxy create --help"],
        ),
        (1, &["route", "create", "/x", "service", "none"], &["target_value: \"none\"", "--help"]),
        (1, &["proxy", "create", "localhost", "http://a"], &["(409)", "hint:"]),
        (1, &["--base-url", &nowhere, "proxy", "list"], &["can't connect to", "--base-url"]),
        (2, &["proxy", "crate"], &["unrecognized subcommand", "create"]),
        (2, &["proxy", "create", "b.example"], &["<TARGET_URL>", "--help"]),
        (2, &["proxy", "create", "b.example", "http://a", "--enabld"], &["--enabld", "--enabled"]),
        (2, &["log", "search", "--slow", "much"], &["slow"]),
        (2, &["--base-url", "nonsense", "proxy", "list"], &["nonsense", "http://HOST[:PORT]"]),
        (2, &["--timeout", "0", "proxy", "list"], &["--timeout", "1..=86400"]),
        (3, &["--base-url", &url, "proxy", "list"], &["(401)", "portcullis login --setup"]),
        (3, &["--base-url", &url, "--token", "nonsense", "proxy", "list"], &["(401)", "hint:"]),
        (3, &["--base-url", &url, "--token", user, "proxy", "delete", "localhost"], &["(403)", "scope"]),
    ];
    for (code, args, said) in cases {
        let output = daemon.cli(args);
        let text = err(&output);
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {text}");
        for part in *said {
            assert!(text.contains(part), "{args:?} does not say {part:?}: {text}");
        }
        assert!(!text.contains("panicked"), "{args:?}: {text}");
        assert!(!text.contains(user), "{args:?} shows the token: {text}");
        assert_eq!(*code == 0, text.is_empty(), "{args:?}: {text}");
    }
    let many = daemon.cli(&["proxy", "update", "localhost", "--target-url", "x", "--auth-mode", "sideways"]);
    assert!(err(&many).lines().filter(|line| line.starts_with("  ")).count() >= 1, "{}", err(&many));
}

#[test]
fn a_dry_run_prints_the_request_and_needs_no_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["proxy", "create", "app.example.com", "http://10.0.0.5", "--auth-enabled", "--dry-run"];
    let output = alone(dir.path(), &args);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let text = out(&output);
    let (line, body) = text.split_once('\n').unwrap();
    assert_eq!(line, "POST /proxy/targets/");
    let body: Value = serde_json::from_str(body).unwrap();
    let expected =
        json!({ "proxy_hostname": "app.example.com", "target_url": "http://10.0.0.5", "auth_enabled": true });
    assert_eq!(body, expected);
    let output = alone(dir.path(), &["--dry-run", "log", "search", "--status", "5xx", "--q", "a b"]);
    assert_eq!(out(&output).trim(), "GET /logs/search?log=requests&q=a%20b&status=5xx");
}

#[test]
fn a_configuration_is_exported_validated_and_imported_in_every_format() {
    let daemon = Daemon::start();
    daemon.run(&["proxy", "create", "app.example.com", "http://10.0.0.5", "--custom-headers", "X-A=1"]);
    for format in ["json", "yaml"] {
        let file = daemon.dir.path().join(format!("export.{format}"));
        let export = daemon.cli(&["--format", format, "system", "config", "export"]);
        assert!(export.status.success(), "{}", err(&export));
        std::fs::write(&file, &export.stdout).unwrap();
        let file = format!("@{}", file.display());
        assert_eq!(daemon.run(&["system", "config", "validate", &file])["valid"], true);
        daemon.run(&["proxy", "delete", "app.example.com"]);
        let dry = daemon.run(&["system", "config", "import", &file, "--skip-existing", "--dry-run"]);
        assert_eq!(
            (&dry["dry_run"], &dry["created"]),
            (&json!(true), &json!(["proxy \"app.example.com\""])),
            "{dry}"
        );
        assert_eq!(
            daemon.cli(&["proxy", "show", "app.example.com"]).status.code(),
            Some(1),
            "nothing was changed"
        );
        daemon.run(&["system", "config", "import", &file, "--skip-existing"]);
        let shown = daemon.run(&["proxy", "show", "app.example.com"]);
        assert_eq!(shown["custom_headers"], json!({ "x-a": "1" }), "{shown}");
    }
}

/// The certificate that the daemon serves, as PEM.
async fn certificate(daemon: &Daemon) -> String {
    let stream = client::handshake(daemon.https, "localhost", &[]).await.unwrap();
    let der = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64_STANDARD.encode(der))
}

#[tokio::test]
async fn a_setup_token_becomes_a_profile_that_only_its_owner_reads() {
    let daemon = Daemon::start();
    let home = tempfile::tempdir().unwrap();
    let line = daemon.wait_for_log("portcullis login --base-url");
    let setup = line.split_whitespace().last().unwrap();
    let url = format!("https://localhost:{}", daemon.https.port());
    assert!(line.contains(&url), "{line}");
    let login = ["login", "--profile", "edge", "--base-url", &url, "--setup", setup];
    let stranger = alone(home.path(), &login);
    assert_eq!(stranger.status.code(), Some(1), "a certificate that nobody knows");
    assert!(err(&stranger).contains("--cacert"), "{}", err(&stranger));

    let authority = home.path().join("gateway.pem");
    std::fs::write(&authority, certificate(&daemon).await).unwrap();
    let login = [&login[..], &["--cacert", authority.to_str().unwrap()]].concat();
    let done = alone(home.path(), &login);
    assert_eq!(done.status.code(), Some(0), "{}", err(&done));
    let file = home.path().join(".config/portcullis/profiles.yml");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let kept = std::fs::read_to_string(&file).unwrap();
    let token = kept.lines().find_map(|line| line.trim().strip_prefix("token: ")).unwrap();
    assert!(!out(&done).contains(token), "the token goes into the file, not onto the screen");

    let resource = "https://app.example.com/mcp";
    for words in [
        &["proxy", "create", "app.example.com", "http://10.0.0.5"][..],
        &["resource", "register", resource, "app.example.com", "app"],
        &["resource", "show", resource],
    ] {
        let output = alone(home.path(), &[&["--profile", "edge"], words].concat());
        assert_eq!(
            output.status.code(),
            Some(0),
            "the profile knows URL, token and certificate: {}",
            err(&output)
        );
    }
    let again = alone(home.path(), &login);
    assert_eq!(again.status.code(), Some(1), "a setup token is good for one use");
    assert!(err(&again).contains("portcullis setup-token"), "{}", err(&again));

    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let open = alone(home.path(), &["--profile", "edge", "proxy", "list"]);
    assert_eq!(open.status.code(), Some(2));
    assert!(err(&open).contains("chmod 600"), "{}", err(&open));
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(alone(home.path(), &["--profile", "edge", "logout"]).status.code(), Some(0));
    let out_again = alone(home.path(), &["--profile", "edge", "proxy", "list"]);
    assert_eq!(out_again.status.code(), Some(3), "{}", err(&out_again));
    let unknown = alone(home.path(), &["--profile", "none", "proxy", "list"]);
    assert_eq!(unknown.status.code(), Some(2), "a profile that is not there");
    assert!(err(&unknown).contains("none") && err(&unknown).contains("edge"), "{}", err(&unknown));
}

#[test]
fn there_are_completions_for_shells() {
    let dir = tempfile::tempdir().unwrap();
    for (shell, begin) in
        [("bash", "_portcullis()"), ("zsh", "#compdef portcullis"), ("fish", "complete -c portcullis")]
    {
        let output = alone(dir.path(), &["completions", shell]);
        let script = out(&output);
        assert_eq!(output.status.code(), Some(0), "{shell}: {}", err(&output));
        assert!(
            script.contains(begin) && script.contains("setup-token") && script.contains("explain"),
            "{shell}"
        );
    }
    let file = dir.path().join("portcullis.bash");
    std::fs::write(&file, alone(dir.path(), &["completions", "bash"]).stdout).unwrap();
    assert!(Command::new("bash").arg("-n").arg(&file).status().unwrap().success(), "bash reads it");
    assert_eq!(alone(dir.path(), &["completions", "tcsh"]).status.code(), Some(2));
}

#[test]
fn the_daemon_names_the_variable_that_is_wrong() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let metrics = format!("127.0.0.1:{port}");
    let secret = "0123456789abcdef0123456789abcdef";
    let cases: &[(&str, &str, &str)] = &[
        ("HTTP_PORT", &port, "choose another port"),
        ("HTTPS_PORT", &port, "choose another port"),
        ("PORTCULLIS_METRICS_ADDR", &metrics, "can't listen on"),
        ("HTTP_PORT", "eighty", "'eighty'"),
        ("HTTPS_PORT", "65536", "'65536'"),
        ("SERVER_HOST", "here", "'here'"),
        ("PORTCULLIS_METRICS_ADDR", "9464", "'9464'"),
        ("PORTCULLIS_WORKERS", "100000", "1024"),
        ("PROXY_PROTOCOL_TRUSTED", "10.0.0/8", "10.0.0.0/8"),
        ("PORTCULLIS_TRUSTED_PROXIES", "localhost", "10.0.0.0/8"),
        ("PORTCULLIS_ACCEPT_NEW_ISSUER", "maybe", "true"),
        ("PORTCULLIS_LOCAL_ADMIN", "yes", "loopback"),
        ("PORTCULLIS_SECRET_KEY", "short", "32"),
        ("OAUTH_ISSUER", "no url", "https://HOST"),
        ("BASE_DOMAIN", "no domain", "https://HOST"),
        ("OAUTH_ADMIN_USERS", "*", "logins"),
        ("OAUTH_USER_USERS", "a b", "\"a b\""),
        ("OAUTH_JWT_PRIVATE_KEY_B64", "bm8gcGVt", "PEM"),
        ("RSA_KEY_SIZE", "1024", "2048"),
        ("SELF_SIGNED_DAYS", "0", "1..=3650"),
        ("PROXY_CONNECT_TIMEOUT", "soon", "seconds"),
        ("PORTCULLIS_MAX_HEAD", "1", "1024"),
        ("PORTCULLIS_MAX_CONNECTIONS", "0", "between 1"),
        ("LOG_LEVEL", "LOUD", "TRACE"),
        ("LOG_FORMAT", "xml", "json"),
        ("LOG_TTL_DAYS", "0", "1..=3650"),
        ("LOG_CORRELATION_ID_HEADER", "two words", "header"),
        ("REDIS_URL", "localhost:6379", "expected redis"),
        ("PORTCULLIS_DATA", "/proc/none", "/proc/none"),
    ];
    for (variable, value, said) in cases {
        let dir = tempfile::tempdir().unwrap();
        let mut serve = command(dir.path());
        serve.arg("serve").env("LOG_FORMAT", "text");
        if *variable == "REDIS_URL" {
            serve.env("PORTCULLIS_SECRET_KEY", secret);
        }
        let output = serve.env(variable, value).stdin(Stdio::null()).output().unwrap();
        let text = err(&output);
        assert!(!output.status.success(), "{variable}={value} is accepted");
        assert!(text.contains(variable) && text.contains(said), "{variable}={value}: {text}");
        assert!(text.starts_with("error: ") || text.contains("\nerror: "), "{variable}={value}: {text}");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut serve = command(dir.path());
    let url = "redis://:hunter2@[bad/0";
    let output =
        serve.arg("serve").env("REDIS_URL", url).env("PORTCULLIS_SECRET_KEY", secret).output().unwrap();
    let text = err(&output);
    assert!(!output.status.success() && text.contains("REDIS_URL") && !text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn health_decides_the_exit_code_and_is_shown_in_any_case() {
    let dir = tempfile::tempdir().unwrap();
    let away = alone(dir.path(), &["--base-url", "http://127.0.0.1:1", "system", "health"]);
    assert_eq!(away.status.code(), Some(1), "nobody is there: {}", err(&away));

    let mut redis = RedisServer::start();
    let daemon = Daemon::start_with(|command| {
        command
            .env("REDIS_URL", redis.url())
            .env("PORTCULLIS_SECRET_KEY", "0123456789abcdef0123456789abcdef");
    });
    let well = daemon.cli(&["system", "health"]);
    assert_eq!((well.status.code(), out(&well).contains("\"healthy\"")), (Some(0), true), "{}", out(&well));
    redis.kill();
    let degraded = eventually("health is degraded", || async {
        let output = daemon.cli(&["system", "health"]);
        (output.status.code() == Some(1)).then_some(output)
    })
    .await;
    let report: Value = serde_json::from_str(&out(&degraded)).unwrap();
    assert_eq!(
        (&report["status"], &report["store"]),
        (&json!("degraded"), &json!("unavailable")),
        "{report}"
    );
    assert!(err(&degraded).contains("degraded"), "{}", err(&degraded));
    assert_eq!(daemon.cli(&["system", "ready"]).status.code(), Some(0), "it serves all the same");
}
