//! What everybody may read: metadata and keys.

use bytes::Bytes;
use http::{Response, StatusCode};

use super::Asked;
use crate::oauth::server::cors;
use crate::oauth::server::metadata::{Additions, OAUTH_WELL_KNOWN, OPENID_WELL_KNOWN, answer};

/// The keys that verify our tokens (RFC 7517, section 5).
pub(super) async fn jwks(asked: Asked) -> Response<Bytes> {
    let keys = serde_json::to_vec(&asked.server.keys().jwks()).expect("keys serialise");
    answer(&asked.method, &keys.into())
}

/// The metadata of the authorization server (RFC 8414, section 3; OpenID Connect Discovery 1.0, section 4), with
/// what the host that was asked adds to it. Everything else is 404: clients try the next of their addresses then.
pub(super) async fn well_known(asked: Asked) -> Response<Bytes> {
    let server = &asked.server;
    if ![OAUTH_WELL_KNOWN, OPENID_WELL_KNOWN].contains(&asked.path.as_str()) {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NOT_FOUND;
        cors::DOCUMENTS.apply(response.headers_mut());
        return response;
    }
    let document = match &asked.host {
        Some(host) => server.metadata.clone().with(&Additions::of(&host.proxy)).to_json(),
        None => server.metadata.to_json(),
    };
    answer(&asked.method, &document)
}
