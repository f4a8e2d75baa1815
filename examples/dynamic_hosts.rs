//! A host that comes and goes while requests flow: a swap is seen by the next request of an open
//! connection, and never by one that is under way.
//!
//!     cargo run --example dynamic_hosts [ADDRESS]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use portcullis_layers::{Accepted, Body, BoxError, HttpService, Request, Response};
use portcullis_layers::{deadline::Ticker, drain::Drain, hosts::HostTable, hosts::Hosts};
use portcullis_layers::{normalize::NormalizeLayer, respond::RespondLayer, serve::ServeLayer};
use tokio::{net::TcpListener, net::TcpStream, sync::Barrier};
use tower::{Layer, ServiceBuilder, ServiceExt};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let argument = std::env::args().nth(1);
    let check = argument.as_deref() == Some("--check");
    let listener = TcpListener::bind(argument.as_deref().filter(|_| !check).unwrap_or("127.0.0.1:0")).await?;
    let address = listener.local_addr()?;
    let hosts: Arc<arc_swap::ArcSwap<HostTable<HttpService>>> = Arc::default();
    let edge = ServiceBuilder::new()
        .layer(RespondLayer::new())
        .layer(NormalizeLayer::new(Default::default()))
        .service(Hosts::new(hosts.clone()));
    let service = ServeLayer::new(Default::default(), Ticker::new(1), Drain::new()).layer(edge);
    tokio::spawn(async move {
        while let Ok((io, peer)) = listener.accept().await {
            tokio::spawn(service.clone().oneshot(Accepted::new(io, address, peer)));
        }
    });
    // A change makes a new table and swaps: no request ever waits.
    let publish = |site: Option<HttpService>| {
        let entry = site.map(|site| ("*.localhost".parse().expect("a pattern"), site));
        hosts.store(Arc::new(entry.into_iter().collect()));
    };
    if !check {
        println!("There for five seconds, gone for five:  curl -i -H 'Host: a.localhost' http://{address}/");
        for turn in 0_u64.. {
            publish((turn % 2 == 0).then(|| site(Arc::new(Barrier::new(1)))));
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    }
    let gate = Arc::new(Barrier::new(2));
    let (mut busy, mut other) = (connect(address).await?, connect(address).await?);
    assert_eq!(status(&mut other).await?, 404);
    publish(Some(site(gate.clone())));
    let under_way = tokio::spawn(async move { status(&mut busy).await });
    gate.wait().await;
    publish(None);
    assert_eq!(status(&mut other).await?, 404);
    gate.wait().await;
    assert_eq!(under_way.await??, 200);
    Ok(())
}

/// Answers each request when it has passed the gate twice.
fn site(gate: Arc<Barrier>) -> HttpService {
    HttpService::from_fn(move |_: Request| {
        let gate = gate.clone();
        async move {
            gate.wait().await;
            gate.wait().await;
            Ok(Response::new(Body::from("hello\n")))
        }
    })
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Body>, BoxError> {
    let (sender, connection) = handshake(TokioIo::new(TcpStream::connect(address).await?)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn status(sender: &mut SendRequest<Body>) -> Result<u16, BoxError> {
    sender.ready().await?;
    let request = http::Request::get("/").header("host", "a.localhost");
    Ok(sender.send_request(request.body(Body::empty())?).await?.status().as_u16())
}
