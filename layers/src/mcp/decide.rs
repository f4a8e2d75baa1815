//! The decision on what a client has posted: every message, before the server sees any.
//!
//! A batch goes on as a whole or not at all: whoever wants parts of it sends those.

use std::time::Duration;

use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, StatusCode};
use smallvec::SmallVec;
use smol_str::SmolStr;

use super::arguments::Arguments;
use super::call::{Calls, Outcome, Verdict, traceparent};
use super::error;
use super::headers::{self, Fields, LAST_WITH_BATCHES};
use super::lists::has_lists;
use super::message::{Kind, Message, Payload};
use super::rates::TooMany;
use super::rules::{Call, Decision, Object, Rule, Unnamed};
use super::{Policy, path, resources};
use crate::body::{BoxError, Request};
use crate::check::Check;
use crate::context::Principal;
use crate::rejection::Rejection;

/// What was let through.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Whether the answer may have lists in it.
    pub(super) lists: bool,
    /// Whether it asks for answers at all.
    pub(super) asks: bool,
    /// Whether it is a batch.
    pub(super) batch: bool,
}

/// Why one message is refused.
#[derive(Debug)]
enum Refusal {
    /// It can't be judged.
    Invalid(i64, String),
    /// The revision that it says it is of has no such method.
    Gone(String),
    /// The rules forbid it.
    Denied(String),
    /// It needs these scopes.
    Scopes(Vec<SmolStr>),
    /// Nobody is known who could be allowed it.
    Anonymous(Vec<SmolStr>),
    /// There were too many.
    TooMany(TooMany),
}

/// A message, and what was decided.
struct Judged<'a> {
    message: &'a Message<'a>,
    call: Result<Call<'a>, Unnamed>,
    refusal: Option<Refusal>,
}

/// Decides on what a client has posted, and notes the calls.
pub(super) fn decide(
    policy: &Policy,
    request: &Request,
    fields: &Fields<'_>,
    body: &[u8],
    calls: &mut Calls,
) -> Result<Plan, BoxError> {
    let payload = match Payload::read(body) {
        Ok(payload) => payload,
        Err(bad) => return Err(malformed(calls, None, bad.code(), bad.to_string()).into()),
    };
    let batch = matches!(payload, Payload::Batch(_));
    let only = match &payload {
        Payload::Single(message) => message.id,
        Payload::Batch(_) => None,
    };
    if batch && calls.caller.protocol.as_ref().is_some_and(|version| version.as_str() > LAST_WITH_BATCHES) {
        let text = "this revision of the protocol has no batches";
        return Err(malformed(calls, None, error::INVALID_REQUEST, text.to_owned()).into());
    }
    if let Err(disagreement) = headers::agree(fields, &payload) {
        return Err(malformed(calls, only, error::HEADER_MISMATCH, disagreement.to_string()).into());
    }
    let messages = payload.messages();
    let mut judged: SmallVec<[Judged<'_>; 1]> = SmallVec::with_capacity(messages.len());
    let mut plan = Plan { lists: false, asks: false, batch };
    let (mut refused, mut tells) = (false, false);
    for message in messages {
        let call = Call::of(message);
        let (refusal, rule) = judge(policy, message, &call, calls.caller.principal.as_deref());
        note(calls, message, &call, rule.map(|rule| rule.id.clone()));
        refused |= refusal.is_some();
        match message.kind {
            Kind::Request => {
                plan.asks = true;
                plan.lists |= has_lists(&message.method);
            }
            Kind::Notification | Kind::Response => tells = true,
        }
        judged.push(Judged { message, call, refusal });
    }
    // Only what is not refused anyway counts.
    if !refused && !policy.limits.is_empty() {
        for one in &mut judged {
            one.refusal = limited(policy, calls, one);
            refused |= one.refusal.is_some();
        }
    }
    if refused {
        return Err(refuse(policy, request, &judged, calls).into());
    }
    // Nobody answers those.
    if tells {
        calls.pending.retain(|call| call.id.is_some());
    }
    Ok(plan)
}

/// What the rules say to one message, and which one.
fn judge<'p>(
    policy: &'p Policy,
    message: &Message<'_>,
    call: &Result<Call<'_>, Unnamed>,
    principal: Option<&Principal>,
) -> (Option<Refusal>, Option<&'p Rule>) {
    if message.kind == Kind::Response {
        return (None, None);
    }
    // Servers that don't look for an id would answer it, and nobody would know.
    if message.kind == Kind::Notification && !message.method.starts_with("notifications/") {
        return (Some(Refusal::without_id(message)), None);
    }
    let call = match call {
        Ok(call) => call,
        Err(unnamed) => return (Some(Refusal::unnamed(message, unnamed)), None),
    };
    let mut decision = match policy.rules.decide(call, principal) {
        Ok(decision) => decision,
        Err(unreadable) => return (Some(Refusal::invalid(&unreadable)), None),
    };
    if message.method == "subscriptions/listen" {
        match listened(policy, message, principal, decision) {
            Ok(all) => decision = all,
            Err(refusal) => return (Some(refusal), None),
        }
    }
    if !matches!(decision, Decision::Allow(_)) {
        return (Some(Refusal::by_rules(policy, call, principal, decision)), decision.rule());
    }
    // Who may not call it anyway need not know how it is.
    if let (Some(pins), Object::Tool(name)) = (&policy.pins, call.object)
        && let Err(held_back) = pins.check(name)
    {
        return (Some(Refusal::Denied(format!("The tool `{name}` {held_back}."))), decision.rule());
    }
    (None, decision.rule())
}

/// Whether the revision of a message no longer has its method: clients find out by the error which revision they speak
/// to, whatever else is missing.
fn is_gone(message: &Message<'_>) -> bool {
    let version = message.params.meta.as_ref().and_then(|meta| meta.version.as_deref());
    version.is_some_and(|version| version >= headers::FIRST_WITHOUT_SESSIONS)
        && matches!(&*message.method, "resources/subscribe" | "resources/unsubscribe" | "tasks/result")
}

/// The decision on a subscription, with those on the resources in it: each is as if it were subscribed to alone.
#[cold]
fn listened<'p>(
    policy: &'p Policy,
    message: &Message<'_>,
    principal: Option<&Principal>,
    mut decision: Decision<'p>,
) -> Result<Decision<'p>, Refusal> {
    let uris = resources::subscribed(message.params.notifications).map_err(|bad| Refusal::invalid(&bad))?;
    for uri in &uris {
        let object = Object::Resource(uri);
        let call = Call { method: "resources/subscribe", object, arguments: Some(Arguments::of(None)) };
        let one =
            policy.rules.decide(&call, principal).map_err(|unreadable| Refusal::invalid(&unreadable))?;
        // What no scope can help decides for all of it.
        if one.strictness() > decision.strictness() {
            decision = one;
        }
    }
    Ok(decision)
}

fn limited(policy: &Policy, calls: &Calls, judged: &Judged<'_>) -> Option<Refusal> {
    let Judged { message, call, .. } = judged;
    let call = call.as_ref().ok().filter(|_| message.kind == Kind::Request)?;
    let host = calls.caller.host.as_ref().map_or("", |host| host.as_str());
    let user = match (&calls.caller.principal, calls.caller.client) {
        (Some(who), _) => who.full_subject(),
        (None, Some(client)) => client.network().to_string().into(),
        (None, None) => "".into(),
    };
    let take = |method: &str, object: Object<'_>| {
        policy.buckets.take(host, &user, &policy.limits, method, object).err().map(Refusal::TooMany)
    };
    // Each resource has one bucket, however it is written.
    let take_resource = |method: &str, uri: &str| take(method, Object::Resource(&resources::normal(uri)));
    let too_many = match call.object {
        Object::Resource(uri) => take_resource(call.method, uri),
        object => take(call.method, object),
    };
    if too_many.is_some() || call.method != "subscriptions/listen" {
        return too_many;
    }
    // A subscription to many counts as many.
    let uris = resources::subscribed(message.params.notifications).unwrap_or_default();
    uris.iter().find_map(|uri| take_resource("resources/subscribe", uri))
}

/// Notes a call, or what would be one if it is refused.
fn note(calls: &mut Calls, message: &Message<'_>, call: &Result<Call<'_>, Unnamed>, rule: Option<SmolStr>) {
    let meta = message.params.meta.as_ref();
    if calls.caller.protocol.is_none() {
        calls.caller.protocol = meta.and_then(|meta| meta.version.as_deref()).map(SmolStr::new);
    }
    let mut noted = Box::new(calls.caller.call(&message.method));
    noted.id = message.id.filter(|_| message.kind == Kind::Request).map(SmolStr::new);
    noted.name = call.as_ref().ok().and_then(|call| call.object.name().map(SmolStr::new));
    noted.rule = rule;
    if noted.trace.is_none() {
        noted.trace = meta.and_then(|meta| traceparent(meta.traceparent.as_deref()?));
    }
    calls.pending.push(noted);
}

/// A body that is no message, or does not say what the headers say.
#[cold]
fn malformed(calls: &mut Calls, id: Option<&str>, code: i64, text: String) -> Rejection {
    calls.refuse(StatusCode::BAD_REQUEST, id, code);
    let word = if code == error::HEADER_MISMATCH { "mcp_header_mismatch" } else { "mcp_bad_message" };
    let body = error::document(id, code, &text);
    error::rejection(StatusCode::BAD_REQUEST, word, text, body)
}

impl Refusal {
    /// A call that can't be judged.
    #[cold]
    fn invalid(why: &dyn std::error::Error) -> Self {
        Self::Invalid(error::INVALID_PARAMS, why.to_string())
    }

    #[cold]
    fn without_id(message: &Message<'_>) -> Self {
        let text = format!("`{}` is a request: it needs an id", message.method);
        Self::Invalid(error::INVALID_REQUEST, text)
    }

    /// A call that does not say what it is about.
    #[cold]
    fn unnamed(message: &Message<'_>, unnamed: &Unnamed) -> Self {
        if !is_gone(message) {
            return Self::invalid(unnamed);
        }
        Self::Gone(format!("there is no `{}` in this revision of the protocol", message.method))
    }

    /// What a decision of the rules means that does not allow a call.
    #[cold]
    fn by_rules(
        policy: &Policy,
        call: &Call<'_>,
        principal: Option<&Principal>,
        decision: Decision<'_>,
    ) -> Self {
        let scopes = match decision {
            Decision::Scopes(rule) => &rule.scopes[..],
            Decision::Allow(_) | Decision::Deny(_) => &[],
        };
        match (&policy.auth, principal) {
            (Some(_), None) => return Self::Anonymous(scopes.to_vec()),
            // Who can't get them anyway is not sent to ask for them.
            (Some(auth), Some(who)) if !scopes.is_empty() => {
                let gives =
                    |scope: &SmolStr| auth.grants.as_ref().is_none_or(|grants| grants.give(who, scope));
                if scopes.iter().all(gives) {
                    return Self::Scopes(scopes.to_vec());
                }
            }
            _ => {}
        }
        let named = call.object.name().map_or_else(String::new, |name| format!(" of `{name}`"));
        Self::Denied(format!("The rules of this host do not allow `{}`{named}.", call.method))
    }

    const fn verdict(&self) -> Verdict {
        match self {
            Self::Invalid(..) | Self::Gone(_) => Verdict::Refused,
            Self::Denied(_) => Verdict::Deny,
            Self::Scopes(_) | Self::Anonymous(_) => Verdict::StepUp,
            Self::TooMany(_) => Verdict::RateLimited,
        }
    }

    const fn code(&self) -> i64 {
        match self {
            Self::Invalid(code, _) => *code,
            Self::Gone(_) => error::METHOD_NOT_FOUND,
            Self::Denied(_) | Self::Scopes(_) | Self::Anonymous(_) => error::FORBIDDEN,
            Self::TooMany(_) => error::TOO_MANY,
        }
    }

    /// Which one of several is the answer's: what no token and no patience can help comes first.
    const fn rank(&self) -> u8 {
        match self {
            Self::Invalid(..) => 0,
            Self::Gone(_) => 1,
            Self::Denied(_) => 2,
            Self::Anonymous(_) => 3,
            Self::Scopes(_) => 4,
            Self::TooMany(_) => 5,
        }
    }

    fn text(&self, scopes: &str) -> String {
        match self {
            Self::Invalid(_, text) | Self::Gone(text) | Self::Denied(text) => text.clone(),
            Self::Anonymous(_) => "This call needs an access token.".to_owned(),
            Self::Scopes(_) => format!("This call needs an access token with the scopes: {scopes}"),
            Self::TooMany(too_many) => too_many.to_string(),
        }
    }
}

/// Refuses everything that was posted.
#[cold]
fn refuse(policy: &Policy, request: &Request, judged: &[Judged<'_>], calls: &mut Calls) -> Rejection {
    let refusals = || judged.iter().filter_map(|one| one.refusal.as_ref());
    let scopes = scopes(policy, request, refusals());
    let mut documents = Vec::new();
    for (Judged { message, refusal, .. }, pending) in judged.iter().zip(&mut calls.pending) {
        let (verdict, code, text) = match refusal {
            Some(refusal) => (refusal.verdict(), refusal.code(), refusal.text(&scopes)),
            None => {
                let text = "Another message of the batch was refused.";
                (Verdict::Refused, error::INVALID_REQUEST, text.to_owned())
            }
        };
        pending.verdict = verdict;
        pending.outcome = Outcome { answered: true, error: Some(code), is_error: false };
        if message.kind == Kind::Request || refusal.is_some() {
            documents.push(error::document(message.id, code, &text));
        }
    }
    let body = match &documents[..] {
        [one] if judged.len() == 1 => one.clone(),
        all => format!("[{}]", all.join(",")),
    };
    let Some(chosen) = refusals().min_by_key(|refusal| refusal.rank()) else {
        return Rejection::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "Nothing was refused.");
    };
    let detail = chosen.text(&scopes);
    let (status, word) = match chosen {
        Refusal::Invalid(..) => (StatusCode::BAD_REQUEST, "mcp_bad_message"),
        Refusal::Gone(_) => (StatusCode::NOT_FOUND, "mcp_unknown_method"),
        Refusal::Denied(_) => (StatusCode::FORBIDDEN, "mcp_denied"),
        Refusal::Anonymous(_) => (StatusCode::UNAUTHORIZED, "token_required"),
        Refusal::Scopes(_) => (StatusCode::FORBIDDEN, "insufficient_scope"),
        Refusal::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, "mcp_rate_limited"),
    };
    calls.status = Some(status.as_u16());
    let rejection = error::rejection(status, word, detail, body);
    let challenge = policy.auth.as_ref().map(|auth| &auth.challenge);
    match (chosen, challenge) {
        (Refusal::Denied(_), _) => rejection.with_check(Check::User),
        (Refusal::Anonymous(_), Some(challenge)) => {
            rejection.with_check(Check::Token).with_header(WWW_AUTHENTICATE, challenge.without_error(&scopes))
        }
        (Refusal::Scopes(_), Some(challenge)) => rejection
            .with_check(Check::Scope)
            .with_header(WWW_AUTHENTICATE, challenge.insufficient_scope(&scopes)),
        (Refusal::TooMany(TooMany { after }), _) => rejection.with_header(RETRY_AFTER, seconds(*after)),
        _ => rejection,
    }
}

fn seconds(after: Duration) -> HeaderValue {
    HeaderValue::from(after.as_secs().max(1))
}

/// All scopes that the messages need, with those that the host needs anyway: a client replaces its token by one that
/// has exactly these.
fn scopes<'a>(policy: &Policy, request: &Request, refusals: impl Iterator<Item = &'a Refusal>) -> String {
    let demanded =
        policy.auth.as_ref().map(|auth| auth.required(&Method::POST, path(request))).unwrap_or_default();
    let mut all: Vec<&str> = demanded.split_ascii_whitespace().collect();
    for refusal in refusals {
        if let Refusal::Scopes(scopes) | Refusal::Anonymous(scopes) = refusal {
            for scope in scopes {
                if !all.contains(&scope.as_str()) {
                    all.push(scope);
                }
            }
        }
    }
    all.join(" ")
}
