//! Resources as calls name them.

use serde_json::value::RawValue;
use url::Url;

use super::lists::{BadList, elements, members, string};
use super::message::looks_like;

/// The most resources of one subscription.
const MAX_SUBSCRIBED: usize = 256;

/// The normal form of a URI (WHATWG URL), where it is another one: some servers serve that, whatever was asked for.
pub(super) fn other_form(uri: &str) -> Option<String> {
    match Url::parse(uri) {
        Ok(url) if url.as_str() == uri => None,
        Ok(url) => Some(url.into()),
        // Servers that read URLs refuse it.
        Err(_) if uri.bytes().any(|byte| byte <= b' ') => Some("a URI without blanks".to_owned()),
        Err(_) => None,
    }
}

/// The resources that `subscriptions/listen` wants to be told of.
///
/// # Errors
///
/// When they can't be read, or in two ways.
pub(super) fn subscribed(notifications: Option<&RawValue>) -> Result<Vec<String>, BadList> {
    const NAME: &str = "resourceSubscriptions";
    let Some(notifications) = notifications.filter(|value| value.get() != "null") else {
        return Ok(Vec::new());
    };
    let mut uris = Vec::new();
    for (name, value) in members(notifications.get())? {
        if name != NAME {
            if looks_like(&name, NAME) {
                return Err(BadList::new("a member is `resourceSubscriptions` in another case"));
            }
            continue;
        }
        for uri in elements(value.get(), MAX_SUBSCRIBED)? {
            uris.push(string(uri.get()).ok_or_else(|| BadList::new("a resource is no text"))?.into_owned());
        }
    }
    Ok(uris)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_spellings_are_told_apart() {
        for uri in [
            "file:///srv/a",
            "test://static-text",
            "test://a/b?c#d",
            "urn:isbn:1",
            "note",
            "https://a.example/",
        ] {
            assert_eq!(other_form(uri), None, "{uri}");
        }
        for (uri, normal) in [
            ("FILE:///etc/passwd", "file:///etc/passwd"),
            ("file:///srv/../etc/passwd", "file:///etc/passwd"),
            ("file:///srv/%2e%2e/etc/passwd", "file:///etc/passwd"),
            ("fi\tle:///etc/pass\nwd", "file:///etc/passwd"),
            (" file:///etc/passwd ", "file:///etc/passwd"),
            ("https://a.example", "https://a.example/"),
        ] {
            assert_eq!(other_form(uri).as_deref(), Some(normal), "{uri}");
        }
    }

    #[test]
    fn subscriptions_are_read_in_one_way() {
        let read = |text: &str| {
            let value = serde_json::from_str::<&RawValue>(text).expect("JSON");
            subscribed(Some(value)).map_err(|error| error.to_string())
        };
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
