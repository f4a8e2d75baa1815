//! The resources.

use rmcp::model::{ErrorData, ReadResourceResult, Resource, ResourceContents, ResourceTemplate};
use serde_json::json;

use crate::content::IMAGE;

const TEXT: &str = "test://static-text";
const BINARY: &str = "test://static-binary";
const WATCHED: &str = "test://watched-resource";
/// What is before and after the identifier.
const TEMPLATE: (&str, &str) = ("test://template/", "/data");

pub fn list() -> Vec<Resource> {
    vec![
        Resource::new(TEXT, "Text").with_description("A text.").with_mime_type("text/plain"),
        Resource::new(BINARY, "Image").with_description("An image.").with_mime_type("image/png"),
        Resource::new(WATCHED, "Watched")
            .with_description("Something to subscribe to.")
            .with_mime_type("text/plain"),
    ]
}

pub fn templates() -> Vec<ResourceTemplate> {
    let (before, after) = TEMPLATE;
    let template = ResourceTemplate::new(format!("{before}{{id}}{after}"), "Data");
    vec![template.with_description("Data by their identifier.").with_mime_type("application/json")]
}

pub fn read(uri: &str) -> Result<ReadResourceResult, ErrorData> {
    let (before, after) = TEMPLATE;
    let contents = match uri {
        TEXT => ResourceContents::text("This is the content of the static text resource.", uri)
            .with_mime_type("text/plain"),
        BINARY => ResourceContents::blob(IMAGE, uri).with_mime_type("image/png"),
        WATCHED => ResourceContents::text("Somebody may be watching.", uri).with_mime_type("text/plain"),
        _ => {
            let id = uri.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            let Some(id) = id.filter(|id| !id.is_empty() && !id.contains('/')) else {
                let data = json!({ "uri": uri });
                return Err(ErrorData::resource_not_found("there is no such resource", Some(data)));
            };
            let data = json!({ "id": id, "templateTest": true, "data": format!("Data for ID: {id}") });
            ResourceContents::text(data.to_string(), uri).with_mime_type("application/json")
        }
    };
    Ok(ReadResourceResult::new(vec![contents]))
}
