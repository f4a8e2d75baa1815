//! What the containers of a service write: the last lines, or each line as it comes. What is held is bounded.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::query_parameters::{LogsOptions, LogsOptionsBuilder};
use clap::Args;
use futures_util::stream::{self, BoxStream, SelectAll};
use futures_util::{Stream, StreamExt};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Error, containers, here};
use crate::config::{FieldError, ServiceName};
use crate::control::operation::get;
use crate::control::{Access, Context, Control, Endpoint, Operation};
use crate::docker::engine::{self, Engine};
use crate::docker::state::{All, ContainerState};

/// The most lines of an answer, and its most bytes.
const MAX_LINES: u32 = 10_000;
const MAX_BYTES: usize = 4 << 20;

/// What an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which lines are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Args)]
pub struct Wanted {
    /// How many of the last lines: up to 10,000.
    #[serde(default = "hundred")]
    #[arg(long, default_value_t = 100)]
    pub lines: u32,
    /// Only lines since then: a time such as 2026-01-01T00:00:00Z, or so long ago, e.g. `10m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub since: Option<String>,
    /// Put its time before each line.
    #[serde(default)]
    #[arg(long)]
    pub timestamps: bool,
    /// Only this replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub replica: Option<u32>,
}

const fn hundred() -> u32 {
    100
}

impl Wanted {
    fn options(&self, follow: bool) -> Result<LogsOptions, Error> {
        if self.lines > MAX_LINES {
            let detail = format!("expected up to {MAX_LINES}");
            return Err(Error::invalid(FieldError::new("lines", self.lines, detail)));
        }
        let since = self.since.as_deref().map(since).transpose()?.unwrap_or_default();
        Ok(LogsOptions { since, ..self.plain(follow) })
    }

    fn plain(&self, follow: bool) -> LogsOptions {
        LogsOptionsBuilder::new()
            .stdout(true)
            .stderr(true)
            .follow(follow)
            .timestamps(self.timestamps)
            .tail(&self.lines.to_string())
            .build()
    }
}

/// A moment in seconds since 1970: a time, or so long ago.
fn since(text: &str) -> Result<i32, Error> {
    let unit = |unit: char| match unit {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3600),
        'd' => Some(86_400),
        _ => None,
    };
    let ago = text.chars().next_back().and_then(unit).and_then(|unit| {
        let number: i64 =
            text[..text.len() - 1].parse().ok().filter(|number| (0..=36_500).contains(number))?;
        Some(Timestamp::now().as_second() - number * unit)
    });
    let seconds = ago.or_else(|| text.parse::<Timestamp>().ok().map(Timestamp::as_second));
    seconds.and_then(|seconds| i32::try_from(seconds).ok()).ok_or_else(|| {
        let detail = "expected a time such as 2026-01-01T00:00:00Z, or how long ago, e.g. `10m` or `2h`";
        Error::invalid(FieldError::new("since", text, detail))
    })
}

/// What the containers of a service have written.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Written {
    /// The service.
    pub service_name: ServiceName,
    /// The lines, those of one container after those of another.
    pub logs: String,
    /// How many lines.
    pub lines: usize,
    /// Whether older lines were left out because they would be too large.
    pub truncated: bool,
}

/// Show what the containers of a Docker service have written last.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct ServiceLogs {
    /// Its name.
    pub service_name: ServiceName,
    /// Which lines.
    #[serde(flatten)]
    #[command(flatten)]
    pub wanted: Wanted,
}

impl Operation for ServiceLogs {
    const NAME: &'static str = "service_logs";
    const COMMAND: &'static [&'static str] = &["service", "logs"];
    const HTTP: Endpoint = get("/services/{service_name}/logs");
    // Programs write what they like there.
    const SCOPE: Access = Access::Admin;
    type Output = Written;

    async fn run(self, control: &Control, ctx: &Context) -> Result<Written, Error> {
        let mut lines = open(control, &self.service_name, &self.wanted).await?;
        let mut last = Last::default();
        let read = async {
            while let Some(next) = lines.next().await {
                last.push(line(next?));
            }
            Ok::<_, Error>(())
        };
        tokio::select! {
            read = tokio::time::timeout(PATIENCE, read) => read.map_err(|_| engine::Error::Late)??,
            () = ctx.cancel.cancelled() => return Err(Error::Cancelled),
        }
        let (lines, truncated) = (last.lines.len(), last.truncated);
        let logs: String = last.lines.into_iter().collect();
        Ok(Written { service_name: self.service_name, logs, lines, truncated })
    }
}

/// The last lines, as many as fit.
#[derive(Default)]
struct Last {
    lines: VecDeque<String>,
    bytes: usize,
    truncated: bool,
}

impl Last {
    fn push(&mut self, line: String) {
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.bytes > MAX_BYTES {
            let Some(first) = self.lines.pop_front() else { return };
            self.bytes -= first.len();
            self.truncated = true;
        }
    }
}

/// What a container wrote, as text.
pub(crate) fn line(output: LogOutput) -> String {
    String::from_utf8_lossy(&output.into_bytes()).into_owned()
}

/// What one container writes.
type Lines = BoxStream<'static, Result<LogOutput, engine::Error>>;

async fn open(control: &Control, service: &ServiceName, wanted: &Wanted) -> Result<Lines, Error> {
    let options = wanted.options(false)?;
    let (docker, service) = here(control, service).await?;
    let mut streams = Vec::new();
    for one in containers(docker, &service, wanted.replica)? {
        streams.push(docker.engine.logs(&one.id, options.clone())?.boxed());
    }
    // Old ones first, so that what is newest stands last.
    streams.reverse();
    Ok(stream::iter(streams).flatten().boxed())
}

/// Each line as it comes, from the last ones on, also of the containers that take the place of those that are there. It
/// ends with the service. Nobody reads ahead of whoever takes the lines.
pub(crate) async fn follow(
    control: &Control,
    service: &ServiceName,
    wanted: &Wanted,
) -> Result<impl Stream<Item = Result<LogOutput, engine::Error>> + Send + use<>, Error> {
    let options = wanted.options(true)?;
    let (docker, service) = here(control, service).await?;
    let mut followed = Followed {
        engine: docker.engine.clone(),
        board: docker.board.subscribe(),
        service: service.service_name.clone(),
        wanted: Wanted { lines: MAX_LINES, since: None, ..wanted.clone() },
        seen: HashSet::new(),
        streams: SelectAll::new(),
        ended: false,
    };
    followed.board.mark_unchanged();
    for one in containers(docker, &service, wanted.replica)? {
        followed.streams.push(docker.engine.logs(&one.id, options.clone())?.boxed());
        followed.seen.insert((one.id, one.started_at));
    }
    Ok(stream::unfold(followed, async |mut followed| Some((followed.next().await?, followed))))
}

/// The containers of a service whose lines somebody follows.
struct Followed {
    engine: Engine,
    board: watch::Receiver<All>,
    service: ServiceName,
    /// For those that come later.
    wanted: Wanted,
    /// By id, and by when they were started: the engine ends the lines of one that ends.
    seen: HashSet<(String, Option<String>)>,
    streams: SelectAll<Lines>,
    ended: bool,
}

impl Followed {
    async fn next(&mut self) -> Option<Result<LogOutput, engine::Error>> {
        loop {
            tokio::select! {
                Some(line) = self.streams.next() => return Some(line),
                changed = self.board.changed(), if !self.ended => {
                    self.ended = changed.is_err();
                    if let Err(error) = self.look() {
                        return Some(Err(error));
                    }
                }
                else => return None,
            }
        }
    }

    /// Adds the containers that were started meanwhile.
    fn look(&mut self) -> engine::Result<()> {
        let Some(known) = self.board.borrow_and_update().get(&self.service).cloned() else {
            self.ended = true;
            return Ok(());
        };
        self.seen.retain(|(id, _)| known.containers.iter().any(|one| one.id == *id));
        let wanted = |one: &&ContainerState| self.wanted.replica.is_none_or(|replica| one.replica == replica);
        for one in known.containers.iter().filter(|one| one.state == "running").filter(wanted) {
            if self.seen.insert((one.id.clone(), one.started_at.clone())) {
                let started = one.started_at.as_ref().and_then(|at| at.parse::<Timestamp>().ok());
                let since = started.and_then(|at| i32::try_from(at.as_second()).ok()).unwrap_or_default();
                let options = LogsOptions { since, ..self.wanted.plain(true) };
                self.streams.push(self.engine.logs(&one.id, options)?.boxed());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded() {
        let mut last = Last::default();
        for at in 0..100 {
            last.push(format!("{at}{}", "x".repeat(100_000)));
        }
        assert!(last.bytes <= MAX_BYTES && last.truncated);
        assert!(last.lines.back().expect("lines").starts_with("99"));
    }

    #[test]
    fn since_is_a_time_or_how_long_ago() {
        let now = Timestamp::now().as_second();
        assert!((i64::from(since("10m").expect("good")) - (now - 600)).abs() < 5);
        assert_eq!(since("2026-01-01T00:00:00Z").expect("good"), 1_767_225_600);
        for wrong in ["", "m", "-1m", "soon", "ü"] {
            assert!(since(wrong).is_err(), "{wrong}");
        }
    }
}
