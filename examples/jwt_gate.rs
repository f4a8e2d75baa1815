//! A gate of access tokens in front of a service: `AuthLayer` with the keys of one issuer, whose part
//! this example plays, too.
//!
//!     cargo run --example jwt_gate [ADDRESS]

use std::time::{SystemTime, UNIX_EPOCH};
use std::{error::Error, net::SocketAddr, sync::Arc};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use axum::extract::Request;
use axum::{Extension, Router, ServiceExt, routing::get};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_layers::RequestContext;
use portcullis_layers::auth::{Audience, AuthLayer, Challenge, Issuer, JwtVerifier, KeySet, Keys, Policy};
use portcullis_layers::respond::RespondLayer;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let argument = std::env::args().nth(1);
    let check = argument.as_deref() == Some("--check");
    let listener = TcpListener::bind(argument.as_deref().filter(|_| !check).unwrap_or("127.0.0.1:0")).await?;
    let address = listener.local_addr()?;
    let key = Ed25519KeyPair::generate()?;
    let x = URL_SAFE_NO_PAD.encode(key.public_key());
    let jwks = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": x }] });
    // `Keys::replace` takes the next set when the issuer rotates its keys.
    let keys = Keys::new(KeySet::from_jwks(&jwks.to_string())?);
    let verifier = JwtVerifier::new([Issuer::foreign("https://issuer.example", keys)], Arc::default(), 1);
    let policy = Policy::new([Audience::new("https://gate.example")], Challenge::new("gate"));
    let application = ServiceBuilder::new()
        .layer(RespondLayer::new())
        .layer(AuthLayer::new(verifier, policy))
        .service(Router::new().route("/", get(hello)));
    let server = axum::serve(listener, ServiceExt::<Request>::into_make_service(application));

    let token = mint(&key)?;
    if check {
        tokio::spawn(server.into_future());
        let answer = ask(address, &token).await?;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello alice\n"), "{answer}");
        for bad in ["", "e30.e30.", &token[..token.len() - 8]] {
            let answer = ask(address, bad).await?;
            assert!(
                answer.starts_with("HTTP/1.1 401 ") && answer.contains("www-authenticate: Bearer "),
                "{answer}"
            );
        }
        return Ok(());
    }
    println!("Nobody gets in without this token, which is good for an hour:");
    println!("  curl -i -H 'Authorization: Bearer {token}' http://{address}/");
    Ok(server.await?)
}

async fn hello(Extension(context): Extension<RequestContext>) -> String {
    let name = context.principal.and_then(|principal| principal.username.clone());
    format!("hello {}\n", name.unwrap_or_default())
}

fn mint(key: &Ed25519KeyPair) -> Result<String, Box<dyn Error>> {
    let expires = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3600;
    let header = json!({ "alg": "EdDSA", "kid": "k1", "typ": "at+jwt" }).to_string();
    let claims = json!({ "iss": "https://issuer.example", "aud": "https://gate.example", "sub": "1",
        "username": "alice", "exp": expires });
    let message = [header, claims.to_string()].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes()))))
}

async fn ask(address: SocketAddr, token: &str) -> std::io::Result<String> {
    let mut io = TcpStream::connect(address).await?;
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {token}");
    io.write_all(format!("{head}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    io.read_to_string(&mut answer).await?;
    Ok(answer)
}
