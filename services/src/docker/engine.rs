//! The engine behind its API. Each call has a deadline; errors say what operators need and no more.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error as Cause;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStatsResponse, EventMessage,
    NetworkConnectRequest, NetworkCreateRequest,
};
use bollard::query_parameters as query;
use bollard::{ClientVersion, Docker as Client};
use futures_util::{Stream, StreamExt};

use super::Owner;
use super::spec::{self, ImageFacts};

/// What a plain call may take.
const CALL: Duration = Duration::from_secs(20);

/// What the engine may take to make, start or remove a container, on a busy machine.
const WORK: Duration = Duration::from_secs(60);

/// Until the first byte of an answer that goes on: the engine reads a whole build context before it says anything.
const STREAM: u64 = 600;

/// Where an engine is usually.
pub const USUAL_SOCKET: &str = "/var/run/docker.sock";

/// Why the engine did not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody answers.
    #[error("the Docker engine at {0} can't be reached")]
    Unreachable(String),
    /// It takes too long.
    #[error("the Docker engine did not answer in time")]
    Late,
    /// It does not know this.
    #[error("the Docker engine refuses: {0}")]
    NotFound(String),
    /// It is there already, or in the way.
    #[error("the Docker engine refuses: {0}")]
    Conflict(String),
    /// It does not want to, or can't.
    #[error("the Docker engine refuses: {0}")]
    Refused(String),
    /// Its answer makes no sense.
    #[error("the Docker engine's answer can't be read")]
    Unreadable,
    /// It can't be asked with these settings.
    #[error("{0}")]
    Settings(String),
}

/// The result of asking the engine.
pub type Result<T> = std::result::Result<T, Error>;

/// Where the engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// A socket on this machine.
    Unix(PathBuf),
    /// A TCP port, in the clear.
    Tcp(String),
    /// A TCP port with TLS; `ca.pem`, `cert.pem` and `key.pem` are in the folder.
    Tls(String, PathBuf),
}

impl Connection {
    /// Reads `DOCKER_HOST`, with the folder of the certificates where TLS is wanted.
    ///
    /// # Errors
    ///
    /// When it is none; says what would be right.
    pub fn parse(host: &str, tls: Option<PathBuf>) -> std::result::Result<Self, String> {
        if let Some(path) = host.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
            return Ok(Self::Unix(path.into()));
        }
        let address = host.strip_prefix("tcp://").or_else(|| host.strip_prefix("http://"));
        let address = address.map(|address| address.trim_end_matches('/'));
        match (address, host.strip_prefix("https://"), tls) {
            (Some(address), _, None) if has_port(address) => Ok(Self::Tcp(address.to_owned())),
            (Some(address), _, Some(folder)) | (None, Some(address), Some(folder)) if has_port(address) => {
                Ok(Self::Tls(address.to_owned(), folder))
            }
            _ => Err(format!("{host:?} is no engine: write unix:///PATH or tcp://HOST:PORT")),
        }
    }
}

fn has_port(address: &str) -> bool {
    let port = address.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
    matches!(port, Some((host, Ok(_))) if !host.is_empty() && !host.contains('/'))
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) | Self::Tls(address, _) => write!(f, "tcp://{address}"),
        }
    }
}

/// An engine. A clone is a reference count.
#[derive(Clone)]
pub struct Engine {
    connection: Arc<Connection>,
    version: (usize, usize),
    client: Arc<OnceLock<Client>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Engine").field(&self.connection).finish()
    }
}

impl Engine {
    /// An engine that speaks this version of the API, such as `1.41`.
    ///
    /// # Errors
    ///
    /// When the version is none.
    pub fn new(connection: Connection, version: &str) -> std::result::Result<Self, String> {
        let parts = version
            .trim()
            .split_once('.')
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        let version =
            parts.ok_or_else(|| format!("{version:?} is no version of the API: write e.g. 1.41"))?;
        Ok(Self { connection: Arc::new(connection), version, client: Arc::default() })
    }

    /// Where it is.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The socket, when it is on this machine.
    pub fn socket(&self) -> Option<&Path> {
        match &*self.connection {
            Connection::Unix(path) => Some(path),
            Connection::Tcp(_) | Connection::Tls(..) => None,
        }
    }

    fn client(&self) -> Result<&Client> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let version = ClientVersion { major_version: self.version.0, minor_version: self.version.1 };
        let made = match &*self.connection {
            Connection::Unix(path) => Client::connect_with_unix(&path.to_string_lossy(), STREAM, &version),
            Connection::Tcp(address) => {
                Client::connect_with_http(&format!("tcp://{address}"), STREAM, &version)
            }
            Connection::Tls(address, folder) => Client::connect_with_ssl(
                &format!("tcp://{address}"),
                &folder.join("key.pem"),
                &folder.join("cert.pem"),
                &folder.join("ca.pem"),
                STREAM,
                &version,
            ),
        };
        let client = made.map_err(|cause| match cause {
            Cause::SocketNotFoundError(_) => Error::Unreachable(self.connection.to_string()),
            other => {
                Error::Settings(format!("the Docker engine at {} can't be used: {other}", self.connection))
            }
        })?;
        Ok(self.client.get_or_init(|| client))
    }

    fn told(&self, cause: Cause) -> Error {
        match cause {
            Cause::DockerResponseServerError { status_code: 404, message } => Error::NotFound(message),
            Cause::DockerResponseServerError { status_code: 409, message } => Error::Conflict(message),
            Cause::DockerResponseServerError { message, .. } => Error::Refused(message),
            Cause::DockerStreamError { error } => Error::Refused(error),
            Cause::DockerContainerWaitError { error, .. } => Error::Refused(error),
            Cause::RequestTimeoutError => Error::Late,
            Cause::JsonDataError { .. } | Cause::JsonSerdeError { .. } | Cause::StrParseError { .. } => {
                Error::Unreadable
            }
            _ => Error::Unreachable(self.connection.to_string()),
        }
    }

    async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = std::result::Result<T, Cause>>,
    ) -> Result<T> {
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer.map_err(|cause| self.told(cause)),
            Err(_) => Err(Error::Late),
        }
    }

    /// Whether it answers.
    pub async fn ping(&self) -> Result<()> {
        self.within(CALL, self.client()?.ping()).await.map(drop)
    }

    /// The containers of an owner, by the engine's names.
    pub async fn containers(&self, owner: &Owner) -> Result<Vec<String>> {
        let options = query::ListContainersOptionsBuilder::new().all(true).filters(&filter(owner)).build();
        let found = self.within(CALL, self.client()?.list_containers(Some(options))).await?;
        Ok(found.into_iter().filter_map(|one| one.id).collect())
    }

    /// What is known of a container.
    pub async fn inspect(&self, id: &str) -> Result<ContainerInspectResponse> {
        self.within(CALL, self.client()?.inspect_container(id, None)).await
    }

    /// Makes a container; its id.
    pub async fn create(&self, name: &str, body: ContainerCreateBody) -> Result<String> {
        let options = query::CreateContainerOptionsBuilder::new().name(name).build();
        Ok(self.within(WORK, self.client()?.create_container(Some(options), body)).await?.id)
    }

    /// Has a container join a further network.
    pub async fn join(&self, network: &str, id: &str) -> Result<()> {
        let request = NetworkConnectRequest { container: id.to_owned(), endpoint_config: None };
        self.within(WORK, self.client()?.connect_network(network, request)).await
    }

    /// Makes a network where there is none.
    pub async fn ensure_network(&self, name: &str, owner: &Owner) -> Result<()> {
        match self.within(CALL, self.client()?.inspect_network(name, None)).await {
            Err(Error::NotFound(_)) => {}
            known => return known.map(drop),
        }
        let request = NetworkCreateRequest {
            name: name.to_owned(),
            driver: Some("bridge".to_owned()),
            labels: Some(spec::owner_labels(owner).into()),
            ..NetworkCreateRequest::default()
        };
        match self.within(WORK, self.client()?.create_network(request)).await {
            // Another service was first.
            Ok(_) | Err(Error::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Starts a container.
    pub async fn start(&self, id: &str) -> Result<()> {
        self.within(WORK, self.client()?.start_container(id, None)).await
    }

    /// Has a container end, and kills it if it does not.
    pub async fn stop(&self, id: &str, grace: Duration) -> Result<()> {
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = query::StopContainerOptionsBuilder::new().t(seconds).build();
        gone_is_good(self.within(WORK + grace, self.client()?.stop_container(id, Some(options))).await)
    }

    /// Removes a container, and what it wrote.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let options = query::RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match self.within(WORK, self.client()?.remove_container(id, Some(options))).await {
            // Somebody else removes it already.
            Err(Error::Conflict(text)) if text.contains("in progress") => Ok(()),
            outcome => gone_is_good(outcome),
        }
    }

    /// What an image says of itself; nothing where it is not there.
    pub async fn image(&self, name: &str) -> Result<Option<ImageFacts>> {
        let found = match self.within(CALL, self.client()?.inspect_image(name)).await {
            Err(Error::NotFound(_)) => return Ok(None),
            found => found?,
        };
        let config = found.config.unwrap_or_default();
        let port = |text: &String| text.strip_suffix("/tcp").unwrap_or(text).parse::<u16>().ok();
        Ok(Some(ImageFacts {
            id: found.id.unwrap_or_default(),
            port: config.exposed_ports.unwrap_or_default().iter().filter_map(port).min(),
            user: config.user.filter(|user| !user.is_empty()),
        }))
    }

    /// The names of images that were built for services.
    pub async fn built_images(&self, owner: &Owner) -> Result<Vec<String>> {
        let pattern = format!("{}*", crate::config::service::BUILT);
        let mut filters = filter(owner);
        filters.insert("reference", vec![pattern]);
        let options = query::ListImagesOptionsBuilder::new().filters(&filters).build();
        let found = self.within(CALL, self.client()?.list_images(Some(options))).await?;
        Ok(found.into_iter().flat_map(|image| image.repo_tags).collect())
    }

    /// Removes an image by its name.
    pub async fn remove_image(&self, name: &str) -> Result<()> {
        gone_is_good(
            self.within(WORK, self.client()?.remove_image(name, None::<query::RemoveImageOptions>, None))
                .await
                .map(drop),
        )
    }

    /// Pulls an image; `told` hears how far it is. Bounded by how long nothing happens.
    pub async fn pull(&self, image: &str, mut told: impl FnMut(String)) -> Result<()> {
        let options = query::CreateImageOptionsBuilder::new();
        let options = match image.rsplit_once('@') {
            Some(_) => options.from_image(image),
            None => {
                let (name, tag) = split_tag(image);
                options.from_image(name).tag(tag)
            }
        };
        let mut steps = Box::pin(self.client()?.create_image(Some(options.build()), None, None));
        while let Some(step) = self.next(&mut steps).await? {
            if let Some(message) = step.error_detail.and_then(|error| error.message) {
                return Err(Error::Refused(message));
            }
            // Bars of bytes are of no use in lines.
            if let Some(status) =
                step.status.filter(|_| step.progress_detail.is_none_or(|detail| detail.total.is_none()))
            {
                let layer = step.id.map(|id| format!("{id}: ")).unwrap_or_default();
                told(format!("{layer}{status}"));
            }
        }
        Ok(())
    }

    /// Builds an image from an archive of its context; `told` hears what the build says.
    pub async fn build(
        &self,
        options: query::BuildImageOptions,
        context: impl Stream<Item = std::result::Result<bytes::Bytes, std::io::Error>> + Send + 'static,
        mut told: impl FnMut(String),
    ) -> Result<()> {
        let body = bollard::body_try_stream(context);
        let mut steps = Box::pin(self.client()?.build_image(options, None, Some(body)));
        while let Some(step) = self.next(&mut steps).await? {
            if let Some(message) = step.error_detail.and_then(|error| error.message) {
                return Err(Error::Refused(message));
            }
            for line in
                step.stream.or(step.status).unwrap_or_default().lines().filter(|line| !line.trim().is_empty())
            {
                told(line.to_owned());
            }
        }
        Ok(())
    }

    async fn next<T>(
        &self,
        steps: &mut (impl Stream<Item = std::result::Result<T, Cause>> + Unpin),
    ) -> Result<Option<T>> {
        let next = async { steps.next().await.transpose() };
        self.within(Duration::from_secs(STREAM), next).await
    }

    /// What happens to an owner's containers, from now on.
    pub fn events(&self, owner: &Owner) -> Result<impl Stream<Item = Result<EventMessage>> + Send + use<>> {
        const SEEN: [&str; 9] =
            ["start", "die", "oom", "destroy", "stop", "pause", "unpause", "restart", "health_status"];
        let mut filters = filter(owner);
        filters.insert("type", vec!["container".to_owned()]);
        filters.insert("event", SEEN.iter().map(|&event| event.to_owned()).collect());
        let options = query::EventsOptionsBuilder::new().filters(&filters).build();
        let (client, engine) = (self.client()?.clone(), self.clone());
        Ok(client.events(Some(options)).map(move |event| event.map_err(|cause| engine.told(cause))))
    }

    /// What a container has written.
    pub fn logs(
        &self,
        id: &str,
        options: query::LogsOptions,
    ) -> Result<impl Stream<Item = Result<LogOutput>> + Send + use<>> {
        let (client, engine) = (self.client()?.clone(), self.clone());
        Ok(client.logs(id, Some(options)).map(move |line| line.map_err(|cause| engine.told(cause))))
    }

    /// What a container uses: two readings a second apart, so that the use of processors can be told.
    pub async fn stats(&self, id: &str) -> Result<ContainerStatsResponse> {
        let options = query::StatsOptionsBuilder::new().stream(false).build();
        let mut all = Box::pin(self.client()?.stats(id, Some(options)));
        let first = async { all.next().await.transpose() };
        self.within(CALL, first).await?.ok_or(Error::Unreadable)
    }

    /// Runs a command in a container: its exit code, and the first `most` bytes of what it says.
    pub async fn exec(
        &self,
        id: &str,
        command: Vec<String>,
        limit: Duration,
        most: usize,
    ) -> Result<(i64, String)> {
        let options = CreateExecOptions {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command),
            ..CreateExecOptions::default()
        };
        let client = self.client()?;
        let made = self.within(CALL, client.create_exec(id, options)).await?;
        let started = self.within(CALL, client.start_exec(&made.id, None::<StartExecOptions>)).await?;
        let mut said = Vec::new();
        if let StartExecResults::Attached { mut output, .. } = started {
            let read = async {
                while let Some(part) = output.next().await {
                    let part = part?.into_bytes();
                    said.extend_from_slice(&part[..part.len().min(most.saturating_sub(said.len()))]);
                }
                Ok(())
            };
            self.within(limit, read).await?;
        }
        let ended = self.within(CALL, client.inspect_exec(&made.id)).await?;
        Ok((ended.exit_code.unwrap_or(-1), String::from_utf8_lossy(&said).into_owned()))
    }
}

/// Whoever is gone has ended and is removed.
fn gone_is_good(outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(Error::NotFound(_)) => Ok(()),
        outcome => outcome,
    }
}

fn filter(owner: &Owner) -> HashMap<&'static str, Vec<String>> {
    let labels = [(spec::DEPLOYMENT, owner.deployment.as_str()), (spec::NODE, owner.node.as_str())];
    HashMap::from([("label", labels.iter().map(|(name, value)| format!("{name}={value}")).collect())])
}

/// The name of an image and its tag. A colon before the last slash belongs to the registry's port.
fn split_tag(image: &str) -> (&str, &str) {
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (image, "latest"),
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
        let tls = Connection::parse("tcp://10.0.0.5:2376", Some("/certs".into()));
        assert_eq!(tls, Ok(Connection::Tls("10.0.0.5:2376".into(), "/certs".into())));
        for wrong in ["", "unix://docker.sock", "tcp://10.0.0.5", "https://10.0.0.5:2376", "ssh://x:1"] {
            assert!(plain(wrong).is_err(), "{wrong}");
        }
        assert!(Engine::new(Connection::Unix("/x".into()), "1").is_err());
    }

    #[test]
    fn a_port_is_no_tag() {
        assert_eq!(split_tag("nginx"), ("nginx", "latest"));
        assert_eq!(split_tag("host:5000/a/b"), ("host:5000/a/b", "latest"));
        assert_eq!(split_tag("host:5000/a:1"), ("host:5000/a", "1"));
    }
}
