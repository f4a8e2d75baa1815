//! Patterns of paths. Pure.

use std::fmt;

use regex::{Regex, RegexBuilder};
use smol_str::SmolStr;

use crate::glob;

/// Longer ones are a mistake or an attack.
const MAX_LENGTH: usize = 1024;
/// Of a compiled expression, and of the cache that matching may fill. Matching is linear in the path
/// whatever the expression (the regex crate never backtracks), so size is all that needs a bound.
const MAX_PROGRAM: usize = 256 * 1024;

/// How the text of a [`Pattern`] is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PatternKind {
    /// The whole path.
    Exact,
    /// The path itself and everything below it: `/api` is for `/api` and `/api/x`, not for `/apis`.
    /// With a slash at its end only for what is below it; `/` is for everything.
    Prefix,
    /// The whole path, where `*` is any run of characters but `/`, `**` any run at all and `?` one character but `/`.
    Glob,
    /// A regular expression for the whole path.
    Regex,
    /// A regular expression for the start of the path: what `is_regex` meant in the older system.
    RegexStart,
}

/// A pattern of paths.
#[derive(Debug, Clone, PartialEq)]
pub struct Pattern {
    kind: PatternKind,
    text: SmolStr,
    program: Option<Anchored>,
    /// What every matching path starts with.
    literal: SmolStr,
}

/// Why a text is no [`Pattern`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PatternError {
    /// Exact, prefix and glob patterns are paths.
    #[error("pattern {0:?} does not start with '/'")]
    Relative(String),
    /// Query and fragment are no part of a path.
    #[error("pattern {0:?} has a '?' or '#', which never are in a path")]
    Query(String),
    /// More than 1024 bytes.
    #[error("pattern is longer than {MAX_LENGTH} bytes")]
    TooLong,
    /// No regular expression, or one that grows too large.
    #[error("invalid regular expression")]
    Regex(#[from] regex::Error),
}

impl Pattern {
    /// Compiles a pattern. Paths are matched in normal form, so an exact, prefix or glob pattern
    /// should be written in it.
    pub fn new(kind: PatternKind, text: &str) -> Result<Self, PatternError> {
        if text.len() > MAX_LENGTH {
            return Err(PatternError::TooLong);
        }
        let is_path = !matches!(kind, PatternKind::Regex | PatternKind::RegexStart);
        if is_path && !text.starts_with('/') {
            return Err(PatternError::Relative(text.to_owned()));
        }
        if is_path && text.contains(|c| c == '#' || (c == '?' && kind != PatternKind::Glob)) {
            return Err(PatternError::Query(text.to_owned()));
        }
        let (program, literal) = match kind {
            PatternKind::Exact | PatternKind::Prefix => (None, text.into()),
            PatternKind::Glob => (None, text.split(['*', '?']).next().unwrap_or_default().into()),
            PatternKind::Regex => (Some(Anchored::whole(text)?), literal_start(text)),
            PatternKind::RegexStart => (Some(Anchored::start(text)?), literal_start(text)),
        };
        Ok(Self { kind, text: text.into(), program, literal })
    }

    /// Whether the pattern is for this path.
    pub fn matches(&self, path: &str) -> bool {
        match (&self.program, self.kind) {
            (Some(program), _) => path.starts_with(&*self.literal) && program.is_match(path),
            (None, PatternKind::Prefix) => glob::starts_path(&self.text, path),
            (None, PatternKind::Glob) => glob::matches_path(&self.text, path),
            (None, _) => self.text == path,
        }
    }

    /// How the text is understood.
    pub const fn kind(&self) -> PatternKind {
        self.kind
    }

    /// The text, as it was given.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            PatternKind::Exact => "exact",
            PatternKind::Prefix => "prefix",
            PatternKind::Glob => "glob",
            PatternKind::Regex => "regex",
            PatternKind::RegexStart => "regex at the start",
        };
        write!(f, "{kind} {}", self.text)
    }
}

/// A regular expression with bounds on its size, equal to another one with the same source.
#[derive(Clone)]
pub struct Anchored {
    source: SmolStr,
    /// What was compiled, which tells `whole` and `start` apart.
    regex: Regex,
}

impl Anchored {
    /// For the whole of a text.
    pub fn whole(source: &str) -> Result<Self, PatternError> {
        bounded(source)?;
        Self::compile(&format!(r"\A(?:{source})\z"), source)
    }

    /// For the start of a text.
    pub fn start(source: &str) -> Result<Self, PatternError> {
        bounded(source)?;
        Self::compile(&format!(r"\A(?:{source})"), source)
    }

    fn compile(program: &str, source: &str) -> Result<Self, PatternError> {
        Ok(Self { source: source.into(), regex: bounded(program)? })
    }

    /// Whether the text matches.
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// The expression, as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }
}

impl PartialEq for Anchored {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str()
    }
}

impl fmt::Debug for Anchored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.source, f)
    }
}

/// Compiles; the source by itself, too, as `a)|(b` becomes valid between our parentheses.
fn bounded(source: &str) -> Result<Regex, PatternError> {
    if source.len() > 4 * MAX_LENGTH {
        return Err(PatternError::TooLong);
    }
    Ok(RegexBuilder::new(source)
        .size_limit(MAX_PROGRAM)
        .dfa_size_limit(MAX_PROGRAM)
        .nest_limit(32)
        .build()?)
}

/// The letters that an expression surely starts with; too few is safe, too many is not.
fn literal_start(source: &str) -> SmolStr {
    let source = source.strip_prefix('^').unwrap_or(source);
    if source.contains('|') {
        return SmolStr::default();
    }
    let end = source.find(|c: char| !(c.is_ascii_alphanumeric() || "/-_~%=@:,;".contains(c)));
    let literal = match end {
        None => source,
        // What a quantifier stands behind may be missing.
        Some(end) if source[end..].starts_with(['*', '?', '{']) => &source[..end.saturating_sub(1)],
        Some(end) => &source[..end],
    };
    literal.into()
}

#[cfg(test)]
mod tests {
    use PatternKind::{Exact, Glob, Prefix, Regex, RegexStart};

    use super::*;

    #[test]
    fn patterns_match_what_they_say() {
        for (kind, text, yes, no) in [
            (Exact, "/a", &["/a"][..], &["/a/", "/A", "/", "/ab"][..]),
            (Prefix, "/", &["/", "/a", "//", "/a/b"], &[]),
            (
                Prefix,
                "/api",
                &["/api", "/api/", "/api/x", "/api//x"],
                &["/apis", "/ap", "/", "/x/api", "/api;x"],
            ),
            (Prefix, "/api/", &["/api/", "/api/x"], &["/api", "/apis/x"]),
            (Glob, "/a/*", &["/a/", "/a/b"], &["/a", "/a/b/c", "/b/a/b"]),
            (Glob, "/a/**", &["/a/", "/a/b/c"], &["/a", "/ab/c"]),
            (Glob, "/**/x.js", &["/a/x.js", "/a/b/x.js", "//x.js"], &["/x.js", "/a/xxjs"]),
            (Glob, "/v?/a+b", &["/v1/a+b"], &["/v/a+b", "/v//a+b", "/v12/a+b", "/v1/aab"]),
            (Regex, "/a|/b", &["/a", "/b"], &["/ab", "/a/", "/x/b"]),
            (Regex, r"/user/\d+", &["/user/12"], &["/user/", "/user/12/x", "/x/user/1"]),
            (Regex, "^/a$", &["/a"], &["/ab"]),
            (Regex, "/ab?c*", &["/a", "/abcc"], &["/b"]),
            (Regex, "(?i)/admin", &["/ADMIN"], &["/admin/"]),
            (Regex, "/a.{2}", &["/abc"], &["/a"]),
            (Regex, "/a{0}", &["/"], &["/a"]),
            (RegexStart, "/a|/b", &["/a", "/ax", "/b/c"], &["/c/a"]),
            (RegexStart, "/token", &["/token", "/tokens/x"], &["/x/token"]),
        ] {
            let pattern = Pattern::new(kind, text).expect(text);
            for path in yes {
                assert!(pattern.matches(path), "{pattern} did not match {path}");
            }
            for path in no {
                assert!(!pattern.matches(path), "{pattern} matched {path}");
            }
        }
    }

    #[test]
    fn bad_patterns_are_refused() {
        let long = format!("/{}", "a".repeat(MAX_LENGTH));
        for (kind, text) in [
            (Exact, "a"),
            (Exact, ""),
            (Exact, "/a?b"),
            (Prefix, "/a#b"),
            (Glob, "*"),
            (Regex, "("),
            (Regex, "a)|(b"),
            (Regex, r"(a)\1"),
            (Regex, "a{1000}{1000}"),
            (Regex, r"(\w{500}){500}"),
            (RegexStart, "a)|(?:b"),
            (Prefix, long.as_str()),
        ] {
            assert!(Pattern::new(kind, text).is_err(), "{text:?} was taken for a pattern");
        }
    }

    #[test]
    fn a_hostile_path_costs_linear_time() {
        let pattern = Pattern::new(Regex, "/(a+)+b").expect("valid");
        assert!(!pattern.matches(&format!("/{}", "a".repeat(16 * 1024))));
    }

    #[test]
    fn equality_is_that_of_the_text_and_its_kind() {
        let pattern = |kind, text| Pattern::new(kind, text).expect("valid");
        assert_eq!(pattern(Regex, "/a"), pattern(Regex, "/a"));
        assert_ne!(pattern(Regex, "/a"), pattern(RegexStart, "/a"));
        assert_ne!(pattern(Exact, "/a"), pattern(Prefix, "/a"));
    }
}
