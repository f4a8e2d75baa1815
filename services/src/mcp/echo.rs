//! The tool that says what it was told: whether a client gets through.

use std::sync::Arc;

use rmcp::model::{JsonObject, Tool, ToolAnnotations};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::schema;
use super::tools::title;
use crate::config::field;
use crate::control::Error;

/// What is to be said.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Echo {
    /// What to say.
    message: String,
}

impl Echo {
    pub(super) const NAME: &'static str = "echo";

    pub(super) fn tool() -> Tool {
        let input = Arc::new(schema::compact::<Self>());
        let hints =
            ToolAnnotations::new().read_only(true).destructive(false).idempotent(true).open_world(false);
        Tool::new(Self::NAME, "Say a message back, to see that calls get through.", input)
            .with_title(title(Self::NAME))
            .with_annotations(hints)
    }

    pub(super) fn run(input: &JsonObject) -> Result<Value, Error> {
        let echo: Self = field::read(&Value::Object(input.clone())).map_err(Error::invalid)?;
        Ok(json!({ "message": echo.message }))
    }
}
