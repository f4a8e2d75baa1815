//! Resource indicators (RFC 8707): which of our resources a request names, and what its token is for.
//!
//! Two URIs name one resource when they are equal but for the case of scheme and host, the default port
//! and one trailing slash. Never by prefix: a host and a path on it are different resources. What comes
//! out is always our own spelling of a resource, because `aud` is what resource servers compare.

use std::fmt;

use super::error::{ErrorCode, OAuthError};

/// The most resources that one token is for. Each adds its URI to a header of every request.
pub const MAX_RESOURCES: usize = 5;

/// The longest URI of a resource.
const MAX_LENGTH: usize = 2_048;

/// A resource's URI in the form in which two of them are compared.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    canonical: String,
    /// Where the authority is, if the URI has one.
    authority: Option<(usize, usize)>,
}

/// Why a text is no resource's URI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidResource {
    /// No scheme, or a character that no URI has (RFC 3986).
    #[error("resource is not an absolute URI")]
    NotAbsolute,
    /// RFC 8707, section 2.
    #[error("resource has a fragment")]
    Fragment,
    /// A name or password before the host: nothing honest has one.
    #[error("resource has user information")]
    UserInfo,
    /// Longer than 2048 bytes.
    #[error("resource is too long")]
    TooLong,
}

impl Resource {
    /// Reads an absolute URI without fragment (RFC 8707, section 2).
    ///
    /// # Errors
    ///
    /// See [`InvalidResource`].
    pub fn parse(text: &str) -> Result<Self, InvalidResource> {
        if text.len() > MAX_LENGTH {
            return Err(InvalidResource::TooLong);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte)) {
            return Err(InvalidResource::NotAbsolute);
        }
        if text.contains('#') {
            return Err(InvalidResource::Fragment);
        }
        let (scheme, rest) = text.split_once(':').ok_or(InvalidResource::NotAbsolute)?;
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        if !is_scheme || rest.is_empty() {
            return Err(InvalidResource::NotAbsolute);
        }
        let scheme = scheme.to_ascii_lowercase();
        let Some(rest) = rest.strip_prefix("//") else {
            return Ok(Self { canonical: format!("{scheme}:{rest}"), authority: None });
        };
        let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(InvalidResource::UserInfo);
        }
        let authority = authority.to_ascii_lowercase();
        let default_port = match scheme.as_str() {
            "https" => ":443",
            "http" => ":80",
            _ => "",
        };
        let authority = authority.strip_suffix(default_port).unwrap_or(&authority);
        // An empty port means the default one too (RFC 3986, section 3.2.3).
        let authority = authority.strip_suffix(':').unwrap_or(authority);
        if authority.is_empty() {
            return Err(InvalidResource::NotAbsolute);
        }
        let tail = if tail.contains('?') { tail } else { tail.strip_suffix('/').unwrap_or(tail) };
        let start = scheme.len() + "://".len();
        let canonical = format!("{scheme}://{authority}{tail}");
        Ok(Self { authority: Some((start, start + authority.len())), canonical })
    }

    /// The compared form.
    pub fn as_str(&self) -> &str {
        &self.canonical
    }

    /// The scheme.
    pub fn scheme(&self) -> &str {
        self.canonical.split(':').next().unwrap_or_default()
    }

    /// Host and port, the latter only when it is not the default: the key to look a host up with.
    pub fn authority(&self) -> Option<&str> {
        self.authority.and_then(|(start, end)| self.canonical.get(start..end))
    }

    /// What follows the authority: path and query, empty for the root.
    pub fn path(&self) -> &str {
        self.authority.and_then(|(_, end)| self.canonical.get(end..)).unwrap_or_default()
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.canonical, f)
    }
}

impl From<InvalidResource> for OAuthError {
    fn from(error: InvalidResource) -> Self {
        Self::new(ErrorCode::InvalidTarget, error.to_string())
    }
}

/// The resources that a token shall be for, at the authorization endpoint and wherever else a grant
/// begins. `known` gives our spelling of a resource that exists here (see [`among`]); `implied` is the
/// one that the request implies when it names none, as clients before RFC 8707 do: the host where it
/// came in, or our own. Never everything.
///
/// # Errors
///
/// `invalid_target` when a resource is malformed or unknown, when there are too many, or none at all.
pub fn requested(
    named: &[String],
    known: impl Fn(&Resource) -> Option<String>,
    implied: Option<&str>,
) -> Result<Vec<String>, OAuthError> {
    if named.is_empty() {
        let implied = implied.ok_or_else(|| invalid_target("a resource must be named"))?;
        return Ok(vec![implied.to_owned()]);
    }
    distinct(named)?
        .iter()
        .map(|resource| known(resource).ok_or_else(|| invalid_target("the resource is not known here")))
        .collect()
}

/// The resources of a token of a grant: those of the grant, or fewer (RFC 8707, section 2.2).
///
/// # Errors
///
/// `invalid_target` when a resource is malformed, or was not granted.
pub fn narrowed(named: &[String], granted: &[String]) -> Result<Vec<String>, OAuthError> {
    if granted.is_empty() {
        return Err(invalid_target("the grant is for no resource"));
    }
    if named.is_empty() {
        return Ok(granted.to_vec());
    }
    let among = among(granted.iter().map(String::as_str));
    distinct(named)?
        .iter()
        .map(|resource| among(resource).ok_or_else(|| invalid_target("the resource was not granted")))
        .collect()
}

/// A lookup in a list of resources, for [`requested`]. What is no URI in the list is never found.
pub fn among<'a>(list: impl IntoIterator<Item = &'a str>) -> impl Fn(&Resource) -> Option<String> {
    let list: Vec<(Resource, String)> =
        list.into_iter().filter_map(|own| Some((Resource::parse(own).ok()?, own.to_owned()))).collect();
    move |wanted| list.iter().find(|(resource, _)| resource == wanted).map(|(_, own)| own.clone())
}

fn distinct(named: &[String]) -> Result<Vec<Resource>, OAuthError> {
    let mut resources: Vec<Resource> = Vec::new();
    for text in named {
        let resource = Resource::parse(text)?;
        if resources.contains(&resource) {
            continue;
        }
        if resources.len() == MAX_RESOURCES {
            return Err(invalid_target("too many resources"));
        }
        resources.push(resource);
    }
    Ok(resources)
}

fn invalid_target(why: &'static str) -> OAuthError {
    OAuthError::new(ErrorCode::InvalidTarget, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn comparison_ignores_case_default_port_and_one_slash_only() {
        let mcp = Resource::parse("https://mcp.example.com/mcp").expect("valid");
        for (text, same) in [
            ("https://mcp.example.com/mcp", true),
            ("HTTPS://MCP.Example.COM/mcp", true),
            ("https://mcp.example.com:443/mcp", true),
            ("https://mcp.example.com:/mcp", true),
            ("https://mcp.example.com/mcp/", true),
            ("https://mcp.example.com/mcp//", false),
            ("https://mcp.example.com/MCP", false),
            ("https://mcp.example.com/", false),
            ("https://mcp.example.com", false),
            ("https://mcp.example.com/mcp/tools", false),
            ("https://mcp.example.com/mcpx", false),
            ("https://mcp.example.com/mcp?", false),
            ("https://mcp.example.com/mcp?x=/", false),
            ("https://mcp.example.com/./mcp", false),
            ("https://mcp.example.com/%6dcp", false),
            ("https://mcp.example.com:8443/mcp", false),
            ("https://mcp.example.com:80/mcp", false),
            ("http://mcp.example.com/mcp", false),
            ("https://mcp.example.com.evil/mcp", false),
            ("https://evil/mcp.example.com/mcp", false),
        ] {
            let resource = Resource::parse(text).expect(text);
            assert_eq!(resource == mcp, same, "{text}");
        }
    }

    #[test]
    fn what_is_no_absolute_uri_is_refused() {
        for (text, error) in [
            ("", InvalidResource::NotAbsolute),
            ("mcp.example.com", InvalidResource::NotAbsolute),
            ("/mcp", InvalidResource::NotAbsolute),
            ("//mcp.example.com/", InvalidResource::NotAbsolute),
            ("https://", InvalidResource::NotAbsolute),
            ("https:///mcp", InvalidResource::NotAbsolute),
            ("https://:443/", InvalidResource::NotAbsolute),
            ("1https://a/", InvalidResource::NotAbsolute),
            ("https:", InvalidResource::NotAbsolute),
            ("https://a/ b", InvalidResource::NotAbsolute),
            ("https://a\\b/", InvalidResource::NotAbsolute),
            ("https://é/", InvalidResource::NotAbsolute),
            ("https://a/\r\n", InvalidResource::NotAbsolute),
            ("https://a/#", InvalidResource::Fragment),
            ("https://a/mcp#x", InvalidResource::Fragment),
            ("https://mcp.example.com@evil/", InvalidResource::UserInfo),
        ] {
            assert_eq!(Resource::parse(text), Err(error), "{text}");
        }
        let long = format!("https://a/{}", "x".repeat(MAX_LENGTH));
        assert_eq!(Resource::parse(&long), Err(InvalidResource::TooLong));
    }

    #[test]
    fn its_parts_can_be_looked_up() {
        for (text, scheme, authority, path) in [
            ("https://A.example:443/mcp/", "https", Some("a.example"), "/mcp"),
            ("https://a.example:8443/", "https", Some("a.example:8443"), ""),
            ("http://[::1]:80/x?y", "http", Some("[::1]"), "/x?y"),
            ("URN:example:Api", "urn", None, ""),
        ] {
            let resource = Resource::parse(text).expect(text);
            assert_eq!((resource.scheme(), resource.authority(), resource.path()), (scheme, authority, path));
        }
    }

    #[test]
    fn requests_get_the_known_spelling_or_invalid_target() {
        let ours = ["https://a.example/mcp", "https://b.example", "https://c.example", "not a uri"];
        let implied = Some("https://a.example/mcp");
        for (named, implied, expected) in [
            (&["HTTPS://A.example/mcp/"][..], None, Some(&["https://a.example/mcp"][..])),
            (
                &["https://b.example/", "https://c.example", "https://B.example"],
                None,
                Some(&["https://b.example", "https://c.example"]),
            ),
            (&[], implied, Some(&["https://a.example/mcp"])),
            (&[], None, None),
            (&["https://d.example"], implied, None),
            (&["https://a.example"], implied, None),
            (&["https://b.example", "https://d.example"], implied, None),
            (&["not a uri"], implied, None),
            (&["https://b.example/#x"], implied, None),
        ] {
            let result = requested(&strings(named), among(ours), implied);
            match expected {
                Some(expected) => assert_eq!(result, Ok(strings(expected)), "{named:?}"),
                None => {
                    assert_eq!(result.expect_err("refused").code(), ErrorCode::InvalidTarget, "{named:?}");
                }
            }
        }
    }

    #[test]
    fn a_token_is_for_few_resources() {
        let many: Vec<String> = (0..=MAX_RESOURCES).map(|n| format!("https://{n}.example")).collect();
        let known = among(many.iter().map(String::as_str));
        assert!(requested(&many[1..], &known, None).is_ok());
        assert_eq!(requested(&many, &known, None).expect_err("refused").code(), ErrorCode::InvalidTarget);
        let doubled = [&many[1..], &many[1..]].concat();
        assert_eq!(requested(&doubled, &known, None).map(|list| list.len()), Ok(MAX_RESOURCES));
    }

    #[test]
    fn a_grant_may_be_narrowed_but_not_widened() {
        let granted = strings(&["https://a.example/mcp", "https://b.example"]);
        for (named, expected) in [
            (&[][..], Some(&["https://a.example/mcp", "https://b.example"][..])),
            (&["https://B.example/"], Some(&["https://b.example"])),
            (
                &["https://b.example", "https://a.example/mcp"],
                Some(&["https://b.example", "https://a.example/mcp"]),
            ),
            (&["https://c.example"], None),
            (&["https://b.example", "https://c.example"], None),
            (&["https://a.example"], None),
            (&["nonsense"], None),
        ] {
            let result = narrowed(&strings(named), &granted);
            match expected {
                Some(expected) => assert_eq!(result, Ok(strings(expected)), "{named:?}"),
                None => {
                    assert_eq!(result.expect_err("refused").code(), ErrorCode::InvalidTarget, "{named:?}");
                }
            }
        }
        assert!(narrowed(&[], &[]).is_err(), "a token for no resource is never made");
    }
}
