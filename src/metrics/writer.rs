//! The text format of Prometheus, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// Every name begins with this.
const PREFIX: &str = "portcullis_";

/// Collects samples by name, so that those of one metric stand together whoever wrote them.
///
/// Names come without their prefix. What they are called is the caller's: counters end in `_total`,
/// units are `_seconds` and `_bytes`.
#[derive(Debug, Default)]
pub struct Writer {
    families: BTreeMap<&'static str, Family>,
}

#[derive(Debug)]
struct Family {
    kind: &'static str,
    help: &'static str,
    text: String,
}

/// Takes the samples of one metric.
#[derive(Debug)]
pub struct Samples<'a> {
    name: &'static str,
    text: &'a mut String,
}

/// A value: whole numbers stay exact.
#[derive(Debug, Clone, Copy)]
pub enum Number {
    /// A count.
    Whole(u64),
    /// Anything else.
    Real(f64),
}

impl Writer {
    /// A metric that only grows.
    pub fn counter(&mut self, name: &'static str, help: &'static str) -> Samples<'_> {
        self.family(name, "counter", help)
    }

    /// A metric that goes up and down.
    pub fn gauge(&mut self, name: &'static str, help: &'static str) -> Samples<'_> {
        self.family(name, "gauge", help)
    }

    /// How values are spread: `counts` has one more element than `bounds`, for what lies beyond the last.
    pub fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        bounds: &[f64],
        counts: &[u64],
        sum: f64,
    ) {
        let mut samples = self.family(name, "histogram", help);
        let mut total = 0;
        for (index, count) in counts.iter().enumerate() {
            total += count;
            let bound = bounds.get(index).map_or_else(|| "+Inf".to_owned(), f64::to_string);
            samples.line("_bucket", &[("le", &bound)], Number::Whole(total));
        }
        samples.line("_sum", &[], Number::Real(sum));
        samples.line("_count", &[], Number::Whole(total));
    }

    /// The whole text.
    pub fn finish(self) -> String {
        let mut out = String::new();
        for (name, family) in self.families {
            let Family { kind, help, text } = family;
            out.push_str("# HELP ");
            out.extend([PREFIX, name, " "]);
            escape(&mut out, help, false);
            out.extend(["\n# TYPE ", PREFIX, name, " ", kind, "\n", &text]);
        }
        out
    }

    fn family(&mut self, name: &'static str, kind: &'static str, help: &'static str) -> Samples<'_> {
        debug_assert!(is_name(name), "{name} is no name of a metric");
        let family = self.families.entry(name).or_insert_with(|| Family { kind, help, text: String::new() });
        debug_assert_eq!(family.kind, kind, "{name} has two types");
        Samples { name, text: &mut family.text }
    }
}

impl Samples<'_> {
    /// Adds a sample. No two samples of a metric have the same labels.
    pub fn add(&mut self, labels: &[(&'static str, &str)], value: impl Into<Number>) -> &mut Self {
        self.line("", labels, value.into());
        self
    }

    fn line(&mut self, suffix: &str, labels: &[(&'static str, &str)], value: Number) {
        self.text.extend([PREFIX, self.name, suffix]);
        for (index, (label, text)) in labels.iter().enumerate() {
            debug_assert!(is_name(label), "{label} is no name of a label");
            self.text.extend([if index == 0 { "{" } else { "," }, label, "=\""]);
            escape(self.text, text, true);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        writeln!(self.text, " {value}").expect("a string takes everything");
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => value.fmt(f),
            Self::Real(value) if value.is_nan() => f.write_str("NaN"),
            Self::Real(value) if value.is_infinite() => {
                f.write_str(if value.is_sign_positive() { "+Inf" } else { "-Inf" })
            }
            Self::Real(value) => value.fmt(f),
        }
    }
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<usize> for Number {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<bool> for Number {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        u64::try_from(value).map_or(Self::Real(value as f64), Self::Whole)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

fn escape(out: &mut String, text: &str, quoted: bool) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quoted => out.push_str("\\\""),
            _ => out.push(character),
        }
    }
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_a_metric_stand_together_under_one_head() {
        let mut writer = Writer::default();
        writer.counter("b_total", "Has a \\ and\na line.").add(&[("x", "1")], 1_u64);
        writer.gauge("a", "First.").add(&[], 0.5).add(&[("x", "a\"b\\c\nd"), ("y", "")], false);
        writer.counter("b_total", "Has a \\ and\na line.").add(&[("x", "2")], u64::MAX);
        assert_eq!(
            writer.finish(),
            "# HELP portcullis_a First.\n\
             # TYPE portcullis_a gauge\n\
             portcullis_a 0.5\n\
             portcullis_a{x=\"a\\\"b\\\\c\\nd\",y=\"\"} 0\n\
             # HELP portcullis_b_total Has a \\\\ and\\na line.\n\
             # TYPE portcullis_b_total counter\n\
             portcullis_b_total{x=\"1\"} 1\n\
             portcullis_b_total{x=\"2\"} 18446744073709551615\n"
        );
    }

    #[test]
    fn buckets_are_cumulative() {
        let mut writer = Writer::default();
        writer.histogram("h", "H.", &[0.5, 1.0], &[2, 0, 3], 7.25);
        let text = writer.finish();
        let samples: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(
            samples,
            [
                "portcullis_h_bucket{le=\"0.5\"} 2",
                "portcullis_h_bucket{le=\"1\"} 2",
                "portcullis_h_bucket{le=\"+Inf\"} 5",
                "portcullis_h_sum 7.25",
                "portcullis_h_count 5",
            ]
        );
    }

    #[test]
    fn numbers_are_written_as_prometheus_reads_them() {
        for (number, text) in [
            (Number::from(-3_i64), "-3"),
            (Number::from(1_i64 << 60), "1152921504606846976"),
            (Number::from(f64::INFINITY), "+Inf"),
            (Number::from(f64::NEG_INFINITY), "-Inf"),
            (Number::from(f64::NAN), "NaN"),
            (Number::from(1e-7), "0.0000001"),
            (Number::from(true), "1"),
        ] {
            assert_eq!(number.to_string(), text);
        }
    }
}
