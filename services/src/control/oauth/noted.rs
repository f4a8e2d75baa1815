//! What happened, newest first: the events of the authorization server, and, where somebody asks for them, the requests
//! to protected hosts that the log of requests tells of. Those have no events of their own: a flood of requests without
//! a token would push out of the log of events what it is kept for, and be written twice.
//!
//! Both logs are read page by page, each in bounds of its own: however many requests there are, the events are read.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;
use memchr::memmem::Finder;
use serde::Deserialize;
use tokio::time::Instant;

use crate::control::{Control, Error};
use crate::logs;
use crate::oauth::endpoints::is_check;
use crate::store::{Logged, Range, Stream};

/// How many entries are read at once.
const READ_SIZE: usize = 1000;

/// How many events are looked at; more are not kept as a rule.
const MAX_EVENTS: usize = 200_000;

/// How many requests are looked at.
const MAX_REQUESTS: usize = 1_000_000;

/// How long reading may take, of each log.
const MAX_TIME: Duration = Duration::from_secs(5);

/// An event as the log has it, or a request that can be told like one.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Noted<'a> {
    pub(super) timestamp: i64,
    #[serde(borrow)]
    pub(super) event_type: Cow<'a, str>,
    pub(super) success: bool,
    #[serde(borrow)]
    pub(super) error: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) message: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) client_ip: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) proxy_hostname: Cow<'a, str>,
    #[serde(borrow, rename = "auth_client_id")]
    pub(super) client_id: Cow<'a, str>,
    #[serde(borrow, rename = "auth_user")]
    pub(super) username: Cow<'a, str>,
    #[serde(borrow, rename = "auth_subject")]
    pub(super) subject: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) trace_id: Cow<'a, str>,
    /// Whether it is a request to a host, and none to the authorization server.
    #[serde(skip)]
    pub(super) is_request: bool,
}

impl Noted<'_> {
    /// When it happened.
    pub(super) fn at(&self) -> Option<Timestamp> {
        Timestamp::from_millisecond(self.timestamp).ok()
    }

    /// Whether it is a check that has failed, or gone well, on the way to something else.
    pub(super) fn is_check(&self) -> bool {
        is_check(&self.event_type)
    }
}

/// What of the log of requests an event can be made of.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Request<'a> {
    timestamp: i64,
    #[serde(borrow)]
    auth_check: Cow<'a, str>,
    #[serde(borrow)]
    auth_hostname: Cow<'a, str>,
    #[serde(borrow)]
    error_type: Cow<'a, str>,
    #[serde(borrow)]
    error: Cow<'a, str>,
    #[serde(borrow)]
    client_ip: Cow<'a, str>,
    #[serde(borrow)]
    proxy_hostname: Cow<'a, str>,
    #[serde(borrow)]
    auth_client_id: Cow<'a, str>,
    #[serde(borrow)]
    auth_user: Cow<'a, str>,
    #[serde(borrow)]
    auth_subject: Cow<'a, str>,
    #[serde(borrow)]
    trace_id: Cow<'a, str>,
}

impl<'a> From<Request<'a>> for Noted<'a> {
    fn from(request: Request<'a>) -> Self {
        let success = request.auth_check.is_empty();
        // Another proxy has asked: it is that one's request, to another host than the one that was asked.
        let asked_for = !request.auth_hostname.is_empty();
        Self {
            timestamp: request.timestamp,
            event_type: if success { Cow::Borrowed("request") } else { request.auth_check },
            success,
            error: request.error_type,
            message: request.error,
            client_ip: request.client_ip,
            proxy_hostname: if asked_for { request.auth_hostname } else { request.proxy_hostname },
            client_id: request.auth_client_id,
            username: request.auth_user,
            subject: request.auth_subject,
            trace_id: request.trace_id,
            is_request: true,
        }
    }
}

/// Which requests to hosts are told of beside the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Requests {
    /// Those that a check has refused.
    Refused,
    /// Those, and those of somebody who was let in.
    Known,
}

impl Requests {
    /// What the records of these have: they are looked for before anything is parsed. No value can have it, for its
    /// quotes would be escaped.
    fn finder(self) -> &'static Finder<'static> {
        static REFUSED: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new("\"auth_check\":\""));
        static KNOWN: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new("\"auth_"));
        match self {
            Self::Refused => &REFUSED,
            Self::Known => &KNOWN,
        }
    }

    fn holds(self, request: &Request<'_>) -> bool {
        let let_in = !request.auth_subject.is_empty();
        !request.auth_check.is_empty() || self == Self::Known && let_in
    }
}

/// The begin of a window that ends now, in milliseconds since 1970.
pub(super) fn since(window: Duration) -> u64 {
    logs::now().saturating_sub(u64::try_from(window.as_millis()).unwrap_or(u64::MAX))
}

/// Visits the events since a time, newest first. Tells whether it ended at a bound before that time.
pub(super) async fn scan(
    control: &Control,
    since: u64,
    visit: impl FnMut(&Noted<'_>) -> ControlFlow<()>,
) -> Result<bool, Error> {
    merged(control, since, None, visit).await
}

/// The same with requests among them.
pub(super) async fn scan_with(
    control: &Control,
    since: u64,
    requests: Requests,
    visit: impl FnMut(&Noted<'_>) -> ControlFlow<()>,
) -> Result<bool, Error> {
    merged(control, since, Some(requests), visit).await
}

async fn merged(
    control: &Control,
    since: u64,
    requests: Option<Requests>,
    mut visit: impl FnMut(&Noted<'_>) -> ControlFlow<()>,
) -> Result<bool, Error> {
    let mut events = Reader::new(control, Stream::Oauth, since, MAX_EVENTS, None);
    let mut hosts = requests
        .map(|requests| Reader::new(control, Stream::Requests, since, MAX_REQUESTS, Some(requests.finder())));
    loop {
        let event = events.newest().await?;
        let request = match &mut hosts {
            Some(hosts) => hosts.newest().await?,
            None => None,
        };
        let is_request = match (event, request) {
            (None, None) => break,
            (event, request) => request > event,
        };
        let reader = if is_request { hosts.as_mut() } else { Some(&mut events) };
        let Some(logged) = reader.and_then(|reader| reader.page.pop_front()) else { break };
        // A newer node may write what this one can't read.
        let noted = match requests.filter(|_| is_request) {
            None => serde_json::from_slice::<Noted<'_>>(&logged.record).ok(),
            Some(requests) => serde_json::from_slice::<Request<'_>>(&logged.record)
                .ok()
                .filter(|request| requests.holds(request))
                .map(Noted::from),
        };
        if noted.is_some_and(|noted| visit(&noted).is_break()) {
            return Ok(false);
        }
    }
    Ok(events.truncated || hosts.is_some_and(|hosts| hosts.truncated))
}

/// Reads a log page by page, newest first.
struct Reader<'a> {
    control: &'a Control,
    stream: Stream,
    range: Range,
    /// What a record must have to be of interest.
    needle: Option<&'static Finder<'static>>,
    /// How many more entries may be looked at.
    left: usize,
    spent: Duration,
    page: VecDeque<Logged>,
    at_end: bool,
    truncated: bool,
}

impl<'a> Reader<'a> {
    fn new(
        control: &'a Control,
        stream: Stream,
        since: u64,
        bound: usize,
        needle: Option<&'static Finder<'static>>,
    ) -> Self {
        let range =
            Range { after: None, since, until: u64::MAX, tag: None, newest_first: true, limit: READ_SIZE };
        Self {
            control,
            stream,
            range,
            needle,
            left: bound,
            spent: Duration::ZERO,
            page: VecDeque::new(),
            at_end: false,
            truncated: false,
        }
    }

    /// The time of the next entry, if there is one within the bounds.
    async fn newest(&mut self) -> Result<Option<u64>, Error> {
        while self.page.is_empty() && !self.at_end {
            if self.left == 0 || self.spent >= MAX_TIME {
                (self.at_end, self.truncated) = (true, true);
                break;
            }
            let begun = Instant::now();
            let part = logs::range(&*self.control.store, self.stream, &self.range).await?;
            match part.next {
                Some(next) => self.range.after = Some(next),
                None => self.at_end = true,
            }
            self.left = self.left.saturating_sub(part.read);
            let has =
                |logged: &Logged| self.needle.is_none_or(|needle| needle.find(&logged.record).is_some());
            self.page.extend(part.entries.into_iter().filter(has));
            self.spent += begun.elapsed();
            // A store in memory never waits; others want their turn, too.
            tokio::task::yield_now().await;
        }
        Ok(self.page.front().map(|logged| logged.id.time))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::control::oauth::testing::{Given, given};
    use crate::oauth::authorization_server::Event;

    async fn log(given: &Given, time: u64, more: Value) {
        let Value::Object(more) = more else { panic!("an object") };
        let mut record = json!({
            "timestamp": time, "proxy_hostname": "app.example.com", "client_ip": "192.0.2.7",
        });
        record.as_object_mut().expect("an object").extend(more);
        given.control.writers.requests.push_json(time, &record).expect("JSON");
        assert!(given.control.writers.requests.flush(Duration::from_secs(10)).await);
    }

    async fn told(given: &Given, since: u64, requests: Option<Requests>) -> Vec<String> {
        let mut told = Vec::new();
        let truncated = merged(&given.control, since, requests, |noted| {
            told.push(format!("{} {}", noted.event_type, noted.proxy_hostname));
            ControlFlow::Continue(())
        });
        assert!(!truncated.await.expect("read"));
        told
    }

    #[tokio::test]
    async fn requests_stand_among_the_events_by_time_where_they_are_asked_for() {
        let given = given().await;
        let now = logs::now();
        log(&given, now - 9_000, json!({ "auth_check": "scope_check", "auth_subject": "1" })).await;
        log(&given, now - 8_000, json!({ "auth_subject": "1" })).await;
        log(&given, now - 7_000, json!({ "user_agent": "\"auth_check\":\"user_check\"" })).await;
        let signed_in =
            json!({ "event_type": "auth_complete", "proxy_hostname": "h.example", "success": true });
        given.control.writers.oauth.push_json(now - 6_000, &signed_in).expect("JSON");
        assert!(given.control.writers.oauth.flush(Duration::from_secs(10)).await);
        let later = json!({ "auth_check": "token_validation", "auth_hostname": "guarded.example.com" });
        log(&given, now - 5_000, later).await;

        let of_hosts = ["token_validation guarded.example.com", "scope_check app.example.com"];
        assert_eq!(told(&given, now - 60_000, None).await, ["auth_complete h.example"]);
        let refused = [of_hosts[0], "auth_complete h.example", of_hosts[1]];
        assert_eq!(told(&given, now - 60_000, Some(Requests::Refused)).await, refused);
        let known = [refused[0], refused[1], "request app.example.com", refused[2]];
        assert_eq!(told(&given, now - 60_000, Some(Requests::Known)).await, known);
        assert_eq!(told(&given, now - 8_500, Some(Requests::Refused)).await, refused[..2], "the window");
    }

    #[tokio::test]
    async fn many_requests_hide_no_event() {
        let given = given().await;
        let now = logs::now();
        given.note(&[Event { kind: "auth_complete", host: Some("h.example"), ..Event::default() }]).await;
        let writer = &given.control.writers.requests;
        for n in 0..500 {
            let record = json!({ "timestamp": now + 60_000 + n, "auth_check": "token_validation" });
            writer.push_json(now + 60_000 + n, &record).expect("JSON");
        }
        assert!(writer.flush(Duration::from_secs(10)).await);
        let bounded = async |bound: usize| {
            let finder = Some(Requests::Refused.finder());
            let mut reader = Reader::new(&given.control, Stream::Requests, 0, bound, finder);
            reader.range.limit = 100;
            let mut seen = 0;
            while reader.newest().await.expect("read").is_some() {
                reader.page.pop_front();
                seen += 1;
            }
            (seen, reader.truncated)
        };
        assert_eq!(bounded(200).await, (200, true));
        assert_eq!(bounded(MAX_REQUESTS).await, (500, false));
        let told = told(&given, 0, Some(Requests::Refused)).await;
        assert_eq!((told.len(), told.last().map(String::as_str)), (501, Some("auth_complete h.example")));
    }
}
