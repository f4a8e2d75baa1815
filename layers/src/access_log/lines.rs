//! Records as lines of JSON on standard output, in a file, or on any other byte stream.

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::queue::{Deliver, Line, Undelivered};

/// Writes the records of a [`Queue`](super::Queue), one on each line.
///
/// It does not rotate files, and what can't be written is lost: part of it may have been.
#[derive(Debug)]
pub struct Lines<W> {
    writer: W,
    buffer: BytesMut,
}

impl<W> Lines<W> {
    /// Writes to `writer`, e.g. `tokio::io::stdout()`.
    pub fn new(writer: W) -> Self {
        Self { writer, buffer: BytesMut::new() }
    }
}

impl<W: AsyncWrite + Unpin + Send> Deliver for Lines<W> {
    async fn deliver(&mut self, batch: &[Line]) -> Result<(), Undelivered> {
        self.buffer.clear();
        for line in batch {
            self.buffer.put_slice(&line.bytes);
            self.buffer.put_u8(b'\n');
        }
        let written = async {
            self.writer.write_all(&self.buffer).await?;
            self.writer.flush().await
        };
        written.await.map_err(|error| Undelivered::Never(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncReadExt;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::access_log::record::tests::plain;
    use crate::access_log::{Queue, Sink};

    #[tokio::test]
    async fn each_record_is_a_line() {
        let (writer, mut reader) = tokio::io::duplex(1 << 16);
        let queue = Queue::new(1, 1 << 20);
        let stop = CancellationToken::new();
        let task = tokio::spawn(queue.clone().run(Lines::new(writer), stop.clone()));
        queue.emit(&plain());
        queue.emit(&plain());
        assert!(queue.flush(Duration::from_secs(10)).await);
        stop.cancel();
        task.await.unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text.lines().count(), 2);
        for line in text.lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(value["status_code"], 200);
        }
    }
}
