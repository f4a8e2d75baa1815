//! The way to `auth.example.com` for programs that find hosts by name and can't be told otherwise: a proxy for their
//! own requests (`HTTPS_PROXY`), which knows one host.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::ISSUER;

/// Starts it, ended with the test's runtime. Its URL.
pub(super) async fn to(daemon: SocketAddr) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(open(stream, daemon));
        }
    });
    url
}

/// RFC 9110, section 9.3.6.
async fn open(stream: TcpStream, daemon: SocketAddr) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut first = String::new();
    stream.read_line(&mut first).await.ok()?;
    let mut line = String::new();
    while stream.read_line(&mut line).await.ok()? > 2 {
        line.clear();
    }
    if first != format!("CONNECT {ISSUER}:443 HTTP/1.1\r\n") {
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await.ok()?;
        return None;
    }
    let mut there = TcpStream::connect(daemon).await.ok()?;
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
    copy_bidirectional(&mut stream, &mut there).await.ok()?;
    Some(())
}
