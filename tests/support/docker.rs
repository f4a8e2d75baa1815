//! A real Docker engine: `dockerd` with a socket, a data folder, a bridge and networks of its own. Each test has one.
//!
//! Engines live in numbered places, each with a lock that ends with the process that holds it. So what a killed test has
//! left is found by the next one in the same place, and ended as thoroughly as by a test that passed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::PATIENCE;
use super::daemon::Daemon;

/// How many engines can run at a time on a machine.
const PLACES: u8 = 60;

/// An engine.
pub struct Engine {
    child: Option<Child>,
    /// Further arguments of `dockerd`.
    more: Vec<String>,
    place: Place,
}

/// Where an engine is. What belongs to it has this folder in its command line, or these networks.
struct Place {
    number: u8,
    dir: PathBuf,
    _lock: File,
}

impl Place {
    fn take() -> Self {
        for number in 0..PLACES {
            let lock =
                File::create(std::env::temp_dir().join(format!("portcullis-engine-{number}.lock"))).unwrap();
            if lock.try_lock().is_ok() {
                let dir = std::env::temp_dir().join(format!("portcullis-engine-{number}"));
                let place = Self { number, dir, _lock: lock };
                place.clear();
                fs::create_dir_all(&place.dir).unwrap();
                return place;
            }
        }
        panic!("{PLACES} engines run already");
    }

    fn bridge(&self) -> String {
        format!("pcengine{}", self.number)
    }

    /// The beginning of all addresses on networks of this engine.
    fn prefix(&self) -> String {
        format!("10.213.{}.", self.number)
    }

    /// Ends whatever runs here, and leaves nothing behind.
    fn clear(&self) {
        let until = Instant::now() + PATIENCE;
        loop {
            let alive = self.processes();
            for pid in &alive {
                let _gone = Command::new("kill").args(["-KILL", pid]).stderr(Stdio::null()).status();
            }
            if alive.is_empty() {
                break;
            }
            assert!(Instant::now() < until, "{alive:?} do not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let inside = format!("{}/", self.dir.display());
        let mut points: Vec<_> = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|at| at.starts_with(&inside))
            .collect();
        points.sort_unstable_by_key(|at| std::cmp::Reverse(at.len()));
        for point in points {
            let _done = Command::new("umount").args(["-l", point]).stderr(Stdio::null()).status();
        }
        let links = Command::new("ip").args(["-o", "-4", "addr"]).output().unwrap();
        for line in String::from_utf8_lossy(&links.stdout).lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let (Some(name), Some(address)) = (words.get(1), words.get(3)) else { continue };
            if address.starts_with(&self.prefix()) {
                let _done = Command::new("ip").args(["link", "del", name]).stderr(Stdio::null()).status();
            }
        }
        // A read-only layer, or a process that is about to end, may be in the way for a moment.
        while self.dir.exists() && fs::remove_dir_all(&self.dir).is_err() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The engine, its helpers, and what runs in its containers.
    fn processes(&self) -> Vec<String> {
        let inside = self.dir.display().to_string() + "/";
        let mut ours = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            if !pid.bytes().all(|byte| byte.is_ascii_digit()) || pid == std::process::id().to_string() {
                continue;
            }
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let program = command.split(|byte| *byte == 0).next().unwrap_or_default();
            let program = String::from_utf8_lossy(program).into_owned();
            let helper = ["dockerd", "containerd", "containerd-shim-runc-v2", "runc"];
            let is_helper = helper.iter().any(|name| program.rsplit('/').next() == Some(name));
            let named = String::from_utf8_lossy(&command).contains(&inside);
            // What runs in a container has its root in a layer of the engine's data.
            let mounts = || fs::read_to_string(entry.path().join("mountinfo")).unwrap_or_default();
            let contained = || mounts().lines().any(|line| line.contains(" / / ") && line.contains(&inside));
            if (is_helper && named) || contained() {
                ours.push(pid);
            }
        }
        ours
    }
}

impl Engine {
    /// An engine with the images `web` and `tools`.
    pub fn start() -> Self {
        Self::start_with(|_| Vec::new())
    }

    /// The same with further arguments, which may name the engine's folder and the address of its bridge.
    pub fn start_with(more: impl FnOnce(&Self) -> Vec<String>) -> Self {
        let mut engine = Self { child: None, more: Vec::new(), place: Place::take() };
        engine.more = more(&engine);
        let bridge = engine.place.bridge();
        let ip =
            |words: &[&str]| assert!(Command::new("ip").args(words).status().unwrap().success(), "{words:?}");
        ip(&["link", "add", &bridge, "type", "bridge"]);
        ip(&["addr", "add", &format!("{}1/26", engine.place.prefix()), "dev", &bridge]);
        ip(&["link", "set", &bridge, "up"]);
        engine.launch();
        engine.build_usual();
        engine
    }

    /// The address of its bridge, which is none of the loopback.
    pub fn bridge(&self) -> String {
        format!("{}1", self.place.prefix())
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.place.dir.join("docker.sock")
    }

    /// `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// A folder that goes with the engine.
    pub fn dir(&self) -> &Path {
        &self.place.dir
    }

    /// A daemon that runs services here.
    pub fn daemon(&self) -> Daemon {
        self.daemon_with(|_| ())
    }

    /// The same with a changed command.
    pub fn daemon_with(&self, change: impl FnOnce(&mut Command)) -> Daemon {
        Daemon::start_with(|command| {
            self.known_to(command);
            change(command);
        })
    }

    /// Tells a daemon of the engine. What waits for people waits shorter here.
    pub fn known_to(&self, command: &mut Command) {
        command.env("DOCKER_HOST", self.host());
        // The same one after a restart, on whatever port that is.
        command.env("OAUTH_ISSUER", "https://auth.localhost");
        command.env("PORTCULLIS_DOCKER_CONTEXTS", self.contexts());
        command.env("PORTCULLIS_DOCKER_DRAIN", "1").env("PORTCULLIS_DOCKER_STOP_TIMEOUT", "1");
        command.env("PORTCULLIS_DOCKER_START_TIMEOUT", "60");
    }

    /// Where build contexts are.
    pub fn contexts(&self) -> PathBuf {
        self.place.dir.join("contexts")
    }

    /// A build context with these files beside a static busybox.
    pub fn context(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let folder = self.contexts().join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::copy("/bin/busybox", folder.join("busybox")).expect("busybox-static is installed");
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
        folder
    }

    /// Asks the engine something.
    pub fn get(&self, path: &str) -> Value {
        let output = self.curl(&[], path);
        serde_json::from_slice(&output)
            .unwrap_or_else(|_| panic!("{path}: {}", String::from_utf8_lossy(&output)))
    }

    /// Has the engine do something.
    pub fn post(&self, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let output =
            self.curl(&["-X", "POST", "-H", "content-type: application/json", "--data-binary", &body], path);
        serde_json::from_slice(&output).unwrap_or_default()
    }

    /// Has the engine push an image to where its name says; what it tells of that.
    pub fn push(&self, name: &str) -> String {
        // It wants credentials although nobody asks for any.
        let output =
            self.curl(&["-X", "POST", "-H", "x-registry-auth: e30="], &format!("/images/{name}/push"));
        String::from_utf8_lossy(&output).into_owned()
    }

    /// Has the engine remove something.
    pub fn delete(&self, path: &str) {
        self.curl(&["-X", "DELETE"], path);
    }

    /// Runs the image `web` as somebody else would, without portcullis; its id. `more` are further fields.
    pub fn run(&self, name: &str, version: &str, more: &Value) -> String {
        let mut body = serde_json::json!({ "Image": "web:1", "Env": [format!("VERSION={version}")] });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let made = self.post(&format!("/containers/create?name={name}"), &body);
        let id = made["Id"].as_str().unwrap_or_else(|| panic!("{name}: {made}")).to_owned();
        self.post(&format!("/containers/{id}/start"), &Value::Null);
        id
    }

    /// Removes a container, running or not.
    pub fn remove(&self, name: &str) {
        self.curl(&["-X", "DELETE"], &format!("/containers/{name}?force=true"));
    }

    /// The containers that are there, running or not.
    pub fn containers(&self) -> Vec<Value> {
        self.get("/containers/json?all=true").as_array().cloned().unwrap()
    }

    /// Ends the engine like a crash: its containers go on.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        // What nobody reaps looks alive to the next engine, which then waits for it in vain.
        let _stale = fs::remove_file(self.place.dir.join("exec/containerd/containerd.pid"));
    }

    /// Ends the engine as an administrator does, with its containers.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let done = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
            assert!(done.unwrap().success());
            child.wait().unwrap();
        }
    }

    /// Starts it again, with what it had.
    pub fn launch(&mut self) {
        let dir = &self.place.dir;
        let _stale = fs::remove_file(dir.join("pid"));
        let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
        let mut command = Command::new("setpriv");
        // It ends with the test, whatever happens to that.
        command.args(["--pdeathsig", "KILL", "dockerd"]);
        command.arg("--data-root").arg(dir.join("data")).arg("--exec-root").arg(dir.join("exec"));
        command.arg("--pidfile").arg(dir.join("pid")).arg("--host").arg(self.host());
        command.args(["--bridge", &self.place.bridge()]).args(&self.more);
        command.arg("--default-address-pool");
        command.arg(format!("base={}128/25,size=26", self.place.prefix()));
        command.args(["--iptables=false", "--ip-masq=false", "--ip-forward=false", "--userland-proxy=false"]);
        // Where a user who is not root has no servers in the path.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin")).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = command.spawn().expect("setpriv is installed");
        let end = Instant::now() + PATIENCE;
        while self.curl(&[], "/_ping") != b"OK" {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < end, "no engine ({ended:?}):\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        self.child = Some(child);
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place.dir.join("log")).unwrap_or_default()
    }

    /// `web` answers on its exposed port 8000 with `$VERSION`; `tools` has all of busybox and does what it is told.
    fn build_usual(&self) {
        let web = "#!/bin/sh\nmkdir -p /tmp/www && echo \"${VERSION:-none}\" > /tmp/www/index.html\n\
                   trap 'exit 0' TERM\nhttpd -f -p ${PORT:-8000} -h /tmp/www & wait\n";
        let dockerfile = "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \
                          \"/bin\"]\nCOPY web /bin/web\nEXPOSE 8000\nCMD [\"sh\", \"/bin/web\"]\n";
        let folder = self.context("web", &[("Dockerfile", dockerfile), ("web", web)]);
        self.build(&folder, "web:1");
    }

    /// Builds an image without portcullis.
    pub fn build(&self, folder: &Path, name: &str) {
        let archive = self.place.dir.join("context.tar");
        let packed = Command::new("tar").arg("-C").arg(folder).arg("-cf").arg(&archive).arg(".").status();
        assert!(packed.unwrap().success());
        let body = format!("@{}", archive.display());
        let told = self.curl(
            &["-X", "POST", "-H", "content-type: application/x-tar", "--data-binary", &body],
            &format!("/build?t={name}&rm=true"),
        );
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.contains("Successfully tagged"), "{told}");
    }

    fn curl(&self, words: &[&str], path: &str) -> Vec<u8> {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "120", "--unix-socket"]).arg(self.socket()).args(words);
        command.arg(format!("http://engine/v1.41{path}")).stderr(Stdio::null());
        command.output().expect("curl is installed").stdout
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let last: Vec<_> = log.lines().rev().take(30).collect();
            eprintln!("--- the engine's log:\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        self.kill();
        self.place.clear();
    }
}
