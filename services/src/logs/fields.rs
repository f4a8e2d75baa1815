//! The fields of a record that searches and statistics look at, borrowed from its bytes.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::Deserialize;

/// What a record says. Absent fields are empty or zero; fields of no interest are skipped.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Fields<'a> {
    #[serde(borrow)]
    pub(super) client_ip: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) proxy_hostname: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) request_method: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) request_path: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) mcp_method: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) mcp_name: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) decision: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) auth_user: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) auth_subject: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) auth_email: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) auth_client_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) route_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) trace_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) client_request_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) error: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) error_type: Cow<'a, str>,
    #[serde(borrow)]
    level: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) component: Cow<'a, str>,
    pub(super) status_code: u16,
    pub(super) response_time_ms: f64,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
    pub(super) body_failed: bool,
    pub(super) tunnel: bool,
}

/// How bad a record is. Diagnostics say it; of requests the status does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    Trace,
    Debug,
    Info,
    Warning,
    Error,
}

impl Severity {
    /// The names of the catalogue, and those of `tracing`. Nothing of ours is worse than an error.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let known = [
            ("trace", Self::Trace),
            ("debug", Self::Debug),
            ("info", Self::Info),
            ("warning", Self::Warning),
            ("warn", Self::Warning),
            ("error", Self::Error),
            ("critical", Self::Error),
        ];
        known.into_iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, severity)| severity)
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Trace => "TRACE",
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
        }
    }
}

impl<'a> Fields<'a> {
    /// `None` for what is no record: it matches nothing.
    pub(super) fn parse(record: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(record).ok()
    }

    pub(super) fn severity(&self) -> Severity {
        match self.status_code {
            500.. => Severity::Error,
            _ if self.body_failed => Severity::Error,
            400.. => Severity::Warning,
            _ => Severity::parse(&self.level).unwrap_or(Severity::Info),
        }
    }

    pub(super) fn client(&self) -> Option<IpAddr> {
        self.client_ip.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_texts_are_borrowed_and_the_rest_is_skipped() {
        let fields = Fields::parse(
            br#"{"request_path":"/a","fields":{"status_code":"x"},"status_code":404,"auth_user":"a\"b"}"#,
        );
        let fields = fields.unwrap();
        assert!(matches!(fields.request_path, Cow::Borrowed("/a")));
        assert_eq!(fields.auth_user, "a\"b");
        assert_eq!(fields.severity(), Severity::Warning);
        assert!(Fields::parse(b"{\"status_code\":").is_none());
        assert!(Fields::parse(b"[]").is_none_or(|fields| fields.status_code == 0));
    }

    #[test]
    fn diagnostics_have_a_level_of_their_own() {
        for (record, severity) in [
            (r#"{"level":"WARNING"}"#, Severity::Warning),
            (r#"{"level":"CRITICAL"}"#, Severity::Error),
            (r#"{"status_code":200,"body_failed":true}"#, Severity::Error),
            (r#"{"status_code":200}"#, Severity::Info),
        ] {
            assert_eq!(Fields::parse(record.as_bytes()).unwrap().severity(), severity, "{record}");
        }
    }
}
