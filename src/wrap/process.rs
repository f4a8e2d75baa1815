//! One process: a line in, a line out (MCP, Transports, "stdio").

use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::MAX_MESSAGE;

/// How long a process may take to end by itself when nobody writes to it any more.
const LEAVE: Duration = Duration::from_secs(2);

/// How many messages wait for a process that does not read.
const WAITING: usize = 64;

/// A running process. Dropped, it is killed with whatever it has started.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    group: Option<Pid>,
    input: Option<mpsc::Sender<String>>,
    writer: JoinHandle<()>,
}

/// What a process says.
#[derive(Debug)]
pub(super) struct Output {
    lines: BufReader<ChildStdout>,
}

/// Why there is nothing more to hear.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("it has closed its output")]
    Closed,
    #[error("it has said more than {MAX_MESSAGE} bytes in one line")]
    TooLong,
    #[error("its output can't be read: {0}")]
    Unreadable(#[from] io::Error),
}

impl Process {
    /// Starts one. Its diagnostics go where ours go.
    pub(super) fn start(command: &[OsString]) -> io::Result<(Self, Output)> {
        let (program, arguments) =
            command.split_first().ok_or_else(|| io::Error::other("there is no program to start"))?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            // What it starts itself ends with it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the program has no pipes"));
        };
        let (input, messages) = mpsc::channel(WAITING);
        let writer = tokio::spawn(write(stdin, messages));
        let lines = BufReader::new(stdout);
        Ok((Self { child, group, input: Some(input), writer }, Output { lines }))
    }

    /// What takes messages for it. A message must not have line breaks, which JSON has none of outside of texts when it
    /// is written in one line.
    pub(super) fn input(&self) -> Option<mpsc::Sender<String>> {
        self.input.clone()
    }

    /// Ends it: its input first, then by signals.
    pub(super) async fn end(mut self) -> Option<ExitStatus> {
        self.input = None;
        let _written = tokio::time::timeout(LEAVE, &mut self.writer).await;
        if let Ok(Ok(status)) = tokio::time::timeout(LEAVE, self.child.wait()).await {
            self.signal(Signal::KILL);
            return Some(status);
        }
        self.signal(Signal::TERM);
        if let Ok(Ok(status)) = tokio::time::timeout(LEAVE, self.child.wait()).await {
            self.signal(Signal::KILL);
            return Some(status);
        }
        self.signal(Signal::KILL);
        self.child.wait().await.ok()
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // It may be gone already.
            let _gone = kill_process_group(group, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.writer.abort();
        self.signal(Signal::KILL);
    }
}

async fn write(mut stdin: ChildStdin, mut messages: mpsc::Receiver<String>) {
    while let Some(mut message) = messages.recv().await {
        message.push('\n');
        if stdin.write_all(message.as_bytes()).await.is_err() || stdin.flush().await.is_err() {
            return;
        }
    }
}

impl Output {
    /// The next message. What is no JSON is skipped: some programs greet.
    pub(super) async fn next(&mut self) -> Result<Value, Ended> {
        loop {
            let mut line = Vec::new();
            let most = u64::try_from(MAX_MESSAGE).unwrap_or(u64::MAX) + 1;
            let read = (&mut self.lines).take(most).read_until(b'\n', &mut line).await?;
            if read == 0 {
                return Err(Ended::Closed);
            }
            if line.last() != Some(&b'\n') && line.len() > MAX_MESSAGE {
                return Err(Ended::TooLong);
            }
            match serde_json::from_slice::<Value>(&line) {
                Ok(message @ Value::Object(_)) => return Ok(message),
                _ => eprintln!("portcullis: the server has said what is no message: {} bytes", line.len()),
            }
        }
    }
}
