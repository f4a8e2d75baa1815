//! The REST API of the built daemon: over the admin socket, and over HTTPS with a token.

#[path = "../support/mod.rs"]
mod support;

mod contract;
mod exports;
mod lives;
mod whole;

use portcullis::services::control::{Endpoint, Operation, Surface};
use support::client::Answer;

/// A certificate for a name and its key, as PEM.
fn pair(name: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn told(answer: &Answer) -> String {
    format!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body))
}

/// Collects the endpoints of all operations.
#[derive(Default)]
struct Listed(Vec<(&'static str, Endpoint)>);

impl Surface for Listed {
    fn add<O: Operation>(&mut self) {
        self.0.push((O::NAME, O::HTTP));
        self.0.extend(O::ALIASES.iter().map(|alias| (O::NAME, alias.clone())));
    }
}
