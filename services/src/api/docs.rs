//! The API for browsers: one static page without scripts, made from the OpenAPI document.

use std::fmt::Write;
use std::sync::Arc;

use aws_lc_rs::digest;
use axum::body::Body;
use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue};
use serde_json::Value;

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; --dim: #888; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .4rem 0; padding: .3rem .8rem; }
summary { cursor: pointer; overflow-wrap: anywhere; }
summary code { font-weight: 600; }
.method { display: inline-block; min-width: 4.5rem; font: 600 .8rem ui-monospace, monospace; }
.dim { color: var(--dim); }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
td, th { text-align: left; vertical-align: top; padding: .2rem .6rem .2rem 0; border-bottom: 1px solid var(--line); }
code { font-family: ui-monospace, monospace; font-size: .9em; }
";

/// The page, ready to be sent.
#[derive(Debug, Clone)]
pub struct Page {
    html: Arc<str>,
    policy: HeaderValue,
}

impl Page {
    /// Renders a document.
    pub fn new(spec: &Value) -> Self {
        let mut html = String::new();
        // Writing to a String can't fail.
        let _ = render(spec, &mut html);
        let hash = BASE64_STANDARD.encode(digest::digest(&digest::SHA256, STYLE.as_bytes()));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        let policy = HeaderValue::try_from(policy).expect("base64 is a valid header value");
        Self { html: html.into(), policy }
    }

    /// The answer.
    pub fn into_response(&self) -> Response {
        let mut response = Response::new(Body::from(self.html.as_bytes().to_vec()));
        let headers = response.headers_mut();
        for (name, value) in [
            (CONTENT_TYPE, "text/html; charset=utf-8"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert(CONTENT_SECURITY_POLICY, self.policy.clone());
        response
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn render(spec: &Value, out: &mut String) -> std::fmt::Result {
    let info = &spec["info"];
    let title = escaped(text(info, "title"));
    write!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title} API</title>\
         <style>{STYLE}</style></head><body><h1>{title} {}</h1><p>{} \
         The machine-readable form is <a href=\"/openapi.json\">openapi.json</a>.</p>",
        escaped(text(info, "version")),
        escaped(text(info, "description")),
    )?;
    let mut nouns: Vec<&str> = operations(spec).map(|(_, _, operation)| noun(operation)).collect();
    nouns.sort_unstable();
    nouns.dedup();
    for tag in nouns {
        write!(out, "<h2 id=\"{0}\">{0}</h2>", escaped(tag))?;
        for (path, method, operation) in operations(spec).filter(|(_, _, operation)| noun(operation) == tag) {
            render_operation(path, method, operation, out)?;
        }
    }
    out.push_str("</body></html>");
    Ok(())
}

fn noun(operation: &Value) -> &str {
    operation.pointer("/tags/0").and_then(Value::as_str).unwrap_or_default()
}

fn operations(spec: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    spec["paths"].as_object().into_iter().flatten().flat_map(|(path, item)| {
        item.as_object()
            .into_iter()
            .flatten()
            .map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
    })
}

fn render_operation(path: &str, method: &str, operation: &Value, out: &mut String) -> std::fmt::Result {
    let scopes = operation.pointer("/security/0/token").and_then(Value::as_array);
    let access = match scopes {
        None => "public".to_owned(),
        Some(scopes) if scopes.is_empty() => "any token".to_owned(),
        Some(scopes) => scopes.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
    };
    write!(
        out,
        "<details><summary><span class=\"method\">{}</span> <code>{}</code> \
         <span class=\"dim\">{} · {}</span></summary>",
        escaped(&method.to_ascii_uppercase()),
        escaped(path),
        escaped(text(operation, "summary")),
        escaped(&access),
    )?;
    for paragraph in text(operation, "description").split("\n\n") {
        write!(out, "<p>{}</p>", escaped(paragraph))?;
    }
    let mut rows = String::new();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let required = parameter["required"].as_bool().unwrap_or_default();
        render_field(
            text(parameter, "name"),
            text(parameter, "in"),
            required,
            text(parameter, "description"),
            &mut rows,
        )?;
    }
    let schema = operation.pointer("/requestBody/content/application~1json/schema");
    let required = schema.and_then(|schema| schema["required"].as_array());
    for (name, field) in schema.and_then(|schema| schema["properties"].as_object()).into_iter().flatten() {
        let required = required.is_some_and(|required| required.iter().any(|other| other == name.as_str()));
        render_field(name, "body", required, text(field, "description"), &mut rows)?;
    }
    if !rows.is_empty() {
        write!(out, "<table><tr><th>field</th><th>in</th><th></th></tr>{rows}</table>")?;
    }
    out.push_str("</details>");
    Ok(())
}

fn render_field(name: &str, place: &str, required: bool, help: &str, out: &mut String) -> std::fmt::Result {
    let mark = if required { " *" } else { "" };
    write!(
        out,
        "<tr><td><code>{}</code>{mark}</td><td class=\"dim\">{}</td><td>{}</td></tr>",
        escaped(name),
        escaped(place),
        escaped(help),
    )
}
