//! A service of a container that somebody else made: what its document may say.

use serde_json::{Map, Value};

use super::Service;
use super::check::is_word;
use crate::config::{Entity, FieldError, field};

/// What can be said of such a container. Everything else would shape one.
const FITTING: [&str; 12] = [
    "service_name",
    "container",
    "network",
    "internal_port",
    "node",
    "description",
    "labelled_by",
    "deleting",
    "created_by",
    "created_at",
    "updated_at",
    "config_version",
];

/// What is wrong with a service of a container of somebody else.
pub(super) fn problems(service: &Service, container: &str, wrong: &mut Vec<FieldError>) {
    if !is_container(container) {
        let detail = "expected the name of a container: letters, digits, '.', '-' or '_'";
        wrong.push(FieldError::new("container", container, detail));
    }
    if let Some(network) = &service.network
        && !is_word(network)
    {
        let detail = "expected the name of a network: letters, digits, '.', '-' or '_'";
        wrong.push(FieldError::new("network", network.as_str(), detail));
    }
    if service.internal_port == Some(0) {
        wrong.push(FieldError::new("internal_port", 0, "expected a port: 1 to 65535"));
    }
    let name = Map::from_iter([("service_name".to_owned(), Value::from(service.service_name.as_str()))]);
    let plain = field::read::<Service>(&Value::Object(name)).map(|plain| plain.fields()).unwrap_or_default();
    let shaping = service
        .fields()
        .into_iter()
        .filter(|(name, value)| !FITTING.contains(&name.as_str()) && plain.get(name) != Some(value));
    wrong.extend(shaping.map(|(name, _)| {
        let detail = "shapes containers that are made here: leave it out, the one in `container` was made by somebody \
                      else";
        FieldError::bare(name, detail)
    }));
}

/// Refuses what only such services have.
pub(super) fn refuse(service: &Service, wrong: &mut Vec<FieldError>) {
    if service.network.is_some() {
        let detail = "is for services with `container`: expected `networks`";
        wrong.push(FieldError::bare("network", detail));
    }
    if service.labelled_by.is_some() {
        wrong.push(FieldError::bare("labelled_by", "is for services with `container`: leave it out"));
    }
}

/// Whether engines give such names.
fn is_container(name: &str) -> bool {
    (2..=255).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::config::service::check::tests::read;

    #[test]
    fn a_container_of_somebody_else_is_named_and_not_shaped() {
        let good = json!({ "image": null, "container": "shop-web-1", "network": "shop_default",
                           "internal_port": 3000, "node": "main", "description": "the shop" });
        let service = read(good).expect("a service");
        assert_eq!(service.runs(), "container:shop-web-1");
        for (more, field) in [
            (json!({ "container": "web" }), "container"),
            (json!({ "image": null, "dockerfile_path": "Dockerfile", "container": "web" }), "container"),
            (json!({ "image": null, "container": "a b" }), "container"),
            (json!({ "image": null, "container": "web", "network": "a b" }), "network"),
            (json!({ "image": null, "container": "web", "internal_port": 0 }), "internal_port"),
            (json!({ "image": null, "container": "web", "memory_limit": "64m" }), "memory_limit"),
            (json!({ "image": null, "container": "web", "command": ["x"] }), "command"),
            (json!({ "image": null, "container": "web", "environment": { "A": "b" } }), "environment"),
            (json!({ "image": null, "container": "web", "secrets": { "A": "b" } }), "secrets"),
            (json!({ "image": null, "container": "web", "networks": ["x"] }), "networks"),
            (json!({ "image": null, "container": "web", "replicas": 2 }), "replicas"),
            (json!({ "image": null, "container": "web", "desired_state": "stopped" }), "desired_state"),
            (json!({ "network": "shop_default" }), "network"),
            (json!({ "labelled_by": "main/web" }), "labelled_by"),
        ] {
            let problems = read(more.clone()).expect_err("refused");
            assert_eq!(problems[0].field, field, "{more}: {problems:?}");
        }
    }
}
