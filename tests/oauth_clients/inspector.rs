//! The MCP Inspector, as its package has it: its page in a browser, and its command line.

use serde_json::Value;
use tempfile::TempDir;

use crate::site::{ISSUER, MONA, Site, free_port};
use crate::support::browser::Browser;
use crate::support::eventually;
use crate::support::programs::Program;

/// What starts it.
const LAUNCHER: &str = "@modelcontextprotocol/inspector/clients/launcher/build/index.js";

/// Guards the API between its page and its server.
const KEY: &str = "0123456789abcdef";

/// A running Inspector, with what it keeps.
struct Inspector {
    program: Program,
    _home: TempDir,
}

impl Inspector {
    fn start(site: &Site, mode: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let program = Program::installed(LAUNCHER, &site.authority_file(), home.path(), |command| {
            command.arg(mode).args(arguments);
            // There is no keychain on a server, and nothing of the test is to outlive it.
            command.env("MCP_INSPECTOR_SECRET_STORE", "memory");
            command.envs(environment.iter().copied());
        });
        Self { program, _home: home }
    }
}

#[tokio::test]
async fn the_inspector_s_page_signs_in_and_lists_the_tools() {
    let site = Site::start().await;
    let (url, _server) = site.tools().await;
    let ports = [free_port().to_string(), free_port().to_string(), free_port().to_string()];
    let environment = [
        ("CLIENT_PORT", ports[0].as_str()),
        ("MCP_SANDBOX_PORT", &ports[1]),
        ("MCP_APP_ORIGIN_PORT", &ports[2]),
        ("MCP_AUTO_OPEN_ENABLED", "false"),
        ("MCP_INSPECTOR_API_TOKEN", KEY),
    ];
    let wanted = ["--transport", "http", "--server-url", &url];
    let mut inspector = Inspector::start(&site, "--web", &wanted, &environment);
    while !inspector.program.line().await.contains("up and running") {}

    let browser = Browser::start().await;
    let page = format!("http://127.0.0.1:{}", ports[0]);
    browser.open(&format!("{page}?MCP_INSPECTOR_API_TOKEN={KEY}")).await;
    // It has nothing but the URL; the switch connects.
    browser.press("input[role=switch]").await;
    let issuer = site.url(ISSUER, "/authorize");
    eventually("the Inspector asks for access", async || {
        browser.url().await.starts_with(&issuer).then_some(())
    })
    .await;
    let consent = browser.text().await;
    assert!(consent.contains("MCP Inspector"), "{consent}");
    let end = browser.go_on(MONA).await;
    assert!(end.starts_with(&page), "not back at the Inspector but at {end}:\n{}", browser.text().await);

    // There is such a tab once it is connected.
    browser.press("input[type=radio][value=Tools]").await;
    let tools = eventually("the tools are shown", async || {
        let text = browser.text().await;
        text.contains("Tools (2)").then_some(text)
    })
    .await;
    for tool in ["add", "whoami"] {
        assert!(tools.lines().any(|line| line == tool), "{tool}:\n{tools}");
    }
}

#[tokio::test]
async fn the_inspector_s_command_line_signs_in_and_lists_the_tools() {
    let site = Site::start().await;
    let (url, _server) = site.tools().await;
    let result = command_line(&site, &[&url, "--method", "tools/list"]).await;
    let tools = result["tools"].as_array().unwrap_or_else(|| panic!("no tools: {result}")).iter();
    let mut names: Vec<_> = tools.map(|tool| tool["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["add", "whoami"]);
}

#[tokio::test]
async fn the_inspector_s_command_line_calls_a_tool_in_each_era() {
    let site = Site::start().await;
    let (url, _server) = site.fixture().await;
    for (era, revision) in [("legacy", "2025-11-25"), ("modern", "2026-07-28")] {
        let wanted = [&url, "--protocol-era", era, "--method", "tools/call", "--tool-name", "whoami"];
        let result = command_line(&site, &wanted).await;
        let seen = &result["structuredContent"];
        assert_eq!(seen["x-auth-user"], MONA, "{era}: {result}");
        assert_eq!(seen["mcp-protocol-version"], revision, "{era}: {result}");
        assert_eq!(seen["authorization"], Value::Null, "{era}: {result}");
    }
}

#[tokio::test]
async fn the_inspector_s_command_line_reads_a_resource() {
    let site = Site::start().await;
    let (url, _server) = site.fixture().await;
    let wanted = [&url, "--method", "resources/read", "--uri", "test://static-text"];
    let result = command_line(&site, &wanted).await;
    let text = "This is the content of the static text resource.";
    assert_eq!(result["contents"][0]["text"], text, "{result}");
}

/// Runs the command line; its person signs in as the first user. The result.
async fn command_line(site: &Site, arguments: &[&str]) -> Value {
    let callback = format!("http://127.0.0.1:{}/oauth/callback", free_port());
    let wanted =
        [arguments, &["--transport", "http", "--format", "json", "--callback-url", &callback]].concat();
    // It signs in for people only, or where it is told that somebody is there; this browser is not the one that
    // the test has.
    let environment = [("MCP_AUTO_OPEN_ENABLED", "true"), ("BROWSER", "true")];
    let mut inspector = Inspector::start(site, "--cli", &wanted, &environment);
    let open = eventually("the Inspector names a URL", async || {
        let said = inspector.program.complaints();
        let line = said.lines().find_map(|line| line.strip_prefix("Please navigate to: "));
        line.map(str::to_owned)
    })
    .await;
    let browser = Browser::start().await;
    let end = browser.sign_in(&open, MONA).await;
    assert!(end.starts_with(&callback), "not back at the Inspector but at {end}:\n{}", browser.text().await);

    let line = inspector.program.line().await;
    let mut told: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    told["result"].take()
}
