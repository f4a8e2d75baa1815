//! What others count, as metrics: each function makes what [`Metrics::register`](super::Metrics::register) takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use portcullis_layers::access_log::Queue;
use portcullis_layers::forward::Client;
use portcullis_layers::normalize::Dropped;
use portcullis_layers::{proxy_protocol, tls};
use portcullis_services::acme;
use portcullis_services::config::Config;
use portcullis_services::docker::Switchboard;
use portcullis_services::oauth::JwksFetcher;
use portcullis_services::stapling::Staples;
use portcullis_services::upstreams::{Totals, totals};

use super::writer::{Number, Writer};

/// How many upstreams are counted each on its own.
const MAX_UPSTREAMS: usize = 1000;

/// One number that goes up and down: open connections, whether the store is reachable, the revision
/// that is served. `None`: there is nothing to say now.
pub fn gauge<N: Into<Number>>(
    name: &'static str,
    help: &'static str,
    read: impl Fn() -> Option<N> + Send + Sync + 'static,
) -> impl Fn(&mut Writer) + Send + Sync + 'static {
    move |writer| {
        if let Some(value) = read() {
            writer.gauge(name, help).add(&[], value);
        }
    }
}

/// One number that only grows.
pub fn counter<N: Into<Number>>(
    name: &'static str,
    help: &'static str,
    read: impl Fn() -> N + Send + Sync + 'static,
) -> impl Fn(&mut Writer) + Send + Sync + 'static {
    move |writer| {
        writer.counter(name, help).add(&[], read());
    }
}

/// How connections began that may carry PROXY protocol.
pub fn proxy_protocol(
    counters: Arc<proxy_protocol::Counters>,
) -> impl Fn(&mut Writer) + Send + Sync + 'static {
    move |writer| {
        let help = "Connections by what became of their PROXY protocol header.";
        let results = [
            ("accepted", &counters.accepted),
            ("direct", &counters.direct),
            ("malformed", &counters.malformed),
            ("timed_out", &counters.timed_out),
            ("closed", &counters.closed),
            ("stopped", &counters.stopped),
        ];
        by_label(writer, "proxy_protocol_connections_total", help, "result", &results);
    }
}

/// How TLS handshakes ended.
pub fn tls(counters: Arc<tls::Counters>) -> impl Fn(&mut Writer) + Send + Sync + 'static {
    move |writer| {
        let results = [
            ("ok", &counters.handshakes),
            ("failed", &counters.failed),
            ("unrecognized_name", &counters.unrecognized),
            ("timed_out", &counters.timed_out),
            ("evicted", &counters.evicted),
            ("stopped", &counters.stopped),
            ("acme_challenge", &counters.challenges),
        ];
        by_label(writer, "tls_handshakes_total", "TLS handshakes by how they ended.", "result", &results);
        let resumed = counters.resumed.load(Ordering::Relaxed);
        writer.counter("tls_resumed_total", "TLS handshakes that resumed a session.").add(&[], resumed);
    }
}

/// How attempts to issue certificates ended on this node.
pub fn issuing(counters: Arc<acme::Counters>) -> impl Fn(&mut Writer) + Send + Sync + 'static {
    move |writer| {
        let results = [("issued", &counters.issued), ("failed", &counters.failed)];
        let help = "Attempts to have a certificate issued, by how they ended on this node.";
        by_label(writer, "certificate_attempts_total", help, "result", &results);
    }
}

/// What became of names that somebody asked for first.
pub fn on_demand(counters: Arc<acme::on_demand::Counters>) -> impl Fn(&mut Writer) + Send + Sync + 'static {
    move |writer| {
        let verdicts = [
            ("made", &counters.made),
            ("held", &counters.held),
            ("refused", &counters.refused),
            ("domain_limit", &counters.domain_limit),
            ("network_limit", &counters.network_limit),
            ("busy", &counters.busy),
            ("failed", &counters.failed),
        ];
        let help = "Names that somebody asked for and that had no certificate, by what was decided.";
        by_label(writer, "certificates_on_demand_total", help, "verdict", &verdicts);
    }
}

/// What responders say of certificates, and how many have an answer stapled.
pub fn stapling(staples: Arc<Staples>) -> impl Fn(&mut Writer) + Send + Sync + 'static {
    move |writer| {
        let counters = staples.counters();
        let results =
            [("good", &counters.good), ("revoked", &counters.revoked), ("failed", &counters.failed)];
        let help = "Questions to OCSP responders, by how they ended on this node.";
        by_label(writer, "ocsp_requests_total", help, "result", &results);
        let (all, stapled) = staples.counts();
        let help = "Certificates that name an OCSP responder, by whether its answer is stapled.";
        let mut samples = writer.gauge("ocsp_certificates", help);
        samples.add(&[("state", "stapled")], stapled as u64);
        samples.add(&[("state", "bare")], (all - stapled) as u64);
    }
}

/// What becomes of the records of logs: pairs of a name and its queue, each name once.
pub fn logs<const N: usize>(
    queues: [(&'static str, Queue); N],
) -> impl Fn(&mut Writer) + Send + Sync + 'static {
    move |writer| {
        for (log, queue) in &queues {
            let (log, counts) = (("log", *log), queue.counts());
            let mut records = writer.counter("log_records_total", "Log records by what became of them.");
            for (result, count) in
                [("written", counts.written), ("dropped", counts.dropped), ("refused", counts.refused)]
            {
                records.add(&[log, ("result", result)], count);
            }
            writer.gauge("log_waiting_records", "Log records that wait.").add(&[log], counts.waiting);
            let help = "Bytes of log records that wait.";
            writer.gauge("log_waiting_bytes", help).add(&[log], counts.waiting_bytes);
            let help = "Whether log records can't be delivered now.";
            writer.gauge("log_failing", help).add(&[log], counts.failing);
        }
    }
}

/// The headers that were removed from requests because they can't be believed.
pub fn dropped_headers(dropped: Arc<Dropped>) -> impl Fn(&mut Writer) + Send + Sync + 'static {
    move |writer| {
        let help = "Request headers that were removed, by reason.";
        let mut samples = writer.counter("dropped_headers_total", help);
        samples.add(&[("reason", "underscored")], dropped.underscored());
        samples.add(&[("reason", "spoofed")], dropped.spoofed());
    }
}

/// When certificates end: pairs of a name and seconds since 1970, each name once.
pub fn certificates<I, T>(
    list: impl Fn() -> I + Send + Sync + 'static,
) -> impl Fn(&mut Writer) + Send + Sync + 'static
where
    I: IntoIterator<Item = (T, i64)>,
    T: AsRef<str>,
{
    move |writer| {
        let help = "When a certificate ends, in seconds since 1970.";
        let mut samples = writer.gauge("certificate_expiry_timestamp_seconds", help);
        for (name, not_after) in list() {
            samples.add(&[("certificate", name.as_ref())], not_after);
        }
    }
}

/// How upstreams are that are one of several, or checked.
pub fn upstreams(
    client: Client,
    services: Switchboard,
    config: impl Fn() -> Arc<Config> + Send + Sync + 'static,
) -> impl Fn(&mut Writer) + Send + Sync + 'static {
    type Field = fn(&Totals) -> u64;
    move |writer| {
        let all = totals(&config(), &services.current().addresses, &client, MAX_UPSTREAMS);
        let gauges: [(_, _, Field); 2] = [
            ("upstream_up", "Whether an upstream is neither unhealthy, ejected nor unreachable.", |one| {
                one.up.into()
            }),
            ("upstream_requests_in_flight", "Requests on their way to an upstream.", |one| {
                one.counts.in_flight.into()
            }),
        ];
        for (name, help, field) in gauges {
            let mut samples = writer.gauge(name, help);
            for (upstream, one) in &all {
                samples.add(&[("upstream", upstream)], field(one));
            }
        }
        let counters: [(_, _, Field); 3] = [
            ("upstream_requests_total", "Requests to an upstream, each try counted.", |one| {
                one.counts.requests
            }),
            ("upstream_failures_total", "Requests to an upstream that failed.", |one| one.counts.failures),
            ("upstream_ejections_total", "How often an upstream was ejected.", |one| one.counts.ejections),
        ];
        for (name, help, field) in counters {
            let mut samples = writer.counter(name, help);
            for (upstream, one) in &all {
                samples.add(&[("upstream", upstream)], field(one));
            }
        }
        let help = "Requests that could go to another upstream, by whether they did.";
        let mut retries = writer.counter("upstream_retries_total", help);
        retries.add(&[("result", "sent")], client.retries().sent());
        retries.add(&[("result", "over_budget")], client.retries().refused());
    }
}

/// How the fetching of other issuers' keys goes.
pub fn jwks(fetcher: JwksFetcher) -> impl Fn(&mut Writer) + Send + Sync + 'static {
    move |writer| {
        for status in fetcher.status() {
            let labels = [("uri", status.uri.as_str())];
            writer.gauge("jwks_keys", "Keys in use, by where they are from.").add(&labels, status.keys);
            let help = "Whether the last attempt to fetch keys failed, or none is of use.";
            writer.gauge("jwks_failing", help).add(&labels, status.error.is_some());
            if let Some(fetched) = status.fetched_at {
                let help = "When keys were fetched last, in seconds since 1970.";
                writer.gauge("jwks_fetched_timestamp_seconds", help).add(&labels, fetched.as_second());
            }
        }
    }
}

fn by_label(
    writer: &mut Writer,
    name: &'static str,
    help: &'static str,
    label: &'static str,
    counts: &[(&str, &AtomicU64)],
) {
    let mut samples = writer.counter(name, help);
    for (value, count) in counts {
        samples.add(&[(label, value)], count.load(Ordering::Relaxed));
    }
}
