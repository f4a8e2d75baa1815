//! Which requests a rule of a policy is for: patterns of paths, and methods.

use http::Method;
use smol_str::SmolStr;

use crate::{glob, readings};

/// A pattern of paths. It is compared with the path after the one normalisation that the request had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathPattern {
    /// This path and no other.
    Exact(SmolStr),
    /// This path and all below it, on segment boundaries: `/health` covers `/health/live` but not
    /// `/healthz`; `/files/` covers what is below `/files` but not `/files` itself.
    Prefix(SmolStr),
    /// `*` stands for any characters within a segment, `**` for any characters, `?` for one within a segment.
    Glob(SmolStr),
}

/// A pattern that does not start with `/`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path pattern {0:?} does not start with '/'")]
pub struct InvalidPattern(pub String);

/// Which requests: by method and path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher {
    /// `None`: any method.
    pub methods: Option<Vec<Method>>,
    /// The paths.
    pub path: PathPattern,
}

impl PathPattern {
    /// Reads a pattern: a glob if it has a `*` or `?`, else a prefix. A glob that ends with `/*` or `/**`
    /// covers everything below, as people mean it.
    ///
    /// # Errors
    ///
    /// When it does not start with `/`.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        if !text.starts_with('/') {
            return Err(InvalidPattern(text.to_owned()));
        }
        let below = text.strip_suffix("**").or_else(|| text.strip_suffix('*'));
        Ok(match below {
            Some(parent) if parent.ends_with('/') && !parent.contains(['*', '?']) => {
                Self::Prefix(parent.into())
            }
            _ if text.contains(['*', '?']) => Self::Glob(text.into()),
            _ => Self::Prefix(text.into()),
        })
    }

    /// Whether the pattern covers a path.
    pub fn covers(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => glob::starts_path(prefix, path),
            Self::Glob(pattern) => glob::matches_path(pattern, path),
        }
    }

    /// Whether an upstream may take a path for one that is covered: in this or another of its readings. What is
    /// forbidden is asked so; what opens a door must be [covered](Self::covers) as it is.
    pub fn may_cover(&self, path: &str) -> bool {
        self.covers(path)
            || readings::is_ambiguous(path) && readings::others(path).iter().any(|other| self.covers(other))
    }
}

impl Matcher {
    /// Any method on these paths.
    pub const fn any_method(path: PathPattern) -> Self {
        Self { methods: None, path }
    }

    /// Whether the rule is for this request.
    pub fn covers(&self, method: &Method, path: &str) -> bool {
        self.is_for(method) && self.path.covers(path)
    }

    /// Whether the rule may be for this request, in one of the readings of its path.
    pub fn may_cover(&self, method: &Method, path: &str) -> bool {
        self.is_for(method) && self.path.may_cover(path)
    }

    fn is_for(&self, method: &Method) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.contains(method))
    }
}

/// Whether a path can be read in only one way, so that it may open a door.
///
/// `normalize` resolves or refuses all of this; here it protects a stack without that layer, where
/// `/health/../admin` or `/health/..;/admin` would be another path for the upstream.
pub(super) fn is_unambiguous(path: &str) -> bool {
    let escaped =
        |code: &str| path.as_bytes().windows(3).any(|three| three.eq_ignore_ascii_case(code.as_bytes()));
    path.starts_with('/')
        && !path.contains("//")
        && !path.contains(['\\', ';'])
        && !path.split('/').any(|segment| segment == "." || segment == "..")
        && !["%2f", "%5c", "%2e", "%3b", "%25", "%00"].into_iter().any(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_paths_on_segment_boundaries() {
        for (pattern, path, covered) in [
            ("/", "/", true),
            ("/", "/anything", true),
            ("/health", "/health", true),
            ("/health", "/health/live", true),
            ("/health", "/healthz-secret", false),
            ("/token", "/tokens/", false),
            ("/files/", "/files/a", true),
            ("/files/", "/files/", true),
            ("/files/", "/files", false),
            ("/.well-known/*", "/.well-known/a/b", true),
            ("/.well-known/*", "/.well-known", false),
            ("/.well-known/**", "/.well-known/a", true),
            ("/a/*/c", "/a/b/c", true),
            ("/a/*/c", "/a/b/b/c", false),
            ("/*/*", "/a/b/c", false),
            ("/v?", "/v1", true),
            ("/v?/*", "/v1/a/b", false),
            ("/**.css", "/x/y.css", true),
            ("/Health", "/health", false),
        ] {
            let parsed = PathPattern::parse(pattern).expect("valid");
            assert_eq!(parsed.covers(path), covered, "{pattern} {path}");
        }
        assert!(PathPattern::parse("health").is_err());
        assert!(PathPattern::parse("").is_err());
    }

    #[test]
    fn a_path_that_can_be_read_in_two_ways_opens_nothing() {
        for (path, fine) in [
            ("/health", true),
            ("/health/a%20b", true),
            ("/.well-known/x", true),
            ("/health/../admin", false),
            ("/health/./admin", false),
            ("/health//admin", false),
            ("/health/%2e%2E/admin", false),
            ("/health%2Fadmin", false),
            ("/health/%5c..", false),
            ("/health/..;/admin", false),
            ("/health\\..\\admin", false),
            ("/health%252e", false),
            ("/health%00", false),
            ("health", false),
            ("*", false),
        ] {
            assert_eq!(is_unambiguous(path), fine, "{path}");
        }
    }

    #[test]
    fn methods_narrow_a_rule() {
        let rule =
            Matcher { methods: Some(vec![Method::GET]), path: PathPattern::parse("/public").expect("valid") };
        assert!(rule.covers(&Method::GET, "/public/a"));
        assert!(!rule.covers(&Method::POST, "/public/a"));
        assert!(Matcher::any_method(rule.path).covers(&Method::POST, "/public"));
    }
}
