//! One process: a line in, a line out (MCP, Transports, "stdio").

use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;

use super::MAX_MESSAGE;
use super::message::Message;

/// How long a process may take to end by itself when nobody writes to it any more.
const LEAVE: Duration = Duration::from_secs(2);

/// How many messages wait for a process that does not read.
const WAITING: usize = 64;

/// What is started.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The program and its arguments.
    pub(crate) command: Vec<OsString>,
    /// What it does not get of our environment.
    pub(crate) without: Vec<OsString>,
}

/// A message on its way to a process, and the room that it takes.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) room: Option<OwnedSemaphorePermit>,
}

/// A running process. Dropped, it is killed with whatever it has started.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    group: Option<Pid>,
    input: Option<mpsc::Sender<Line>>,
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

impl Program {
    /// Starts it. Its diagnostics go where ours go.
    pub(super) fn start(&self) -> io::Result<(Process, Output)> {
        let (program, arguments) =
            self.command.split_first().ok_or_else(|| io::Error::other("there is no program to start"))?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            // What it starts itself ends with it.
            .process_group(0)
            .kill_on_drop(true);
        for name in &self.without {
            command.env_remove(name);
        }
        let mut child = command.spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the program has no pipes"));
        };
        let (input, messages) = mpsc::channel(WAITING);
        let writer = tokio::spawn(write(stdin, messages));
        let lines = BufReader::new(stdout);
        Ok((Process { child, group, input: Some(input), writer }, Output { lines }))
    }
}

impl Process {
    /// What takes messages for it.
    pub(super) fn input(&self) -> Option<mpsc::Sender<Line>> {
        self.input.clone()
    }

    /// Waits until it has ended, whoever has its output by then.
    pub(super) async fn ended(&mut self) {
        if self.child.wait().await.is_err() {
            // It can't be waited for: its output tells.
            std::future::pending::<()>().await;
        }
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

async fn write(mut stdin: ChildStdin, mut messages: mpsc::Receiver<Line>) {
    while let Some(Line { mut text, room }) = messages.recv().await {
        text.push('\n');
        if stdin.write_all(text.as_bytes()).await.is_err() || stdin.flush().await.is_err() {
            return;
        }
        drop(room);
    }
}

impl Output {
    /// The next message. What is none is skipped: some programs greet.
    pub(super) async fn next(&mut self) -> Result<Message, Ended> {
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
            let length = line.len();
            match Message::read(line) {
                Ok(message) => return Ok(message),
                Err(_) => eprintln!("portcullis: the server has said what is no message: {length} bytes"),
            }
        }
    }
}
