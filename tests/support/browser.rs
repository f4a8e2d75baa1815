//! A headless Chromium with a profile of its own, driven by `WebDriver` (W3C).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client;
use super::eventually;
use super::programs::Program;

/// The member of a reference to an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Where pictures of the pages go, when somebody wants to look at them.
const SCREENSHOTS: &str = "PORTCULLIS_SCREENSHOTS";

/// The widths of a phone and of a window.
const WIDTHS: [(&str, u32); 2] = [("phone", 360), ("window", 1000)];

/// More steps than any login has.
const STEPS: usize = 12;

/// A browser. Names below `.test` are this machine; certificates are not looked at, unless it is to trust somebody.
pub struct Browser {
    address: SocketAddr,
    session: String,
    _driver: Program,
    _profile: TempDir,
}

/// Something on a page.
#[derive(Debug)]
pub struct Element(String);

impl Browser {
    pub async fn start() -> Self {
        Self::launch(tempfile::tempdir().unwrap(), true).await
    }

    /// One that trusts the authority in this file, beside those that it knows, and nobody else.
    pub async fn trusting(authority: &Path) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let database = profile.path().join(".pki/nssdb");
        std::fs::create_dir_all(&database).unwrap();
        let database = format!("sql:{}", database.display());
        let authority = authority.to_str().unwrap();
        for args in
            [&["-N", "--empty-password"][..], &["-A", "-n", "authority", "-t", "C,,", "-i", authority]]
        {
            let done = Command::new("certutil").args(["-d", &database]).args(args).output();
            let done = done.unwrap_or_else(|error| panic!("certutil: {error}; `just test-deps` installs it"));
            assert!(done.status.success(), "{args:?}: {done:?}");
        }
        Self::launch(profile, false).await
    }

    async fn launch(profile: TempDir, accepts_all: bool) -> Self {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").env("TMPDIR", profile.path()).env("HOME", profile.path());
        let mut driver = Program::start(command);
        let port = loop {
            let line = driver.line().await;
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                break port.trim_end_matches('.').parse().unwrap();
            }
        };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let arguments = [
            "--headless=new",
            // CI is root in a container: there is nobody to be protected from.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--no-proxy-server",
            "--host-resolver-rules=MAP *.test 127.0.0.1",
        ];
        let wanted = json!({
            "browserName": "chrome", "acceptInsecureCerts": accepts_all, "goog:chromeOptions": { "args": arguments },
        });
        let wanted = json!({ "capabilities": { "alwaysMatch": wanted } });
        let made = call(address, Method::POST, "/session", &wanted).await.expect("a session");
        let session = format!("/session/{}", made["sessionId"].as_str().unwrap());
        Self { address, session, _driver: driver, _profile: profile }
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> Result<Value, String> {
        call(self.address, method, &format!("{}{path}", self.session), body).await
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.ask(Method::POST, path, &body).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    async fn get(&self, path: &str) -> Value {
        self.ask(Method::GET, path, &Value::Null).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub async fn open(&self, url: &str) {
        self.post("/url", json!({ "url": url })).await;
    }

    pub async fn url(&self) -> String {
        self.get("/url").await.as_str().unwrap().to_owned()
    }

    pub async fn title(&self) -> String {
        self.get("/title").await.as_str().unwrap().to_owned()
    }

    /// The names of the page's cookies, those that no script sees, too.
    pub async fn cookies(&self) -> Vec<String> {
        let cookies = self.get("/cookie").await;
        let cookies = cookies.as_array().unwrap().iter();
        cookies.map(|cookie| cookie["name"].as_str().unwrap().to_owned()).collect()
    }

    /// The first element that a selector finds.
    pub async fn find(&self, css: &str) -> Option<Element> {
        let found = self.post("/elements", json!({ "using": "css selector", "value": css })).await;
        Some(Element(found.as_array()?.first()?[ELEMENT].as_str().unwrap().to_owned()))
    }

    /// The text that a person sees.
    pub async fn text(&self) -> String {
        let body = self.find("body").await.expect("a page");
        self.get(&format!("/element/{}/text", body.0)).await.as_str().unwrap().to_owned()
    }

    /// Types into a field.
    pub async fn fill(&self, css: &str, text: &str) {
        let field = self.find(css).await.unwrap_or_else(|| panic!("no {css}"));
        self.post(&format!("/element/{}/clear", field.0), json!({})).await;
        self.post(&format!("/element/{}/value", field.0), json!({ "text": text })).await;
    }

    /// Clicks what leads to another page, and waits for that.
    pub async fn follow(&self, element: &Element) {
        self.post(&format!("/element/{}/click", element.0), json!({})).await;
        let path = format!("/element/{}/name", element.0);
        eventually("another page", async || self.ask(Method::GET, &path, &Value::Null).await.err()).await;
    }

    /// Clicks the button or link that a selector finds.
    pub async fn click(&self, css: &str) {
        let Some(element) = self.find(css).await else {
            panic!("no {css} at {}:\n{}", self.url().await, self.text().await)
        };
        self.follow(&element).await;
    }

    /// Clicks what a selector finds, once it is there: an element of a page that changes itself by a script.
    pub async fn press(&self, css: &str) {
        let element = eventually(css, async || self.find(css).await).await;
        // As a script does it: what people see and click may be another element on top of this one.
        let argument = json!({ ELEMENT: element.0 });
        let script = json!({ "script": "arguments[0].click()", "args": [argument] });
        self.post("/execute/sync", script).await;
    }

    /// Does what a person does who wants to get through with this name: chooses GitHub, signs in there, agrees.
    /// Where that ended.
    pub async fn sign_in(&self, url: &str, login: &str) -> String {
        self.open(url).await;
        self.go_on(login).await
    }

    /// The same, from the page that is open.
    pub async fn go_on(&self, login: &str) -> String {
        let buttons = format!(
            "button[name=provider], button[name=user][value={login}], button[name=decision][value=approve]"
        );
        for _ in 0..STEPS {
            match self.find(&buttons).await {
                Some(button) => self.follow(&button).await,
                None => return self.url().await,
            }
        }
        panic!("still asked at {}:\n{}", self.url().await, self.text().await)
    }

    /// Looks at the page on a phone and in a window, light and dark: it must fit, and be dark where that is wanted.
    /// The pictures are kept where `PORTCULLIS_SCREENSHOTS` names a folder.
    pub async fn look(&self, name: &str) {
        let mut brightness = Vec::new();
        for scheme in ["light", "dark"] {
            let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
            self.devtools("Emulation.setEmulatedMedia", json!({ "features": features })).await;
            for (device, width) in WIDTHS {
                let metrics =
                    json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600 });
                self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
                let script = "const page = document.documentElement; return page.scrollWidth - innerWidth";
                assert!(
                    self.script(script).await.as_i64().unwrap() <= 0,
                    "{name} is too wide for a {device}"
                );
                let wanted = json!({ "captureBeyondViewport": true });
                let picture = self.devtools("Page.captureScreenshot", wanted).await;
                let Some(folder) = std::env::var_os(SCREENSHOTS) else { continue };
                let picture = BASE64_STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
                std::fs::create_dir_all(&folder).unwrap();
                let file = std::path::Path::new(&folder).join(format!("{name}-{scheme}-{device}.png"));
                std::fs::write(file, picture).unwrap();
            }
            let script = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3) \
                          .reduce((sum, part) => sum + Number(part), 0)";
            brightness.push(self.script(script).await.as_i64().unwrap());
        }
        assert!(brightness[0] > 600 && brightness[1] < 200, "{name} is not light and dark: {brightness:?}");
        for (method, parameters) in [
            ("Emulation.clearDeviceMetricsOverride", json!({})),
            ("Emulation.setEmulatedMedia", json!({ "features": [] })),
        ] {
            self.devtools(method, parameters).await;
        }
    }

    async fn script(&self, script: &str) -> Value {
        self.post("/execute/sync", json!({ "script": script, "args": [] })).await
    }

    async fn devtools(&self, method: &str, parameters: Value) -> Value {
        self.post("/goog/cdp/execute", json!({ "cmd": method, "params": parameters })).await
    }
}

impl Drop for Browser {
    /// The browser outlives its driver, unless it is told to end.
    fn drop(&mut self) {
        let Ok(mut stream) = TcpStream::connect(self.address) else { return };
        let request =
            format!("DELETE {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", self.session);
        // Nobody is left to be told what fails here.
        let _limit = stream.set_read_timeout(Some(Duration::from_secs(5)));
        let _sent = stream.write_all(request.as_bytes());
        let _answer = stream.read(&mut [0; 1024]);
    }
}

/// Calls the driver; an error is its own code and message.
async fn call(address: SocketAddr, method: Method, path: &str, body: &Value) -> Result<Value, String> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    let request = request.header("content-type", "application/json").body(Full::new(Bytes::from(body)));
    let answer = client::plain(address, request.unwrap()).await;
    let value = answer.json()["value"].take();
    match answer.status {
        StatusCode::OK => Ok(value),
        _ => Err(format!("{}: {}", value["error"], value["message"])),
    }
}
