//! The steps of a plan, done one by one. Each can be done again by whoever finds it half done.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::config::Service;
use crate::docker::engine::Error;
use crate::docker::observe;
use crate::docker::plan::Step;
use crate::docker::spec::{self, Secrets};
use crate::docker::{Docker, images};
use crate::store::{Store, Write};

/// What has to be done for a service.
pub(super) struct Job {
    pub(super) docker: Docker,
    pub(super) store: Arc<dyn Store>,
    pub(super) service: Arc<Service>,
    /// All services of the engine.
    pub(super) beside: Vec<Arc<Service>>,
    pub(super) steps: Vec<Step>,
    pub(super) secrets: Secrets,
    /// What is written when its containers are gone.
    pub(super) forget: Option<Vec<Write>>,
    /// Set when the wish is over: what takes long is not gone on with.
    pub(super) over: CancellationToken,
}

/// How it went.
#[derive(Debug)]
pub(super) enum Outcome {
    Done,
    /// The engine does not answer.
    Away,
    Failed(String),
}

impl Job {
    pub(super) async fn run(mut self) -> Outcome {
        for step in std::mem::take(&mut self.steps) {
            match self.step(step).await {
                Ok(()) => {}
                Err(images::Error::Engine(Error::Unreachable { .. } | Error::Late)) => return Outcome::Away,
                Err(error) => return Outcome::Failed(error.to_string()),
            }
        }
        let Some(writes) = self.forget.take() else { return Outcome::Done };
        self.forget_images().await;
        match self.store.commit(writes).await {
            // Somebody changed the document meanwhile: then the plan is another one.
            Ok(_) | Err(crate::store::Error::Conflict { .. }) => Outcome::Done,
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }

    async fn step(&self, step: Step) -> Result<(), images::Error> {
        let (engine, policy) = (&self.docker.engine, &self.docker.policy);
        match step {
            Step::Create(replica) => self.create(replica).await,
            Step::Start(id) => self.start(&id).await,
            Step::Stop(id) => Ok(engine.stop(&id, policy.stop).await?),
            Step::Remove(id) | Step::Retire(id) => Ok(engine.remove(&id).await?),
        }
    }

    async fn create(&self, replica: u32) -> Result<(), images::Error> {
        let Docker { engine, policy, owner, .. } = &self.docker;
        let service = &self.service;
        let log = |line: String| tracing::debug!(service = %service.service_name, line, "image");
        let facts = tokio::select! {
            facts = images::ensure(&self.docker, service, log) => facts?,
            // The next plan is another one.
            () = self.over.cancelled() => return Ok(()),
        };
        self.docker.check_mounts(service, &self.beside).await?;
        let body = spec::container(service, replica, &self.secrets, &facts, policy, owner)?;
        self.docker.ensure_networks(service).await?;
        let fingerprint = spec::fingerprint(service, policy)?;
        let name = spec::container_name(&service.service_name, replica, &fingerprint, owner);
        match engine.create(&name, body).await {
            Ok(id) => self.start(&id).await,
            // It is there: the next look finds how far it is. One of somebody else is in the way.
            Err(Error::Conflict(_)) if observe::is_ours(engine, &name, owner).await? => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn start(&self, id: &str) -> Result<(), images::Error> {
        self.docker.check_mounts(&self.service, &self.beside).await?;
        let engine = &self.docker.engine;
        for network in spec::networks(&self.service, &self.docker.policy).iter().skip(1) {
            match engine.join(network, id).await {
                Err(Error::Conflict(text) | Error::Refused(text)) if text.contains("already") => {}
                outcome => outcome?,
            }
        }
        Ok(engine.start(id).await?)
    }

    /// What was built for it is of no use to anybody else.
    async fn forget_images(&self) {
        let engine = &self.docker.engine;
        let prefix = format!("{}{}:", crate::config::service::BUILT, self.service.service_name);
        for image in engine.built_images(&self.docker.owner).await.unwrap_or_default() {
            if image.starts_with(&prefix)
                && let Err(error) = engine.remove_image(&image).await
            {
                tracing::debug!(image, %error, "an image stays");
            }
        }
    }
}
