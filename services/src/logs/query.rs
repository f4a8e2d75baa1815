//! What a user asks of a log, and the filter that it compiles into. No I/O here.
//!
//! A filter looks at a record in two steps: first for byte strings that every match must contain, which
//! rules most records out without parsing them; then at the fields.

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use memchr::memmem::Finder;
use portcullis_layers::glob;
use regex::bytes::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fields::{Fields, Severity};

/// The window when neither hours nor times are given, in hours.
const DEFAULT_HOURS: u32 = 24;

/// The longest window in hours, 30 days.
const MAX_HOURS: u32 = 720;

const HOUR: u64 = 3_600_000;

/// The most words of free text.
const MAX_WORDS: usize = 16;

/// A question to a log. All conditions hold together; none of them: everything in the window.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Search {
    /// Free text, without regard to case; several words must all occur. `field:value` looks in one
    /// field only: method (exactly), status, path, user, ip, hostname, route, client, component, level, error,
    /// tool, decision, trace. Quotes keep words together.
    pub q: Option<String>,
    /// The client's address, or a network like `10.0.0.0/8`.
    #[serde(alias = "client_ip")]
    pub ip: Option<String>,
    /// The proxied host; `*` stands for anything.
    #[serde(alias = "proxy_hostname", alias = "host")]
    pub hostname: Option<String>,
    /// The user: login, subject or e-mail address.
    #[serde(alias = "auth_user", alias = "username")]
    pub user: Option<String>,
    /// The OAuth client.
    #[serde(alias = "auth_client_id", alias = "oauth_client_id")]
    pub client_id: Option<String>,
    /// The status: `404`, a class `4xx`, a range `500-599`, or several of them with commas.
    #[serde(alias = "status_code", deserialize_with = "text_or_number")]
    #[schemars(with = "Option<String>")]
    pub status: Option<String>,
    /// The method, of HTTP or of MCP.
    #[serde(alias = "request_method", alias = "mcp_method")]
    pub method: Option<String>,
    /// The path: with `*` the whole path as a pattern, beginning with `/` a prefix, else any part of it.
    #[serde(alias = "pattern", alias = "request_path")]
    pub path: Option<String>,
    /// The route.
    #[serde(alias = "route_id")]
    pub route: Option<String>,
    /// Of a call of an MCP server: the tool, prompt or resource; `*` stands for anything.
    #[serde(alias = "mcp_name")]
    pub tool: Option<String>,
    /// Of a call of an MCP server: `allow`, `deny`, `step_up`, `rate_limited` or `refused`.
    pub decision: Option<String>,
    /// Our id of the request, or the client's own.
    #[serde(alias = "correlation_id", alias = "request_id")]
    pub trace_id: Option<String>,
    /// Only what took at least this many milliseconds.
    #[serde(alias = "threshold")]
    pub slow: Option<f64>,
    /// Only failures: status 5xx, broken answers, level ERROR.
    pub errors: bool,
    /// With `errors`: status 4xx and level WARNING as well.
    pub include_warnings: bool,
    /// This level or worse. Requests have one, too: 5xx is ERROR, 4xx WARNING, the rest INFO.
    pub level: Option<String>,
    /// The component that wrote the record.
    pub component: Option<String>,
    /// The window: so many hours back from now, 1 to 720; 24 when nothing else is said.
    pub hours: Option<u32>,
    /// The begin of the window: RFC 3339, or milliseconds since 1970.
    #[serde(deserialize_with = "text_or_number")]
    #[schemars(with = "Option<String>")]
    pub since: Option<String>,
    /// The end of the window, inclusive: RFC 3339, or milliseconds since 1970.
    #[serde(deserialize_with = "text_or_number")]
    #[schemars(with = "Option<String>")]
    pub until: Option<String>,
    /// How many records at most: 1 to 1000, 100 when nothing is said.
    pub limit: Option<usize>,
    /// How many matches to skip, at most 100,000. To page far, use `cursor`.
    pub offset: Option<usize>,
    /// `next` of the page before: goes on behind it, without counting a total again.
    pub cursor: Option<String>,
}

/// Parameters of a URL are texts, but a client that speaks JSON will write a number.
fn text_or_number<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    match Option::<Value>::deserialize(input)? {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(_) => Err(D::Error::custom("expected a text or a number")),
    }
}

/// A condition that can't be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?} is not valid: expected {expected}")]
pub struct SearchError {
    /// Its field in [`Search`].
    pub field: &'static str,
    /// What it said.
    pub value: String,
    /// What would be right.
    pub expected: &'static str,
}

fn invalid(field: &'static str, value: &(impl ToString + ?Sized), expected: &'static str) -> SearchError {
    SearchError { field, value: value.to_string(), expected }
}

/// A compiled [`Search`]: which records, of what time.
#[derive(Debug, Clone)]
pub struct Filter {
    /// The begin of the window, milliseconds since 1970.
    pub since: u64,
    /// The end of the window, inclusive.
    pub until: u64,
    needles: Vec<Needle>,
    conditions: Vec<Condition>,
    words: Vec<String>,
}

/// What must occur in the bytes of each match.
#[derive(Debug, Clone)]
enum Needle {
    Exact(Box<Finder<'static>>),
    AnyCase(Regex),
}

/// What must hold of the fields of each match.
#[derive(Debug, Clone)]
enum Condition {
    Client(IpNet),
    Status(Vec<RangeInclusive<u16>>),
    Slow(f64),
    AtLeast(Severity),
    Is(Field, String),
    Contains(Field, String),
    StartsWith(Field, String),
    Like(Field, String),
}

/// A field, or several that mean the same, as text.
#[derive(Debug, Clone, Copy)]
enum Field {
    Client,
    Component,
    Decision,
    Error,
    Host,
    Ip,
    Level,
    Method,
    Path,
    Route,
    Status,
    Tool,
    Trace,
    User,
}

impl Search {
    /// Checks the search and compiles it; `now` is in milliseconds since 1970.
    ///
    /// # Errors
    /// The first field that can't be understood.
    pub fn compile(&self, now: u64) -> Result<Filter, SearchError> {
        let (since, until) = self.window(now)?;
        let mut filter =
            Filter { since, until, needles: Vec::new(), conditions: Vec::new(), words: Vec::new() };
        if let Some(ip) = &self.ip {
            filter.client(ip)?;
        }
        if let Some(status) = &self.status {
            filter.status(status)?;
        }
        for (field, value) in [
            (Field::User, &self.user),
            (Field::Client, &self.client_id),
            (Field::Method, &self.method),
            (Field::Route, &self.route),
            (Field::Trace, &self.trace_id),
            (Field::Component, &self.component),
            (Field::Decision, &self.decision),
        ] {
            if let Some(value) = value {
                filter.is(field, value);
            }
        }
        if let Some(host) = &self.hostname {
            filter.host(host);
        }
        if let Some(tool) = &self.tool {
            filter.conditions.push(Condition::Like(Field::Tool, tool.clone()));
        }
        if let Some(path) = &self.path {
            filter.path(path);
        }
        if let Some(slow) = self.slow {
            let valid = slow.is_finite() && slow >= 0.0;
            let slow =
                valid.then_some(slow).ok_or_else(|| invalid("slow", &slow, "milliseconds, 0 or more"))?;
            filter.conditions.push(Condition::Slow(slow));
        }
        if self.errors {
            let least = if self.include_warnings { Severity::Warning } else { Severity::Error };
            filter.conditions.push(Condition::AtLeast(least));
        }
        if let Some(level) = &self.level {
            let severity = Severity::parse(level)
                .ok_or_else(|| invalid("level", level, "TRACE, DEBUG, INFO, WARNING, ERROR or CRITICAL"))?;
            filter.conditions.push(Condition::AtLeast(severity));
        }
        if let Some(q) = &self.q {
            filter.text(q)?;
        }
        Ok(filter)
    }

    /// How many records a page has.
    pub(super) fn page_size(&self) -> Result<usize, SearchError> {
        let limit = self.limit.unwrap_or(100);
        (1..=1000).contains(&limit).then_some(limit).ok_or_else(|| invalid("limit", &limit, "1 to 1000"))
    }

    /// How many matches come before the page.
    pub(super) fn skip(&self) -> Result<usize, SearchError> {
        let offset = self.offset.unwrap_or(0);
        (offset <= 100_000)
            .then_some(offset)
            .ok_or_else(|| invalid("offset", &offset, "at most 100000; use cursor to go further"))
    }

    fn window(&self, now: u64) -> Result<(u64, u64), SearchError> {
        let until = self.until.as_deref().map(|text| time("until", text)).transpose()?;
        let since = self.since.as_deref().map(|text| time("since", text)).transpose()?;
        let hours = match (self.hours, since) {
            (Some(hours), _) if !(1..=MAX_HOURS).contains(&hours) => {
                return Err(invalid("hours", &hours, "1 to 720"));
            }
            (Some(_), Some(_)) => {
                return Err(invalid("since", self.since.as_deref().unwrap_or(""), "either since or hours"));
            }
            (hours, _) => hours.unwrap_or(DEFAULT_HOURS),
        };
        let since = since.unwrap_or_else(|| until.unwrap_or(now).saturating_sub(u64::from(hours) * HOUR));
        if until.is_some_and(|until| until < since) {
            return Err(invalid("until", self.until.as_deref().unwrap_or(""), "a time behind the begin"));
        }
        // An open end, so that what a node with a clock ahead of ours wrote is found, too.
        Ok((since, until.unwrap_or(u64::MAX)))
    }
}

fn time(field: &'static str, text: &str) -> Result<u64, SearchError> {
    let milliseconds = text.parse::<u64>().ok().or_else(|| {
        let time: jiff::Timestamp = text.parse().ok()?;
        u64::try_from(time.as_millisecond()).ok()
    });
    milliseconds
        .ok_or_else(|| invalid(field, text, "a time like 2026-01-31T12:00:00Z, or milliseconds since 1970"))
}

impl Filter {
    /// Whether a record matches. The window is not looked at: it is part of what is read.
    pub fn matches(&self, record: &[u8]) -> bool {
        self.matching(record).is_some()
    }

    /// The fields of a record, if it matches.
    pub(super) fn matching<'a>(&self, record: &'a [u8]) -> Option<Fields<'a>> {
        if !self.needles.iter().all(|needle| needle.occurs(record)) {
            return None;
        }
        let fields = Fields::parse(record)?;
        let fits = self.conditions.iter().all(|condition| condition.holds(&fields)) && self.has_words(record);
        fits.then_some(fields)
    }

    fn has_words(&self, record: &[u8]) -> bool {
        // Parsed in full only when the words occur somewhere: they may be part of a field's name.
        self.words.is_empty()
            || serde_json::from_slice::<Value>(record)
                .is_ok_and(|value| self.words.iter().all(|word| occurs_in(&value, word)))
    }

    fn client(&mut self, ip: &str) -> Result<(), SearchError> {
        let net = match ip.parse::<IpAddr>() {
            Ok(address) => {
                let address = address.to_canonical();
                self.needle_exact(&address.to_string(), "\"", "\"");
                IpNet::from(address)
            }
            Err(_) => ip.parse().map_err(|_| invalid("ip", ip, "an address or a network like 10.0.0.0/8"))?,
        };
        self.conditions.push(Condition::Client(net));
        Ok(())
    }

    fn status(&mut self, status: &str) -> Result<(), SearchError> {
        let parse = |part: &str| status_range(part.trim());
        let ranges: Option<Vec<_>> = status.split(',').map(parse).collect();
        let ranges =
            ranges.ok_or_else(|| invalid("status", status, "404, 4xx, 500-599, or several with commas"))?;
        if let [range] = &*ranges
            && range.start() == range.end()
        {
            self.needle_exact(&range.start().to_string(), "", "");
        }
        self.conditions.push(Condition::Status(ranges));
        Ok(())
    }

    fn is(&mut self, field: Field, value: &str) {
        self.needle_any_case(value);
        self.conditions.push(Condition::Is(field, value.to_owned()));
    }

    fn host(&mut self, host: &str) {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if host.contains('*') {
            self.conditions.push(Condition::Like(Field::Host, host));
        } else {
            // Hosts are written in lower case.
            self.needle_exact(&host, "\"", "\"");
            self.conditions.push(Condition::Is(Field::Host, host));
        }
    }

    fn path(&mut self, path: &str) {
        if path.contains('*') {
            self.conditions.push(Condition::Like(Field::Path, path.to_owned()));
        } else if path.starts_with('/') {
            self.needle_exact(path, "\"", "");
            self.conditions.push(Condition::StartsWith(Field::Path, path.to_owned()));
        } else {
            self.contains(Field::Path, path);
        }
    }

    fn contains(&mut self, field: Field, value: &str) {
        self.needle_any_case(value);
        self.conditions.push(Condition::Contains(field, value.to_lowercase()));
    }

    fn text(&mut self, q: &str) -> Result<(), SearchError> {
        let words = words(q);
        if words.len() > MAX_WORDS {
            return Err(invalid("q", q, "at most 16 words"));
        }
        for word in words {
            match word.field {
                Some(Field::Method) => self.is(Field::Method, &word.text),
                // Of a level, only its name is in the record, and only of diagnostics.
                Some(Field::Level) => {
                    self.conditions.push(Condition::Contains(Field::Level, word.text.to_lowercase()));
                }
                Some(field) => self.contains(field, &word.text),
                None => {
                    self.needle_any_case(&word.text);
                    self.words.push(word.text.to_lowercase());
                }
            }
        }
        Ok(())
    }

    fn needle_exact(&mut self, text: &str, before: &str, behind: &str) {
        if is_plain(text) {
            let needle = format!("{before}{text}{behind}");
            self.needles.push(Needle::Exact(Box::new(Finder::new(needle.as_bytes()).into_owned())));
        }
    }

    fn needle_any_case(&mut self, text: &str) {
        let regex = RegexBuilder::new(&regex::escape(text)).case_insensitive(true).unicode(false).build();
        if let Some(regex) = regex.ok().filter(|_| is_plain(text)) {
            self.needles.push(Needle::AnyCase(regex));
        }
    }
}

/// Whether JSON has only one way to write a text, as our encoders do: then its bytes can be looked for.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\')
}

fn status_range(text: &str) -> Option<RangeInclusive<u16>> {
    let bytes = text.as_bytes();
    if let [class @ b'1'..=b'5', b'x' | b'X', b'x' | b'X'] = *bytes {
        let begin = u16::from(class - b'0') * 100;
        return Some(begin..=begin + 99);
    }
    let code = |text: &str| text.parse().ok().filter(|code| (100..=999).contains(code));
    match text.split_once('-') {
        Some((begin, end)) => Some(code(begin)?..=code(end)?).filter(|range| !range.is_empty()),
        None => code(text).map(|code| code..=code),
    }
}

impl Needle {
    fn occurs(&self, record: &[u8]) -> bool {
        match self {
            Self::Exact(finder) => finder.find(record).is_some(),
            Self::AnyCase(regex) => regex.is_match(record),
        }
    }
}

impl Condition {
    fn holds(&self, fields: &Fields<'_>) -> bool {
        match self {
            Self::Client(net) => fields.client().is_some_and(|client| net.contains(&client)),
            Self::Status(ranges) => ranges.iter().any(|range| range.contains(&fields.status_code)),
            Self::Slow(least) => fields.response_time_ms >= *least,
            Self::AtLeast(least) => fields.severity() >= *least,
            Self::Is(field, value) => {
                field.values(fields).iter().any(|text| !text.is_empty() && text.eq_ignore_ascii_case(value))
            }
            Self::Contains(field, part) => {
                field.values(fields).iter().any(|text| text.to_lowercase().contains(part))
            }
            Self::StartsWith(field, begin) => {
                field.values(fields).iter().any(|text| text.starts_with(begin.as_str()))
            }
            Self::Like(field, pattern) => {
                field.values(fields).iter().any(|text| glob::matches(pattern, text))
            }
        }
    }
}

impl Field {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "client" | "client_id" | "auth_client_id" | "oauth_client_id" => Self::Client,
            "component" => Self::Component,
            "decision" => Self::Decision,
            "error" | "error_type" => Self::Error,
            "host" | "hostname" | "proxy_hostname" => Self::Host,
            "ip" | "client_ip" => Self::Ip,
            "level" => Self::Level,
            "method" | "request_method" => Self::Method,
            "path" | "request_path" => Self::Path,
            "route" | "route_id" => Self::Route,
            "status" | "status_code" => Self::Status,
            "tool" | "mcp_name" => Self::Tool,
            "trace" | "trace_id" | "request_id" | "correlation_id" => Self::Trace,
            "user" | "auth_user" => Self::User,
            _ => return None,
        })
    }

    fn values<'f>(self, fields: &'f Fields<'_>) -> [Cow<'f, str>; 3] {
        let none = Cow::Borrowed("");
        let one = |text: &'f str| [Cow::Borrowed(text), none.clone(), none.clone()];
        let two = |a: &'f str, b: &'f str| [Cow::Borrowed(a), Cow::Borrowed(b), none.clone()];
        match self {
            Self::Client => one(&fields.auth_client_id),
            Self::Component => one(&fields.component),
            Self::Decision => one(&fields.decision),
            Self::Error => two(&fields.error, &fields.error_type),
            Self::Host => one(&fields.proxy_hostname),
            Self::Ip => one(&fields.client_ip),
            Self::Level => one(fields.severity().name()),
            Self::Method => two(&fields.request_method, &fields.mcp_method),
            Self::Path => one(&fields.request_path),
            Self::Route => one(&fields.route_id),
            Self::Status => [Cow::Owned(fields.status_code.to_string()), none.clone(), none],
            Self::Tool => one(&fields.mcp_name),
            Self::Trace => two(&fields.trace_id, &fields.client_request_id),
            Self::User => {
                let texts: [&'f str; 3] = [&fields.auth_user, &fields.auth_subject, &fields.auth_email];
                texts.map(Cow::Borrowed)
            }
        }
    }
}

/// Whether a word, in lower case, occurs in a value, but not in the names of its fields.
fn occurs_in(value: &Value, word: &str) -> bool {
    match value {
        Value::String(text) => text.to_lowercase().contains(word),
        Value::Number(number) => number.to_string().contains(word),
        Value::Array(values) => values.iter().any(|value| occurs_in(value, word)),
        Value::Object(fields) => fields.values().any(|value| occurs_in(value, word)),
        Value::Null | Value::Bool(_) => false,
    }
}

struct Word {
    field: Option<Field>,
    text: String,
}

/// Splits free text at spaces that are not in quotes. What looks like `field:value` but names no
/// field of ours, e.g. a URL, is a word.
fn words(q: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut text = String::new();
    let mut field = None;
    let (mut quoted, mut was_quoted) = (false, false);
    for char in q.chars().chain([' ']) {
        match char {
            '"' => {
                quoted = !quoted;
                was_quoted = true;
            }
            ' ' | '\t' | '\n' | '\r' if !quoted => {
                if !text.is_empty() {
                    words.push(Word { field: field.take(), text: std::mem::take(&mut text) });
                }
                (field, was_quoted) = (None, false);
            }
            ':' if !was_quoted && field.is_none() && Field::parse(&text).is_some() => {
                field = Field::parse(&text);
                text.clear();
            }
            char => text.push(char),
        }
    }
    // A quote that was never closed ends with the text.
    if !text.trim().is_empty() {
        words.push(Word { field, text: text.trim().to_owned() });
    }
    words
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn record() -> Vec<u8> {
        json!({
            "timestamp": NOW, "trace_id": "00ab", "client_request_id": "theirs", "client_ip": "10.1.2.3",
            "proxy_hostname": "app.example.com", "request_method": "GET", "request_path": "/api/v1/Users",
            "request_query": "page=2", "status_code": 404, "response_time_ms": 12.5, "route_id": "api",
            "auth_user": "Alice", "auth_subject": "4711", "auth_email": "alice@example.com",
            "auth_client_id": "cli", "user_agent": "curl/8 \"é\"", "error_type": "no_such_host",
        })
        .to_string()
        .into_bytes()
    }

    fn matches(search: serde_json::Value) -> bool {
        let search: Search = serde_json::from_value(search).expect("a search");
        search.compile(NOW).expect("a valid search").matches(&record())
    }

    #[test]
    fn every_field_can_be_searched() {
        for (search, expected) in [
            (json!({}), true),
            (json!({"ip": "10.1.2.3"}), true),
            (json!({"client_ip": "10.1.2.30"}), false),
            (json!({"ip": "::ffff:10.1.2.3"}), true),
            (json!({"ip": "10.0.0.0/8"}), true),
            (json!({"ip": "10.1.2.0/31"}), false),
            (json!({"hostname": "APP.example.com."}), true),
            (json!({"hostname": "example.com"}), false),
            (json!({"hostname": "*.example.com"}), true),
            (json!({"user": "alice"}), true),
            (json!({"user": "4711"}), true),
            (json!({"user": "ALICE@example.com"}), true),
            (json!({"user": "ali"}), false),
            (json!({"client_id": "cli"}), true),
            (json!({"client_id": "other"}), false),
            (json!({"status": "404"}), true),
            (json!({"status": 404}), true),
            (json!({"status": "4xx"}), true),
            (json!({"status": "500-599, 404"}), true),
            (json!({"status": "5xx"}), false),
            (json!({"method": "get"}), true),
            (json!({"method": "POST"}), false),
            (json!({"path": "/api"}), true),
            (json!({"path": "/v1"}), false),
            (json!({"path": "v1/users"}), true),
            (json!({"pattern": "/api/*/Users"}), true),
            (json!({"path": "/api/*/Use"}), false),
            (json!({"route": "api"}), true),
            (json!({"trace_id": "00AB"}), true),
            (json!({"correlation_id": "theirs"}), true),
            (json!({"trace_id": "00a"}), false),
            (json!({"slow": 12.5}), true),
            (json!({"threshold": 13}), false),
            (json!({"errors": true}), false),
            (json!({"errors": true, "include_warnings": true}), true),
            (json!({"level": "warning"}), true),
            (json!({"level": "error"}), false),
            (json!({"component": "tls"}), false),
            (json!({"user": "alice", "status": "5xx"}), false),
        ] {
            assert_eq!(matches(search.clone()), expected, "{search}");
        }
    }

    #[test]
    fn free_text_looks_at_values_and_at_named_fields() {
        for (q, expected) in [
            ("curl", true),
            ("CURL page=2", true),
            ("curl nothing", false),
            ("status_code", false),
            ("404", true),
            ("\"curl/8 \"", true),
            ("é", true),
            ("É", true),
            ("method:GET", true),
            ("method:GE", false),
            ("status:40", true),
            ("path:users user:ALI", true),
            ("ip:10.1", true),
            ("proxy_hostname:example", true),
            ("level:warn", true),
            ("error:such", true),
            ("component:tls", false),
            ("path:\"/api/v1\"", true),
            ("\"path:/api\"", false),
            ("http://example.com", false),
            ("  ", true),
            ("\"curl/8", true),
        ] {
            assert_eq!(matches(json!({ "q": q })), expected, "{q}");
        }
    }

    #[test]
    fn bad_conditions_are_refused_by_name() {
        for (search, field) in [
            (json!({"ip": "10.0.0"}), "ip"),
            (json!({"status": "6xx"}), "status"),
            (json!({"status": "404,"}), "status"),
            (json!({"status": "599-500"}), "status"),
            (json!({"level": "loud"}), "level"),
            (json!({"slow": -1}), "slow"),
            (json!({"hours": 0}), "hours"),
            (json!({"hours": 721}), "hours"),
            (json!({"hours": 1, "since": 0}), "since"),
            (json!({"since": "yesterday"}), "since"),
            (json!({"since": 10, "until": 9}), "until"),
            (json!({"q": "a ".repeat(17)}), "q"),
        ] {
            let parsed: Search = serde_json::from_value(search.clone()).unwrap();
            assert_eq!(parsed.compile(NOW).unwrap_err().field, field, "{search}");
        }
        assert!(serde_json::from_value::<Search>(json!({"colour": "red"})).is_err());
        assert!(Search { limit: Some(1001), ..Search::default() }.page_size().is_err());
        assert!(Search { offset: Some(100_001), ..Search::default() }.skip().is_err());
    }

    #[test]
    fn the_window_is_a_day_unless_told_otherwise() {
        for (search, window) in [
            (json!({}), (NOW - 24 * HOUR, u64::MAX)),
            (json!({"hours": 1}), (NOW - HOUR, u64::MAX)),
            (json!({"since": 5, "until": "7"}), (5, 7)),
            (json!({"until": "1970-01-02T00:00:00Z"}), (0, 24 * HOUR)),
            (json!({"since": "1970-01-01T00:00:01+00:00"}), (1000, u64::MAX)),
        ] {
            let parsed: Search = serde_json::from_value(search.clone()).unwrap();
            let filter = parsed.compile(NOW).unwrap();
            assert_eq!((filter.since, filter.until), window, "{search}");
        }
    }

    #[test]
    fn what_is_no_record_matches_nothing() {
        let filter = Search::default().compile(NOW).unwrap();
        for bytes in [&b""[..], b"{", b"null", b"\xff"] {
            assert!(!filter.matches(bytes), "{bytes:?}");
        }
    }
}
