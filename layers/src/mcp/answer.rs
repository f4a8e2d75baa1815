//! Answers of an MCP server on their way to the client: JSON as it comes, streams event by event.
//!
//! Nothing is gathered but what has to be read as a whole: a list in JSON, and the answer to a batch. Everything has a
//! bound. What breaks it, comes in an encoding or is no JSON where JSON must be read, is answered by a JSON-RPC error:
//! with 502 as long as no head is out, else as the last event of the stream. Where neither is possible the answer
//! breaks off.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use http_body::{Body as _, Frame, SizeHint};

use super::call::Calls;
use super::decide::Plan;
use super::headers::{Field, is_utf8};
use super::lists::{BadList, Review, members, messages};
use super::message::gather;
use super::outcome::{Seen, Watch};
use super::sse::{Event, Events, EventsError, Outgoing, Reader, TooLong, is_plain};
use super::{Policy, error};
use crate::body::{Body, BoxError, BoxFuture, Response};
use crate::names::HostName;
use crate::rejection::Rejection;

/// What to do with an answer.
#[derive(Debug)]
pub(super) struct Treatment {
    /// Which bounds it has, and what is in lists.
    policy: Arc<Policy>,
    /// What it answers.
    plan: Plan,
    /// Whether there may be something in lists that somebody may not use.
    reviews: bool,
}

impl Treatment {
    /// What a policy demands of an answer.
    pub(super) fn of(policy: Arc<Policy>, plan: Plan) -> Self {
        let reviews = policy.pins.is_some() || !policy.rules.is_open();
        Self { policy, plan, reviews }
    }

    /// The longest event, or body of JSON.
    fn limit(&self) -> usize {
        self.policy.max_answer
    }

    /// Who cuts lists down for a caller; `None`: nobody has to.
    fn review<'a>(&'a self, calls: &'a Calls) -> Option<Review<'a>> {
        self.reviews.then(|| Review {
            pins: self.policy.pins.as_deref(),
            rules: &self.policy.rules,
            principal: calls.caller.principal.as_deref(),
            with_attainable: self.policy.list_attainable,
        })
    }

    /// Whether an answer of this status only says that the server has got what was sent.
    fn acknowledges(&self, status: StatusCode) -> bool {
        matches!(status, StatusCode::ACCEPTED | StatusCode::NO_CONTENT) || !self.plan.asks
    }
}

/// Why an answer is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadAnswer {
    /// It is compressed, though nobody has asked for that.
    #[error("the server's answer has the encoding {0:?}, which was not asked for")]
    Encoding(HeaderValue),
    /// It is longer than it may be.
    #[error("the server's answer, or an event of it, is longer than {0} bytes")]
    TooLong(usize),
    /// It is no message, or can be read in more than one way.
    #[error("the server's answer is no JSON-RPC message, or can be read in more than one way")]
    Ambiguous,
    /// It is neither JSON nor a stream of events, or may be both.
    #[error("the server's answer is neither JSON nor a stream of events, or says that it is both")]
    Type,
    /// It sends the client away.
    #[error("the server's answer sends the client to another host")]
    Elsewhere,
    /// It has a list in it that nobody has asked for.
    #[error("the server's answer has a list that was not asked for")]
    Unasked,
    /// A list can't be read.
    #[error(transparent)]
    List(#[from] BadList),
    /// It broke off.
    #[error("the server's answer broke off")]
    Broken(#[source] BoxError),
}

/// What kind of answer it is.
enum Kind {
    Events,
    Json,
    Nothing,
    /// A refusal that is neither, and read as JSON by some clients.
    Refused,
    Other,
    /// It has more than one type, or may have.
    Doubtful,
}

/// What the headers say of a body: its media type, and an encoding if it has one.
fn described(headers: &HeaderMap) -> (Field<'_>, Option<&HeaderValue>) {
    let (mut media_type, mut encoding) = (Field::Absent, None);
    for (name, value) in headers {
        if *name == CONTENT_TYPE {
            media_type.add(value);
        } else if *name == CONTENT_ENCODING && !is_identity(value) {
            encoding = Some(value);
        }
    }
    (media_type, encoding)
}

/// The kind that a media type stands for; where somebody has to look into it, all have to read it as the same text.
fn kind(media_type: Field<'_>, reviews: bool) -> Kind {
    let value = match media_type {
        Field::Once(value) => value,
        Field::Absent => return Kind::Other,
        Field::Often(_) => return Kind::Doubtful,
    };
    // As nearly all servers have it.
    match value.as_bytes() {
        b"application/json" => Kind::Json,
        b"text/event-stream" => Kind::Events,
        other => kind_of(other, reviews),
    }
}

#[inline(never)]
fn kind_of(media_type: &[u8], reviews: bool) -> Kind {
    let mut parts = media_type.split(|byte| *byte == b';');
    let essence = parts.next().unwrap_or_default().trim_ascii();
    // Some readers look for a media type anywhere in the header.
    if parts.clone().any(|parameter| parameter.contains(&b'/')) {
        return Kind::Doubtful;
    }
    let kind = if essence.eq_ignore_ascii_case(b"text/event-stream") {
        Kind::Events
    } else if essence.eq_ignore_ascii_case(b"application/json") {
        Kind::Json
    } else {
        return Kind::Other;
    };
    let says_utf8 = |parameter| std::str::from_utf8(parameter).is_ok_and(is_utf8);
    if reviews && !parts.all(says_utf8) { Kind::Doubtful } else { kind }
}

/// Makes of an answer what the client gets. Where all of it has to come first, that is what the future returns; then, and
/// upon an error, nothing that is left in `response` is of use.
pub(super) fn pass(
    response: &mut Response,
    treatment: Treatment,
    mut calls: Box<Calls>,
) -> Result<Option<BoxFuture<Result<Response, BoxError>>>, BoxError> {
    let status = response.status();
    calls.status = Some(status.as_u16());
    let kind = match described(response.headers()) {
        _ if response.body().is_end_stream() => Kind::Nothing,
        (_, Some(encoding)) => return Err(refused(&BadAnswer::Encoding(encoding.clone()), calls)),
        (media_type, None) => match kind(media_type, treatment.reviews) {
            Kind::Other if treatment.reviews && !status.is_success() && !treatment.acknowledges(status) => {
                Kind::Refused
            }
            kind => kind,
        },
    };
    if treatment.reviews && status.is_redirection() && leads_away(response.headers(), &calls) {
        return Err(refused(&BadAnswer::Elsewhere, calls));
    }
    let limit = treatment.limit();
    match kind {
        Kind::Events => {
            let stream = Stream { treatment, calls };
            let length = response.body().size_hint().exact();
            let body = match std::mem::take(response.body_mut()).into_whole() {
                Ok(whole) => stream.all(whole, status)?,
                Err(body) => {
                    let events = Events::new(body, limit);
                    Body::new(EventsBody { events, stream, ended: false })
                }
            };
            // Lists may become shorter, and an error may become the last event.
            if length.is_none() || body.size_hint().exact() != length {
                response.headers_mut().remove(CONTENT_LENGTH);
            }
            *response.body_mut() = body;
        }
        Kind::Json if response.body().size_hint().lower() > limit as u64 => {
            return Err(refused(&BadAnswer::TooLong(limit), calls));
        }
        Kind::Json | Kind::Refused => {
            // Lists are looked for also where none was asked for: servers find the request for an answer by its id, which
            // a client may use twice.
            let listless = treatment.reviews;
            let gathers =
                matches!(kind, Kind::Json) && (listless && treatment.plan.lists || treatment.plan.batch);
            // What a server says of its own refusal is for the client, whatever it is.
            let strict = listless && status.is_success() && !treatment.acknowledges(status);
            match std::mem::take(response.body_mut()).into_whole() {
                Ok(whole) if gathers => list(response, whole, &treatment, calls)?,
                Ok(whole) => *response.body_mut() = json(whole, listless, strict, calls)?,
                Err(body) if gathers => {
                    let mut response = std::mem::take(response);
                    return Ok(Some(Box::pin(async move {
                        match gather(body, limit).await {
                            Ok(whole) => list(&mut response, whole, &treatment, calls)?,
                            Err(cause) => return Err(refused(&broken(cause, limit), calls)),
                        }
                        Ok(response)
                    })));
                }
                Err(body) => {
                    let watch = Watch::default();
                    let body = JsonBody { body, left: limit, limit, listless, strict, watch, calls };
                    *response.body_mut() = Body::new(body);
                }
            }
        }
        // An acknowledgment needs no words.
        Kind::Other if treatment.acknowledges(status) => {
            for name in [CONTENT_LENGTH, CONTENT_TYPE] {
                response.headers_mut().remove(name);
            }
            *response.body_mut() = Body::empty();
        }
        Kind::Doubtful => return Err(refused(&BadAnswer::Type, calls)),
        Kind::Other if status.is_success() => return Err(refused(&BadAnswer::Type, calls)),
        // What a server says of its own refusal is for the client, whatever it is.
        Kind::Other | Kind::Nothing => {}
    }
    Ok(None)
}

/// JSON without lists that is here already.
fn json(whole: Bytes, listless: bool, strict: bool, mut calls: Box<Calls>) -> Result<Body, BoxError> {
    let seen = Seen::of(&whole);
    if listless && seen.lists {
        return Err(refused(&BadAnswer::Unasked, calls));
    }
    if strict && !seen.whole {
        return Err(refused(&BadAnswer::Ambiguous, calls));
    }
    calls.note_only(seen.outcome);
    Ok(whole.into())
}

/// JSON with lists, or for a batch.
fn list(
    response: &mut Response,
    whole: Bytes,
    treatment: &Treatment,
    mut calls: Box<Calls>,
) -> Result<(), BoxError> {
    let edited = match treatment.review(&calls).map_or(Ok(None), |review| review.edit(&whole)) {
        Ok(edited) => edited,
        // It says with its status what it means; who can't be shown why reads that.
        Err(error) if !response.status().is_success() => {
            Some(error::document(None, error::INTERNAL, &error.to_string()).into_bytes())
        }
        Err(error) => return Err(refused(&error.into(), calls)),
    };
    note(&mut calls, &whole, treatment.plan.batch);
    let whole = edited.map_or(whole, Bytes::from);
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(whole.len()));
    *response.body_mut() = Body::from(whole);
    Ok(())
}

#[cold]
fn broken(cause: BoxError, limit: usize) -> BadAnswer {
    match cause.downcast_ref::<crate::body::RequestBodyError>() {
        Some(crate::body::RequestBodyError::TooLarge { .. }) => BadAnswer::TooLong(limit),
        _ => BadAnswer::Broken(cause),
    }
}

/// Whether a redirection leads to another host, where nobody looks at what is answered.
#[cold]
fn leads_away(headers: &HeaderMap, calls: &Calls) -> bool {
    let host = calls.caller.host.as_ref().map(HostName::as_str);
    let stays = |to: &HeaderValue| match to.as_bytes() {
        // Readers of URLs pass over tabs, and take a backslash for a slash.
        to if !to.iter().all(u8::is_ascii_graphic) || to.contains(&b'\\') => false,
        [b'/', rest @ ..] => !rest.starts_with(b"/"),
        to => Uri::try_from(to)
            .is_ok_and(|uri| uri.host().zip(host).is_some_and(|(to, host)| to.eq_ignore_ascii_case(host))),
    };
    !headers.get_all(LOCATION).iter().all(stays)
}

fn is_identity(encoding: &HeaderValue) -> bool {
    let text = encoding.as_bytes().trim_ascii();
    text.is_empty() || text.eq_ignore_ascii_case(b"identity")
}

/// 502 with an error for every call that has no answer.
#[cold]
fn refused(bad: &BadAnswer, mut calls: Box<Calls>) -> BoxError {
    calls.status = Some(StatusCode::BAD_GATEWAY.as_u16());
    let text = bad.to_string();
    let documents: Vec<_> = calls
        .pending
        .iter()
        .map(|call| error::document(call.id.as_deref(), error::INTERNAL, &text))
        .collect();
    let body = match &documents[..] {
        [] => error::document(None, error::INTERNAL, &text),
        [one] => one.clone(),
        all => format!("[{}]", all.join(",")),
    };
    let rejection: Rejection = error::rejection(StatusCode::BAD_GATEWAY, "mcp_bad_answer", text, body);
    rejection.into()
}

/// Notes how the calls went that a message answers.
fn note(calls: &mut Calls, message: &[u8], batch: bool) {
    if !batch {
        calls.note_only(Seen::of(message).outcome);
        return;
    }
    let Ok(text) = std::str::from_utf8(message) else { return };
    let Ok(all) = messages(text) else { return };
    for one in all {
        let id = members(one).ok().and_then(|all| all.into_iter().find(|(name, _)| name == "id"));
        let outcome = Seen::of(one.as_bytes()).outcome;
        if let (Some((_, id)), true) = (id, outcome.answered) {
            calls.note(id, outcome);
        }
    }
}

/// A body of JSON that passes as it comes.
struct JsonBody {
    body: Body,
    left: usize,
    limit: usize,
    /// Whether it may have no list: somebody would have to look through it.
    listless: bool,
    /// Whether it has to be one message.
    strict: bool,
    watch: Watch,
    calls: Box<Calls>,
}

impl JsonBody {
    /// Whether a piece may pass, and what it tells.
    fn look(&mut self, frame: &Frame<Bytes>) -> Result<(), BadAnswer> {
        let Some(data) = frame.data_ref() else { return Ok(()) };
        self.left = self.left.checked_sub(data.len()).ok_or(BadAnswer::TooLong(self.limit))?;
        self.watch.feed(data);
        if self.listless && self.watch.has_lists() {
            return Err(BadAnswer::Unasked);
        }
        if self.strict && self.watch.is_strange() {
            return Err(BadAnswer::Ambiguous);
        }
        self.calls.note_only(self.watch.outcome());
        Ok(())
    }
}

impl http_body::Body for JsonBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => Some(self.look(&frame).map(|()| frame).map_err(Into::into)),
            end => end,
        };
        if !matches!(frame, Some(Ok(_))) {
            self.calls.end();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that passes event by event.
struct EventsBody {
    events: Events<Body>,
    stream: Stream,
    ended: bool,
}

/// What is done with the events of a stream.
struct Stream {
    treatment: Treatment,
    calls: Box<Calls>,
}

impl Stream {
    /// What the client gets in place of an event; `None`: the event as it came.
    fn treat(&mut self, event: &Event) -> Result<Option<Bytes>, BadAnswer> {
        let reviews = self.treatment.reviews;
        if reviews && !event.is_plain() {
            return Err(BadAnswer::Ambiguous);
        }
        let Some(data) = event.data().filter(|data| !data.is_empty()) else { return Ok(None) };
        // Clients read events with another name than `message` as nothing of the protocol; it may be a sign of life.
        let is_message = event.name().is_none_or(|name| matches!(name.trim(), "" | "message"));
        if !is_message && !looks_like_json(data) {
            // To some clients the last line is all of the data.
            let mut lines = data.split(|byte| *byte == b'\n');
            let is_doubtful = reviews && lines.any(|line| looks_like_json(line) || !is_plain(line));
            return if is_doubtful { Err(BadAnswer::Ambiguous) } else { Ok(None) };
        }
        let seen = Seen::of(data);
        // What was not asked for as a list, and is none, needs nobody to look through it.
        let looks = self.treatment.plan.lists || seen.lists || !seen.whole;
        let review = if looks { self.treatment.review(&self.calls) } else { None };
        let edited = review.map_or(Ok(None), |review| review.edit(data))?;
        // What can't be read is no answer.
        if self.treatment.plan.batch {
            note(&mut self.calls, data, true);
        } else {
            self.calls.note_only(seen.outcome);
        }
        Ok(edited.map(|data| event.with_data(&data)))
    }

    /// All of a stream that is here already. What nothing is edited in is not copied.
    fn all(mut self, whole: Bytes, status: StatusCode) -> Result<Body, BoxError> {
        let limit = self.treatment.limit();
        let mut reader = Reader::new(limit);
        reader.push(whole.clone());
        // The events that were read, one behind the other, and those of them that are edited.
        let mut events: Option<Range<usize>> = None;
        let mut edits: Vec<(Range<usize>, Bytes)> = Vec::new();
        loop {
            let bad = match reader.next() {
                Ok(None) => return Ok(spliced(&whole, events.unwrap_or_default(), &edits).into()),
                Ok(Some(event)) => match self.treat(&event) {
                    Ok(edited) => {
                        let end = whole.len() - reader.unread();
                        let place = end - event.raw().len()..end;
                        events = Some(events.map_or(place.start, |events| events.start)..end);
                        edits.extend(edited.map(|edited| (place, edited)));
                        continue;
                    }
                    Err(bad) => bad,
                },
                Err(TooLong { limit }) => BadAnswer::TooLong(limit),
            };
            if events.is_none() && status.is_success() {
                return Err(refused(&bad, self.calls));
            }
            // Then it goes as if it came in pieces.
            let events = Events::new(Body::from(whole), limit);
            return Ok(Body::new(EventsBody { events, stream: self, ended: false }));
        }
    }

    /// The end of a stream that goes on as nobody may read it: an error for each call without an answer.
    fn errors(&self, bad: &BadAnswer) -> Bytes {
        let text = bad.to_string();
        let mut out = Vec::new();
        for call in self.calls.pending.iter().filter(|call| !call.outcome.answered) {
            let document = error::document(call.id.as_deref(), error::INTERNAL, &text);
            Outgoing { data: Some(document.as_bytes()), ..Outgoing::default() }.write(&mut out);
        }
        out.into()
    }
}

/// Whether data are a message or a batch to somebody, who may pass over more blanks than JSON has.
fn looks_like_json(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    text.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}').starts_with(['{', '['])
}

/// A part of the bytes with other ones in some places.
fn spliced(whole: &Bytes, part: Range<usize>, edits: &[(Range<usize>, Bytes)]) -> Bytes {
    if edits.is_empty() {
        return whole.slice(part);
    }
    let mut out = BytesMut::with_capacity(part.len());
    let mut at = part.start;
    for (place, edited) in edits {
        out.extend_from_slice(&whole[at..place.start]);
        out.extend_from_slice(edited);
        at = place.end;
    }
    out.extend_from_slice(&whole[at..part.end]);
    out.freeze()
}

impl EventsBody {
    fn end(&mut self) {
        self.ended = true;
        self.stream.calls.end();
    }
}

impl http_body::Body for EventsBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let treated = match ready!(self.events.poll_next(cx)) {
            None => {
                self.end();
                return Poll::Ready(None);
            }
            Some(Err(EventsError::Broken(error))) => {
                self.end();
                return Poll::Ready(Some(Err(error)));
            }
            Some(Err(EventsError::TooLong(TooLong { limit }))) => Err(BadAnswer::TooLong(limit)),
            Some(Ok(event)) => {
                self.stream.treat(&event).map(|edited| edited.unwrap_or_else(|| event.into_raw()))
            }
        };
        let event = treated.or_else(|bad| {
            let errors = self.stream.errors(&bad);
            self.end();
            if errors.is_empty() { Err(bad.into()) } else { Ok(errors) }
        });
        Poll::Ready(Some(event.map(Frame::data)))
    }
}
