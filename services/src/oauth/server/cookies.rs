//! Cookies of the issuer's own pages. Each has the prefix `__Host-`, so no other host, no subdomain and
//! no plain-text connection can set it; none can be read by a script.
//!
//! A *transaction* is one authorization that a browser is in the middle of. It has an id, which names it
//! in forms, in the upstream `state` and in the name of its cookie, and a secret, which only the browser
//! that began it has. Several tabs have several of them, bounded.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64_URL;
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use crate::oauth::opaque;
use crate::random;

/// The browser's session at the issuer.
pub const SESSION: &str = "__Host-portcullis-session";

/// What the names of the cookies of transactions start with; the id follows.
const TRANSACTION: &str = "__Host-portcullis-login.";

/// The most transactions of one browser: tabs that were opened and forgotten.
pub const MAX_TRANSACTIONS: usize = 8;

/// The most cookies that are looked at; browsers keep about 180 for one host.
const MAX_COOKIES: usize = 200;

/// The longest value of ours: an opaque id, not a document.
const MAX_VALUE: usize = 512;

/// The longest id of a transaction: a little more than a random name has.
const MAX_ID: usize = 32;

/// A cookie of ours, `None` when the browser sent none, several of that name, or one that we never set.
pub fn read(headers: &HeaderMap, name: &str) -> Option<SecretString> {
    let mut values = all(headers).filter(|(own, _)| *own == name).map(|(_, value)| value);
    let value = values.next()?;
    let alone = values.next().is_none();
    (alone && is_ours(value, MAX_VALUE)).then(|| value.into())
}

/// The header that sets a cookie until the browser is closed, or for a time. `value` must be of our own
/// making: letters, digits, `-` and `_`.
pub fn set(name: &str, value: &SecretString, max_age: Option<Duration>) -> HeaderValue {
    let value = value.expose_secret();
    debug_assert!(is_ours(value, MAX_VALUE), "a value for {name} that could not be read back");
    let age = max_age.map(|age| format!("; Max-Age={}", age.as_secs())).unwrap_or_default();
    header(&format!("{name}={value}{age}"))
}

/// The longest token in a cookie; browsers keep about 4 KiB of each.
const MAX_TOKEN: usize = 3_800;

/// A cookie that holds a signed token: three parts with dots between.
pub fn read_token(headers: &HeaderMap, name: &str) -> Option<SecretString> {
    let mut values = all(headers).filter(|(own, _)| *own == name).map(|(_, value)| value);
    let value = values.next()?;
    let alone = values.next().is_none();
    (alone && !value.is_empty() && value.len() <= MAX_TOKEN && is_token(value)).then(|| value.into())
}

/// Whether a cookie can hold a signed token.
pub fn holds(token: &SecretString) -> bool {
    token.expose_secret().len() <= MAX_TOKEN
}

/// The header that sets a cookie with a signed token.
pub fn set_token(name: &str, token: &str, max_age: Duration) -> HeaderValue {
    header(&format!("{name}={token}; Max-Age={}", max_age.as_secs()))
}

/// The header that removes a cookie.
pub fn clear(name: &str) -> HeaderValue {
    header(&format!("{name}=; Max-Age=0"))
}

/// One authorization in one browser.
pub struct Transaction {
    id: String,
    secret: SecretString,
}

impl Transaction {
    /// A new one.
    pub fn start() -> Self {
        Self { id: random::name(""), secret: random::secret("") }
    }

    /// The transaction that a form or an answer from upstream names, if this browser began it.
    pub fn find(headers: &HeaderMap, id: &str) -> Option<Self> {
        // An id of another form would be looked for under a name that we never set.
        if !is_ours(id, MAX_ID) {
            return None;
        }
        let secret = read(headers, &format!("{TRANSACTION}{id}"))?;
        Some(Self { id: id.to_owned(), secret })
    }

    /// Its id: no secret, but not to be guessed either.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What to keep with the transaction's record, to compare with [`is_bound_to`](Self::is_bound_to).
    pub fn binding(&self) -> String {
        opaque::hash(self.secret.expose_secret().as_bytes())
    }

    /// Whether this is the browser that the record was made for.
    pub fn is_bound_to(&self, binding: &str) -> bool {
        verify_slices_are_equal(self.binding().as_bytes(), binding.as_bytes()).is_ok()
    }

    /// The token of a form. `purpose` names the form, so that the one of a page is no good for another.
    pub fn form_token(&self, purpose: &str) -> String {
        form_token(&self.secret, purpose)
    }

    /// Whether a form is ours, and was made for this browser and purpose.
    pub fn accepts(&self, purpose: &str, token: &str) -> bool {
        accepts(&self.secret, purpose, token)
    }

    /// The headers that set its cookie, and remove those of others if there are too many. Browsers do not
    /// say which cookie is older, and the tab that a user just opened is the one that counts.
    pub fn cookies(&self, headers: &HeaderMap, max_age: Duration) -> Vec<HeaderValue> {
        let own = format!("{TRANSACTION}{}", self.id);
        let others: Vec<&str> = all(headers)
            .map(|(name, _)| name)
            .filter(|name| name.starts_with(TRANSACTION) && *name != own && is_token(name))
            .collect();
        let surplus = others.len().saturating_sub(MAX_TRANSACTIONS - 1);
        let mut set_cookies: Vec<HeaderValue> = others.into_iter().take(surplus).map(clear).collect();
        set_cookies.push(set(&own, &self.secret, Some(max_age)));
        set_cookies
    }

    /// The header that ends it.
    pub fn end(&self) -> HeaderValue {
        clear(&format!("{TRANSACTION}{}", self.id))
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A secret for a cookie: 256 random bits.
pub fn new_secret() -> SecretString {
    random::secret("")
}

/// The token of a form on a page of a browser that holds `secret` in a cookie: whoever makes the browser
/// send a form from elsewhere does not know it.
pub fn form_token(secret: &SecretString, purpose: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
    BASE64_URL.encode(hmac::sign(&key, format!("portcullis form {purpose}").as_bytes()))
}

/// Whether the token of a form is the one for this secret and purpose; compared in constant time.
pub fn accepts(secret: &SecretString, purpose: &str, token: &str) -> bool {
    verify_slices_are_equal(form_token(secret, purpose).as_bytes(), token.as_bytes()).is_ok()
}

fn header(pair: &str) -> HeaderValue {
    let text = format!("{pair}; Path=/; Secure; HttpOnly; SameSite=Lax");
    let mut value = HeaderValue::try_from(text).expect("names and values are of our own making");
    value.set_sensitive(true);
    value
}

fn all(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .take(MAX_COOKIES)
        .filter_map(|pair| pair.trim_matches([' ', '\t']).split_once('='))
}

fn is_ours(text: &str, max: usize) -> bool {
    !text.is_empty() && text.len() <= max && is_token(text) && !text.contains('.')
}

/// The characters of our names and values.
fn is_token(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_secs(600);

    fn sent(cookies: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(COOKIE, cookie.parse().expect("a header"));
        }
        headers
    }

    /// What a browser sends back of what it was told to keep.
    fn returned(set_cookie: &HeaderValue) -> String {
        set_cookie.to_str().expect("ASCII").split(';').next().expect("a pair").to_owned()
    }

    #[test]
    fn cookies_are_for_this_host_and_no_script() {
        let value = SecretString::from("abc");
        assert_eq!(
            set(SESSION, &value, Some(AGE)),
            "__Host-portcullis-session=abc; Max-Age=600; Path=/; Secure; HttpOnly; SameSite=Lax"
        );
        assert_eq!(
            set(SESSION, &value, None),
            "__Host-portcullis-session=abc; Path=/; Secure; HttpOnly; SameSite=Lax"
        );
        assert_eq!(
            clear(SESSION),
            "__Host-portcullis-session=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax"
        );
        assert!(set(SESSION, &value, None).is_sensitive());
        assert!(!format!("{:?}", set(SESSION, &value, None)).contains("abc"));
    }

    #[test]
    fn one_cookie_of_a_name_is_read() {
        let long = format!("{SESSION}={}", "x".repeat(MAX_VALUE + 1));
        for (cookies, value) in [
            (&["__Host-portcullis-session=abc"][..], Some("abc")),
            (&["a=b; __Host-portcullis-session=abc; c"], Some("abc")),
            (&["a=b", "__Host-portcullis-session=abc"], Some("abc")),
            (&["__host-portcullis-session=abc"], None),
            (&["__Host-portcullis-session=abc; __Host-portcullis-session=abd"], None),
            (&["__Host-portcullis-session=abc", "__Host-portcullis-session=abc"], None),
            (&["__Host-portcullis-session="], None),
            (&["__Host-portcullis-session=\"abc\""], None),
            (&["__Host-portcullis-session=a b"], None),
            (&[long.as_str()], None),
            (&["portcullis-session=abc"], None),
            (&[], None),
        ] {
            let read = read(&sent(cookies), SESSION);
            assert_eq!(read.as_ref().map(ExposeSecret::expose_secret), value, "{cookies:?}");
        }
        let many = format!("{}{SESSION}=abc", "a=b;".repeat(MAX_COOKIES));
        assert!(read(&sent(&[&many]), SESSION).is_none());
    }

    #[test]
    fn a_transaction_belongs_to_the_browser_that_began_it() {
        let transaction = Transaction::start();
        let cookies = transaction.cookies(&HeaderMap::new(), AGE);
        assert_eq!(cookies.len(), 1);
        let headers = sent(&[&returned(&cookies[0])]);
        let found = Transaction::find(&headers, transaction.id()).expect("the same browser");
        assert!(found.is_bound_to(&transaction.binding()));
        assert!(Transaction::find(&HeaderMap::new(), transaction.id()).is_none());
        assert!(Transaction::find(&headers, Transaction::start().id()).is_none());

        let other = Transaction::start();
        assert!(!other.is_bound_to(&transaction.binding()) && !other.is_bound_to(""));
        let forged = sent(&[&format!("{TRANSACTION}{}=guess", transaction.id())]);
        let forged = Transaction::find(&forged, transaction.id()).expect("a cookie");
        assert!(!forged.is_bound_to(&transaction.binding()));
        assert!(!transaction.binding().contains(transaction.secret.expose_secret()));
        assert!(!format!("{transaction:?}").contains(transaction.secret.expose_secret()));
    }

    #[test]
    fn ids_that_are_none_find_nothing() {
        let headers = sent(&["__Host-portcullis-login.=abc; __Host-portcullis-login.a.b=abc"]);
        for id in ["", "a.b", "a b", "a;b", "a=b", "é", &"x".repeat(33)] {
            assert!(Transaction::find(&headers, id).is_none(), "{id}");
        }
    }

    #[test]
    fn forgotten_tabs_make_room() {
        let mut kept = Vec::new();
        for count in 1..=MAX_TRANSACTIONS + 3 {
            let transaction = Transaction::start();
            let mut set_cookies = transaction.cookies(&sent(&[&kept.join("; ")]), AGE);
            kept.push(returned(&set_cookies.pop().expect("its own")));
            for cleared in set_cookies {
                let name = returned(&cleared);
                kept.retain(|pair| !pair.starts_with(&name));
            }
            assert_eq!(kept.len(), count.min(MAX_TRANSACTIONS));
            assert!(Transaction::find(&sent(&[&kept.join("; ")]), transaction.id()).is_some());
        }
    }

    #[test]
    fn a_form_is_good_for_one_browser_and_purpose() {
        let transaction = Transaction::start();
        let token = transaction.form_token("consent");
        assert!(transaction.accepts("consent", &token));
        for (purpose, token) in [("device", token.as_str()), ("consent", ""), ("consent", &token[1..])] {
            assert!(!transaction.accepts(purpose, token), "{purpose} {token}");
        }
        assert!(!Transaction::start().accepts("consent", &token));
        let secret = new_secret();
        assert!(accepts(&secret, "logout", &form_token(&secret, "logout")));
        assert!(!accepts(&new_secret(), "logout", &form_token(&secret, "logout")));
        assert!(transaction.end().to_str().expect("ASCII").contains("Max-Age=0"));
    }
}
