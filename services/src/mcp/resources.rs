//! What a client can read without calling a tool: each resource is the answer of an operation, or the API's description.

use std::sync::Arc;

use rmcp::model::{JsonObject, Resource, ResourceTemplate};
use serde_json::Value;

use super::tools::Tools;
use crate::api::openapi;
use crate::control::{Access, Caller, Context, Control, Error};

/// What all our URIs begin with.
const SCHEME: &str = "portcullis://";

/// The form of what is read.
pub(super) const JSON: &str = "application/json";

/// A resource that is there for whoever may call its operation.
struct Known {
    path: &'static str,
    title: &'static str,
    about: &'static str,
    source: Source,
}

enum Source {
    Operation(&'static str),
    OpenApi,
}

const KNOWN: [Known; 4] = [
    Known {
        path: "config",
        title: "Live configuration",
        about: "All documents as they are served now, without secrets: what `import_config` takes.",
        source: Source::Operation("export_config"),
    },
    Known {
        path: "errors",
        title: "Recent errors",
        about: "The requests of the last hour that were answered with a 5xx.",
        source: Source::Operation("log_errors"),
    },
    Known {
        path: "health",
        title: "Health",
        about: "Whether the gateway and what it needs are well.",
        source: Source::Operation("health"),
    },
    Known {
        path: "openapi",
        title: "OpenAPI",
        about: "The management API, as OpenAPI 3.1.",
        source: Source::OpenApi,
    },
];

/// A resource that each host has.
struct OfHost {
    /// What stands behind the host's name.
    end: &'static str,
    title: &'static str,
    about: &'static str,
    operation: &'static str,
    /// What the operation calls the host.
    field: &'static str,
}

const OF_HOST: [OfHost; 3] = [
    OfHost {
        end: "",
        title: "A host",
        about: "A host's document.",
        operation: "show_proxy",
        field: "proxy_hostname",
    },
    OfHost {
        end: "/auth",
        title: "A host's login",
        about: "Whether a host needs a token, and whose.",
        operation: "show_proxy_auth",
        field: "proxy_hostname",
    },
    OfHost {
        end: "/logs",
        title: "A host's requests",
        about: "The latest requests to a host.",
        operation: "logs_of_proxy",
        field: "proxy",
    },
];

/// Where the answer of an operation can be read; `host` is the one that it is about, if it is about one.
pub(super) fn uri_of(operation: &str, host: Option<&str>) -> Option<String> {
    if let Some(host) = host {
        let known = OF_HOST.iter().find(|known| known.operation == operation)?;
        return Some(format!("{SCHEME}hosts/{host}{}", known.end));
    }
    let known =
        KNOWN.iter().find(|known| matches!(known.source, Source::Operation(name) if name == operation))?;
    Some(format!("{SCHEME}{}", known.path))
}

/// The resources.
#[derive(Debug)]
pub(super) struct Resources {
    tools: Arc<Tools>,
    openapi: Arc<str>,
}

impl Resources {
    pub(super) fn new(tools: Arc<Tools>) -> Self {
        Self { tools, openapi: openapi::document().to_string().into() }
    }

    fn may(&self, caller: &Caller, source: &Source) -> bool {
        match source {
            Source::Operation(name) => {
                self.tools.of_operation(name).is_some_and(|one| caller.may(one.access()))
            }
            Source::OpenApi => caller.may(Access::Public),
        }
    }

    /// Those that a caller may read.
    pub(super) fn list(&self, caller: &Caller) -> Vec<Resource> {
        let allowed = KNOWN.iter().filter(|one| self.may(caller, &one.source));
        allowed
            .map(|one| {
                let mut resource = Resource::new(format!("{SCHEME}{}", one.path), one.path);
                resource.title = Some(one.title.to_owned());
                resource.description = Some(one.about.to_owned());
                resource.mime_type = Some(JSON.to_owned());
                resource
            })
            .collect()
    }

    /// The forms of those that there are for each host.
    pub(super) fn templates(&self, caller: &Caller) -> Vec<ResourceTemplate> {
        let allowed = OF_HOST.iter().filter(|one| self.may(caller, &Source::Operation(one.operation)));
        allowed
            .map(|one| {
                let uri = format!("{SCHEME}hosts/{{proxy_hostname}}{}", one.end);
                let mut template = ResourceTemplate::new(uri, one.operation).with_title(one.title);
                template.description = Some(one.about.to_owned());
                template.mime_type = Some(JSON.to_owned());
                template
            })
            .collect()
    }

    /// Reads one; `None` when there is no such resource.
    pub(super) async fn read(
        &self,
        uri: &str,
        control: &Arc<Control>,
        ctx: Context,
    ) -> Option<Result<String, Error>> {
        let path = uri.strip_prefix(SCHEME)?;
        if let Some(known) = KNOWN.iter().find(|one| one.path == path) {
            let Source::Operation(operation) = known.source else {
                return Some(Ok(self.openapi.to_string()));
            };
            return self.call(operation, JsonObject::new(), control, ctx).await;
        }
        let host = path.strip_prefix("hosts/")?;
        let (host, end) = host.find('/').map_or((host, ""), |at| host.split_at(at));
        let known = OF_HOST.iter().find(|known| known.end == end)?;
        let input = JsonObject::from_iter([(known.field.to_owned(), Value::from(host))]);
        self.call(known.operation, input, control, ctx).await
    }

    async fn call(
        &self,
        operation: &str,
        input: JsonObject,
        control: &Arc<Control>,
        ctx: Context,
    ) -> Option<Result<String, Error>> {
        let running = self.tools.of_operation(operation)?.run(Arc::clone(control), ctx, input);
        Some(running.await.map(|value| value.to_string()))
    }
}
