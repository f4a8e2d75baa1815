//! The pages that people see. They need no script, and a strict policy forbids any; what comes from
//! outside is escaped by the templates and bounded here, for its author may be an attacker.
//!
//! | page | shown |
//! | --- | --- |
//! | [`Consent`] | before GitHub is asked anything for a client |
//! | [`DeviceEntry`], [`DeviceConfirm`] | to who connects a device (RFC 8628, section 3.3) |
//! | [`Logout`] | before a session ends that another site wants ended |
//! | [`Notice`] | when something is done |
//! | [`ErrorPage`] | where a redirect would go to nobody known |

mod client;
mod policy;
mod text;

use askama::Template;
use bytes::Bytes;
use http::{Response, StatusCode};

pub use self::client::{Client, ClientKind, Rights};
use self::client::{ClientView, RightsView};
pub use self::policy::form_source;
use self::policy::{STYLE, answer};
use self::text::bounded;
use super::error::{ErrorCode, OAuthError};

/// The field of a form that holds its token.
pub const FORM_TOKEN: &str = "form_token";

/// The field of a form with Approve and Deny; the value is [`APPROVE`] or something else.
pub const DECISION: &str = "decision";

/// The value of [`DECISION`] that approves.
pub const APPROVE: &str = "approve";

/// The field with the code of a device.
pub const USER_CODE: &str = "user_code";

/// The longest name of a user that is shown.
const MAX_USER: usize = 64;

/// What all pages have in common.
#[derive(Debug, Clone)]
pub struct Site {
    /// The name over each page.
    pub product: String,
}

/// A form of ours.
#[derive(Debug, Clone, Copy)]
pub struct Form<'a> {
    /// Where it is posted to: a path on the same host.
    pub action: &'a str,
    /// Its token (see [`cookies`](super::cookies)).
    pub token: &'a str,
    /// Its other hidden fields.
    pub fields: &'a [(&'a str, &'a str)],
}

/// Whether a client may act for a user.
#[derive(Debug, Clone, Copy)]
pub struct Consent<'a> {
    /// Who asks.
    pub client: Client<'a>,
    /// What for.
    pub rights: Rights<'a>,
    /// Who is logged in, if anybody.
    pub user: Option<&'a str>,
    /// Where the decision goes.
    pub form: Form<'a>,
    /// Where the browser may be sent after it, beside the client's redirect URI: the provider's login.
    pub next: &'a [&'a str],
}

/// The page where the code of a device is entered.
#[derive(Debug, Clone, Copy)]
pub struct DeviceEntry<'a> {
    /// What was in the link, or was entered before.
    pub user_code: &'a str,
    /// What was wrong with that.
    pub problem: Option<&'a str>,
    /// Where the code goes.
    pub form: Form<'a>,
    /// Where the browser may be sent after it: the provider's login.
    pub next: &'a [&'a str],
}

/// Whether a device is the user's.
#[derive(Debug, Clone, Copy)]
pub struct DeviceConfirm<'a> {
    /// The code that the device must show.
    pub user_code: &'a str,
    /// What runs on the device, as it says.
    pub client: Client<'a>,
    /// What it asks for.
    pub rights: Rights<'a>,
    /// Who is logged in.
    pub user: &'a str,
    /// Where the decision goes.
    pub form: Form<'a>,
}

/// Whether to end the session.
#[derive(Debug, Clone, Copy)]
pub struct Logout<'a> {
    /// Who is logged in.
    pub user: &'a str,
    /// Where the decision goes.
    pub form: Form<'a>,
    /// Where the browser may be sent after it.
    pub next: &'a [&'a str],
}

/// That something is done.
#[derive(Debug, Clone, Copy)]
pub enum Notice<'a> {
    /// There is a session now.
    SignedIn {
        /// Whose.
        user: &'a str,
    },
    /// There is none any more.
    SignedOut,
    /// The device has its access.
    DeviceApproved,
    /// It has none.
    DeviceDenied,
}

/// What went wrong, where there is no client to tell.
#[derive(Debug, Clone, Copy)]
pub struct ErrorPage<'a> {
    /// The error.
    pub error: &'a OAuthError,
    /// What to look for in the log.
    pub request_id: Option<&'a str>,
    /// The URL where who has the wrong account signs out.
    pub sign_out: Option<&'a str>,
    /// The URL where the client learns of the error.
    pub back: Option<&'a str>,
}

/// What the outer template shows.
#[derive(Debug, Clone, Copy)]
struct Page<'a> {
    product: &'a str,
    style: &'static str,
}

impl Site {
    const fn page(&self) -> Page<'_> {
        Page { product: self.product.as_str(), style: STYLE }
    }
}

#[derive(Template)]
#[template(path = "oauth/consent.html")]
struct ConsentTemplate<'a> {
    page: Page<'a>,
    client: ClientView,
    rights: RightsView,
    user: Option<String>,
    form: Form<'a>,
}

impl Consent<'_> {
    /// The page.
    pub fn response(&self, site: &Site) -> Response<Bytes> {
        let template = ConsentTemplate {
            page: site.page(),
            client: self.client.view(),
            rights: self.rights.view(),
            user: self.user.map(|user| bounded(user, MAX_USER)),
            form: self.form,
        };
        let redirect = self.client.redirect_uri.into_iter();
        answer(StatusCode::OK, &template, Some(self.next.iter().copied().chain(redirect)))
    }
}

#[derive(Template)]
#[template(path = "oauth/device_entry.html")]
struct DeviceEntryTemplate<'a> {
    page: Page<'a>,
    user_code: String,
    problem: Option<String>,
    form: Form<'a>,
}

impl DeviceEntry<'_> {
    /// The page.
    pub fn response(&self, site: &Site) -> Response<Bytes> {
        // What a link brings along may be anything; a code has letters, digits and hyphens.
        let is_code = |char: &char| char.is_ascii_alphanumeric() || *char == '-';
        let template = DeviceEntryTemplate {
            page: site.page(),
            user_code: self.user_code.chars().filter(is_code).take(32).collect(),
            problem: self.problem.map(|problem| bounded(problem, 200)),
            form: self.form,
        };
        let status = if self.problem.is_some() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
        answer(status, &template, Some(self.next.iter().copied()))
    }
}

#[derive(Template)]
#[template(path = "oauth/device_confirm.html")]
struct DeviceConfirmTemplate<'a> {
    page: Page<'a>,
    user_code: String,
    client: ClientView,
    rights: RightsView,
    user: String,
    form: Form<'a>,
}

impl DeviceConfirm<'_> {
    /// The page.
    pub fn response(&self, site: &Site) -> Response<Bytes> {
        let template = DeviceConfirmTemplate {
            page: site.page(),
            user_code: bounded(self.user_code, 32),
            client: self.client.view(),
            rights: self.rights.view(),
            user: bounded(self.user, MAX_USER),
            form: self.form,
        };
        answer(StatusCode::OK, &template, Some([]))
    }
}

#[derive(Template)]
#[template(path = "oauth/logout.html")]
struct LogoutTemplate<'a> {
    page: Page<'a>,
    user: String,
    form: Form<'a>,
}

impl Logout<'_> {
    /// The page.
    pub fn response(&self, site: &Site) -> Response<Bytes> {
        let user = bounded(self.user, MAX_USER);
        let template = LogoutTemplate { page: site.page(), user, form: self.form };
        answer(StatusCode::OK, &template, Some(self.next.iter().copied()))
    }
}

#[derive(Template)]
#[template(path = "oauth/notice.html")]
struct NoticeTemplate<'a> {
    page: Page<'a>,
    title: &'static str,
    text: &'static str,
    user: Option<String>,
}

impl Notice<'_> {
    /// The page.
    pub fn response(&self, site: &Site) -> Response<Bytes> {
        let (title, text) = match self {
            Self::SignedIn { .. } => ("You are signed in", "You can close this page."),
            Self::SignedOut => ("You are signed out", "You can close this page."),
            Self::DeviceApproved => {
                ("Your device is connected", "You can close this page and go back to it.")
            }
            Self::DeviceDenied => ("The device was refused", "It has no access. You can close this page."),
        };
        let user = match self {
            Self::SignedIn { user } => Some(bounded(user, MAX_USER)),
            Self::SignedOut | Self::DeviceApproved | Self::DeviceDenied => None,
        };
        answer(StatusCode::OK, &NoticeTemplate { page: site.page(), title, text, user }, None::<[&str; 0]>)
    }
}

#[derive(Template)]
#[template(path = "oauth/error.html")]
struct ErrorTemplate<'a> {
    page: Page<'a>,
    title: &'static str,
    text: &'static str,
    code: &'static str,
    description: &'a str,
    request_id: Option<String>,
    sign_out: Option<&'a str>,
    back: Option<BackView<'a>>,
}

struct BackView<'a> {
    url: &'a str,
    place: String,
}

impl ErrorPage<'_> {
    /// The page. An unknown client or redirect URI is 400 here (clients that look before they send a
    /// browser rely on it), though `invalid_client` is 401 in JSON.
    pub fn response(&self, site: &Site) -> Response<Bytes> {
        let code = self.error.code();
        let status = match self.error.status() {
            StatusCode::UNAUTHORIZED => StatusCode::BAD_REQUEST,
            // In JSON, RFC 6749 wants 400.
            _ if code == ErrorCode::AccessDenied => StatusCode::FORBIDDEN,
            status => status,
        };
        let (title, text) = match code {
            ErrorCode::AccessDenied => {
                ("You have no access", "Your account is not on the list of those who have.")
            }
            ErrorCode::ServerError => ("Something went wrong", "This is our fault. Try again in a while."),
            ErrorCode::TemporarilyUnavailable => ("Not right now", "Try again in a while."),
            ErrorCode::ExpiredToken => {
                ("This took too long", "Go back to where you came from and start again.")
            }
            _ => (
                "This link does not work",
                "The application that sent you here made a mistake, or is not known here. Go back to it and \
                 connect it anew.",
            ),
        };
        let template = ErrorTemplate {
            page: site.page(),
            title,
            text,
            code: code.as_str(),
            description: self.error.description(),
            request_id: self.request_id.map(|id| bounded(id, MAX_USER)),
            sign_out: self.sign_out.filter(|_| code == ErrorCode::AccessDenied),
            back: self.back.map(|url| BackView { url, place: client::place_of(url) }),
        };
        let mut response = answer(status, &template, None::<[&str; 0]>);
        self.error.say_when(response.headers_mut());
        response
    }
}

#[cfg(test)]
mod tests;
