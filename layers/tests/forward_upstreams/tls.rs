use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use portcullis_layers::forward::{Protocol, Target};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::TlsAcceptor;

use crate::support::*;

async fn version(request: Request<Incoming>) -> UpstreamResponse {
    UpstreamResponse::new(full(format!("{:?}", request.version())))
}

/// An upstream with a certificate for `backend.example`, and that certificate.
async fn tls_upstream(alpn: &'static [&'static [u8]]) -> (SocketAddr, Arc<str>) {
    let made = rcgen::generate_simple_self_signed(["backend.example".to_owned()]).expect("made");
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .expect("a good certificate");
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(tls) = acceptor.accept(tcp).await {
                    let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
                    serve_http(tls, h2, version).await;
                }
            });
        }
    });
    (address, made.cert.pem().into())
}

fn https(address: SocketAddr) -> Target {
    Target::new(format!("https://{address}").parse().expect("valid"))
}

const BOTH: &[&[u8]] = &[b"h2", b"http/1.1"];

#[tokio::test]
async fn certificates_are_checked_unless_the_target_opts_out() {
    let (address, ca) = tls_upstream(BOTH).await;
    let refused = (StatusCode::BAD_GATEWAY, "upstream_tls".to_owned());
    let answered = (StatusCode::OK, "HTTP/1.1".to_owned());

    assert_eq!(proxy(https(address)).get("/").await, refused, "nobody trusts this authority");

    let mut own_ca = https(address);
    own_ca.upstreams[0].tls.ca = Some(Arc::clone(&ca));
    assert_eq!(proxy(own_ca.clone()).get("/").await, refused, "the certificate is for another name");

    own_ca.upstreams[0].tls.server_name = Some("backend.example".parse().expect("valid"));
    assert_eq!(proxy(own_ca).get("/").await, answered);

    let mut careless = https(address);
    careless.upstreams[0].tls.verify = false;
    assert_eq!(proxy(careless).get("/").await, answered);
}

#[tokio::test]
async fn alpn_settles_the_version() {
    for (protocol, offers, expected) in [
        (Protocol::Http1, BOTH, Some("HTTP/1.1")),
        (Protocol::Negotiate, BOTH, Some("HTTP/2.0")),
        (Protocol::Negotiate, &[b"http/1.1" as &[u8]], Some("HTTP/1.1")),
        (Protocol::Negotiate, &[], Some("HTTP/1.1")),
        (Protocol::Http2, BOTH, Some("HTTP/2.0")),
        (Protocol::Http2, &[], None),
    ] {
        let (address, _) = tls_upstream(offers).await;
        let mut target = https(address);
        target.upstreams[0].tls.verify = false;
        target.upstreams[0].protocol = protocol;
        let proxy = proxy(target);
        for _ in 0..2 {
            let (status, version) = proxy.get("/").await;
            match expected {
                Some(expected) => assert_eq!((status, version.as_str()), (StatusCode::OK, expected)),
                None => assert_eq!((status, version.as_str()), (StatusCode::BAD_GATEWAY, "upstream_tls")),
            }
        }
    }
}
