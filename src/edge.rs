//! The stacks that every connection and every request go through, each a single function.

use http::HeaderName;
use portcullis_layers::access_log::{AccessLogLayer, Sink};
use portcullis_layers::acme_challenge::{AcmeChallenge, AcmeChallengeLayer};
use portcullis_layers::deadline::Ticker;
use portcullis_layers::drain::Drain;
use portcullis_layers::hosts::Hosts;
use portcullis_layers::normalize::{NormalizeLayer, Settings as Normalize, Source, TrustedProxies};
use portcullis_layers::proxy_protocol::ProxyProtocolLayer;
use portcullis_layers::respond::RespondLayer;
use portcullis_layers::serve::{ServeLayer, Settings as Serve};
use portcullis_layers::tls::TlsLayer;
use portcullis_layers::{Accepted, BoxError, HttpService};
use portcullis_services::acme::Challenges;
use portcullis_services::acme::on_demand::Demand;
use tokio::net::TcpStream;
use tower::{Layer, Service, ServiceBuilder};

use crate::forward_auth::ForwardAuthLayer;
use crate::live::Live;
use crate::local::LocalAdminLayer;
use crate::on_demand::OnDemand;
use crate::settings::{LocalAdmin, Settings};

/// The layers that are made once for the process, because they count for all workers together.
#[derive(Debug, Clone)]
pub struct Edge<K> {
    /// In front of everything: who the client is, where a load balancer stands before us.
    pub proxy_protocol: ProxyProtocolLayer,
    /// The handshake, with the certificate of the current snapshot.
    pub tls: TlsLayer,
    /// HTTP on the connection.
    pub serve: ServeLayer,
    /// One record per request.
    pub access_log: AccessLogLayer<K>,
    /// One authority, one path, no spoofed headers.
    pub normalize: NormalizeLayer,
    /// What certificate authorities ask for.
    pub acme_challenge: AcmeChallengeLayer,
    /// Requests of this machine to the API.
    pub local_admin: LocalAdminLayer,
    /// The hosts.
    pub live: Live,
}

impl<K: Sink> Edge<K> {
    /// Makes the layers of a process.
    ///
    /// # Errors
    ///
    /// When TLS can't be set up at all.
    pub fn new(
        settings: &Settings,
        live: Live,
        (challenges, demand): (&Challenges, Demand),
        sink: K,
        ticker: Ticker,
        drain: Drain,
    ) -> Result<Self, rustls::Error> {
        let networks =
            |list: &[crate::settings::Network]| list.iter().map(|network| network.0).collect::<Vec<_>>();
        let limits = &settings.limits;
        let id_header = settings
            .logging
            .log_include_correlation_id_response
            .then(|| HeaderName::try_from(&settings.logging.log_correlation_id_header).ok())
            .flatten();
        let normalize = NormalizeLayer::new(Normalize {
            trusted_proxies: TrustedProxies::new(
                networks(&settings.listen.trusted_proxies),
                Source::XForwarded,
            ),
            max_uri: limits.max_head,
            ..Normalize::default()
        });
        let mut serve = Serve {
            // What no header may say, no trailer may.
            firewall: normalize.firewall().clone(),
            head_deadline: limits.head_timeout,
            idle: limits.keep_alive_timeout,
            // Each host has a limit of its own.
            body_limit: None,
            body_stall: Some(limits.body_idle_timeout),
            write_stall: limits.body_idle_timeout,
            ..Serve::default()
        };
        serve.head.head = limits.max_head;
        serve.http2.header_list = u32::try_from(limits.max_head).unwrap_or(u32::MAX);
        let balancers = networks(&settings.listen.proxy_protocol_trusted);
        let local_admin = match settings.identity.local_admin {
            LocalAdmin::Loopback => LocalAdminLayer::loopback(balancers.iter().copied()),
            LocalAdmin::Off => LocalAdminLayer::off(),
        };
        let on_demand = OnDemand::new(live.clone(), demand);
        Ok(Self {
            proxy_protocol: ProxyProtocolLayer::new(balancers)
                .deadline(limits.head_timeout)
                .drain(drain.clone()),
            tls: TlsLayer::new(on_demand.clone())?
                .challenges(challenges.clone())
                .demand(on_demand)
                .deadline(limits.head_timeout)
                .drain(drain.clone()),
            serve: ServeLayer::new(serve, ticker, drain),
            access_log: AccessLogLayer::new(sink).response_header(id_header),
            normalize,
            acme_challenge: AcmeChallengeLayer::new(challenges.clone()),
            local_admin,
            live,
        })
    }

    /// The stack of plain connections.
    pub fn plain(
        &self,
    ) -> impl Service<Accepted<TcpStream>, Response = (), Error = BoxError, Future: Send> + Clone + Send + use<K>
    {
        self.proxy_protocol.layer(self.serve.layer(self.http()))
    }

    /// The stack of TLS connections.
    pub fn secure(
        &self,
    ) -> impl Service<Accepted<TcpStream>, Response = (), Error = BoxError, Future: Send> + Clone + Send + use<K>
    {
        self.proxy_protocol.layer(self.tls.layer(self.serve.layer(self.http())))
    }

    /// The stack of connections to a published port, whose requests are for `inner` whatever host they name.
    pub fn port(
        &self,
        inner: HttpService,
    ) -> impl Service<Accepted<TcpStream>, Response = (), Error = BoxError, Future: Send>
    + Clone
    + Send
    + Sync
    + use<K> {
        let http = ServiceBuilder::new()
            // Outside respond: it sees what the client sees.
            .layer(self.access_log.clone())
            // Below here failures are errors.
            .layer(RespondLayer::new())
            // No identity comes from outside.
            .layer(self.normalize.clone())
            .service(inner);
        self.serve.layer(http)
    }

    /// The stack of requests.
    fn http(&self) -> HttpEdge<K> {
        ServiceBuilder::new()
            // Outside respond: it sees what the client sees.
            .layer(self.access_log.clone())
            // Below here failures are errors.
            .layer(RespondLayer::new())
            // Before the firewall removes the headers that they look for.
            .layer(self.local_admin.clone())
            .layer(ForwardAuthLayer)
            // Before anything compares a host or a path.
            .layer(self.normalize.clone())
            // Before hosts: a name may have none yet.
            .layer(self.acme_challenge.clone())
            .service(Hosts::new(self.live.clone()))
    }
}

type HttpEdge<K> = <AccessLogLayer<K> as Layer<<RespondLayer as Layer<Inner>>::Service>>::Service;

type Inner = <LocalAdminLayer as Layer<
    <ForwardAuthLayer as Layer<<NormalizeLayer as Layer<AcmeChallenge<Hosts<Live>>>>::Service>>::Service,
>>::Service;
