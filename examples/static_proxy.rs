//! A reverse proxy of fixed hosts. Without hosts it has one of its own to show.
//!
//!     cargo run --example static_proxy [ADDRESS [HOST=URL ...]]
//!
//! For TLS put `TlsLayer` around `ServeLayer`; for a load balancer in front, `ProxyProtocolLayer` around both.

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, http::HeaderMap};
use portcullis_layers::access_log::{AccessLogLayer, Record};
use portcullis_layers::forward::{Client, Forward, Target, Tunnels};
use portcullis_layers::hosts::{HostTable, Hosts};
use portcullis_layers::{Accepted, BoxError, HttpService, deadline::Ticker, drain::Drain};
use portcullis_layers::{forwarded::ForwardedLayer, normalize::NormalizeLayer};
use portcullis_layers::{respond::RespondLayer, serve::ServeLayer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, ServiceBuilder, ServiceExt};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1).peekable();
    let check = arguments.next_if(|argument| argument == "--check").is_some();
    let listener = TcpListener::bind(arguments.next().as_deref().unwrap_or("127.0.0.1:0")).await?;
    let address = listener.local_addr()?;

    let ticker = Ticker::new(1);
    let client = Client::new(1, ticker.clone(), Tunnels::new(1), Default::default());
    let mut hosts = HostTable::new();
    let fallback = if arguments.peek().is_none() { Some(own_upstream().await?) } else { None };
    for entry in arguments.chain(fallback) {
        let (host, url) = entry.split_once('=').ok_or_else(|| format!("{entry} is not HOST=URL"))?;
        println!("  curl -i -H 'Host: {host}' http://{address}/    goes to {url}");
        let forward = Forward::new(&client, Target::new(url.parse()?), Default::default())?;
        // Innermost, so that it tells what was decided and not what the client said.
        let stack = ServiceBuilder::new().layer(ForwardedLayer::new()).service(forward);
        hosts.insert(host.parse()?, HttpService::new(stack));
    }
    let log = |record: &Record<'_>| println!("{} {:?} {}", record.status, record.host, record.path);
    let edge = ServiceBuilder::new()
        .layer(AccessLogLayer::new(log)) // Outside respond: it sees what the client gets.
        .layer(RespondLayer::new()) // Inside it, failures are errors.
        .layer(NormalizeLayer::new(Default::default())) // Before anything compares a host.
        .service(Hosts::new(Arc::new(hosts)));
    let service = ServeLayer::new(Default::default(), ticker, Drain::new()).layer(edge);
    let server = async move {
        loop {
            let (io, peer) = listener.accept().await?;
            tokio::spawn(service.clone().oneshot(Accepted::new(io, address, peer)));
        }
    };
    if !check {
        return server.await;
    }
    tokio::spawn(async { server.await as Result<(), BoxError> });
    let answer = ask(address, "app.localhost").await?;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("for 127.0.0.1"), "{answer}");
    let answer = ask(address, "other.localhost").await?;
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("no_such_host"), "{answer}");
    Ok(())
}

async fn own_upstream() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let entry = format!("app.localhost=http://{}", listener.local_addr()?);
    let show =
        async |headers: HeaderMap| format!("for {}\n", headers["x-forwarded-for"].to_str().unwrap_or("?"));
    tokio::spawn(axum::serve(listener, Router::new().fallback(show)).into_future());
    Ok(entry)
}

async fn ask(address: SocketAddr, host: &str) -> std::io::Result<String> {
    let mut io = TcpStream::connect(address).await?;
    io.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    io.read_to_string(&mut answer).await?;
    Ok(answer)
}
