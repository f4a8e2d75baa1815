//! Who keeps a connection waiting, and who may be silent. Time is virtual.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::support::{Seen, echo, endless, read_all, read_until, serve, statuses};
use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::StreamBody;
use portcullis_layers::body::{Body, BoxError};
use portcullis_layers::serve::Settings;
use portcullis_layers::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn about(elapsed: Duration, seconds: u64) -> bool {
    elapsed >= Duration::from_secs(seconds) && elapsed < Duration::from_secs(seconds + 4)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_sent_away() {
    for alpn in [None, Some("http/1.1"), Some("h2")] {
        let (mut client, served) = serve(alpn, Settings::default(), echo(&Seen::default()));
        let begun = Instant::now();
        let text = read_all(&mut client).await;
        assert!(about(begun.elapsed(), 10), "{alpn:?}: {:?}, {text:?}", begun.elapsed());
        assert_eq!(served.counters.silent.get(), 1, "{alpn:?}");
        drop(client);
        let _ = served.connection.await.expect("no panic");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_drips_is_refused_in_time() {
    let (client, _served) = serve(None, Settings::default(), echo(&Seen::default()));
    let (mut reader, mut writer) = tokio::io::split(client);
    let begun = Instant::now();
    let drip = tokio::spawn(async move {
        writer.write_all(b"GET / HTTP/1.1\r\n").await?;
        loop {
            writer.write_all(b"X: y\r\n").await?;
            sleep(Duration::from_secs(1)).await;
        }
        #[expect(unreachable_code, reason = "names the type")]
        std::io::Result::Ok(())
    });
    let text = read_all(&mut reader).await;
    assert!(text.starts_with("HTTP/1.1 408 ") && text.contains("connection: close"), "{text}");
    assert!(about(begun.elapsed(), 10), "{:?}", begun.elapsed());
    drip.abort();
}

#[tokio::test(start_paused = true)]
async fn between_requests_a_client_may_be_idle_for_longer() {
    let (mut client, served) = serve(None, Settings::default(), echo(&Seen::default()));
    for _ in 0..3 {
        client.write_all(GET).await.expect("writes");
        read_until(&mut client, "GET /: ").await;
        sleep(Duration::from_secs(60)).await;
    }
    let begun = Instant::now();
    assert_eq!(read_all(&mut client).await, "");
    assert!(about(begun.elapsed(), 15), "{:?}", begun.elapsed());
    assert_eq!(served.counters.idle.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_later_head_has_a_deadline_from_its_first_byte() {
    let (mut client, _served) = serve(None, Settings::default(), echo(&Seen::default()));
    client.write_all(GET).await.expect("writes");
    read_until(&mut client, "GET /: ").await;
    sleep(Duration::from_secs(60)).await;
    client.write_all(b"GET / HT").await.expect("writes");
    let begun = Instant::now();
    let text = read_all(&mut client).await;
    assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
    assert!(about(begun.elapsed(), 10), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stands_still_is_given_up() {
    for (first, pause) in [("", 3600), ("h", 9)] {
        let (mut client, served) = serve(None, Settings::default(), echo(&Seen::default()));
        client
            .write_all(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{first}").as_bytes())
            .await
            .expect("writes");
        let begun = Instant::now();
        let (mut reader, mut writer) = tokio::io::split(client);
        let drip = tokio::spawn(async move {
            for _ in 0..40 {
                sleep(Duration::from_secs(pause)).await;
                let _ = writer.write_all(b"x").await;
            }
        });
        let text = read_until(&mut reader, "request_body_timeout").await;
        assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
        assert!(about(begun.elapsed(), 30), "{:?}", begun.elapsed());
        assert_eq!(served.counters.stalled_bodies.get(), 1);
        drip.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_that_moves_on_is_waited_for() {
    let (mut client, _served) = serve(None, Settings::default(), echo(&Seen::default()));
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n").await.expect("writes");
    for _ in 0..10 {
        sleep(Duration::from_secs(20)).await;
        client.write_all(&[b'x'; 100]).await.expect("writes");
    }
    read_until(&mut client, &"x".repeat(1000)).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_reads_is_not_the_fault_of_the_client() {
    let service = tower::service_fn(|request: Request| async move {
        sleep(Duration::from_secs(300)).await;
        let body = http_body_util::BodyExt::collect(request.into_body()).await?.to_bytes();
        Ok::<_, BoxError>(Response::new(Body::from(body)))
    });
    let (mut client, _served) = serve(None, Settings::default(), service);
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await.expect("writes");
    read_until(&mut client, "hello").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_given_up() {
    let (mut client, served) = serve(None, Settings::default(), endless(&Arc::default(), 16 * 1024));
    client.write_all(GET).await.expect("writes");
    let begun = Instant::now();
    assert!(served.connection.await.expect("no panic").is_err());
    assert!(about(begun.elapsed(), 60), "{:?}", begun.elapsed());
    assert_eq!(served.counters.stalled_writes.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_is_served() {
    let (mut client, served) = serve(None, Settings::default(), endless(&Arc::default(), 16 * 1024));
    client.write_all(GET).await.expect("writes");
    let mut bytes = vec![0; 64 * 1024];
    for _ in 0..20 {
        sleep(Duration::from_secs(50)).await;
        client.read_exact(&mut bytes).await.expect("reads");
    }
    assert!(!served.connection.is_finished());
}

#[tokio::test(start_paused = true)]
async fn slow_readers_cost_bounded_memory() {
    let taken = Arc::new(AtomicUsize::new(0));
    let mut clients = Vec::new();
    for _ in 0..150 {
        let (mut client, served) = serve(None, Settings::default(), endless(&taken, 16 * 1024));
        client.write_all(GET).await.expect("writes");
        clients.push((client, served));
    }
    // As long as all of them are waited for.
    sleep(Duration::from_secs(50)).await;
    // In the pipe, which stands for the socket, and in hyper's buffer: 64 KiB each, and two pieces.
    let each = taken.load(Ordering::Relaxed) / clients.len();
    let bound = 64 * 1024..=2 * 64 * 1024 + 2 * 16 * 1024;
    assert!(bound.contains(&each), "{each} bytes for each client");
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_events_may_be_silent_for_hours() {
    let service = tower::service_fn(|_: Request| async {
        let events = futures_util::stream::unfold(0, |count| async move {
            sleep(Duration::from_secs(3600)).await;
            let frame = http_body::Frame::data(Bytes::from(format!("event {count}")));
            Some((Ok::<_, BoxError>(frame), count + 1))
        });
        Ok::<_, BoxError>(Response::new(Body::new(StreamBody::new(events.boxed()))))
    });
    let (mut client, served) = serve(None, Settings::default(), service);
    client.write_all(GET).await.expect("writes");
    let mut text = String::new();
    let mut bytes = [0; 1024];
    while !text.contains("event 3") {
        let count = client.read(&mut bytes).await.expect("reads");
        assert!(count > 0, "closed after {text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    assert!(!served.connection.is_finished());
}

#[tokio::test(start_paused = true)]
async fn stop_closes_idle_connections_and_lets_answers_finish() {
    let slow = tower::service_fn(|_: Request| async {
        sleep(Duration::from_secs(5)).await;
        Ok::<_, BoxError>(Response::new(Body::from("slow")))
    });
    for (sent, expected) in [(&b""[..], ""), (GET, "slow")] {
        let (mut client, served) = serve(None, Settings::default(), slow);
        client.write_all(sent).await.expect("writes");
        sleep(Duration::from_secs(1)).await;
        let late = tokio::spawn(served.drain.shutdown(Duration::from_secs(30)));
        let text = read_all(&mut client).await;
        assert!(text.ends_with(expected), "{text}");
        assert_eq!(text.contains("connection: close"), !expected.is_empty(), "{text}");
        assert_eq!(late.await.expect("no panic"), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn stop_waits_for_nobody_who_has_not_asked_for_anything() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let h2c = Settings { h2c: true, ..Settings::default() };
    for (alpn, settings, sent) in [
        (None, Settings::default(), &b""[..]),
        (None, Settings::default(), &GET[..10]),
        (None, Settings::default(), &GET[..GET.len() - 1]),
        (None, h2c.clone(), b""),
        (None, h2c.clone(), &GET[..10]),
        (None, h2c.clone(), &PREFACE[..10]),
        (None, h2c, PREFACE),
        (Some("h2"), Settings::default(), b""),
        (Some("h2"), Settings::default(), &PREFACE[..10]),
        (Some("h2"), Settings::default(), PREFACE),
    ] {
        let name = format!("{alpn:?} {}", sent.escape_ascii());
        let (mut client, served) = serve(alpn, settings, echo(&Seen::default()));
        client.write_all(sent).await.expect("writes");
        sleep(Duration::from_secs(1)).await;
        let begun = Instant::now();
        served.drain.stopping().cancel();
        let text = read_all(&mut client).await;
        assert!(!text.contains("HTTP/1.1"), "{name}: {text}");
        // An HTTP/2 client may take notice first.
        let linger = Settings::default().linger;
        let longest = if alpn.is_some() || sent.starts_with(b"P") { linger * 2 } else { Duration::ZERO };
        assert!(begun.elapsed() <= longest, "{name}: {:?}", begun.elapsed());
        drop(client);
        let _ended = served.connection.await.expect("no panic");
    }
}

#[tokio::test(start_paused = true)]
async fn kill_ends_what_does_not_stop() {
    for alpn in [None, Some("h2")] {
        let (mut client, served) =
            serve(alpn, Settings::default(), tower::service_fn(|_: Request| std::future::pending()));
        if alpn.is_none() {
            client.write_all(GET).await.expect("writes");
        } else {
            client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("writes");
            client.write_all(b"\0\0\x06\x01\x05\0\0\0\x01\x82\x87\x84\x41\x01a").await.expect("writes");
        }
        sleep(Duration::from_secs(1)).await;
        let counters = served.counters.clone();
        assert_eq!(served.drain.shutdown(Duration::from_secs(30)).await, 1, "{alpn:?}");
        assert_eq!(counters.killed.get(), 1, "{alpn:?}");
        served.connection.await.expect("no panic").expect("ends");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_in_order_after_so_many_requests_or_at_an_age() {
    let settings = Settings { max_requests: Some(2), ..Settings::default() };
    let (mut client, _served) = serve(None, settings, echo(&Seen::default()));
    client.write_all(&GET.repeat(3)).await.expect("writes");
    assert_eq!(statuses(&read_all(&mut client).await).len(), 2);

    let settings = Settings { max_age: Some(Duration::from_secs(60)), ..Settings::default() };
    let (mut client, _served) = serve(None, settings, echo(&Seen::default()));
    let begun = Instant::now();
    client.write_all(GET).await.expect("writes");
    read_all(&mut client).await;
    assert!(about(begun.elapsed(), 60), "{:?}", begun.elapsed());
}
