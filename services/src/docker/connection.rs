//! Where an engine is, and what a client for it is made of.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use bollard::{BollardRequest, ClientVersion, Docker as Client};
use http::Uri;
use http::uri::PathAndQuery;

use super::tls;

/// Until the first byte of an answer that goes on: the engine reads a whole build context before it says anything.
pub(super) const STREAM: u64 = 600;

/// The library wants one, but leaves it out of what it asks for.
const ANY: ClientVersion = ClientVersion { major_version: 1, minor_version: 41 };

/// Where the engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// A socket on this machine.
    Unix(PathBuf),
    /// A TCP port, in the clear.
    Tcp(String),
    /// A TCP port with TLS; `ca.pem`, and perhaps `cert.pem` and `key.pem`, are in the folder.
    Tls(String, PathBuf),
}

/// Why there is no client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unusable {
    /// There is no such socket, yet.
    Away,
    /// What it is made of is wrong; says what.
    Settings(String),
}

impl Connection {
    /// Reads `DOCKER_HOST`, with the folder of the certificates where TLS is wanted.
    ///
    /// # Errors
    ///
    /// When it is none; says what would be right.
    pub fn parse(host: &str, tls: Option<PathBuf>) -> Result<Self, String> {
        if let Some(path) = host.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
            return Ok(Self::Unix(path.into()));
        }
        let address = host.strip_prefix("tcp://").or_else(|| host.strip_prefix("http://"));
        let address = address.map(|address| address.trim_end_matches('/'));
        let secure = host.strip_prefix("https://").map(|address| address.trim_end_matches('/'));
        match (address, secure, tls) {
            (Some(address), _, None) if has_port(address) => Ok(Self::Tcp(address.to_owned())),
            (Some(address), _, Some(folder)) | (None, Some(address), Some(folder)) if has_port(address) => {
                Ok(Self::Tls(address.to_owned(), folder))
            }
            (None, Some(address), None) if has_port(address) => Err(format!(
                "{host:?} needs certificates: say with DOCKER_CERT_PATH where ca.pem, cert.pem and key.pem are"
            )),
            // What it holds may be a password.
            _ if host.contains('@') => Err("holds a user's name, which engines do not ask for: write \
                                            unix:///PATH or tcp://HOST:PORT"
                .to_owned()),
            _ => Err(format!("{host:?} is no engine: write unix:///PATH or tcp://HOST:PORT")),
        }
    }

    /// Whether others on the network can speak to the engine, too: whoever can is root on its machine.
    pub fn is_exposed(&self) -> bool {
        let Self::Tcp(address) = self else { return false };
        let host = host_of(address);
        let is_loopback = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) || host == "localhost";
        !is_loopback
    }

    /// A client that asks for this version of the API, or for the engine's own.
    pub(super) fn client(&self, version: Option<(usize, usize)>) -> Result<Client, Unusable> {
        let made = match self {
            Self::Unix(path) => Client::connect_with_unix(&path.to_string_lossy(), STREAM, &ANY),
            Self::Tcp(address) => Client::connect_with_http(&format!("tcp://{address}"), STREAM, &ANY),
            Self::Tls(address, folder) => {
                let transport = tls::transport(folder).map_err(Unusable::Settings)?;
                Client::connect_with_custom_transport(
                    transport,
                    Some(format!("https://{address}")),
                    STREAM,
                    &ANY,
                )
            }
        };
        let client = made.map_err(|cause| match cause {
            bollard::errors::Error::SocketNotFoundError(_) => Unusable::Away,
            other => Unusable::Settings(other.to_string()),
        })?;
        Ok(match version {
            Some(version) => client.with_request_modifier(move |request| versioned(request, version)),
            None => client,
        })
    }
}

/// The same request for a version of the API.
fn versioned(mut request: BollardRequest, (major, minor): (usize, usize)) -> BollardRequest {
    let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = format!("/v{major}.{minor}{path}").parse().ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

/// The host of an address with a port.
pub(super) fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn has_port(address: &str) -> bool {
    let port = address.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
    let plain = |host: &str| !host.is_empty() && !host.contains(['/', '@', '?', '#']);
    matches!(port, Some((host, Ok(_))) if plain(host))
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) | Self::Tls(address, _) => write!(f, "tcp://{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_other_clients_of_engines_do() {
        let plain = |host: &str| Connection::parse(host, None);
        assert_eq!(plain("unix:///run/docker.sock"), Ok(Connection::Unix("/run/docker.sock".into())));
        assert_eq!(plain("tcp://10.0.0.5:2375"), Ok(Connection::Tcp("10.0.0.5:2375".into())));
        for host in ["tcp://10.0.0.5:2376", "https://10.0.0.5:2376/"] {
            let tls = Connection::parse(host, Some("/certs".into()));
            assert_eq!(tls, Ok(Connection::Tls("10.0.0.5:2376".into(), "/certs".into())), "{host}");
        }
        for wrong in ["", "unix://docker.sock", "tcp://10.0.0.5", "https://10.0.0.5:2376", "ssh://x:1"] {
            assert!(plain(wrong).is_err(), "{wrong}");
        }
        let told = plain("tcp://me:hidden@10.0.0.5:2375").expect_err("nobody is asked who he is");
        assert!(!told.contains("hidden"), "{told}");
    }

    #[test]
    fn only_this_machine_reaches_a_socket_or_a_loopback_address() {
        for (host, exposed) in [
            ("unix:///run/docker.sock", false),
            ("tcp://127.0.0.1:2375", false),
            ("tcp://[::1]:2375", false),
            ("tcp://localhost:2375", false),
            ("tcp://10.0.0.5:2375", true),
            ("tcp://docker-proxy:2375", true),
        ] {
            let connection = Connection::parse(host, None).expect(host);
            assert_eq!(connection.is_exposed(), exposed, "{host}");
        }
        let tls = Connection::parse("tcp://10.0.0.5:2376", Some("/certs".into())).expect("an engine");
        assert!(!tls.is_exposed());
    }
}
