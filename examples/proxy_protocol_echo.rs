//! PROXY protocol in front of something that is no HTTP at all: an echo server that greets its clients.
//!
//!     cargo run --example proxy_protocol_echo [ADDRESS]

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use portcullis_layers::Accepted;
use portcullis_layers::prefixed::Prefixed;
use portcullis_layers::proxy_protocol::ProxyProtocolLayer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{ServiceBuilder, ServiceExt, service_fn};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let argument = std::env::args().nth(1);
    let check = argument.as_deref() == Some("--check");
    let listener = TcpListener::bind(argument.as_deref().filter(|_| !check).unwrap_or("127.0.0.1:0")).await?;
    let address = listener.local_addr()?;

    if check {
        tokio::spawn(serve(listener));
        return self_check(address).await;
    }
    println!("From this machine a header is required, and believed:");
    println!(
        r"  printf 'PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\nhi\n' | nc -N {} {}",
        address.ip(),
        address.port()
    );
    Ok(serve(listener).await?)
}

async fn serve(listener: TcpListener) -> io::Result<()> {
    let trusted = vec!["127.0.0.0/8".parse().expect("a network"), "::1/128".parse().expect("a network")];
    let service = ServiceBuilder::new().layer(ProxyProtocolLayer::new(trusted)).service(service_fn(echo));
    loop {
        let (io, peer) = listener.accept().await?;
        let connection = Accepted::new(io, listener.local_addr()?, peer);
        let service = service.clone();
        tokio::spawn(async move {
            if let Err(error) = service.oneshot(connection).await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

/// What came together with the header is replayed: nothing of it is lost.
async fn echo(connection: Accepted<Prefixed<TcpStream>>) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(connection.io);
    writer.write_all(format!("hello {}\n", connection.client.0).as_bytes()).await?;
    tokio::io::copy(&mut reader, &mut writer).await?;
    writer.shutdown().await
}

async fn self_check(address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let header = "PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n";
    assert_eq!(say(address, &format!("{header}hi\n")).await?, "hello 192.0.2.7:40000\nhi\n");
    assert_eq!(say(address, "hi, I have no header\n").await?, "");
    Ok(())
}

async fn say(address: SocketAddr, text: &str) -> io::Result<String> {
    let mut io = TcpStream::connect(address).await?;
    io.write_all(text.as_bytes()).await?;
    io.shutdown().await?;
    let mut answer = Vec::new();
    // Who is refused may be answered with a reset.
    let _ = io.read_to_end(&mut answer).await;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
