//! Resources as calls name them.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use url::Url;

use super::lists::{BadList, elements, members, string};
use super::message::looks_like;

/// The most resources of one subscription.
const MAX_SUBSCRIBED: usize = 256;

/// How somebody may read a URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) uri: String,
    /// Whether it is all of it: without the query and the fragment it is another resource to some.
    pub(super) whole: bool,
}

/// A URI, or a pattern for such, without percent-encoding: as it is compared.
pub(super) fn decoded(uri: &str) -> Cow<'_, str> {
    percent_decode_str(uri).decode_utf8_lossy()
}

/// The one form of what many spellings stand for.
pub(super) fn normal(uri: &str) -> String {
    let plain = decoded(uri);
    plain_form(
        &Url::parse(&plain).map_or_else(|_| plain.into_owned(), |url| decoded(url.as_str()).into_owned()),
    )
}

/// All the ways in which servers read a URI: as it is, decoded, as a URL (WHATWG), as a path, and without what stands
/// behind `?` or `#`. None of them is percent-encoded.
pub(super) fn readings(uri: &str) -> Vec<Reading> {
    let plain = decoded(uri).into_owned();
    let mut all: Vec<Reading> = Vec::new();
    let mut add = |uri: String, whole| {
        if all.iter().all(|other| other.uri != uri) {
            all.push(Reading { uri, whole });
        }
    };
    let forms = [plain_form(&plain), normal(uri)];
    add(plain, true);
    for form in forms {
        // `https://a.example` and `https://a.example/` are one resource to everybody.
        let is_root = form.strip_suffix('/').is_some_and(|root| root == uri);
        if !is_root {
            add(form, true);
        }
    }
    for whole in all.clone() {
        if let Some(end) = whole.uri.find(['?', '#']) {
            all.push(Reading { uri: whole.uri[..end].to_owned(), whole: false });
        }
    }
    all
}

/// Scheme and authority in lower case, and the path as a file system takes it.
fn plain_form(uri: &str) -> String {
    let uri: String = uri
        .trim_matches(|c: char| c <= ' ')
        .chars()
        // WHATWG URL, section 4.4, passes over them.
        .filter(|c| !matches!(c, '\t' | '\n' | '\r'))
        .collect();
    let slash = |c| matches!(c, '/' | '\\');
    let begin = match uri.find("://") {
        Some(at) => {
            uri[at + 3..].find(|c| slash(c) || matches!(c, '?' | '#')).map_or(uri.len(), |end| at + 3 + end)
        }
        None => uri.find(':').map_or(0, |at| at + 1),
    };
    let end = uri[begin..].find(['?', '#']).map_or(uri.len(), |end| begin + end);
    let path = &uri[begin..end];
    let mut out = uri[..begin].to_ascii_lowercase();
    let mut segments = Vec::new();
    for segment in path.split(slash) {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    if path.starts_with(slash) {
        out.push('/');
    }
    out.push_str(&segments.join("/"));
    if path.ends_with(slash) && !segments.is_empty() {
        out.push('/');
    }
    out.push_str(&uri[end..]);
    out
}

/// The resources that `subscriptions/listen` wants to be told of.
///
/// # Errors
///
/// When they can't be read, or in two ways.
pub(super) fn subscribed(notifications: Option<&str>) -> Result<Vec<String>, BadList> {
    const NAME: &str = "resourceSubscriptions";
    let Some(notifications) = notifications.filter(|value| *value != "null") else {
        return Ok(Vec::new());
    };
    let mut uris = Vec::new();
    for (name, value) in members(notifications)? {
        if name != NAME {
            if looks_like(&name, NAME) {
                return Err(BadList::new("a member is `resourceSubscriptions` in another case"));
            }
            continue;
        }
        for uri in elements(value, MAX_SUBSCRIBED)? {
            uris.push(string(uri).ok_or_else(|| BadList::new("a resource is no text"))?.into_owned());
        }
    }
    Ok(uris)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_resource_have_one_form() {
        for (uri, expected) in [
            ("file:///srv/a", "file:///srv/a"),
            ("test://static-text", "test://static-text"),
            ("test://a/b?c#d", "test://a/b?c#d"),
            ("urn:isbn:1", "urn:isbn:1"),
            ("note", "note"),
            ("file:///srv/Über uns.md", "file:///srv/Über uns.md"),
            ("file:///{path}", "file:///{path}"),
            ("FILE:///etc/passwd", "file:///etc/passwd"),
            ("file:///%65tc/passwd", "file:///etc/passwd"),
            ("file:////etc/passwd", "file:///etc/passwd"),
            ("file:/etc/passwd", "file:///etc/passwd"),
            ("file://localhost/etc/passwd", "file:///etc/passwd"),
            ("file:///srv/../etc/passwd", "file:///etc/passwd"),
            ("file:///srv/%2e%2e/etc/passwd", "file:///etc/passwd"),
            ("file:///srv/..%2f..%2Fetc%2fpasswd", "file:///etc/passwd"),
            ("file:///srv/..%5cetc\\passwd", "file:///etc/passwd"),
            ("fi\tle:///etc/pass\nwd", "file:///etc/passwd"),
            (" file:///etc/passwd ", "file:///etc/passwd"),
            ("HTTPS://A.example/../x/", "https://a.example/x/"),
        ] {
            assert_eq!(normal(uri), expected, "{uri}");
            assert!(readings(uri).iter().any(|reading| reading.uri == expected && reading.whole), "{uri}");
        }
    }

    #[test]
    fn what_may_be_cut_off_is_a_reading_of_its_own() {
        let all = readings("file:///etc/passwd?x#y");
        assert!(all.iter().any(|reading| reading.uri == "file:///etc/passwd" && !reading.whole), "{all:?}");
        for uri in ["file:///srv/a", "https://a.example", "note", "urn:isbn:1"] {
            assert_eq!(readings(uri).len(), 1, "{uri}");
        }
    }

    #[test]
    fn subscriptions_are_read_in_one_way() {
        let read = |text: &str| subscribed(Some(text)).map_err(|error| error.to_string());
        assert_eq!(
            read(r#"{"toolsListChanged":true,"resourceSubscriptions":["a:1","a:2"]}"#),
            Ok(vec!["a:1".to_owned(), "a:2".to_owned()])
        );
        assert_eq!(read("null"), Ok(Vec::new()));
        for bad in [
            r#"{"ResourceSubscriptions":["a:1"]}"#,
            r#"{"resourceSubscriptions":[1]}"#,
            r#"{"resourceSubscriptions":"a:1"}"#,
            r#"{"resourceSubscriptions":[],"resourceSubscriptions":[]}"#,
            "[]",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
