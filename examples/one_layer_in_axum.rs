//! One layer in an axum application: behind `normalize` a request has one valid host, one path that
//! everybody reads alike, and no header by which it could pretend to come from somebody else.
//!
//!     cargo run --example one_layer_in_axum [ADDRESS]

use std::error::Error;
use std::net::SocketAddr;

use axum::extract::Request;
use axum::http::{HeaderMap, Uri};
use axum::routing::get;
use axum::{Router, ServiceExt};
use portcullis_layers::normalize::{NormalizeLayer, Settings};
use portcullis_layers::respond::RespondLayer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let argument = std::env::args().nth(1);
    let check = argument.as_deref() == Some("--check");
    let listener = TcpListener::bind(argument.as_deref().filter(|_| !check).unwrap_or("127.0.0.1:0")).await?;
    let address = listener.local_addr()?;

    let router = Router::new().route("/whoami", get(whoami));
    let application = ServiceBuilder::new()
        // Outside: turns the refusals of the layer into answers, so that axum sees no error.
        .layer(RespondLayer::new())
        // Around the router and not in it, because it routes by the path that the layer leaves.
        .layer(NormalizeLayer::new(Settings::default()))
        .service(router);
    let server = axum::serve(listener, ServiceExt::<Request>::into_make_service(application));

    if check {
        tokio::spawn(server.into_future());
        return self_check(address).await;
    }
    println!("The application sees neither the header nor the detour, and never the broken encoding:");
    println!("  curl -i -H 'X-Auth-User: admin' --path-as-is http://{address}/a/%2e%2e/whoami");
    println!("  curl -i http://{address}/whoami%zz");
    Ok(server.await?)
}

async fn whoami(uri: Uri, headers: HeaderMap) -> String {
    format!("path {}, user {:?}\n", uri.path(), headers.get("x-auth-user"))
}

async fn self_check(address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let answer = ask(address, "GET /a/%2e%2e/whoami HTTP/1.1\r\nHost: a\r\nX-Auth-User: admin").await?;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("path /whoami, user None"), "{answer}");
    let answer = ask(address, "GET /whoami%zz HTTP/1.1\r\nHost: a").await?;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains(r#""code":"invalid_path""#), "{answer}");
    Ok(())
}

/// Sends a request and reads the whole answer.
async fn ask(address: SocketAddr, head: &str) -> std::io::Result<String> {
    let mut io = TcpStream::connect(address).await?;
    io.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    io.read_to_string(&mut answer).await?;
    Ok(answer)
}
