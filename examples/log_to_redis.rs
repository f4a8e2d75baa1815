//! An access log in a stream of Redis, for any service: no daemon, no configuration.
//!
//!     cargo run --example log_to_redis [REDIS_URL [ADDRESS]]
//!
//! Without the argument `REDIS_URL` is taken from the environment.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use axum::{Router, routing::get};
use portcullis_layers::access_log::{AccessLogLayer, RedisStreams};
use redis::streams::StreamRangeReply;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const STREAM: &str = "example:requests";
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).peekable();
    let check = arguments.next_if(|argument| argument == "--check").is_some();
    let url = arguments.next().map_or_else(|| std::env::var("REDIS_URL"), Ok)?;
    let listener = TcpListener::bind(arguments.next().as_deref().unwrap_or("127.0.0.1:0")).await?;
    let address = listener.local_addr()?;

    let client = redis::Client::open(url.as_str())?;
    // Redis may come later, or go and come back: records wait in memory, bounded, and requests never do.
    let log = RedisStreams::new(client.clone(), STREAM).keep(10_000);
    let stop = CancellationToken::new();
    let writer = tokio::spawn(log.clone().run(stop.clone()));
    let router = Router::new().route("/", get(async || "hello\n")).layer(AccessLogLayer::new(log.clone()));
    let server = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let server = tokio::spawn(server.into_future());

    if check {
        let id = ask(address).await?;
        assert!(log.flush(PATIENCE).await, "{:?}", log.counts());
        let record = last_record(&client).await?;
        assert!(record.contains(&id) && record.contains(r#""status_code":200"#), "{record}");
    } else {
        println!("Each request is one entry; end with Ctrl-C:");
        println!("  curl -i http://{address}/\n  redis-cli -u REDIS_URL XREVRANGE {STREAM} + - COUNT 3");
        tokio::signal::ctrl_c().await?;
    }
    stop.cancel();
    server.await??;
    Ok(writer.await?)
}

/// Sends a request and gives back the id that the answer names.
async fn ask(address: SocketAddr) -> Result<String, Box<dyn Error>> {
    let mut io = TcpStream::connect(address).await?;
    io.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    io.read_to_string(&mut answer).await?;
    let id = answer.lines().find_map(|line| line.strip_prefix("x-correlation-id: "));
    Ok(id.ok_or("the answer has no id")?.to_owned())
}

async fn last_record(client: &redis::Client) -> Result<String, Box<dyn Error>> {
    let mut connection = client.get_multiplexed_async_connection().await?;
    let mut command = redis::cmd("XREVRANGE");
    let found: StreamRangeReply =
        command.arg(STREAM).arg("+").arg("-").arg("COUNT").arg(1).query_async(&mut connection).await?;
    Ok(found.ids.first().and_then(|entry| entry.get("r")).ok_or("the stream is empty")?)
}
