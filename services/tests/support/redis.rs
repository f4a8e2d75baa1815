//! A real `redis-server` on a port and in a directory of its own.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{FromRedisValue, RedisResult};
use tempfile::TempDir;

pub(crate) const PASSWORD: &str = "p@ss/word:100%";

/// [`PASSWORD`] as it stands in a URL.
pub(crate) const URL_PASSWORD: &str = "p%40ss%2Fword%3A100%25";

/// A server that ends with its value.
pub(crate) struct RedisServer {
    child: Option<Child>,
    dir: TempDir,
    port: u16,
    extra: Vec<String>,
}

impl RedisServer {
    /// With a password, AOF, and a Unix socket.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more arguments.
    pub(crate) fn start_with(extra: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let extra = extra.iter().map(|&arg| arg.to_owned()).collect();
        let mut server = Self { child: None, dir, port: 0, extra };
        // A port that is free now may be taken before the server binds it.
        for _ in 0..10 {
            server.port = free_port();
            if server.launch() {
                return server;
            }
        }
        panic!("redis-server does not start: {}", server.log());
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://:{URL_PASSWORD}@127.0.0.1:{}/0", self.port)
    }

    /// Kills it without a chance to say goodbye.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killed");
            child.wait().expect("ended");
        }
    }

    /// Starts it again on the same port, with its files.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.launch() {
            assert!(Instant::now() < deadline, "redis-server does not come back: {}", self.log());
        }
    }

    /// Deletes its files; for one that is killed.
    pub(crate) fn lose_data(&self) {
        let files = self.dir.path().join("appendonlydir");
        std::fs::remove_dir_all(files).expect("deleted");
    }

    /// Sends it a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.as_ref().expect("running").id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().expect("kill runs");
        assert!(status.success());
    }

    /// Runs a command as its administrator.
    pub(crate) async fn admin<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut cmd = redis::cmd(words[0]);
        cmd.arg(&words[1..]);
        cmd.query_async(&mut connection).await
    }

    /// Starts the process; tells whether it answers.
    fn launch(&mut self) -> bool {
        let dir = self.dir.path();
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--requirepass", PASSWORD])
            .args([
                "--masterauth",
                PASSWORD,
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
                "--save",
                "",
                "--daemonize",
                "no",
            ])
            .args(["--enable-debug-command", "yes"])
            .arg("--dir")
            .arg(dir)
            .arg("--unixsocket")
            .arg(self.socket())
            .arg("--logfile")
            .arg(dir.join("log"))
            .args(&self.extra)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("redis-server is installed");
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if self.answers() {
                self.child = Some(child);
                return true;
            }
            if child.try_wait().expect("a state").is_some() || Instant::now() > deadline {
                drop(child.kill());
                drop(child.wait());
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn answers(&self) -> bool {
        let path = self.socket();
        let socket = format!("unix://{}?pass={URL_PASSWORD}", path.display());
        let Ok(client) = redis::Client::open(socket) else { return false };
        let Ok(mut connection) = client.get_connection_with_timeout(Duration::from_secs(1)) else {
            return false;
        };
        redis::cmd("PING").query::<String>(&mut connection).is_ok()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}
