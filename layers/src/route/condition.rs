//! What a route asks of a request beside its path. Pure.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::pattern::Anchored;

/// A set of methods. HEAD is not implied by GET.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Methods(Option<Box<[Method]>>);

/// A text that is no method.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no HTTP method")]
pub struct MethodsError(String);

impl Methods {
    /// Every method.
    pub const fn any() -> Self {
        Self(None)
    }

    /// These methods.
    pub fn only(methods: impl IntoIterator<Item = Method>) -> Self {
        Self(Some(methods.into_iter().collect()))
    }

    /// Reads names in any case; none at all, `*` or `ALL` mean every method.
    pub fn parse<T: AsRef<str>>(names: &[T]) -> Result<Self, MethodsError> {
        let any = |name: &T| {
            matches!(name.as_ref().trim(), "*") || name.as_ref().trim().eq_ignore_ascii_case("all")
        };
        if names.is_empty() || names.iter().any(any) {
            return Ok(Self::any());
        }
        let method = |name: &T| {
            let name = name.as_ref().trim();
            Method::from_bytes(name.to_ascii_uppercase().as_bytes())
                .map_err(|_| MethodsError(name.to_owned()))
        };
        names.iter().map(method).collect::<Result<Box<[Method]>, _>>().map(|methods| Self(Some(methods)))
    }

    /// Whether the method is one of them.
    pub fn contains(&self, method: &Method) -> bool {
        self.0.as_ref().is_none_or(|methods| methods.contains(method))
    }
}

impl fmt::Display for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(methods) = &self.0 else { return f.write_str("any method") };
        for (at, method) in methods.iter().enumerate() {
            write!(f, "{}{method}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// What a route asks of one header.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderCondition {
    /// The header.
    pub name: HeaderName,
    /// What must hold; of several fields with the name it is enough that one does.
    pub test: HeaderTest,
}

/// A test on a header.
#[derive(Debug, Clone, PartialEq)]
pub enum HeaderTest {
    /// It is there.
    Present,
    /// It is not there.
    Absent,
    /// It is exactly this.
    Exact(HeaderValue),
    /// An expression matches it.
    Regex(Anchored),
}

impl HeaderCondition {
    /// Whether the condition holds.
    pub fn holds(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(&self.name).iter();
        match &self.test {
            HeaderTest::Present => values.next().is_some(),
            HeaderTest::Absent => values.next().is_none(),
            HeaderTest::Exact(expected) => values.any(|value| value == expected),
            HeaderTest::Regex(regex) => {
                values.any(|value| value.to_str().is_ok_and(|text| regex.is_match(text)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_read_in_any_case() {
        let methods = Methods::parse(&["get", " POST "]).expect("valid");
        assert!(methods.contains(&Method::GET) && methods.contains(&Method::POST));
        assert!(!methods.contains(&Method::HEAD));
        assert_eq!(methods.to_string(), "GET, POST");
        for any in [&[][..], &["*"], &["GET", "all"]] {
            assert_eq!(Methods::parse(any), Ok(Methods::any()));
        }
        assert!(Methods::parse(&["G T"]).is_err());
        assert!(Methods::parse(&[""]).is_err());
    }

    #[test]
    fn headers_are_tested() {
        let mut headers = HeaderMap::new();
        headers.append("x-v", HeaderValue::from_static("1"));
        headers.append("x-v", HeaderValue::from_static("beta-2"));
        headers.append("x-raw", HeaderValue::from_bytes(b"\xff").expect("valid"));
        for (name, test, holds) in [
            ("x-v", HeaderTest::Present, true),
            ("x-w", HeaderTest::Present, false),
            ("x-v", HeaderTest::Absent, false),
            ("x-w", HeaderTest::Absent, true),
            ("x-v", HeaderTest::Exact(HeaderValue::from_static("beta-2")), true),
            ("x-v", HeaderTest::Exact(HeaderValue::from_static("beta")), false),
            ("x-v", HeaderTest::Regex(Anchored::whole("beta-.").expect("valid")), true),
            ("x-v", HeaderTest::Regex(Anchored::whole("beta").expect("valid")), false),
            ("x-raw", HeaderTest::Regex(Anchored::start("").expect("valid")), false),
        ] {
            let condition = HeaderCondition { name: HeaderName::from_static(name), test };
            assert_eq!(condition.holds(&headers), holds, "{condition:?}");
        }
    }
}
