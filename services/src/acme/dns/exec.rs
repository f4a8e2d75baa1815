//! A program of the deployment that changes the DNS: `PROGRAM present NAME VALUE` and `PROGRAM cleanup NAME VALUE`.
//! No shell is between, and of the daemon's environment, where secrets may be, the program gets only what every
//! program needs.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::rr::Name;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tracing::warn;

use super::delegation::Resolvers;
use super::{DnsError, DnsProvider, parse};

/// What the program gets of the environment.
const ENVIRONMENT: [&str; 7] = ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR"];

/// How much of what it says is kept of each of its two outputs.
const KEPT: usize = 2048;

/// How long it may take unless the settings say otherwise: it may have to wait until all servers of a zone know.
const LIMIT: Duration = Duration::from_secs(120);

/// A program that changes the DNS. It is successful when it ends with 0, and must then have waited until the record
/// can be seen. What it starts must not outlive it with its outputs open: the run is over when those are closed too.
#[derive(Debug, Clone)]
pub struct Exec {
    program: PathBuf,
    limit: Duration,
    resolvers: Resolvers,
}

impl Exec {
    /// `program` is run as it is, in the root folder.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), limit: LIMIT, resolvers: Resolvers::default() }
    }

    /// How long one run may take.
    #[must_use]
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Who is asked about delegations.
    #[must_use]
    pub fn with_resolvers(self, resolvers: Resolvers) -> Self {
        Self { resolvers, ..self }
    }

    async fn run(&self, verb: &'static str, name: &str, value: &str) -> Result<(), DnsError> {
        let name = plain(&self.resolvers.follow(&parse(name)?, None).await?);
        // Where it leads is said by whoever has the zone, who may not be ours.
        parse(&name)?;
        let failed = |source| DnsError::NotRun { program: self.program.clone(), source };
        let mut command = Command::new(&self.program);
        command.arg(verb).arg(&name).arg(value);
        command.env_clear().envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.current_dir(Path::new("/"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, so that what it starts can be ended with it.
        let child = command.process_group(0).kill_on_drop(true).spawn().map_err(failed)?;
        let mut running = Running { child };
        match timeout(self.limit, running.ended()).await {
            Ok(Ok((status, _))) if status.success() => Ok(()),
            Ok(Ok((status, output))) => {
                warn!(program = %self.program.display(), verb, name, %status, output, "a program did not change the DNS");
                Err(DnsError::Failed { program: self.program.clone(), verb, name, status, output })
            }
            Ok(Err(source)) => Err(failed(source)),
            Err(_elapsed) => {
                Err(DnsError::Endured { program: self.program.clone(), verb, name, limit: self.limit })
            }
        }
    }
}

#[async_trait]
impl DnsProvider for Exec {
    async fn present(&self, name: &str, value: &str) -> Result<(), DnsError> {
        self.run("present", name, value).await
    }

    async fn cleanup(&self, name: &str, value: &str) -> Result<(), DnsError> {
        self.run("cleanup", name, value).await
    }
}

/// The program while it runs; it and all that it started are ended with this value.
struct Running {
    child: Child,
}

impl Running {
    /// How it ended, and the start of what it said.
    async fn ended(&mut self) -> std::io::Result<(ExitStatus, String)> {
        let (stdout, stderr) = (self.child.stdout.take(), self.child.stderr.take());
        let (stdout, stderr) = tokio::try_join!(start_of(stdout), start_of(stderr))?;
        // Waited for at last: until then its id, by which the group is ended, can't become another's.
        let status = self.child.wait().await?;
        Ok((
            status,
            [stdout, stderr].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; "),
        ))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // None once it was waited for.
        if let Some(group) = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            // Fails when nobody is left.
            let _ended = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The start of an output, in one line; the rest is read too, or the program would wait for a reader.
async fn start_of(output: Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let Some(mut output) = output else { return Ok(String::new()) };
    let mut kept = Vec::new();
    (&mut output).take(KEPT as u64).read_to_end(&mut kept).await?;
    tokio::io::copy(&mut output, &mut tokio::io::sink()).await?;
    let text = String::from_utf8_lossy(&kept);
    let words = text.split(|character: char| character.is_whitespace() || character.is_control());
    Ok(words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" "))
}

/// A name as people write it, without the dot of the root.
fn plain(name: &Name) -> String {
    let mut name = name.to_ascii();
    name.truncate(name.trim_end_matches('.').len());
    name
}
