//! The normal form of a path (RFC 3986, section 6.2.2). Pure.
//!
//! Unreserved characters are decoded, other percent-encodings are upper-cased, characters that a path
//! may not hold raw are encoded, and dot segments are removed. What two readers could understand
//! differently is refused: see [`PathError`]. Letters keep their case, `;` and `//` stay as data.

use std::borrow::Cow;

/// What a path may contain beyond what is always safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathRules {
    /// Lets `%2F` through as data, as package registries and Git forges want it. Off by default.
    pub encoded_slash: bool,
    /// Refuses `//`. Off by default: URLs as parts of paths are common.
    pub refuse_empty_segments: bool,
}

/// Why a path was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not start with `/`.
    #[error("it does not start with '/'")]
    Relative,
    /// `%` without two hexadecimal digits.
    #[error("a percent sign without two hexadecimal digits")]
    Encoding,
    /// `%2F`: some readers split there, some don't.
    #[error("an encoded slash")]
    EncodedSlash,
    /// `\` or `%5C`: some readers take it for a slash.
    #[error("a backslash")]
    Backslash,
    /// `%00` to `%1F` or `%7F`.
    #[error("an encoded control character")]
    EncodedControl,
    /// `%252E` and its like: a dot, a slash, a backslash or NUL for who decodes twice.
    #[error("a character encoded twice")]
    EncodedTwice,
    /// `%C0%AE` and its like: UTF-8 that is longer than it must be (RFC 3629, section 3).
    #[error("an overlong encoding")]
    Overlong,
    /// A byte that is not printable ASCII, or a delimiter that ends a path.
    #[error("a byte that must be percent-encoded")]
    Byte,
    /// `..;x`: a dot segment for who strips parameters.
    #[error("a dot segment with parameters")]
    DotParameter,
    /// `//`, where the settings refuse it.
    #[error("an empty segment")]
    EmptySegment,
}

/// Brings a path into its normal form; borrowed if it has it already.
///
/// ```
/// use portcullis_layers::normalize::path::{PathRules, normalize};
///
/// assert_eq!(normalize("/%61/./b/../%c3%a9", PathRules::default()).unwrap(), "/a/%C3%A9");
/// assert!(normalize("/a/..%2fb", PathRules::default()).is_err());
/// ```
pub fn normalize(path: &str, rules: PathRules) -> Result<Cow<'_, str>, PathError> {
    if is_normal(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let normal = rebuild(path, rules)?;
    Ok(if normal == path { Cow::Borrowed(path) } else { Cow::Owned(normal) })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    Slash,
    Dot,
    Percent,
    Rare,
}

/// Everything but `;` of `pchar` is plain (RFC 3986, section 3.3).
const CLASSES: [Class; 256] = {
    let mut classes = [Class::Rare; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let character = byte as u8;
        classes[byte] = match character {
            b'/' => Class::Slash,
            b'.' => Class::Dot,
            b'%' => Class::Percent,
            b'-' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'='
            | b':' | b'@' => Class::Plain,
            _ if character.is_ascii_alphanumeric() => Class::Plain,
            _ => Class::Rare,
        };
        byte += 1;
    }
    classes
};

/// One scan that says yes to nearly every real path; a no only means that [`rebuild`] has to look.
fn is_normal(path: &[u8]) -> bool {
    let [b'/', rest @ ..] = path else { return false };
    let mut starts = true;
    let mut at = 0;
    while let Some(&byte) = rest.get(at) {
        at += 1;
        match CLASSES[usize::from(byte)] {
            Class::Plain => starts = false,
            Class::Slash if !starts => starts = true,
            // `.well-known` is no dot segment, but `.`, `./`, `..x` and `.;x` need a closer look.
            Class::Dot => {
                let next = rest.get(at).map(|&byte| CLASSES[usize::from(byte)]);
                if starts && next != Some(Class::Plain) {
                    return false;
                }
                starts = false;
            }
            Class::Percent => {
                if !is_plain_octet(rest, at - 1) {
                    return false;
                }
                starts = false;
                at += 2;
            }
            Class::Slash | Class::Rare => return false,
        }
    }
    true
}

/// A percent-encoding that is in normal form and means nothing special: `%20`, `%A4`.
fn is_plain_octet(bytes: &[u8], at: usize) -> bool {
    let upper = |at: usize| bytes.get(at).is_some_and(|byte| !byte.is_ascii_lowercase());
    let special = |byte: u8| {
        is_unreserved(byte)
            || byte.is_ascii_control()
            || matches!(byte, b'/' | b'\\' | b'%' | b';' | 0xC0 | 0xC1 | 0xE0 | 0xF0)
    };
    upper(at + 1) && upper(at + 2) && octet(bytes, at).is_some_and(|byte| !special(byte))
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn rebuild(path: &str, rules: PathRules) -> Result<String, PathError> {
    let mut segments = path.strip_prefix('/').ok_or(PathError::Relative)?.split('/').peekable();
    let mut normal = String::with_capacity(path.len());
    let mut segment = String::new();
    while let Some(raw) = segments.next() {
        segment.clear();
        decode(raw.as_bytes(), &mut segment, rules)?;
        check_twice(&segment)?;
        let last = segments.peek().is_none();
        match segment.as_str() {
            "." => {}
            ".." => normal.truncate(normal.rfind('/').unwrap_or(0)),
            "" if !last && rules.refuse_empty_segments => return Err(PathError::EmptySegment),
            text => {
                check_dots(text)?;
                normal.push('/');
                normal.push_str(text);
                continue;
            }
        }
        // What ends in a dot segment is a folder (RFC 3986, section 5.2.4).
        if last {
            normal.push('/');
        }
    }
    Ok(normal)
}

/// Refuses a segment that is a dot segment for who strips parameters or splits at `%2F`.
fn check_dots(segment: &str) -> Result<(), PathError> {
    for part in segment.split("%2F") {
        let name = part.split(';').next().unwrap_or(part);
        let name = name.split("%3B").next().unwrap_or(name);
        if matches!(name, "." | "..") {
            return Err(if part.len() == segment.len() {
                PathError::DotParameter
            } else {
                PathError::EncodedSlash
            });
        }
    }
    Ok(())
}

fn decode(raw: &[u8], out: &mut String, rules: PathRules) -> Result<(), PathError> {
    let mut at = 0;
    while let Some(&byte) = raw.get(at) {
        match byte {
            b'%' => {
                let value = octet(raw, at).ok_or(PathError::Encoding)?;
                check_octet(value, &raw[at + 3..], rules)?;
                if is_unreserved(value) {
                    out.push(char::from(value));
                } else {
                    encode(value, out);
                }
                at += 3;
                continue;
            }
            b'\\' => return Err(PathError::Backslash),
            b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' => encode(byte, out),
            b'?' | b'#' | b'[' | b']' => return Err(PathError::Byte),
            b'!'..=b'~' => out.push(char::from(byte)),
            _ => return Err(PathError::Byte),
        }
        at += 1;
    }
    Ok(())
}

fn encode(byte: u8, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// Refuses encodings that readers disagree about; `rest` is what follows.
fn check_octet(value: u8, rest: &[u8], rules: PathRules) -> Result<(), PathError> {
    let next = || if rest.first() == Some(&b'%') { octet(rest, 0) } else { None };
    match value {
        b'/' if !rules.encoded_slash => Err(PathError::EncodedSlash),
        b'\\' => Err(PathError::Backslash),
        0..=0x1F | 0x7F => Err(PathError::EncodedControl),
        0xC0 | 0xC1 if matches!(next(), Some(0x80..=0xBF)) => Err(PathError::Overlong),
        0xE0 if matches!(next(), Some(0x80..=0x9F)) => Err(PathError::Overlong),
        0xF0 if matches!(next(), Some(0x80..=0x8F)) => Err(PathError::Overlong),
        _ => Ok(()),
    }
}

/// Refuses `%25` before what makes it an encoding for who decodes twice. In what was decoded, because the
/// digits may have been encoded, too: `%25%32%65` is `%252e`.
fn check_twice(segment: &str) -> Result<(), PathError> {
    let mut percents = segment.match_indices("%25");
    if percents.any(|(at, percent)| hides_separator(&segment.as_bytes()[at + percent.len()..])) {
        return Err(PathError::EncodedTwice);
    }
    Ok(())
}

/// Whether `%25` and this is a separator after one more decoding, or after any number of them.
fn hides_separator(mut rest: &[u8]) -> bool {
    while let [b'2', b'5', more @ ..] = rest {
        rest = more;
    }
    match rest {
        [high, low, ..] => matches!(hex(*high, *low), Some(b'.' | b'/' | b'\\' | 0)),
        _ => false,
    }
}

/// The byte that the percent-encoding at this place stands for.
fn octet(bytes: &[u8], at: usize) -> Option<u8> {
    hex(*bytes.get(at + 1)?, *bytes.get(at + 2)?)
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_brought_into_normal_form() {
        for (path, normal) in [
            ("/", "/"),
            ("/a/b.c/.well-known/x-y_z~", "/a/b.c/.well-known/x-y_z~"),
            ("/a%20b", "/a%20b"),
            ("/%61%2D%2e%5f%7E", "/a-._~"),
            ("/%c3%a9", "/%C3%A9"),
            ("/%C3%A9", "/%C3%A9"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/../../c", "/c"),
            ("/../../etc/passwd", "/etc/passwd"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/.", "/"),
            ("/..", "/"),
            ("/%2e%2e/a", "/a"),
            ("/a/%2E./b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/...", "/..."),
            ("/..a/.b", "/..a/.b"),
            ("//a", "//a"),
            ("/a//b", "/a//b"),
            ("/a//../b", "/a/b"),
            ("/a;x=1/b", "/a;x=1/b"),
            ("/.a;x", "/.a;x"),
            ("/a%3bx", "/a%3Bx"),
            ("/{id}|\"<>^`", "/%7Bid%7D%7C%22%3C%3E%5E%60"),
            ("/100%25", "/100%25"),
            ("/100%2541", "/100%2541"),
            ("/%C0", "/%C0"),
            ("/%E0%A0%80", "/%E0%A0%80"),
            ("/https://a.example/b", "/https://a.example/b"),
        ] {
            assert_eq!(normalize(path, PathRules::default()).as_deref(), Ok(normal), "{path}");
        }
    }

    #[test]
    fn a_normal_path_is_borrowed() {
        for path in ["/", "/a/b/c.html", "/.well-known/acme-challenge/x", "/a%20b", "/a;b", "/a//b", "/.a.b"]
        {
            assert!(matches!(normalize(path, PathRules::default()), Ok(Cow::Borrowed(_))), "{path}");
        }
    }

    #[test]
    fn normalising_twice_changes_nothing() {
        for path in ["/%61/../%2e/%c3%a9;x/{}", "/a/..//b/.", "/%2541%20/.x/..y"] {
            let once = normalize(path, PathRules::default()).expect("valid").into_owned();
            assert_eq!(normalize(&once, PathRules::default()).as_deref(), Ok(once.as_str()));
        }
    }

    /// The forms that leak past a comparison of raw prefixes and are not plain dot segments.
    #[test]
    fn what_can_be_read_two_ways_is_refused() {
        for (path, error) in [
            ("", PathError::Relative),
            ("a", PathError::Relative),
            ("/%", PathError::Encoding),
            ("/%2", PathError::Encoding),
            ("/%zz", PathError::Encoding),
            ("/%+1", PathError::Encoding),
            ("/%u002e", PathError::Encoding),
            ("/a%2fb", PathError::EncodedSlash),
            ("/a%2Fb", PathError::EncodedSlash),
            ("/..%2fb", PathError::EncodedSlash),
            ("/a\\b", PathError::Backslash),
            ("/a%5cb", PathError::Backslash),
            ("/..%5C", PathError::Backslash),
            ("/a%00", PathError::EncodedControl),
            ("/a%0d%0aX:y", PathError::EncodedControl),
            ("/a%7f", PathError::EncodedControl),
            ("/%252e%252e/", PathError::EncodedTwice),
            ("/%25%32%65%25%32%65/", PathError::EncodedTwice),
            ("/%252F", PathError::EncodedTwice),
            ("/%255c", PathError::EncodedTwice),
            ("/%2500", PathError::EncodedTwice),
            ("/%25252e", PathError::EncodedTwice),
            ("/%c0%ae%c0%ae/", PathError::Overlong),
            ("/%C1%9C", PathError::Overlong),
            ("/%e0%80%af", PathError::Overlong),
            ("/%F0%80%80%AF", PathError::Overlong),
            ("/a\u{e9}", PathError::Byte),
            ("/a b", PathError::Byte),
            ("/a\tb", PathError::Byte),
            ("/a#b", PathError::Byte),
            ("/a?b", PathError::Byte),
            ("/a\u{7f}", PathError::Byte),
            ("/..;/admin", PathError::DotParameter),
            ("/a/..;x=1/b", PathError::DotParameter),
            ("/.;/admin", PathError::DotParameter),
            ("/%2e%2e;/admin", PathError::DotParameter),
            ("/..%3b/admin", PathError::DotParameter),
        ] {
            assert_eq!(normalize(path, PathRules::default()), Err(error), "{path:?}");
        }
    }

    #[test]
    fn an_encoded_slash_can_be_allowed_but_hides_no_dots() {
        let rules = PathRules { encoded_slash: true, ..PathRules::default() };
        assert_eq!(normalize("/@scope%2fname", rules).as_deref(), Ok("/@scope%2Fname"));
        for path in ["/a/..%2fb", "/a%2f..", "/a%2f%2e%2e%2fb", "/x%2F..;y%2Fb", "/.%2f"] {
            assert_eq!(normalize(path, rules), Err(PathError::EncodedSlash), "{path}");
        }
    }

    #[test]
    fn empty_segments_can_be_refused() {
        let rules = PathRules { refuse_empty_segments: true, ..PathRules::default() };
        assert_eq!(normalize("/a//b", rules), Err(PathError::EmptySegment));
        assert_eq!(normalize("//", rules), Err(PathError::EmptySegment));
        assert_eq!(normalize("/a/", rules).as_deref(), Ok("/a/"));
    }

    #[test]
    fn nothing_panics() {
        let alphabet = ["/", ".", "%", "2", "5", "e", "F", ";", "\\", "é", "C0", "A", "//"];
        let mut state = 1_u32;
        for _ in 0..20_000 {
            let mut path = String::from("/");
            for _ in 0..(state % 9) {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                path.push_str(alphabet[(state >> 16) as usize % alphabet.len()]);
            }
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if let Ok(normal) = normalize(&path, PathRules::default()) {
                assert!(normal.starts_with('/'));
                assert!(
                    normal.split('/').all(|segment| segment != "." && segment != ".."),
                    "{path} {normal}"
                );
                assert_eq!(normalize(&normal, PathRules::default()).as_deref(), Ok(&*normal), "{path}");
            }
        }
    }
}
