//! An MCP server for tests: whatever the protocol's conformance suite asks of a server, in each revision. What serves it
//! is what serves portcullis's own operations.
//!
//!     cargo run --example mcp_fixture [--listen ADDRESS] [--era legacy|stateless|both] [--host NAME ...]
//!
//! `--era` is for what stands between clients and servers of different times; `--host` is a name, besides this
//! machine's own, by which clients may call it.

mod changes;
mod content;
mod during;
mod prompts;
mod questions;
mod resources;
mod rounds;
mod server;
mod tools;

use std::net::SocketAddr;
use std::sync::Arc;

use portcullis_services::mcp::{Options, serve};
use portcullis_services::store::embedded::Embedded;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::server::{Era, Fixture, Shared};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What stands on the command line.
struct Arguments {
    listen: String,
    era: Era,
    hosts: Vec<String>,
    check: bool,
}

impl Arguments {
    fn read(mut arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut read = Self {
            listen: "127.0.0.1:0".into(),
            era: Era::Both,
            hosts: ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into(),
            check: false,
        };
        while let Some(name) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{name} needs a value"));
            match name.as_str() {
                "--listen" => read.listen = value()?,
                "--era" => read.era = value()?.parse()?,
                "--host" => read.hosts.push(value()?),
                "--check" => read.check = true,
                _ => return Err(format!("{name} is not known").into()),
            }
        }
        Ok(read)
    }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let Arguments { listen, era, hosts, check } = Arguments::read(std::env::args().skip(1))?;
    let shared = Shared::new(era)?;
    let store = Arc::new(Embedded::in_memory()?);
    let options = Options { sessions: era != Era::Stateless, hosts };
    // Nobody else sees the store.
    let service = serve(store, &[0; 32], move || Fixture::new(&shared), options);
    tokio::spawn(Arc::clone(service.sessions()).run(CancellationToken::new()));
    let listener = TcpListener::bind(&listen).await?;
    let address = listener.local_addr()?;
    let router = axum::Router::new().route_service("/mcp", service);
    let serving = axum::serve(listener, router).into_future();
    if !check {
        println!("http://{address}/mcp");
        return Ok(serving.await?);
    }
    let serving = tokio::spawn(serving);
    // A session of 2025, and a call of 2026 that needs none.
    let asked = json!({ "protocolVersion": "2025-11-25", "capabilities": {},
                        "clientInfo": { "name": "check", "version": "1" } });
    let answer = ask(address, "initialize", "", asked).await?;
    assert!(answer.contains("mcp-session-id: ") && answer.contains("\"portcullis-fixture\""), "{answer}");
    let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                       "io.modelcontextprotocol/clientCapabilities": {} });
    let headers = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: add\r\n";
    let asked = json!({ "name": "add", "arguments": { "a": 2, "b": 3 }, "_meta": meta });
    let answer = ask(address, "tools/call", headers, asked).await?;
    assert!(answer.contains("{\"result\":5}"), "{answer}");
    serving.abort();
    Ok(())
}

/// One call, and what comes until the answer is there.
async fn ask(address: SocketAddr, method: &str, headers: &str, params: Value) -> Outcome<String> {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nConnection: close\r\n{headers}\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    let mut io = TcpStream::connect(address).await?;
    io.write_all(format!("{head}{body}").as_bytes()).await?;
    let mut answer = String::new();
    let mut piece = [0; 4096];
    loop {
        let count = io.read(&mut piece).await?;
        answer.push_str(std::str::from_utf8(&piece[..count])?);
        if count == 0 || answer.contains("\"result\":") {
            return Ok(answer);
        }
    }
}
