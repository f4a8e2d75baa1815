//! The task that carries bytes both ways once a tunnel stands.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::context::{OnTunnelEnd, TunnelEnd};
use crate::deadline::{Deadline, Ticker};

use super::balance::InFlight;
use super::io::UpstreamIo;
use super::live::Registration;

/// A message of a WebSocket is small; a transfer makes its buffer grow.
const FIRST_BUFFER: usize = 4 * 1024;
const MAX_BUFFER: usize = 64 * 1024;

/// How long one side may stand still after the other has said its last.
const LINGER: Duration = Duration::from_secs(60);

/// How long a tunnel that is closed by us may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// A tunnel whose two ends are about to be there.
pub(super) struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) upstream: UpstreamIo,
    /// What came from the upstream with its 101.
    pub(super) early: Bytes,
    pub(super) registration: Registration,
    pub(super) on_end: OnTunnelEnd,
    pub(super) ticker: Ticker,
    /// Until its end the upstream is at work.
    pub(super) in_flight: Option<InFlight>,
}

impl Tunnel {
    /// Carries bytes until one side has closed, or the tunnel is closed by its registration.
    pub(super) async fn run(self) {
        let Self { client, upstream, early, mut registration, on_end, ticker, in_flight } = self;
        // The client's end first: it is there, or has failed, as soon as the 101 is written, so that
        // whoever waits for the end of the tunnel has said so by then.
        let end = match client.await {
            Ok(client) => copy(TokioIo::new(client), upstream, early, &mut registration, &ticker).await,
            Err(error) => {
                tracing::debug!(%error, "client was gone before the tunnel stood");
                TunnelEnd::default()
            }
        };
        drop(in_flight);
        on_end.end(end);
        // Whoever waits for the last tunnel to be gone finds its end told.
        drop(registration);
    }
}

async fn copy<A, B>(
    mut client: A,
    mut upstream: B,
    early: Bytes,
    registration: &mut Registration,
    ticker: &Ticker,
) -> TunnelEnd
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut up = Direction::new(Bytes::new());
    let mut down = Direction::new(early);
    let mut linger = ticker.deadline();
    let outcome = poll_fn(|cx| {
        if registration.poll_closed(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let before = up.moved + down.moved;
        let up_polled = up.poll(cx, &mut client, &mut upstream)?;
        let down_polled = down.poll(cx, &mut upstream, &mut client)?;
        match (up_polled, down_polled) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
            (Poll::Pending, Poll::Pending) => Poll::Pending,
            _ => poll_linger(cx, &mut linger, up.moved + down.moved != before).map(Ok::<_, io::Error>),
        }
    })
    .await;
    if let Err(error) = outcome {
        tracing::trace!(%error, "tunnel broke");
    }
    let goodbye = async {
        let (_, _) = futures_util::future::join(client.shutdown(), upstream.shutdown()).await;
    };
    let _: Option<()> = ticker.deadline().limit(GOODBYE, goodbye).await;
    TunnelEnd { received: up.moved, sent: down.moved }
}

/// Ready when one side has been silent for too long after the other has closed.
fn poll_linger(cx: &mut Context<'_>, linger: &mut Deadline, moved: bool) -> Poll<()> {
    if moved || !linger.is_armed() {
        linger.arm(LINGER);
    }
    linger.poll_passed(cx)
}

/// Bytes on their way from one side to the other.
struct Direction {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    moved: u64,
    unflushed: bool,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The reading side has ended; what is left is to be written.
    Ending,
    Ended,
}

impl Direction {
    /// `early` was read before the tunnel stood.
    fn new(early: Bytes) -> Self {
        let mut buffer = Vec::from(early);
        let end = buffer.len();
        buffer.resize(end.max(FIRST_BUFFER), 0);
        Self { buffer, start: 0, end, moved: 0, unflushed: false, state: State::Open }
    }

    /// Ready when the reading side has ended and the writing side was told.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while self.start < self.end {
                let pending = &self.buffer[self.start..self.end];
                let count = ready!(Pin::new(&mut *to).poll_write(cx, pending))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.start += count;
                self.moved += count as u64;
                self.unflushed = true;
            }
            match self.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.state = State::Ended;
                    return Poll::Ready(Ok(()));
                }
                State::Open => {}
            }
            // A read that filled the buffer: there is more where it came from.
            if self.end == self.buffer.len() && self.buffer.len() < MAX_BUFFER {
                self.buffer.resize((self.buffer.len() * 4).min(MAX_BUFFER), 0);
            }
            (self.start, self.end) = (0, 0);
            let mut read = ReadBuf::new(&mut self.buffer);
            match Pin::new(&mut *from).poll_read(cx, &mut read)? {
                Poll::Ready(()) => match read.filled().len() {
                    0 => self.state = State::Ending,
                    count => self.end = count,
                },
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::context::RequestContext;
    use crate::forward::live::{StreamKind, Tunnels};

    fn tunnel(
        early: &'static [u8],
    ) -> (DuplexStream, DuplexStream, CancellationToken, JoinHandle<TunnelEnd>) {
        let (client, client_end) = duplex(64);
        let (upstream, upstream_end) = duplex(64);
        let ticker = Ticker::new(1);
        let token = CancellationToken::new();
        let mut registration =
            Tunnels::new(1).register(StreamKind::Tunnel, &RequestContext::default(), &token, &ticker);
        let task = tokio::spawn(async move {
            copy(client_end, upstream_end, Bytes::from_static(early), &mut registration, &ticker).await
        });
        (client, upstream, token, task)
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_are_counted() {
        let (mut client, mut upstream, _token, task) = tunnel(b"early ");
        let big: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        let sent = big.clone();
        let writer = tokio::spawn(async move {
            client.write_all(&sent).await.expect("open");
            client.shutdown().await.expect("open");
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.expect("open");
            answer
        });
        let mut got = Vec::new();
        upstream.read_to_end(&mut got).await.expect("open");
        assert_eq!(got, big);
        // The other half is still open.
        upstream.write_all(b"answer").await.expect("open");
        drop(upstream);
        assert_eq!(writer.await.expect("no panic"), b"early answer");
        assert_eq!(task.await.expect("no panic"), TunnelEnd { received: 100_000, sent: 12 });
    }

    #[tokio::test]
    async fn a_closed_tunnel_ends_on_both_sides() {
        let (mut client, mut upstream, token, task) = tunnel(b"");
        client.write_all(b"x").await.expect("open");
        assert_eq!(upstream.read_u8().await.expect("open"), b'x');
        token.cancel();
        assert_eq!(client.read(&mut [0; 1]).await.expect("an end"), 0);
        assert_eq!(upstream.read(&mut [0; 1]).await.expect("an end"), 0);
        assert_eq!(task.await.expect("no panic"), TunnelEnd { received: 1, sent: 0 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_closed_tunnel_does_not_linger_for_ever() {
        let (mut client, _upstream, _token, task) = tunnel(b"");
        client.shutdown().await.expect("open");
        assert_eq!(task.await.expect("no panic"), TunnelEnd::default());
    }
}
