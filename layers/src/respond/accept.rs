//! Which of our three formats a client wants (RFC 9110, section 12.5.1). Pure.

use http::HeaderValue;

/// Nobody names more media types than this in earnest.
const MAX_RANGES: usize = 64;

/// A format of an answer, in our order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Problem,
    Html,
    Text,
}

impl Format {
    const ALL: [Self; 3] = [Self::Problem, Self::Html, Self::Text];

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Problem => "application/problem+json",
            Self::Html => "text/html; charset=utf-8",
            Self::Text => "text/plain; charset=utf-8",
        }
    }

    /// How exactly a media range names this format: 0 not at all, 3 by its full name.
    fn named_by(self, range: &str) -> u8 {
        let is = |name: &str| range.eq_ignore_ascii_case(name);
        match self {
            Self::Problem if is("application/problem+json") || is("application/json") => 3,
            Self::Problem if is("application/*") => 2,
            Self::Html if is("text/html") || is("application/xhtml+xml") => 3,
            Self::Text if is("text/plain") => 3,
            Self::Html | Self::Text if is("text/*") => 2,
            Self::Problem | Self::Html | Self::Text if is("*/*") => 1,
            Self::Problem | Self::Html | Self::Text => 0,
        }
    }
}

/// The format with the highest quality; ours by preference when the client has none or accepts
/// nothing of ours, which section 12.5.1 allows instead of 406.
pub(super) fn choose(accept: Option<&HeaderValue>) -> Format {
    let Some(text) = accept.and_then(|value| value.to_str().ok()) else { return Format::Problem };
    let mut best = (Format::Problem, 0);
    for format in Format::ALL {
        let quality = quality(format, text);
        if quality > best.1 {
            best = (format, quality);
        }
    }
    best.0
}

/// In thousandths; the most exact range decides.
fn quality(format: Format, accept: &str) -> u16 {
    let mut found = (0, 0);
    for entry in accept.split(',').take(MAX_RANGES) {
        let mut parts = entry.split(';').map(str::trim);
        let exactness = format.named_by(parts.next().unwrap_or_default());
        if exactness > found.0 {
            let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            found = (exactness, weight.map_or(1000, thousandths));
        }
    }
    found.1
}

/// `0.8` is 800; what is no weight counts as none.
fn thousandths(text: &str) -> u16 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    match whole {
        "1" => 1000,
        "0" if fraction.len() <= 3 && digits(fraction) => {
            format!("{fraction:0<3}").parse().unwrap_or_default()
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_quality_wins() {
        for (accept, format) in [
            ("", Format::Problem),
            ("*/*", Format::Problem),
            ("application/json", Format::Problem),
            ("text/event-stream", Format::Problem),
            ("text/html", Format::Html),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Format::Html),
            ("TEXT/HTML", Format::Html),
            ("text/plain;q=0.9, text/html;q=0.3", Format::Text),
            ("text/html;q=0, */*", Format::Problem),
            ("text/html;q=0.2;level=1, application/problem+json;q=0.1", Format::Html),
            ("text/*", Format::Html),
            ("application/json;q=0, text/plain; q=0.001", Format::Text),
            ("text/html;q=7", Format::Problem),
            (";;;,,,q=,", Format::Problem),
        ] {
            let value = HeaderValue::from_static(accept);
            assert_eq!(choose(Some(&value)), format, "{accept:?}");
        }
        assert_eq!(choose(None), Format::Problem);
        assert_eq!(choose(HeaderValue::from_bytes(b"\xff").ok().as_ref()), Format::Problem);
    }
}
