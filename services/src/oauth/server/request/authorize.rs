//! The authorization request (OAuth 2.1, section 4.1.1; OpenID Connect Core 1.0, section 3.1.2.1).
//!
//! It is read in two steps. First [`Requester`]: who asks, and where an answer would go; an error there is
//! shown on a page. When the client is known and the redirect URI is its own, [`AuthorizeRequest`] reads
//! the rest; an error there goes back to the client.

use std::fmt;

use super::pkce::Challenge;
use super::{graphic, invalid_request, scopes, text};
use crate::oauth::server::error::{ErrorCode, OAuthError};
use crate::oauth::server::params::Params;
use crate::oauth::server::redirect::RedirectTarget;
use crate::oauth::server::scope::Scopes;

/// The longest `state`. It comes back in a URL, which servers bound at 8 KiB or so.
const MAX_STATE: usize = 2_048;

/// The longest `nonce`. It is kept until the ID token is made.
const MAX_NONCE: usize = 512;

/// The longest `login_hint`: an e-mail address and then some.
const MAX_HINT: usize = 320;

/// Who asks and where to answer; nothing of it is verified yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Requester {
    /// The client.
    pub client_id: String,
    /// Where it wants the answer.
    pub redirect_uri: String,
    /// What it wants back with the answer, if that is well-formed: an error about it comes without.
    pub state: Option<String>,
}

/// What a client asks for.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthorizeRequest {
    /// What the code is redeemed with.
    pub challenge: Challenge,
    /// The scopes; none asked for is for the server to fill.
    pub scope: Option<Scopes>,
    /// The resources (RFC 8707), as given: [`resource::requested`](super::super::resource::requested) reads them.
    pub resources: Vec<String>,
    /// For the ID token.
    pub nonce: Option<String>,
    /// What the user must be asked.
    pub prompt: Prompt,
    /// The login name that the client expects.
    pub login_hint: Option<String>,
    /// How long ago the user may have logged in, in seconds.
    pub max_age: Option<u64>,
}

/// What the user must be asked, or must not be asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prompt {
    /// Show no page: answer with a code, or with an error that says which page was needed.
    pub none: bool,
    /// Ask for a login even of who is logged in.
    pub login: bool,
    /// Ask for consent even if it was given.
    pub consent: bool,
    /// Let the user choose an account.
    pub select_account: bool,
}

impl Requester {
    /// Reads client and redirect URI.
    ///
    /// # Errors
    ///
    /// `invalid_request`, to be shown on a page: there is nobody to redirect to.
    pub fn parse(params: &Params) -> Result<Self, OAuthError> {
        let client_id = graphic(params.require("client_id")?, "client_id is not valid")?;
        let redirect_uri = graphic(params.require("redirect_uri")?, "redirect_uri is not valid")?;
        Ok(Self { client_id, redirect_uri, state: state(params).ok().flatten() })
    }

    /// Where the answer goes, once client and redirect URI are known to belong together.
    pub fn target(&self, issuer: &str) -> RedirectTarget {
        RedirectTarget::new(&self.redirect_uri, self.state.as_deref(), issuer)
    }
}

impl fmt::Debug for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requester")
            .field("client_id", &self.client_id)
            .field("redirect_uri", &self.redirect_uri)
            .finish_non_exhaustive()
    }
}

impl AuthorizeRequest {
    /// Reads the rest.
    ///
    /// # Errors
    ///
    /// An error for the client, by redirect.
    pub fn parse(params: &Params) -> Result<Self, OAuthError> {
        state(params)?;
        for (name, code) in [
            // A request object could say something else than the parameters beside it: better to refuse
            // it than to pass it over.
            ("request", ErrorCode::RequestNotSupported),
            ("request_uri", ErrorCode::RequestUriNotSupported),
            ("registration", ErrorCode::RegistrationNotSupported),
        ] {
            if params.get(name)?.is_some() {
                return Err(OAuthError::new(code, format!("parameter {name} is not supported")));
            }
        }
        if params.require("response_type")? != "code" {
            let why = "response_type must be code";
            return Err(OAuthError::new(ErrorCode::UnsupportedResponseType, why));
        }
        if params.get("response_mode")?.is_some_and(|mode| mode != "query") {
            return Err(invalid_request("response_mode must be query"));
        }
        let challenge =
            Challenge::parse(params.get("code_challenge")?, params.get("code_challenge_method")?)?;
        Ok(Self {
            challenge,
            scope: scopes(params)?,
            resources: params.all("resource"),
            nonce: text(params, "nonce", MAX_NONCE, "nonce is too long or has control characters")?,
            prompt: Prompt::parse(params.get("prompt")?)?,
            login_hint: text(
                params,
                "login_hint",
                MAX_HINT,
                "login_hint is too long or has control characters",
            )?,
            max_age: params.get("max_age")?.map(seconds).transpose()?,
        })
    }
}

impl fmt::Debug for AuthorizeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the nonce, which protects the ID token, nor the hint, which is somebody's name.
        f.debug_struct("AuthorizeRequest")
            .field("scope", &self.scope)
            .field("resources", &self.resources)
            .field("prompt", &self.prompt)
            .field("max_age", &self.max_age)
            .finish_non_exhaustive()
    }
}

impl Prompt {
    fn parse(text: Option<&str>) -> Result<Self, OAuthError> {
        let mut prompt = Self::default();
        for word in text.unwrap_or_default().split(' ').filter(|word| !word.is_empty()) {
            *match word {
                "none" => &mut prompt.none,
                "login" => &mut prompt.login,
                "consent" => &mut prompt.consent,
                "select_account" => &mut prompt.select_account,
                _ => return Err(invalid_request("prompt must be none, login, consent or select_account")),
            } = true;
        }
        if prompt.none && (prompt.login || prompt.consent || prompt.select_account) {
            return Err(invalid_request("prompt none can't stand beside others"));
        }
        Ok(prompt)
    }
}

fn state(params: &Params) -> Result<Option<String>, OAuthError> {
    text(params, "state", MAX_STATE, "state is too long or has control characters")
}

fn seconds(text: &str) -> Result<u64, OAuthError> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_number);
    number.ok_or_else(|| invalid_request("max_age must be a number of seconds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    fn params(query: &str) -> Params {
        Params::parse(query.as_bytes()).expect(query)
    }

    /// A good request, with something added.
    fn with(more: &str) -> Params {
        params(&format!("response_type=code&code_challenge={CHALLENGE}&code_challenge_method=S256{more}"))
    }

    #[test]
    fn a_request_is_read_whole() {
        let more = "&scope=a+openid&resource=https://a/&resource=https://b/&nonce=n-1&prompt=login+consent\
                    &login_hint=octocat&max_age=60&response_mode=query&ui_locales=de&unknown=1&unknown=2";
        let request = AuthorizeRequest::parse(&with(more)).expect("valid");
        assert_eq!(request.scope, Some(Scopes::parse("a openid").expect("valid")));
        assert_eq!(request.resources, ["https://a/", "https://b/"]);
        assert_eq!(request.nonce.as_deref(), Some("n-1"));
        assert_eq!(request.prompt, Prompt { login: true, consent: true, ..Prompt::default() });
        assert_eq!(request.login_hint.as_deref(), Some("octocat"));
        assert_eq!(request.max_age, Some(60));
        let shown = format!("{request:?}");
        assert!(!shown.contains("n-1") && !shown.contains("octocat"), "{shown}");
    }

    #[test]
    fn what_is_not_said_is_absent() {
        let request =
            AuthorizeRequest::parse(&with("&scope=&prompt=&nonce=&max_age=&state=")).expect("valid");
        assert_eq!((request.scope, request.nonce, request.max_age), (None, None, None));
        assert_eq!(request.prompt, Prompt::default());
        assert!(request.resources.is_empty());
    }

    #[test]
    fn each_fault_has_its_code() {
        let long_state = format!("&state={}", "x".repeat(MAX_STATE + 1));
        let long_nonce = format!("&nonce={}", "x".repeat(MAX_NONCE + 1));
        for (more, code) in [
            ("&state=1&state=2", ErrorCode::InvalidRequest),
            (long_state.as_str(), ErrorCode::InvalidRequest),
            ("&state=a%0ab", ErrorCode::InvalidRequest),
            (long_nonce.as_str(), ErrorCode::InvalidRequest),
            ("&scope=a&scope=b", ErrorCode::InvalidRequest),
            ("&scope=a%22", ErrorCode::InvalidScope),
            ("&response_mode=fragment", ErrorCode::InvalidRequest),
            ("&response_mode=form_post", ErrorCode::InvalidRequest),
            ("&prompt=create", ErrorCode::InvalidRequest),
            ("&prompt=none+login", ErrorCode::InvalidRequest),
            ("&max_age=-1", ErrorCode::InvalidRequest),
            ("&max_age=%2b1", ErrorCode::InvalidRequest),
            ("&max_age=1.5", ErrorCode::InvalidRequest),
            ("&max_age=99999999999999999999", ErrorCode::InvalidRequest),
            ("&request=x", ErrorCode::RequestNotSupported),
            ("&request_uri=urn:x", ErrorCode::RequestUriNotSupported),
            ("&registration=x", ErrorCode::RegistrationNotSupported),
            ("&response_type=code", ErrorCode::InvalidRequest),
            ("&code_challenge=x", ErrorCode::InvalidRequest),
        ] {
            assert_eq!(AuthorizeRequest::parse(&with(more)).expect_err(more).code(), code, "{more}");
        }
        for (query, code) in [
            ("", ErrorCode::InvalidRequest),
            ("response_type=token", ErrorCode::UnsupportedResponseType),
            ("response_type=code+id_token", ErrorCode::UnsupportedResponseType),
            ("response_type=code", ErrorCode::InvalidRequest),
            ("response_type=code&code_challenge_method=S256", ErrorCode::InvalidRequest),
            (
                "response_type=code&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
                ErrorCode::InvalidRequest,
            ),
        ] {
            assert_eq!(AuthorizeRequest::parse(&params(query)).expect_err(query).code(), code, "{query}");
        }
    }

    #[test]
    fn without_client_and_redirect_uri_nobody_is_answered() {
        for query in [
            "",
            "client_id=c",
            "redirect_uri=https://a/cb",
            "client_id=&redirect_uri=https://a/cb",
            "client_id=c&client_id=c&redirect_uri=https://a/cb",
            "client_id=c&redirect_uri=https://a/cb&redirect_uri=https://evil/cb",
            "client_id=c&redirect_uri=https://a/c%0d%0ab",
            "client_id=c+d&redirect_uri=https://a/cb",
            "client_id=c&redirect_uri=https://%C3%A9/cb",
        ] {
            assert_eq!(Requester::parse(&params(query)).expect_err(query).code(), ErrorCode::InvalidRequest);
        }
    }

    #[test]
    fn a_bad_state_is_not_sent_back() {
        for (state, kept) in
            [("&state=s-1", Some("s-1")), ("", None), ("&state=1&state=2", None), ("&state=a%00", None)]
        {
            let query = format!("client_id=c&redirect_uri=https://a/cb{state}");
            let requester = Requester::parse(&params(&query)).expect("known");
            assert_eq!(requester.state.as_deref(), kept, "{state}");
            assert!(!format!("{requester:?}").contains("s-1"));
        }
    }
}
