//! How answers look: a table for people, JSON, YAML or CSV for programs.

use std::io::IsTerminal;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Map, Value};

/// More columns than this fit on no terminal.
const ROOM: usize = 8;

/// The columns that tell most, in the order in which they are shown where there is no room for all of them.
const TELLING: [&str; 29] = [
    "timestamp_iso",
    "level",
    "component",
    "event_type",
    "subject",
    "client_ip",
    "auth_user",
    "request_method",
    "proxy_hostname",
    "request_path",
    "status_code",
    "response_time_ms",
    "error_type",
    "message",
    "route_id",
    "path_pattern",
    "target_type",
    "target_value",
    "priority",
    "cert_name",
    "domains",
    "status",
    "days_left",
    "expires_at",
    "target_url",
    "enabled",
    "auth_enabled",
    "auth_mode",
    "route_mode",
];

/// The forms of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// A table on a terminal, else JSON.
    Auto,
    /// A table.
    Table,
    /// JSON, indented.
    Json,
    /// YAML.
    Yaml,
    /// Comma-separated values with a header line (RFC 4180).
    Csv,
}

impl Format {
    /// The answer as text, with a line end.
    pub(crate) fn render(self, value: &Value) -> Result<String, Box<dyn std::error::Error>> {
        match self {
            Self::Auto if std::io::stdout().is_terminal() => Ok(table(value)),
            Self::Table => Ok(table(value)),
            Self::Auto | Self::Json => Ok(format!("{value:#}\n")),
            Self::Yaml => Ok(serde_norway::to_string(value)?),
            Self::Csv => csv(value),
        }
    }
}

/// The rows of an answer: a list as it is, the one list in an object (`{"logs": [...], "total": 3}`), else itself.
fn rows(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(rows) => Some(rows),
        Value::Object(object) => {
            let mut lists =
                object.values().filter_map(Value::as_array).filter(|list| list.iter().all(Value::is_object));
            match (lists.next(), lists.next()) {
                (Some(rows), None) => Some(rows),
                _ => None,
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// The columns: every field that a row has with something in it, in order of appearance.
fn columns(rows: &[Value], empty: bool) -> Vec<&str> {
    let mut columns = Vec::new();
    for (name, value) in rows.iter().filter_map(Value::as_object).flatten() {
        let blank = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        if (empty || !blank) && !columns.contains(&name.as_str()) {
            columns.push(name);
        }
    }
    columns
}

/// The columns of a table: all of them, or those that tell most.
fn telling<'a>(columns: &[&'a str]) -> Vec<&'a str> {
    let place = |name: &str| TELLING.iter().position(|telling| *telling == name);
    let mut chosen: Vec<_> = columns.iter().copied().filter(|name| place(name).is_some()).collect();
    if columns.len() <= ROOM || chosen.len() < 2 {
        return columns.to_vec();
    }
    chosen.sort_by_key(|name| place(name));
    chosen
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(list)) if list.iter().all(|item| !item.is_object() && !item.is_array()) => {
            list.iter().map(|item| cell(Some(item))).collect::<Vec<_>>().join(", ")
        }
        Some(other) => other.to_string(),
    }
}

fn table(value: &Value) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    if let Some(rows) = rows(value) {
        if rows.is_empty() {
            return "none\n".to_owned();
        }
        let mut hidden = 0;
        if rows.iter().all(Value::is_object) {
            let all = columns(rows, false);
            let columns = telling(&all);
            hidden = all.len() - columns.len();
            table.set_header(&columns);
            for row in rows {
                table.add_row(columns.iter().map(|column| printable(&cell(row.get(column)))));
            }
        } else {
            for row in rows {
                table.add_row([printable(&cell(Some(row)))]);
            }
        }
        let mut beside = value.as_object().map(|object| summary(object, rows)).unwrap_or_default();
        if hidden > 0 {
            beside.push_str(&format!("{hidden} more fields: --format json\n"));
        }
        return format!("{table}\n{beside}");
    }
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                table.add_row([name.clone(), printable(&cell(Some(value)))]);
            }
            format!("{table}\n")
        }
        Value::Null => "done\n".to_owned(),
        other => format!("{}\n", printable(&cell(Some(other)))),
    }
}

/// What stands beside the list in an object: totals, cursors.
fn summary(object: &Map<String, Value>, rows: &[Value]) -> String {
    let mut lines = String::new();
    for (name, value) in object {
        if value.as_array().is_none_or(|list| list != rows) && !value.is_null() {
            lines.push_str(&format!("{name}: {}\n", printable(&cell(Some(value)))));
        }
    }
    lines
}

/// A terminal must not obey what an attacker wrote into a user agent.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

fn csv(value: &Value) -> Result<String, Box<dyn std::error::Error>> {
    let single = std::slice::from_ref(value);
    let rows = rows(value).unwrap_or(single);
    let columns = columns(rows, true);
    let mut writer = csv::Writer::from_writer(Vec::new());
    if !columns.is_empty() {
        writer.write_record(&columns)?;
    }
    for row in rows {
        if row.is_object() {
            writer.write_record(columns.iter().map(|column| cell(row.get(column))))?;
        } else {
            writer.write_record([cell(Some(row))])?;
        }
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_in_an_object_becomes_rows_and_the_rest_a_summary() {
        let text =
            Format::Table.render(&json!({"total": 1, "logs": [{"path": "/a", "empty": null}]})).unwrap();
        assert!(text.contains("path") && text.contains("/a") && text.contains("total: 1"), "{text}");
        assert!(!text.contains("empty"), "{text}");
    }

    #[test]
    fn a_wide_table_shows_what_tells_most() {
        let mut row: Map<String, Value> = (0..20).map(|n| (format!("field_{n}"), json!(n))).collect();
        row.insert("target_url".to_owned(), json!("http://a"));
        row.insert("proxy_hostname".to_owned(), json!("a.example"));
        let text = Format::Table.render(&json!([row])).unwrap();
        assert!(text.contains("proxy_hostname ┆ target_url") && !text.contains("field_1"), "{text}");
        assert!(text.contains("20 more fields"), "{text}");
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        let text = Format::Csv.render(&json!([{"a": "x,y", "b": ["1", "2"]}, {"a": 3}])).unwrap();
        assert_eq!(text, "a,b\n\"x,y\",\"1, 2\"\n3,\n");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let text = Format::Table.render(&json!({"agent": "\u{1b}[2Jgone"})).unwrap();
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}
