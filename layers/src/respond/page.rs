//! The three bodies of an answer. Pure.

use serde::Serialize;

use crate::rejection::Rejection;

/// The page's only style; [`POLICY`] holds its hash.
const STYLE: &str = ":root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;max-width:40rem;\
margin:15vh auto;padding:0 1rem}h1{font-size:1.5rem}small{opacity:.7}";

/// Nothing but that style may load, run, frame or post anything.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'sha256-NZ5DsJOCKbe8DHgIbE6DbPWCVx1BHaoJx9J2M6RGyw8='; base-uri 'none'; \
form-action 'none'; frame-ancestors 'none'";

/// RFC 9457. `about:blank` because the status says it all to a program; `code` is the finer word.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

pub(super) fn problem(rejection: &Rejection, id: Option<&str>) -> String {
    let problem = Problem {
        r#type: "about:blank",
        title: title(rejection),
        status: rejection.status().as_u16(),
        detail: rejection.detail(),
        code: rejection.code(),
        request_id: id,
    };
    serde_json::to_string(&problem).expect("strings and numbers are valid JSON")
}

pub(super) fn text(rejection: &Rejection, id: Option<&str>) -> String {
    let mut text = format!("{} {}\n", rejection.status().as_u16(), title(rejection));
    for line in [rejection.detail(), rejection.code()].into_iter().chain(id) {
        if !line.is_empty() {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

pub(super) fn html(rejection: &Rejection, id: Option<&str>) -> String {
    let status = rejection.status().as_u16();
    let (title, detail, code) = (title(rejection), escape(rejection.detail()), escape(rejection.code()));
    let id = id.map(|id| format!(" &middot; {}", escape(id))).unwrap_or_default();
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{status} {title}</title>\
         <style>{STYLE}</style></head><body><h1>{status} {title}</h1><p>{detail}</p>\
         <small>{code}{id}</small></body></html>\n"
    )
}

fn title(rejection: &Rejection) -> &'static str {
    rejection.status().canonical_reason().unwrap_or("Error")
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use http::StatusCode;

    use super::*;

    fn rejection() -> Rejection {
        Rejection::new(StatusCode::BAD_REQUEST, "bad", "<script>alert('&\"')</script>")
    }

    #[test]
    fn the_policy_allows_our_style_and_nothing_else() {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, STYLE.as_bytes());
        let hash = base64::engine::general_purpose::STANDARD.encode(digest.as_ref());
        assert!(POLICY.contains(&format!("'sha256-{hash}'")), "the style's hash is {hash}");
        assert!(!POLICY.contains("unsafe"));
    }

    #[test]
    fn html_is_escaped() {
        let page = html(&rejection(), Some("0a"));
        assert!(page.contains("&lt;script&gt;alert(&#39;&amp;&quot;&#39;)&lt;/script&gt;"), "{page}");
        assert!(!page.contains("<script"));
    }

    #[test]
    fn a_problem_is_json() {
        let value: serde_json::Value = serde_json::from_str(&problem(&rejection(), None)).expect("JSON");
        assert_eq!(value["status"], 400);
        assert_eq!(value["detail"], "<script>alert('&\"')</script>");
        assert_eq!(value.get("request_id"), None);
    }
}
