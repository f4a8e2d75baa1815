//! What the metrics show: the counters of the layers, and how the node is.

use std::sync::Arc;

use portcullis_layers::access_log::Sink;
use portcullis_services::control::{Control, Writers};

use crate::edge::Edge;
use crate::listen::Balance;
use crate::live::Live;
use crate::metrics::{Metrics, sources};

/// Registers everything that is counted.
pub(crate) fn register<K: Sink>(
    metrics: &Metrics,
    edge: &Edge<K>,
    writers: &Writers,
    balance: &Balance,
    control: &Arc<Control>,
    live: &Live,
) {
    metrics.register(sources::proxy_protocol(edge.proxy_protocol.counters()));
    metrics.register(sources::tls(edge.tls.counters()));
    metrics.register(sources::dropped_headers(edge.normalize.firewall().dropped()));
    metrics.register(sources::access_log(writers.requests.queue().clone()));
    let serve = edge.serve.counters();
    metrics.register(move |writer| {
        let mut refused =
            writer.counter("refused_requests_total", "Requests that could be read in two ways, by reason.");
        for (reason, count) in serve.refused.iter() {
            refused.add(&[("reason", reason)], count);
        }
        let mut ended = writer.counter("ended_connections_total", "Connections that were ended, by reason.");
        for (reason, counter) in [
            ("silent", &serve.silent),
            ("idle", &serve.idle),
            ("stalled_body", &serve.stalled_bodies),
            ("large_body", &serve.large_bodies),
            ("stalled_stream", &serve.stalled_streams),
            ("stalled_write", &serve.stalled_writes),
            ("killed", &serve.killed),
        ] {
            ended.add(&[("reason", reason)], counter.get());
        }
    });
    let open = balance.clone();
    metrics.register(sources::gauge("open_connections", "Connections that are open.", move || {
        Some(open.active() as u64)
    }));
    let current = live.clone();
    metrics.register(sources::gauge("configuration_revision", "The revision that is served.", move || {
        current.current().revision.as_ref().map(|revision| revision.n)
    }));
    let current = live.clone();
    metrics.register(sources::certificates(move || {
        let snapshot = current.current();
        let list = snapshot
            .certificates
            .iter()
            .map(|(name, (_, certified))| (name.to_string(), certified.not_after));
        list.collect::<Vec<_>>()
    }));
    let operations = Arc::clone(control);
    metrics.register(move |writer| {
        let mut calls = writer.counter("operations_total", "Calls of operations, by name and outcome.");
        for (name, code, count) in operations.calls() {
            calls.add(&[("operation", name), ("outcome", code)], count);
        }
    });
}
