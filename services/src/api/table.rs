//! Lists as text tables, for people with nothing but `curl`: the twins of operations that answer with JSON.

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Value, json};

use super::input::query;
use super::problem::Problem;
use crate::config::{FieldError, field};
use crate::control::{Error, Table};

/// The name of the parameter.
pub(super) const PARAMETER: &str = "format";

/// The forms of a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    /// Columns of text.
    #[default]
    Table,
    /// As the list itself answers.
    Json,
    /// Comma-separated values with a header line (RFC 4180).
    Csv,
}

impl Format {
    /// Takes the form out of a request: what is left is the input of the operation.
    pub(super) fn take(request: &mut Request) -> Result<Self, Problem> {
        let mut format = Self::default();
        for (name, texts) in query(request.uri().query().unwrap_or_default())? {
            if name == PARAMETER {
                let text = texts.into_iter().next_back().unwrap_or_default();
                format = field::read(&Value::from(text.as_str())).map_err(|_| {
                    let detail = "expected `table`, `csv` or `json`";
                    Error::invalid(FieldError::new(PARAMETER, text, detail))
                })?;
            }
        }
        *request.uri_mut() = without(request.uri());
        Ok(format)
    }

    /// The answer.
    pub(super) fn answer<T>(self, table: &Table<T>, output: &T) -> Option<Response> {
        let rows = (table.rows)(output);
        let (kind, text) = match self {
            Self::Table => ("text/plain; charset=utf-8", columns(table.columns, &rows)),
            Self::Csv => ("text/csv; charset=utf-8", csv(table.columns, &rows)),
            Self::Json => return None,
        };
        let mut response = (StatusCode::OK, text).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Some(response)
    }
}

/// The parameter, as OpenAPI writes it.
pub(super) fn parameter() -> Value {
    json!({
        "name": PARAMETER,
        "in": "query",
        "required": false,
        "description": "The form of the answer.",
        "schema": { "type": "string", "enum": ["table", "csv", "json"], "default": "table" },
    })
}

fn without(uri: &Uri) -> Uri {
    let is_other = |pair: &&str| pair.split('=').next() != Some(PARAMETER);
    let query = uri.query().unwrap_or_default().split('&').filter(is_other).collect::<Vec<_>>().join("&");
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = format!("{}?{query}", uri.path()).parse().ok();
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

fn columns(headings: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = std::iter::once(headings.iter().map(|text| (*text).to_owned()).collect())
        .chain(rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()))
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<_> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
        if index == 0 {
            text.push_str(&widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>().join("  "));
            text.push('\n');
        }
    }
    text
}

/// A terminal must not obey what somebody wrote into a description.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn csv(headings: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: Vec<String>| format!("{}\r\n", cells.join(","));
    let heading = headings.iter().map(|text| quoted(text)).collect();
    std::iter::once(heading)
        .chain(rows.iter().map(|row| row.iter().map(|cell| quoted(cell)).collect()))
        .map(line)
        .collect()
}

fn quoted(cell: &str) -> String {
    if cell.contains(['"', ',', '\r', '\n']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_obey_nobody() {
        let rows =
            [vec!["a.example.com".to_owned(), "\u{1b}[2J".to_owned()], vec!["b".to_owned(), String::new()]];
        let text = columns(&["Hostname", "Note"], &rows);
        assert_eq!(text, "Hostname       Note\n-------------  ----\na.example.com  \u{fffd}[2J\nb\n");
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        let rows = [vec!["x,y".to_owned(), "say \"hi\"".to_owned()]];
        assert_eq!(csv(&["A", "B"], &rows), "A,B\r\n\"x,y\",\"say \"\"hi\"\"\"\r\n");
    }

    #[test]
    fn only_the_form_is_taken_out_of_a_query() {
        for (uri, left) in [
            ("/routes/formatted?format=csv", "/routes/formatted?"),
            ("/routes/formatted?scope=global&format=csv", "/routes/formatted?scope=global"),
            ("/routes/formatted?formats=1", "/routes/formatted?formats=1"),
        ] {
            assert_eq!(without(&uri.parse().expect("valid")), left);
        }
    }
}
