//! Where records go.

use super::record::Record;

/// Takes the record of each request.
///
/// It is called on the request's own thread when the answer has ended: it must never block, wait
/// or panic. What can't be taken is dropped and counted. A clone is cheap.
pub trait Sink: Clone + Send + Sync + 'static {
    /// Takes one record.
    fn emit(&self, record: &Record<'_>);
}

/// Takes nothing: for a stack that only wants request ids and [`Facts`](crate::Facts).
impl Sink for () {
    fn emit(&self, _: &Record<'_>) {}
}

/// Any function is a sink.
impl<F> Sink for F
where
    F: Fn(&Record<'_>) + Clone + Send + Sync + 'static,
{
    fn emit(&self, record: &Record<'_>) {
        self(record);
    }
}

/// Gives each record to two sinks, the first one first. More than two: a `Tee` in a `Tee`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tee<A, B>(pub A, pub B);

impl<A: Sink, B: Sink> Sink for Tee<A, B> {
    fn emit(&self, record: &Record<'_>) {
        self.0.emit(record);
        self.1.emit(record);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::access_log::record::tests::plain;

    #[test]
    fn each_sink_of_a_tee_gets_every_record() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = |name: &'static str| {
            let seen = Arc::clone(&seen);
            move |record: &Record<'_>| seen.lock().unwrap().push((name, record.status))
        };
        let tee = Tee(sink("one"), Tee(sink("two"), sink("three")));
        tee.emit(&plain());
        tee.clone().emit(&Record { status: 404, ..plain() });
        let expected =
            [("one", 200), ("two", 200), ("three", 200), ("one", 404), ("two", 404), ("three", 404)];
        assert_eq!(*seen.lock().unwrap(), expected);
    }
}
