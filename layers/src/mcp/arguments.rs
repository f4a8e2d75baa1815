//! Conditions on the arguments of a call.
//!
//! Arguments are read when the first rule asks, once for a call. A condition holds, fails, or is *unclear*: the value is
//! of another kind than the condition is about, or there is a member that some readers take for the one that is meant.
//! Whoever decides must then take the side of caution.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use super::message::{check_shape, looks_like};
use crate::glob;

/// The longest JSON pointer that a condition may have.
pub const MAX_POINTER: usize = 512;

/// 2^53: from here on neighbouring whole numbers are one and the same to readers that know numbers as `f64` alone.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A condition on one place in the arguments.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    pointer: Vec<String>,
    test: Test,
}

/// What a value has to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// One of these texts, numbers, booleans or `null`.
    OneOf(Vec<Scalar>),
    /// A text with this form: `*` stands for any characters.
    Glob(String),
    /// Not there (`true`), or there (`false`).
    Absent(bool),
    /// A number between these, both included.
    Range {
        /// The least.
        min: Option<f64>,
        /// The greatest.
        max: Option<f64>,
    },
}

/// A value without parts.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text.
    Text(String),
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// It can't be told.
    Unclear,
}

/// Why a text is no JSON pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a JSON pointer: it is empty, or does not begin with `/`, or has a `~` without `0` or `1`, or more than 512 bytes"
)]
pub struct InvalidPointer;

impl Condition {
    /// A condition on the value at a JSON pointer (RFC 6901), from the arguments on: `/path`.
    ///
    /// # Errors
    ///
    /// When the text is no pointer.
    pub fn new(pointer: &str, test: Test) -> Result<Self, InvalidPointer> {
        let rest =
            pointer.strip_prefix('/').filter(|_| pointer.len() <= MAX_POINTER).ok_or(InvalidPointer)?;
        let pointer = rest.split('/').map(unescaped).collect::<Option<_>>().ok_or(InvalidPointer)?;
        Ok(Self { pointer, test })
    }

    /// Whether it holds for these arguments; `None` are none at all.
    pub fn holds(&self, arguments: Option<&Value>) -> Holds {
        let mut at = arguments;
        for token in &self.pointer {
            at = match at {
                Some(Value::Object(members)) => {
                    if members.keys().any(|name| name != token && looks_like(name, token)) {
                        return Holds::Unclear;
                    }
                    members.get(token)
                }
                Some(Value::Array(items)) => match index(token) {
                    Some(index) => items.get(index),
                    None => return Holds::Unclear,
                },
                None | Some(Value::Scalar(Scalar::Null)) => None,
                // Some servers read a text as the JSON that it holds.
                Some(Value::Scalar(_)) => return Holds::Unclear,
            };
        }
        self.test.holds(at)
    }
}

fn unescaped(token: &str) -> Option<String> {
    let mut out = String::with_capacity(token.len());
    let mut parts = token.split('~');
    out.push_str(parts.next()?);
    for part in parts {
        out.push(match part.as_bytes().first()? {
            b'0' => '~',
            b'1' => '/',
            _ => return None,
        });
        out.push_str(&part[1..]);
    }
    Some(out)
}

fn index(token: &str) -> Option<usize> {
    let plain = token == "0" || !token.starts_with('0') && token.bytes().all(|byte| byte.is_ascii_digit());
    if plain { token.parse().ok() } else { None }
}

impl Test {
    fn holds(&self, value: Option<&Value>) -> Holds {
        let sure = |holds: bool| if holds { Holds::Yes } else { Holds::No };
        let Some(value) = value else { return sure(matches!(self, Self::Absent(true))) };
        match (self, value) {
            (Self::Absent(absent), _) => sure(!absent),
            (Self::OneOf(wanted), Value::Scalar(value)) => {
                if wanted.iter().any(|one| one.is(value)) {
                    return Holds::Yes;
                }
                // `"5"` is 5 to some.
                let alike =
                    wanted.iter().any(|one| std::mem::discriminant(one) == std::mem::discriminant(value));
                if alike { Holds::No } else { Holds::Unclear }
            }
            (Self::Glob(pattern), Value::Scalar(Scalar::Text(text))) => sure(glob::matches(pattern, text)),
            (Self::Range { min, max }, Value::Scalar(Scalar::Number(number))) => {
                let Some(number) = number.as_f64().filter(|number| number.abs() < EXACT) else {
                    return Holds::Unclear;
                };
                sure(min.is_none_or(|min| number >= min) && max.is_none_or(|max| number <= max))
            }
            _ => Holds::Unclear,
        }
    }
}

impl Scalar {
    /// Numbers are equal by value: `1` is `1.0`.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(one), Self::Number(two)) => match (one.as_i128(), two.as_i128()) {
                (Some(one), Some(two)) => one == two,
                _ => one.as_f64() == two.as_f64(),
            },
            _ => self == other,
        }
    }

    /// How it stands in a header (revision 2026-07-28, `x-mcp-header`); `null` does not.
    fn written(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Null => return None,
            Self::Bool(value) => Cow::Borrowed(if *value { "true" } else { "false" }),
            Self::Number(number) => Cow::Owned(number.to_string()),
            Self::Text(value) => Cow::Borrowed(value),
        })
    }
}

/// Arguments as they were read: every member of an object once.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A value without parts.
    Scalar(Scalar),
    /// A list.
    Array(Vec<Value>),
    /// An object.
    Object(BTreeMap<String, Value>),
}

impl Value {
    /// Takes out of `wanted` what some value without parts, at any depth, is written like.
    pub(super) fn take_written<T>(&self, wanted: &mut HashMap<Cow<'_, str>, T>) {
        if wanted.is_empty() {
            return;
        }
        match self {
            Self::Scalar(scalar) => {
                if let Some(text) = scalar.written() {
                    wanted.remove(&*text);
                }
            }
            Self::Array(items) => items.iter().for_each(|item| item.take_written(wanted)),
            Self::Object(members) => members.values().for_each(|member| member.take_written(wanted)),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Values;

        impl<'de> Visitor<'de> for Values {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Scalar(Scalar::Null))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Scalar(Scalar::Bool(value)))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Scalar(Scalar::Number(value.into())))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(Value::Scalar(Scalar::Number(value.into())))
            }

            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
                let number = Number::from_f64(value).ok_or_else(|| E::custom("a number is out of range"))?;
                Ok(Value::Scalar(Scalar::Number(number)))
            }

            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(Value::Scalar(Scalar::Text(value.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Value::Array(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut members = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    match members.entry(name) {
                        Entry::Vacant(place) => place.insert(map.next_value()?),
                        Entry::Occupied(_) => {
                            return Err(A::Error::custom("duplicate member in the arguments"));
                        }
                    };
                }
                Ok(Value::Object(members))
            }
        }
        deserializer.deserialize_any(Values)
    }
}

/// The arguments of a call, read when somebody asks.
#[derive(Debug, Default)]
pub struct Arguments<'a> {
    raw: Option<&'a str>,
    read: OnceCell<Option<Value>>,
}

/// The arguments can't be read without doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the arguments have a member twice, a number out of range, or too many values")]
pub struct Unreadable;

impl<'a> Arguments<'a> {
    /// Those of a message: JSON.
    pub const fn of(raw: Option<&'a str>) -> Self {
        Self { raw, read: OnceCell::new() }
    }

    /// The arguments; `None`: there are none.
    ///
    /// # Errors
    ///
    /// When other readers could read them in another way.
    pub fn read(&self) -> Result<Option<&Value>, Unreadable> {
        let Some(raw) = self.raw else { return Ok(None) };
        let read = || check_shape(raw.as_bytes()).ok().and_then(|()| serde_json::from_str(raw).ok());
        self.read.get_or_init(read).as_ref().map(Some).ok_or(Unreadable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Value> {
        serde_json::from_str(text).ok()
    }

    fn text(text: &str) -> Scalar {
        Scalar::Text(text.to_owned())
    }

    #[test]
    fn conditions_hold_fail_or_are_unclear() {
        use Holds::{No, Unclear, Yes};
        let one_of = |scalars: &[Scalar]| Test::OneOf(scalars.to_vec());
        let glob = |pattern: &str| Test::Glob(pattern.to_owned());
        let range = |min, max| Test::Range { min, max };
        for (pointer, test, arguments, expected) in [
            ("/a", one_of(&[text("x")]), r#"{"a":"x"}"#, Yes),
            ("/a", one_of(&[text("y"), text("x")]), r#"{"a":"x"}"#, Yes),
            ("/a", one_of(&[text("x")]), r#"{"a":"X"}"#, No),
            ("/a", one_of(&[text("x")]), r#"{"b":"x"}"#, No),
            ("/a", one_of(&[text("5")]), r#"{"a":5}"#, Unclear),
            ("/a", one_of(&[text("x")]), r#"{"a":["x"]}"#, Unclear),
            ("/a", one_of(&[text("x")]), r#"{"a":"x","A":"y"}"#, Unclear),
            ("/a", one_of(&[text("x")]), r#"{"A":"x"}"#, Unclear),
            ("/a", one_of(&[Scalar::Number(1.into())]), r#"{"a":1.0}"#, Yes),
            ("/a", one_of(&[Scalar::Number(1.into())]), r#"{"a":2}"#, No),
            ("/a", one_of(&[Scalar::Bool(true), Scalar::Null]), r#"{"a":null}"#, Yes),
            ("/a/b/1", one_of(&[text("x")]), r#"{"a":{"b":["y","x"]}}"#, Yes),
            ("/a/b/01", one_of(&[text("x")]), r#"{"a":{"b":["y","x"]}}"#, Unclear),
            ("/a~1b/~0", one_of(&[text("x")]), r#"{"a/b":{"~":"x"}}"#, Yes),
            ("/", one_of(&[text("x")]), r#"{"":"x"}"#, Yes),
            ("/a", glob("/tmp/*"), r#"{"a":"/tmp/x"}"#, Yes),
            ("/a", glob("/tmp/*"), r#"{"a":"/etc/x"}"#, No),
            ("/a", glob("*"), r#"{"a":7}"#, Unclear),
            ("/a", Test::Absent(true), "{}", Yes),
            ("/a", Test::Absent(true), r#"{"a":null}"#, No),
            ("/a", Test::Absent(false), r#"{"a":null}"#, Yes),
            ("/a", Test::Absent(true), r#"{"A":1}"#, Unclear),
            ("/a", range(Some(1.0), Some(2.0)), r#"{"a":2}"#, Yes),
            ("/a", range(Some(1.0), Some(2.0)), r#"{"a":2.5}"#, No),
            ("/a", range(None, Some(2.0)), r#"{"a":-1e9}"#, Yes),
            ("/a", range(None, Some(2.0)), r#"{"a":"1"}"#, Unclear),
            ("/a", range(None, Some(2.0)), r#"{"b":1}"#, No),
            ("/a", range(None, Some(2.0)), "[1]", Unclear),
            ("/a", range(None, Some(2.0)), r#"{"a":-9007199254740993}"#, Unclear),
            ("/a", range(None, Some(9_007_199_254_740_992.0)), r#"{"a":9007199254740993}"#, Unclear),
            ("/a/b", Test::Absent(true), r#"{"a":"{\"b\":1}"}"#, Unclear),
            ("/a/b", Test::Absent(true), r#"{"a":null}"#, Yes),
            ("/a", one_of(&[Scalar::Number(u64::MAX.into())]), r#"{"a":18446744073709551614}"#, No),
            ("/0", range(None, Some(2.0)), "[1]", Yes),
        ] {
            let condition = Condition::new(pointer, test).expect("a pointer");
            assert_eq!(condition.holds(read(arguments).as_ref()), expected, "{condition:?} {arguments}");
        }
        let condition = Condition::new("/a", Test::Absent(true)).expect("a pointer");
        assert_eq!(condition.holds(None), Yes);
    }

    #[test]
    fn what_is_no_pointer_is_refused() {
        let long = "/x".repeat(MAX_POINTER);
        for pointer in ["", "a", "/a~", "/~2", "/~x/b", &long] {
            assert_eq!(Condition::new(pointer, Test::Absent(true)), Err(InvalidPointer), "{pointer}");
        }
    }

    #[test]
    fn arguments_with_two_readings_are_unreadable() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for raw in
            [r#"{"a":1,"a":2}"#, r#"{"a":1,"\u0061":2}"#, r#"{"b":[{"a":1,"a":1}]}"#, r#"{"a":1e999}"#, &deep]
        {
            assert_eq!(Arguments::of(Some(raw)).read(), Err(Unreadable), "{raw}");
        }
        assert_eq!(Arguments::of(None).read(), Ok(None));
    }
}
