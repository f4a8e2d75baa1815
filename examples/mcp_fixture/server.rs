//! The server as the protocol sees it.
#![expect(deprecated, reason = "logging and resources/subscribe, which revisions before 2026-07-28 have")]

use std::borrow::Cow;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use rmcp::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CompleteRequestParams, CompleteResult, ErrorData,
    GetPromptRequestParams, GetPromptResponse, Implementation, ListPromptsResult,
    ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, LoggingLevel, PaginatedRequestParams,
    ProtocolVersion, ReadResourceRequestParams, ReadResourceResponse, RequestStateCodec, ServerCapabilities,
    ServerConfig, SetLevelRequestParams, SubscribeRequestParams, SubscriptionFilter, Tool,
    UnsubscribeRequestParams,
};
use rmcp::service::{NotificationContext, RequestContext, RoleServer, SubscriptionContext};

use crate::changes::{Changes, Watched};
use crate::{Outcome, prompts, resources, tools};

/// Which revisions are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// Up to 2025-11-25: a handshake, and sessions.
    Legacy,
    /// From 2026-07-28 on: each request stands for itself.
    Stateless,
    /// All.
    Both,
}

impl FromStr for Era {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "legacy" => Ok(Self::Legacy),
            "stateless" => Ok(Self::Stateless),
            "both" => Ok(Self::Both),
            _ => Err(format!("{name:?} is none of legacy, stateless, both")),
        }
    }
}

/// What all sessions share.
pub struct Shared {
    era: Era,
    pub tools: Vec<Tool>,
    pub changes: Changes,
    /// Seals how far a dialogue has come, which clients bring back.
    pub seal: RequestStateCodec,
}

impl Shared {
    pub fn new(era: Era) -> Outcome<Arc<Self>> {
        let mut key = vec![0; RequestStateCodec::MIN_KEY_LENGTH];
        aws_lc_rs::rand::fill(&mut key).map_err(|_| "there is no randomness")?;
        let seal = RequestStateCodec::try_new(key)?;
        Ok(Arc::new(Self { era, tools: tools::list(), changes: Changes::default(), seal }))
    }
}

/// The server of a session, or of a request that has none.
#[derive(Clone)]
pub struct Fixture {
    pub shared: Arc<Shared>,
    /// What the client of the session wants to be told at least.
    level: Arc<Mutex<LoggingLevel>>,
    watched: Watched,
}

impl Fixture {
    pub fn new(shared: &Arc<Shared>) -> Self {
        let level = Arc::new(Mutex::new(LoggingLevel::Debug));
        Self { shared: Arc::clone(shared), level, watched: Watched::default() }
    }

    pub fn level(&self) -> LoggingLevel {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a request is of a revision without sessions.
pub fn is_stateless(context: &RequestContext<RoleServer>) -> bool {
    context
        .protocol_version()
        .is_some_and(|version| version.as_str() >= ProtocolVersion::V_2026_07_28.as_str())
}

impl ServerHandler for Fixture {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_completions()
            .enable_logging()
            .enable_prompts()
            .enable_prompts_list_changed()
            .enable_resources()
            .enable_resources_list_changed()
            .enable_resources_subscribe()
            .enable_tools()
            .enable_tool_list_changed()
            .build();
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("portcullis-fixture", env!("CARGO_PKG_VERSION")))
            .with_instructions("Answers tests.")
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        let all = ProtocolVersion::KNOWN_VERSIONS;
        let legacy = ProtocolVersion::known_up_to(&ProtocolVersion::V_2025_11_25);
        Cow::Borrowed(match self.shared.era {
            Era::Legacy => legacy,
            Era::Stateless => &all[legacy.len()..],
            Era::Both => all,
        })
    }

    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        self.shared.changes.tell_session(context.peer, self.watched.clone());
    }

    async fn set_level(
        &self,
        request: SetLevelRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner) = request.level;
        Ok(())
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.shared.tools.clone()))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.shared.tools.iter().find(|tool| tool.name == name).cloned()
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        tools::call(self, request, &context).await
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult::with_all_items(resources::list()))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(ListResourceTemplatesResult::with_all_items(resources::templates()))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        resources::read(&request.uri).map(Into::into)
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.watched.add(request.uri);
        Ok(())
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.watched.remove(&request.uri);
        Ok(())
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.supported_by(&self.get_info().capabilities))
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let listening = self.shared.changes.tell_stream(context.sink().clone());
        context.cancelled().await;
        drop(listening);
        Ok(())
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Ok(ListPromptsResult::with_all_items(prompts::list()))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        prompts::get(self, request, &context).await
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        prompts::complete(&request)
    }
}
