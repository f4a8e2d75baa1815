//! Operations as tools.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::{JsonObject, Tool};
use schemars::JsonSchema;
use serde_json::Value;

use super::command::RunCommand;
use super::echo::Echo;
use super::effects::Effect;
use super::schema;
use crate::config::field;
use crate::control::{Access, Caller, Context, Control, Error, Operation, Surface, register};

/// Operations that users know by another name as tools.
const NAMES: [(&str, &str); 2] = [("health", "health_check"), ("search_logs", "get_logs")];

/// What stands on the first page: clients that never ask for another one can run a gateway with it.
const FIRST: [&str; 22] = [
    Echo::NAME,
    RunCommand::NAME,
    "health_check",
    "list_proxies",
    "show_proxy",
    "list_services",
    "get_logs",
    "create_proxy",
    "update_proxy",
    "delete_proxy",
    "enable_proxy_auth",
    "disable_proxy_auth",
    "show_proxy_auth",
    "update_proxy_auth",
    "set_proxy_resource",
    "list_certificates",
    "list_routes",
    "create_route",
    "delete_route",
    "explain_route",
    "create_certificate",
    "certificate_status",
];

/// How many tools stand on one page of the list at most: clients give it little time.
const PAGE: usize = FIRST.len();

/// How many bytes of JSON a page has at most.
const PAGE_BYTES: usize = 47 * 1024;

type Run =
    dyn Fn(Arc<Control>, Context, JsonObject) -> BoxFuture<'static, Result<Value, Error>> + Send + Sync;

/// What a tool does.
enum Does {
    /// An operation.
    Operation(Box<Run>),
    /// Says what it was told.
    Echo,
    /// One of the operations, in the words of the command line.
    Command,
}

/// A tool and whom it is for.
struct Entry {
    tool: Tool,
    access: Access,
    writes: bool,
    effect: Effect,
    does: Does,
}

/// All tools.
pub struct Tools {
    entries: Vec<Entry>,
    /// How many bytes of JSON each of them is.
    sizes: Vec<usize>,
    by_name: HashMap<String, usize>,
    /// The tools that are operations, by the operations' names.
    by_operation: HashMap<&'static str, usize>,
    command: RunCommand,
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.entries.iter().map(|entry| &entry.tool.name)).finish()
    }
}

/// A tool that is about to be called: what will be done, and to whom it is open.
#[derive(Clone, Copy)]
pub(super) struct Chosen<'a> {
    entry: &'a Entry,
}

impl fmt::Debug for Chosen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Chosen").field(&self.entry.tool.name).finish()
    }
}

impl Chosen<'_> {
    /// The tool's name.
    pub(super) fn name(&self) -> &str {
        &self.entry.tool.name
    }

    /// As people read it.
    pub(super) fn title(&self) -> &str {
        self.entry.tool.title.as_deref().unwrap_or_else(|| self.name())
    }

    /// What it does to what is there.
    pub(super) const fn effect(&self) -> Effect {
        self.entry.effect
    }

    /// Whether it may change something.
    pub(super) const fn writes(&self) -> bool {
        self.entry.writes
    }

    /// Whom it is open to.
    pub(super) const fn access(&self) -> Access {
        self.entry.access
    }

    /// Does it. The input is read first: what is wrong with it is named.
    pub(super) fn run(
        &self,
        control: Arc<Control>,
        ctx: Context,
        input: JsonObject,
    ) -> BoxFuture<'static, Result<Value, Error>> {
        match &self.entry.does {
            Does::Operation(run) => run(control, ctx, input),
            // A command is resolved to its operation before anything runs.
            Does::Echo | Does::Command => {
                let allowed = ctx.caller.check(self.entry.access);
                async move { allowed.and_then(|()| Echo::run(&input)) }.boxed()
            }
        }
    }
}

impl Tools {
    /// The tools of all operations, and our own.
    pub fn new() -> Self {
        let mut tools = Self {
            entries: Vec::new(),
            sizes: Vec::new(),
            by_name: HashMap::new(),
            by_operation: HashMap::new(),
            command: RunCommand::new(),
        };
        register(&mut tools);
        tools.entries.push(Entry {
            tool: Echo::tool(),
            access: Access::Anyone,
            writes: false,
            effect: Effect::Looks,
            does: Does::Echo,
        });
        tools.entries.push(Entry {
            tool: RunCommand::tool(),
            access: Access::Admin,
            writes: true,
            effect: Effect::TakesAway,
            does: Does::Command,
        });
        tools.sort();
        tools
    }

    fn sort(&mut self) {
        let rank =
            |entry: &Entry| FIRST.iter().position(|name| *name == entry.tool.name).unwrap_or(FIRST.len());
        let operations: HashMap<_, _> =
            self.by_operation.drain().map(|(name, at)| (self.entries[at].tool.name.clone(), name)).collect();
        self.entries.sort_by(|one, other| (rank(one), &one.tool.name).cmp(&(rank(other), &other.tool.name)));
        let size = |entry: &Entry| serde_json::to_vec(&entry.tool).map_or(0, |json| json.len());
        self.sizes = self.entries.iter().map(size).collect();
        for (at, entry) in self.entries.iter().enumerate() {
            self.by_name.insert(entry.tool.name.to_string(), at);
            if let Some(operation) = operations.get(&entry.tool.name) {
                self.by_operation.insert(operation, at);
            }
        }
    }

    /// A page of those that a caller may use, from the one named by `cursor` on, and where the next page begins.
    ///
    /// # Errors
    ///
    /// When there is no such cursor.
    pub fn page(&self, caller: &Caller, cursor: Option<&str>) -> Result<(Vec<Tool>, Option<String>), String> {
        let from = match cursor {
            None => 0,
            Some(name) => *self
                .by_name
                .get(name)
                .ok_or_else(|| format!("there is no cursor {name:?}: begin anew without one"))?,
        };
        let (mut page, mut bytes) = (Vec::new(), 0);
        let all = self.entries.iter().zip(&self.sizes).skip(from);
        for (Entry { tool, .. }, size) in all.filter(|(entry, _)| caller.may(entry.access)) {
            bytes += size + 1;
            if page.len() == PAGE || (bytes > PAGE_BYTES && !page.is_empty()) {
                return Ok((page, Some(tool.name.to_string())));
            }
            page.push(tool.clone());
        }
        Ok((page, None))
    }

    /// A tool.
    pub fn get(&self, name: &str) -> Option<&Tool> {
        Some(&self.entries[*self.by_name.get(name)?].tool)
    }

    /// What a call means: the tool itself, or the operation that a command names. `None` when there is no such tool.
    ///
    /// # Errors
    ///
    /// When the caller may not, or the command is none.
    pub(super) fn choose(
        &self,
        name: &str,
        caller: &Caller,
        input: JsonObject,
    ) -> Option<Result<(Chosen<'_>, JsonObject), Error>> {
        let entry = &self.entries[*self.by_name.get(name)?];
        let Does::Command = entry.does else { return Some(Ok((Chosen { entry }, input))) };
        Some(caller.check(entry.access).and_then(|()| {
            let (operation, input) = self.command.read(&input)?;
            let at = self
                .by_operation
                .get(operation)
                .ok_or_else(|| Error::NotFound { what: "operation", id: operation.to_owned() })?;
            Ok((Chosen { entry: &self.entries[*at] }, input))
        }))
    }

    /// The tool of an operation.
    pub(super) fn of_operation(&self, operation: &str) -> Option<Chosen<'_>> {
        Some(Chosen { entry: &self.entries[*self.by_operation.get(operation)?] })
    }
}

impl Default for Tools {
    fn default() -> Self {
        Self::new()
    }
}

impl Surface for Tools {
    fn add<O: Operation>(&mut self) {
        let name = NAMES.iter().find(|(own, _)| *own == O::NAME).map_or(O::NAME, |(_, tool)| *tool);
        let mut tool = Tool::new(name, description::<O>(), Arc::new(schema::compact::<O>()));
        let output = schema::of_result::<O::Output>();
        tool = tool.with_raw_output_schema(Arc::new(output));
        let effect = Effect::of(O::NAME, &O::HTTP);
        let tool = tool.with_title(title(name)).with_annotations(effect.hints(&O::HTTP));
        let run = |control: Arc<Control>, ctx: Context, input: JsonObject| {
            async move {
                let input: O = field::read(&Value::Object(input)).map_err(Error::invalid)?;
                let output = control.call(input, &ctx).await?;
                serde_json::to_value(output).map_err(Error::internal)
            }
            .boxed()
        };
        self.by_operation.insert(O::NAME, self.entries.len());
        let (access, writes) = (O::SCOPE, O::HTTP.writes());
        self.entries.push(Entry { tool, access, writes, effect, does: Does::Operation(Box::new(run)) });
    }
}

/// The first paragraph of an operation's documentation.
fn description<O: JsonSchema>() -> String {
    let schema = crate::control::schema::schema_of::<O>();
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    text.split("\n\n").next().unwrap_or_default().replace('\n', " ")
}

/// `create_proxy` as people write it.
pub(super) fn title(name: &str) -> String {
    let words = name.replace('_', " ");
    let mut letters = words.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_a_tool_that_clients_can_read() {
        let tools = Tools::new();
        for Entry { tool, .. } in &tools.entries {
            let name = &tool.name;
            assert!(name.len() <= 64 && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert!(tool.description.as_ref().is_some_and(|text| text.ends_with('.')), "{name}");
            assert!(tool.title.is_some(), "{name}");
            assert_eq!(tool.input_schema.get("type"), Some(&Value::from("object")), "{name}");
            let hints = tool.annotations.as_ref().expect("hints");
            assert!(hints.read_only_hint != Some(true) || hints.destructive_hint == Some(false), "{name}");
        }
        for name in FIRST {
            assert!(tools.get(name).is_some(), "{name}");
        }
        let destructive = |name| {
            let hints = tools.get(name).expect("a tool").annotations.as_ref().expect("hints");
            hints.destructive_hint == Some(true)
        };
        assert!(destructive("delete_proxy") && destructive("update_proxy") && destructive(RunCommand::NAME));
        assert!(!destructive("create_proxy") && !destructive("list_proxies"));
    }

    #[test]
    fn a_list_is_small_and_has_what_a_caller_may_use() {
        let tools = Tools::new();
        let (mut all, mut cursor) = (Vec::new(), None);
        loop {
            let (page, next) = tools.page(&Caller::Local, cursor.as_deref()).expect("a page");
            let size = serde_json::to_vec(&page).expect("serialises").len();
            assert!(size < 48 * 1024, "{size} bytes from {cursor:?} on");
            all.extend(page);
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(all.len(), tools.entries.len());
        let (first, _) = tools.page(&Caller::Local, None).expect("a page");
        let first: Vec<_> = first.iter().map(|tool| &*tool.name).collect();
        assert_eq!(first, FIRST);
        let (public, next) = tools.page(&Caller::Anonymous, None).expect("a page");
        assert!(next.is_none());
        assert!(public.iter().all(|tool| tool.name != "create_proxy"));
        assert!(tools.page(&Caller::Local, Some("no_such_tool")).is_err());
    }

    #[tokio::test]
    async fn nobody_unknown_gets_an_echo() {
        let tools = Tools::new();
        let (control, _) = crate::control::testing::control();
        let input = || serde_json::json!({ "message": "hi" }).as_object().cloned().expect("an object");
        for (caller, may) in [(Caller::Anonymous, false), (Caller::Local, true)] {
            let chosen = tools.choose(Echo::NAME, &caller, input()).expect("a tool").expect("allowed");
            let ran = chosen.0.run(Arc::clone(&control), Context::of(caller), chosen.1).await;
            assert_eq!(ran.is_ok(), may);
        }
    }
}
