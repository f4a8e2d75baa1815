//! What an operation is, who calls it, and who reads the list of all of them.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use clap::Args;
use http::Method;
use portcullis_layers::Principal;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Control, Error};

/// Where an operation stands in the REST API. `{name}` in a path is a field of the input, `{*name}` one that may have
/// slashes, because encoded ones are refused on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The method.
    pub method: Method,
    /// The path, with a slash at the end for collections; both forms are served.
    pub path: &'static str,
    /// The status of success.
    pub status: u16,
}

impl Endpoint {
    /// The path as a router takes it, and what must still follow a field that may have slashes: a router knows those
    /// at the end of a path only.
    pub fn pattern(&self) -> (&'static str, &'static str) {
        match self.path.find("{*").and_then(|start| self.path[start..].find('}').map(|end| start + end + 1)) {
            Some(end) => self.path.split_at(end),
            None => (self.path, ""),
        }
    }

    /// The path as OpenAPI writes it, which has one form for all fields.
    pub fn template(&self) -> String {
        self.path.replace("{*", "{")
    }

    /// Whether a call may change something.
    pub fn writes(&self) -> bool {
        self.method != Method::GET
    }
}

/// `GET path`.
pub const fn get(path: &'static str) -> Endpoint {
    Endpoint { method: Method::GET, path, status: 200 }
}

/// `POST path`.
pub const fn post(path: &'static str) -> Endpoint {
    Endpoint { method: Method::POST, path, status: 200 }
}

/// `POST path`, whose success is 201.
pub const fn create(path: &'static str) -> Endpoint {
    Endpoint { method: Method::POST, path, status: 201 }
}

/// `PUT path`.
pub const fn put(path: &'static str) -> Endpoint {
    Endpoint { method: Method::PUT, path, status: 200 }
}

/// `PATCH path`.
pub const fn patch(path: &'static str) -> Endpoint {
    Endpoint { method: Method::PATCH, path, status: 200 }
}

/// `DELETE path`.
pub const fn delete(path: &'static str) -> Endpoint {
    Endpoint { method: Method::DELETE, path, status: 200 }
}

/// The twin of a list that answers with a text table instead of JSON, at a path of its own; `format` there may be
/// `table`, `csv` or `json`.
#[derive(Debug)]
pub struct Table<T> {
    /// Where it answers.
    pub path: &'static str,
    /// What stands above the columns.
    pub columns: &'static [&'static str],
    /// The cells of each row.
    pub rows: fn(&T) -> Vec<Vec<String>>,
}

// Derived, they would ask for a list that can be cloned.
impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Table<T> {}

/// A value as a cell of a table: a word as documents have it, without quotes.
pub(super) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

/// Whom an operation is open to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Anybody.
    Public,
    /// Whoever has a valid token for this host.
    Anyone,
    /// The scope `user`, or `admin`.
    User,
    /// The scope `admin`.
    Admin,
}

impl Access {
    /// The scopes of which one is needed.
    pub const fn scopes(self) -> &'static [&'static str] {
        match self {
            Self::Public | Self::Anyone => &[],
            Self::User => &["user", "admin"],
            Self::Admin => &["admin"],
        }
    }
}

/// Something that users can do. The struct is the input; its documentation is the help text of every surface.
pub trait Operation: Serialize + DeserializeOwned + JsonSchema + Args + Send + Sync + 'static {
    /// The name, e.g. of a tool: `create_proxy`.
    const NAME: &'static str;
    /// The words of the command line, e.g. `proxy create`.
    const COMMAND: &'static [&'static str];
    /// Its place in the REST API.
    const HTTP: Endpoint;
    /// Other places where it answers, too.
    const ALIASES: &'static [Endpoint] = &[];
    /// Its twin for people, where it is a list.
    const TABLE: Option<Table<Self::Output>> = None;
    /// Whom it is open to.
    const SCOPE: Access;
    /// How large an input may be, in bytes.
    const BODY_LIMIT: usize = 1 << 20;
    /// Whether it works on while the store is another one than what is served; reading always does.
    const WITH_REPLACED_STORE: bool = false;
    /// What comes back. It must not hold a secret, but for one that was just made to be shown once.
    type Output: Serialize + JsonSchema + Send + 'static;

    /// What the call is about, for the audit log: a name, never a secret.
    fn subject(&self) -> Option<String> {
        None
    }

    /// Does it.
    fn run(
        self,
        control: &Control,
        ctx: &Context,
    ) -> impl Future<Output = Result<Self::Output, Error>> + Send;
}

/// A reader of the list of operations: REST, OpenAPI, the command line, tools.
pub trait Surface {
    /// Takes an operation in.
    fn add<O: Operation>(&mut self);
}

/// Who calls.
#[derive(Debug, Clone, Default)]
pub enum Caller {
    /// Nobody knows.
    #[default]
    Anonymous,
    /// Somebody who may open the daemon's own socket, and so is admin.
    Local,
    /// Whom a verified token names.
    Principal(Arc<Principal>),
}

impl Caller {
    /// The name to keep with what the caller makes: a user of another issuer with that issuer's name.
    pub fn name(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Anonymous => None,
            Self::Local => Some(Cow::Borrowed("local")),
            Self::Principal(principal) => Some(principal.full_name()),
        }
    }

    /// Whether the caller may.
    pub fn may(&self, access: Access) -> bool {
        match self {
            _ if access == Access::Public => true,
            Self::Anonymous => false,
            Self::Local => true,
            Self::Principal(_) if access == Access::Anyone => true,
            Self::Principal(principal) => access.scopes().iter().any(|scope| principal.has_scope(scope)),
        }
    }

    /// An error unless the caller may.
    pub fn check(&self, access: Access) -> Result<(), Error> {
        match self {
            _ if self.may(access) => Ok(()),
            Self::Anonymous => Err(Error::Unauthenticated),
            _ => Err(Error::Forbidden { scopes: access.scopes().to_vec() }),
        }
    }
}

/// Tells whoever waits how far long work is.
#[derive(Debug, Clone, Default)]
pub struct Progress(Option<mpsc::Sender<String>>);

/// So many steps wait for who reads them; then some are left out.
const STEPS: usize = 256;

impl Progress {
    /// Progress, and the end where somebody reads it.
    pub fn channel() -> (Self, mpsc::Receiver<String>) {
        let (sender, steps) = mpsc::channel(STEPS);
        (Self(Some(sender)), steps)
    }

    /// Reports a step. That nobody reads, or not fast enough, is fine.
    pub fn report(&self, step: impl Into<String>) {
        if let Some(sender) = &self.0 {
            let _ = sender.try_send(step.into());
        }
    }
}

/// The circumstances of a call.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// Who calls.
    pub caller: Caller,
    /// From where.
    pub client: Option<IpAddr>,
    /// The id of the request, as in the access log.
    pub request_id: Option<String>,
    /// The version that the caller saw last (`If-Match`).
    pub if_match: Option<u64>,
    /// Where to report to.
    pub progress: Progress,
    /// Cancelled when nobody waits any longer.
    pub cancel: CancellationToken,
}

impl Context {
    /// A call by somebody.
    pub fn of(caller: Caller) -> Self {
        Self { caller, ..Self::default() }
    }
}
