//! What the metrics show: the counters of the layers, and how the node is.

use std::sync::Arc;

use portcullis_layers::access_log::Sink;
use portcullis_layers::forward::{Client, Tunnels};
use portcullis_services::acme;
use portcullis_services::acme::on_demand::Demand;
use portcullis_services::control::Control;
use portcullis_services::docker::Switchboard;
use portcullis_services::logs::Writers;
use portcullis_services::oauth::JwksFetcher;
use portcullis_services::stapling::Staples;

use crate::edge::Edge;
use crate::listen::Balance;
use crate::live::Live;
use crate::metrics::{Metrics, sources};

/// Who counts, or knows how the node is.
#[derive(Debug)]
pub(crate) struct Observed<'a, K> {
    pub(crate) edge: &'a Edge<K>,
    pub(crate) writers: &'a Writers,
    pub(crate) balance: &'a Balance,
    pub(crate) client: &'a Client,
    pub(crate) services: &'a Switchboard,
    pub(crate) tunnels: &'a Tunnels,
    pub(crate) jwks: &'a JwksFetcher,
    pub(crate) issuing: &'a Arc<acme::Counters>,
    pub(crate) staples: &'a Arc<Staples>,
    pub(crate) control: &'a Arc<Control>,
    pub(crate) live: &'a Live,
    pub(crate) demand: &'a Demand,
}

/// Registers everything that is counted.
pub(crate) fn register<K: Sink>(metrics: &Metrics, observed: &Observed<'_, K>) {
    let Observed { edge, writers, balance, client, tunnels, jwks, issuing, .. } = observed;
    let Observed { staples, control, live, demand, services, .. } = observed;
    metrics.register(sources::proxy_protocol(edge.proxy_protocol.counters()));
    metrics.register(sources::tls(edge.tls.counters()));
    metrics.register(sources::dropped_headers(edge.normalize.firewall().dropped()));
    metrics.register(sources::logs([
        ("requests", writers.requests.queue().clone()),
        ("diagnostics", writers.diagnostics.queue().clone()),
        ("audit", writers.audit.queue().clone()),
        ("oauth", writers.oauth.queue().clone()),
        ("mcp", writers.mcp.queue().clone()),
    ]));
    metrics.register(sources::jwks((*jwks).clone()));
    metrics.register(sources::issuing(Arc::clone(issuing)));
    metrics.register(sources::on_demand(demand.counters()));
    metrics.register(sources::stapling(Arc::clone(staples)));
    let serve = edge.serve.counters();
    metrics.register(move |writer| {
        let mut refused =
            writer.counter("refused_requests_total", "Requests that were refused below HTTP, by reason.");
        for (reason, count) in serve.refused.iter() {
            refused.add(&[("reason", reason)], count);
        }
        let help = "Fields of request trailers that were removed.";
        writer.counter("dropped_trailers_total", help).add(&[], serve.dropped_trailers.get());
        let mut ended = writer.counter("ended_connections_total", "Connections that were ended, by reason.");
        for (reason, counter) in [
            ("silent", &serve.silent),
            ("idle", &serve.idle),
            ("stalled_body", &serve.stalled_bodies),
            ("large_body", &serve.large_bodies),
            ("stalled_stream", &serve.stalled_streams),
            ("stalled_write", &serve.stalled_writes),
            ("http2_error", &serve.http2_errors),
            ("killed", &serve.killed),
        ] {
            ended.add(&[("reason", reason)], counter.get());
        }
    });
    let open = (*balance).clone();
    metrics.register(sources::gauge("open_connections", "Connections that are open.", move || {
        Some(open.active() as u64)
    }));
    let open = (*tunnels).clone();
    metrics.register(sources::gauge("open_streams", "Tunnels and event streams that are open.", move || {
        Some(open.len() as u64)
    }));
    let current = (*live).clone();
    metrics.register(sources::gauge("configuration_problems", "What is not in force.", move || {
        Some(current.current().problems.len() as u64)
    }));
    let current = (*live).clone();
    metrics.register(sources::gauge("configuration_revision", "The revision that is served.", move || {
        current.current().revision().map(|revision| revision.n)
    }));
    let current = (*live).clone();
    metrics.register(sources::certificates(move || {
        let snapshot = current.current();
        let list =
            snapshot.certificates.iter().map(|(name, certified)| (name.to_string(), certified.not_after));
        list.collect::<Vec<_>>()
    }));
    let current = (*live).clone();
    metrics.register(move |writer| {
        let snapshot = current.current();
        let (all, enabled) = (snapshot.hosts.len(), snapshot.enabled_hosts());
        let mut hosts = writer.gauge("hosts", "Hosts that are configured, by state.");
        hosts.add(&[("state", "enabled")], enabled as u64);
        hosts.add(&[("state", "disabled")], (all - enabled) as u64);
    });
    let current = (*live).clone();
    let config = move || Arc::clone(&current.current().config);
    metrics.register(sources::upstreams((*client).clone(), (*services).clone(), config));
    let operations = Arc::clone(control);
    metrics.register(move |writer| {
        let mut calls = writer.counter("operations_total", "Calls of operations, by name and outcome.");
        for (name, code, count) in operations.calls() {
            calls.add(&[("operation", name), ("outcome", code)], count);
        }
    });
}
