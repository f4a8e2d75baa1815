//! Texts and paths that match patterns, as people write them. Pure, and nothing is allocated.
//!
//! One search serves all kinds of patterns. Its time is bounded by the product of the two lengths,
//! whatever they are: clients choose the texts.

/// Whether a text has the form of a pattern in which `*` stands for any characters.
///
/// ```
/// use portcullis_layers::glob::matches;
///
/// assert!(matches("*.example.*", "app.example.com"));
/// assert!(!matches("*.example", "app.example.com"));
/// ```
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    // Most differ in their first letter.
    if let (Some(first), Some(other)) = (pattern.first(), text.first())
        && first != other
        && *first != b'*'
    {
        return false;
    }
    search(pattern, text, Stars::Alike, |a, b| a == b)
}

/// The same, but ASCII letters match in either case.
pub fn matches_ignoring_case(pattern: &str, text: &str) -> bool {
    search(pattern.as_bytes(), text.as_bytes(), Stars::Alike, |a, b| a.eq_ignore_ascii_case(&b))
}

/// Whether a path has the form of a pattern in which `*` stands for any characters but `/`, `**` for
/// any characters, and `?` for one character but `/`.
///
/// ```
/// use portcullis_layers::glob::matches_path;
///
/// assert!(matches_path("/*/v?/**", "/api/v2/users/7"));
/// assert!(!matches_path("/*/v?", "/api/old/v2"));
/// ```
pub fn matches_path(pattern: &str, path: &str) -> bool {
    search(pattern.as_bytes(), path.as_bytes(), Stars::OfPaths, |a, b| a == b)
}

/// Whether a path is the prefix or below it, on segment boundaries: `/health` is the start of
/// `/health/live` but not of `/healthz`. A prefix with a slash at its end is only for what is below it.
pub fn starts_path(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stars {
    /// Each stands for anything, and `?` for itself.
    Alike,
    /// A single one stays within a segment.
    OfPaths,
}

/// A star that may stand for anything, and how far it has been tried.
struct Wide {
    /// Where the pattern goes on.
    after: usize,
    /// Where the rest of the pattern is being tried.
    from: usize,
    /// Where this attempt came to its first narrow star.
    narrow_at: Option<usize>,
    /// Attempts that come to that star before this place fail as an earlier one did.
    fails_before: usize,
}

/// Goes back only to the last star of each sort.
///
/// For a wide star that is enough because what follows it was found as early as possible, which leaves
/// the most to the next one. The same goes for narrow stars of one segment; and where the next segment
/// begins, a narrow star has no choice. A narrow star that found nothing up to the end of its segment
/// has also tried all that a later start of the wide one before it would let it try there.
fn search(pattern: &[u8], text: &[u8], stars: Stars, same: impl Fn(u8, u8) -> bool) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut wide: Option<Wide> = None;
    let mut narrow: Option<(usize, usize)> = None;
    loop {
        let advanced = match pattern.get(p) {
            None if t == text.len() => return true,
            None => false,
            Some(b'*') => {
                let double = stars == Stars::OfPaths && pattern.get(p + 1) == Some(&b'*');
                p += if double { 2 } else { 1 };
                if double || stars == Stars::Alike {
                    wide = Some(Wide { after: p, from: t, narrow_at: None, fails_before: 0 });
                    narrow = None;
                    true
                } else if wide.as_mut().is_none_or(|wide| wide.comes_to_narrow(t)) {
                    narrow = Some((p, t));
                    true
                } else {
                    false
                }
            }
            Some(b'?') if stars == Stars::OfPaths => {
                let length = character(&text[t..]);
                (p, t) = (p + 1, t + length);
                length > 0
            }
            Some(byte) => {
                let fits = text.get(t).is_some_and(|other| same(*byte, *other));
                (p, t) = (p + 1, t + 1);
                fits
            }
        };
        if advanced {
            continue;
        }
        if let Some((after, from)) = narrow.filter(|(_, from)| text.get(*from).is_some_and(|b| *b != b'/')) {
            narrow = Some((after, from + 1));
            (p, t) = (after, from + 1);
        } else if let Some(next) = wide.take().and_then(|wide| wide.next(text)) {
            (p, t) = (next.after, next.from);
            (wide, narrow) = (Some(next), None);
        } else {
            return false;
        }
    }
}

impl Wide {
    /// Notes the first narrow star of an attempt; `false` if the attempt fails.
    fn comes_to_narrow(&mut self, at: usize) -> bool {
        let first = *self.narrow_at.get_or_insert(at);
        first >= self.fails_before
    }

    /// The next attempt, if one makes sense.
    fn next(self, text: &[u8]) -> Option<Self> {
        let fails_before = match self.narrow_at {
            Some(at) if at >= self.fails_before => at + text[at..].iter().position(|byte| *byte == b'/')? + 1,
            _ => self.fails_before,
        };
        (self.from < text.len()).then_some(Self {
            from: self.from + 1,
            narrow_at: None,
            fails_before,
            ..self
        })
    }
}

/// The length of the first character, unless there is none or it is `/`.
fn character(text: &[u8]) -> usize {
    let continues = |byte: &u8| byte & 0xc0 == 0x80;
    match text.split_first() {
        Some((first, rest)) if *first != b'/' && !continues(first) => {
            1 + rest.iter().take_while(|byte| continues(byte)).count()
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*c", "abc", true),
            ("a*bc", "abcbc", true),
            ("a*b", "abc", false),
            ("*/*/*", "a/b/c", true),
            ("a?c", "abc", false),
            ("a?c", "a?c", true),
            ("a**c", "a/c", true),
            ("A*", "abc", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
        assert!(matches_ignoring_case("A*c", "aBC"));
        assert!(!matches_ignoring_case("A*d", "aBC"));
    }

    #[test]
    fn stars_of_paths_know_segments() {
        for (pattern, path, expected) in [
            ("/a/*", "/a/", true),
            ("/a/*", "/a/b", true),
            ("/a/*", "/a/b/c", false),
            ("/a/**", "/a/b/c", true),
            ("/a/**/c", "/a/b/b/c", true),
            ("/a/**/c", "/a/b/b/d", false),
            ("/*.css", "/x.css", true),
            ("/*.css", "/x.css.php", false),
            ("/*.css", "/x/y.css", false),
            ("/**.css", "/x/y.css", true),
            ("/**/a*b/c", "/x/ab/aab/c", true),
            ("/**/a*b/c", "/x/ab/aac/c", false),
            ("/**a*b", "/a/ab", true),
            ("/v?/a", "/v1/a", true),
            ("/v?/a", "/v//a", false),
            ("/v?/a", "/v/a", false),
            ("/v?/a", "/vé/a", true),
            ("/v??/a", "/vé/a", false),
            ("/**?a", "/éa", true),
            ("/**??a", "/éa", false),
        ] {
            assert_eq!(matches_path(pattern, path), expected, "{pattern} {path}");
        }
    }

    /// Every reading of every star.
    fn by_trial(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', b'*', rest @ ..] => (0..=text.len()).any(|at| by_trial(rest, &text[at..])),
            [b'*', rest @ ..] => {
                let end = text.iter().position(|byte| *byte == b'/').unwrap_or(text.len());
                (0..=end).any(|at| by_trial(rest, &text[at..]))
            }
            [b'?', rest @ ..] => text.first().is_some_and(|byte| *byte != b'/') && by_trial(rest, &text[1..]),
            [byte, rest @ ..] => text.first() == Some(byte) && by_trial(rest, &text[1..]),
        }
    }

    fn words(letters: &str, longest: usize) -> Vec<String> {
        let mut all = vec![String::new()];
        let mut from = 0;
        for _ in 0..longest {
            let to = all.len();
            for at in from..to {
                all.extend(letters.chars().map(|letter| format!("{}{letter}", all[at])).collect::<Vec<_>>());
            }
            from = to;
        }
        all
    }

    #[test]
    fn the_search_finds_what_trying_everything_finds() {
        for (letters, longest, of_texts) in [("a/*", 7, "a/"), ("ab/*", 5, "ab/"), ("a/*?", 5, "a/")] {
            let texts = words(of_texts, 6);
            for pattern in words(letters, longest) {
                for text in &texts {
                    let expected = by_trial(pattern.as_bytes(), text.as_bytes());
                    assert_eq!(matches_path(&pattern, text), expected, "{pattern} {text}");
                }
            }
        }
    }

    #[test]
    fn no_pattern_and_text_take_long() {
        let many = "a".repeat(1 << 17);
        let segments = "a/".repeat(1 << 16);
        for pattern in ["**a*b", "**a*a*b", "**a*/*b", "*a*a*b", "**a**a*b", "**?*b"] {
            assert!(!matches_path(pattern, &many), "{pattern}");
            assert!(!matches_path(pattern, &segments), "{pattern}");
            assert!(!matches(pattern, &many), "{pattern}");
        }
    }

    #[test]
    fn prefixes_end_where_segments_do() {
        for (prefix, path, expected) in [
            ("/", "/anything", true),
            ("/health", "/health", true),
            ("/health", "/health/live", true),
            ("/health", "/healthz", false),
            ("/files/", "/files/a", true),
            ("/files/", "/files", false),
        ] {
            assert_eq!(starts_path(prefix, path), expected, "{prefix} {path}");
        }
    }
}
