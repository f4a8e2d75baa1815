//! The whole daemon inside another program: on an embedded store, configured through its admin socket.
//!
//!     cargo run --example embedded_daemon

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

use portcullis::daemon;
use portcullis::settings::{SOCKET, Settings};
use tokio_util::sync::CancellationToken;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let check = std::env::args().nth(1).as_deref() == Some("--check");
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let settings = Settings::of_arguments([
        "--server-host=127.0.0.1",
        "--http-port=0",
        "--https-port=0",
        "--log-level=WARN",
        "--data",
        data.to_str().ok_or("the folder's name is no text")?,
    ])?;
    let stop = CancellationToken::new();
    let (tell, told) = mpsc::channel();
    let running = std::thread::spawn({
        let stop = stop.clone();
        // It also ends on SIGTERM and SIGINT, and lets requests end that are under way.
        move || daemon::run_until(settings, stop, move |addresses| tell.send(addresses).unwrap_or_default())
    });
    // Whoever drops the sender has failed, and the thread knows why.
    let Ok(addresses) = told.recv() else { return Ok(running.join().map_err(|_| "the daemon panicked")??) };

    // Whoever may open the socket is admin. What is answered is served: no waiting, no restart.
    let proxy = r#"{"proxy_hostname": "app.localhost", "target_url": "builtin:echo"}"#;
    let made = ask(UnixStream::connect(data.join(SOCKET))?, "POST /proxy/targets/", "localhost", proxy)?;
    if !made.starts_with("HTTP/1.1 201 ") {
        return Err(made.into());
    }
    if check {
        let answer = ask(TcpStream::connect(addresses.http)?, "GET /hello", "app.localhost", "")?;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"path\":\"/hello\""), "{answer}");
        let info = ask(UnixStream::connect(data.join(SOCKET))?, "GET /system/info", "localhost", "")?;
        assert!(info.contains("\"hosts\":3"), "{info}");
        stop.cancel();
    } else {
        println!("  curl -i -H 'Host: app.localhost' http://{}/hello", addresses.http);
        println!("Ctrl-C stops it.");
    }
    running.join().map_err(|_| "the daemon panicked")??;
    Ok(())
}

/// One request as JSON, over whatever stream.
fn ask(mut io: impl Read + Write, line: &str, host: &str, body: &str) -> Outcome<String> {
    let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    let length = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{kind}Content-Length: {length}\r\n\r\n"
    );
    io.write_all(head.as_bytes())?;
    io.write_all(body.as_bytes())?;
    let mut answer = String::new();
    io.read_to_string(&mut answer)?;
    Ok(answer)
}
