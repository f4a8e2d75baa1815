//! The engine behind its API. Each call has a deadline; errors say what operators need and no more.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::Docker as Client;
use bollard::container::LogOutput;
use bollard::errors::Error as Cause;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStatsResponse, EventMessage, MountPoint,
    NetworkConnectRequest, NetworkCreateRequest,
};
use bollard::query_parameters as query;
use futures_util::{Stream, StreamExt};

use super::connection::{Connection, STREAM, Unusable};
use super::owner::Owner;
use super::policy::Mounted;
use super::spec::{self, ImageFacts};
use super::tls;

/// What a plain call may take.
const CALL: Duration = Duration::from_secs(20);

/// What the engine may take to make, start or remove a container, on a busy machine.
const WORK: Duration = Duration::from_secs(60);

/// Where an engine is usually.
pub const USUAL_SOCKET: &str = "/var/run/docker.sock";

/// Why the engine did not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody answers, or not who should.
    #[error("the Docker engine at {at} can't be reached: {why}")]
    Unreachable {
        /// Where it should be.
        at: String,
        /// What is in the way.
        why: String,
    },
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

/// An engine. A clone is a reference count.
#[derive(Clone)]
pub struct Engine {
    connection: Arc<Connection>,
    version: Option<(usize, usize)>,
    client: Arc<Mutex<Option<Client>>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Engine").field(&self.connection).finish()
    }
}

impl Engine {
    /// An engine that is spoken to in this version of the API, such as `1.44`, or else in its own.
    ///
    /// # Errors
    ///
    /// When the version is none.
    pub fn new(connection: Connection, version: Option<&str>) -> std::result::Result<Self, String> {
        let parse = |text: &str| {
            let parts = text.trim().split_once('.');
            let parts = parts.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
            parts.ok_or_else(|| format!("{text:?} is no version of the API: write e.g. 1.44"))
        };
        let version = version.map(parse).transpose()?;
        Ok(Self { connection: Arc::new(connection), version, client: Arc::default() })
    }

    /// Whether it can be asked at all, as far as that can be told without asking.
    ///
    /// # Errors
    ///
    /// What is wrong with its certificates.
    pub fn check(&self) -> std::result::Result<(), String> {
        match self.connection.client(self.version) {
            Ok(_) | Err(Unusable::Away) => Ok(()),
            Err(Unusable::Settings(why)) => Err(why),
        }
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

    fn client(&self) -> Result<Client> {
        let mut known = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*known {
            return Ok(client.clone());
        }
        let made = self.connection.client(self.version).map_err(|unusable| match unusable {
            Unusable::Away => self.unreachable("there is no such socket"),
            Unusable::Settings(why) => {
                Error::Settings(format!("the Docker engine at {} can't be used: {why}", self.connection))
            }
        })?;
        Ok(known.insert(made).clone())
    }

    fn unreachable(&self, why: impl Into<String>) -> Error {
        Error::Unreachable { at: self.connection.to_string(), why: why.into() }
    }

    fn told(&self, cause: Cause) -> Error {
        match cause {
            Cause::DockerResponseServerError { status_code: 404, message } => Error::NotFound(message),
            Cause::DockerResponseServerError { status_code: 409, message } => Error::Conflict(message),
            Cause::DockerResponseServerError { status_code, message } => {
                Error::Refused(plain(status_code, &message))
            }
            Cause::DockerStreamError { error } => Error::Refused(error),
            Cause::DockerContainerWaitError { error, .. } => Error::Refused(error),
            Cause::RequestTimeoutError => Error::Late,
            Cause::JsonDataError { .. } | Cause::JsonSerdeError { .. } | Cause::StrParseError { .. } => {
                Error::Unreadable
            }
            other => self.away(&other),
        }
    }

    /// Nobody answers; why.
    fn away(&self, cause: &Cause) -> Error {
        if let Connection::Tls(_, folder) = &*self.connection
            && let Some(why) = tls::reason(cause, folder)
        {
            // Certificates are renewed: the next one who asks reads them again.
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
            return self.unreachable(why);
        }
        let mut last: &dyn std::error::Error = cause;
        while let Some(source) = last.source() {
            last = source;
        }
        self.unreachable(last.to_string())
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

    /// What tells this engine from others. Machines that were copied have engines with the same id.
    pub async fn id(&self) -> Result<String> {
        let info = self.within(CALL, self.client()?.info()).await?;
        let parts = [info.id, info.name, info.docker_root_dir].map(Option::unwrap_or_default);
        Ok(parts.join(" "))
    }

    /// The containers of an owner, by the engine's names.
    pub async fn containers(&self, owner: &Owner) -> Result<Vec<String>> {
        let options = query::ListContainersOptionsBuilder::new().all(true).filters(&filter(owner)).build();
        let found = self.within(CALL, self.client()?.list_containers(Some(options))).await?;
        Ok(found.into_iter().filter_map(|one| one.id).collect())
    }

    /// All containers with a label, running or not, by the engine's names.
    pub async fn labelled(&self, label: &str) -> Result<Vec<String>> {
        let filters = HashMap::from([("label", vec![label.to_owned()])]);
        let options = query::ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
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

    /// The folders of the machine that containers of a deployment mount, and which may write: of all nodes on this engine.
    pub async fn mounted(&self, deployment: &str) -> Result<Vec<Mounted>> {
        let label = format!("{}={deployment}", spec::DEPLOYMENT);
        let filters = HashMap::from([("label", vec![label])]);
        let options = query::ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let found = self.within(CALL, self.client()?.list_containers(Some(options))).await?;
        let mounts = found.into_iter().flat_map(|one| {
            let labels = one.labels.unwrap_or_default();
            let service = labels.get(spec::SERVICE).cloned().unwrap_or_default();
            let folder = move |mount: MountPoint| {
                let is_folder = mount.typ.is_some_and(|kind| kind == "bind");
                let path = mount.source.filter(|_| is_folder)?;
                Some(Mounted { service: service.clone(), path, read_only: mount.rw == Some(false) })
            };
            one.mounts.unwrap_or_default().into_iter().filter_map(folder)
        });
        Ok(mounts.collect())
    }

    /// The deployment whose volume this is; empty when it is nobody's, nothing where there is none.
    pub async fn volume_owner(&self, name: &str) -> Result<Option<String>> {
        match self.within(CALL, self.client()?.inspect_volume(name)).await {
            Err(Error::NotFound(_)) => Ok(None),
            found => Ok(Some(found?.labels.remove(spec::DEPLOYMENT).unwrap_or_default())),
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
            bases: config.labels.unwrap_or_default().remove(spec::BASES),
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
        let client = self.client()?;
        let mut steps = Box::pin(client.build_image(options, None, Some(body)));
        // Steps may say nothing for long: how long a build takes in all is for whoever wants it.
        while let Some(step) = steps.next().await.transpose().map_err(|cause| self.told(cause))? {
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

    /// What happens to an owner's containers, from now on; to everybody's, where those of others are watched, too.
    pub fn events(
        &self,
        owner: &Owner,
        everybody: bool,
    ) -> Result<impl Stream<Item = Result<EventMessage>> + Send + use<>> {
        const SEEN: [&str; 9] =
            ["start", "die", "oom", "destroy", "stop", "pause", "unpause", "restart", "health_status"];
        // Addresses and names of ours change with a new container only.
        const OF_OTHERS: [&str; 4] = ["create", "rename", "connect", "disconnect"];
        let mut filters = if everybody { HashMap::new() } else { filter(owner) };
        let types: &[&str] = if everybody { &["container", "network"] } else { &["container"] };
        let more: &[&str] = if everybody { &OF_OTHERS } else { &[] };
        filters.insert("type", types.iter().map(|&kind| kind.to_owned()).collect());
        filters.insert("event", SEEN.iter().chain(more).map(|&event| event.to_owned()).collect());
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

    /// What a container uses, again each second.
    pub fn follow_stats(
        &self,
        id: &str,
    ) -> Result<impl Stream<Item = Result<ContainerStatsResponse>> + Send + use<>> {
        let options = query::StatsOptionsBuilder::new().stream(true).build();
        let (client, engine) = (self.client()?.clone(), self.clone());
        Ok(client.stats(id, Some(options)).map(move |stats| stats.map_err(|cause| engine.told(cause))))
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

/// What an answer says. Proxies in front of engines say it in pages.
fn plain(status: u16, message: &str) -> String {
    let message = message.trim();
    match status {
        _ if !message.is_empty() && !message.starts_with('<') => message.to_owned(),
        403 => "what stands in front of it does not allow this call (403)".to_owned(),
        _ => format!("the answer is {status}, without a word why"),
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
    fn what_is_no_version_of_the_api_is_refused() {
        let engine = |version| Engine::new(Connection::Unix("/x".into()), version);
        assert!(engine(Some("1")).is_err() && engine(Some("v1.41")).is_err());
        assert!(engine(Some("1.41")).is_ok() && engine(None).is_ok());
    }

    #[test]
    fn a_page_is_no_message() {
        assert_eq!(plain(400, "no such option\n"), "no such option");
        assert!(plain(403, "<html>Forbidden</html>").contains("does not allow"));
        assert!(plain(500, "").contains("500"));
    }

    #[test]
    fn a_port_is_no_tag() {
        assert_eq!(split_tag("nginx"), ("nginx", "latest"));
        assert_eq!(split_tag("host:5000/a/b"), ("host:5000/a/b", "latest"));
        assert_eq!(split_tag("host:5000/a:1"), ("host:5000/a", "1"));
    }
}
