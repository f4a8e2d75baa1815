//! Nodes that share a store. Each has a runtime of its own, which can be killed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use http_body_util::combinators::BoxBody;
use portcullis_services::mcp::sessions::{Guard, Options, Sessions};
use portcullis_services::store::Store;
use portcullis_services::store::embedded::Embedded;
use portcullis_services::store::redis::{Options as RedisOptions, RedisStore};
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::fixture::{Fixture, Gate};
use crate::redis::RedisServer;

/// Where sessions are kept.
pub(crate) enum Backend {
    Memory(Embedded),
    Redis(RedisServer),
}

impl Backend {
    pub(crate) fn memory() -> Self {
        Self::Memory(Embedded::in_memory().expect("a store"))
    }

    pub(crate) fn redis() -> Self {
        Self::Redis(RedisServer::start())
    }

    /// A node's way to it.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Memory(store) => Arc::new(store.clone()),
            Self::Redis(server) => {
                let options = RedisOptions {
                    timeout: Duration::from_millis(500),
                    ..RedisOptions::new(server.url().into())
                };
                Arc::new(RedisStore::new(&options).expect("a good URL"))
            }
        }
    }

    pub(crate) fn node(&self) -> Node {
        self.node_with(options())
    }

    pub(crate) fn node_with(&self, options: Options) -> Node {
        Node::start(self.store(), options)
    }
}

/// Both stores, one after the other.
pub(crate) fn backends() -> impl Iterator<Item = Backend> {
    [Backend::memory as fn() -> Backend, Backend::redis].into_iter().map(|make| make())
}

/// The bounds of the product, at a pace that tests can wait for.
pub(crate) fn options() -> Options {
    Options {
        poll: Duration::from_millis(20),
        alive: Duration::from_millis(900),
        grace: Duration::from_millis(5),
        retry: Duration::from_millis(100),
        ..Options::default()
    }
}

type Service = Guard<StreamableHttpService<Fixture, Sessions>>;

pub(crate) struct Node {
    pub(crate) gate: Arc<Gate>,
    service: Option<Service>,
    on: Handle,
    runtime: Option<Runtime>,
    stop: CancellationToken,
}

impl Node {
    pub(crate) fn start(store: Arc<dyn Store>, options: Options) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let mut node = Self::start_on(runtime.handle().clone(), store, options);
        node.runtime = Some(runtime);
        node
    }

    /// A node on the test's own runtime, for tests with a clock of their own.
    pub(crate) fn start_on(on: Handle, store: Arc<dyn Store>, options: Options) -> Self {
        let gate = Gate::new();
        let sessions = Sessions::new(store, &[7; 32], options);
        let stop = CancellationToken::new();
        on.spawn(Arc::clone(&sessions).run(stop.clone()));
        let fixture = Fixture(Arc::clone(&gate));
        let config = StreamableHttpServerConfig::default().disable_allowed_hosts();
        let service = sessions.serve(move || Ok(fixture.clone()), config);
        Self { gate, service: Some(service), on, runtime: None, stop }
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        self.service.as_ref().expect("alive").sessions()
    }

    pub(crate) async fn answer(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Response<BoxBody<Bytes, std::convert::Infallible>> {
        self.open(request).await.expect("no panic")
    }

    /// The same as a task, which a test can end.
    pub(crate) fn open(
        &self,
        request: Request<Full<Bytes>>,
    ) -> JoinHandle<Response<BoxBody<Bytes, std::convert::Infallible>>> {
        let service = self.service.clone().expect("alive");
        let gate = Arc::clone(&self.gate);
        self.on.spawn(async move {
            gate.asked.send_modify(|count| *count += 1);
            service.oneshot(request).await.unwrap_or_else(|never| match never {})
        })
    }

    pub(crate) const fn is_alive(&self) -> bool {
        self.service.is_some()
    }

    /// Ends without a word.
    pub(crate) fn kill(&mut self) {
        self.service = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Ends as it should.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}
