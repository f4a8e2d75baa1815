//! Tells HTTP/2 with prior knowledge (RFC 9113, section 3.4) from HTTP/1.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::Shared;
use crate::prefixed::Prefixed;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads until it is clear whether the connection speaks HTTP/2, and puts the bytes back.
pub(super) async fn read<I>(mut io: I, shared: &Shared) -> io::Result<(Prefixed<I>, bool)>
where
    I: AsyncRead + Unpin,
{
    let mut seen = BytesMut::with_capacity(PREFACE.len());
    let reading = async {
        while seen.len() < PREFACE.len() && PREFACE.starts_with(&seen) {
            let mut limited = (&mut io).take((PREFACE.len() - seen.len()) as u64);
            if limited.read_buf(&mut seen).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    let mut deadline = shared.ticker.deadline();
    let limited = deadline.limit(shared.settings.head_deadline, reading);
    match shared.drain.stopping().run_until_cancelled(limited).await {
        // A stop tells whoever serves what was read so far, too.
        None => {}
        Some(Some(read)) => read?,
        Some(None) => {
            shared.counters.silent.count();
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no first request came in time"));
        }
    }
    let http2 = seen == PREFACE;
    Ok((Prefixed::new(Bytes::from(seen), io), http2))
}
