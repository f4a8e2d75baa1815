//! What can be wrong with a service by itself. What policy says of it is for `docker::spec`.

use std::collections::BTreeMap;

use super::volume::Volume;
use super::{HealthCheck, Service};
use crate::config::FieldError;

/// The least memory that engines give a container, and the most that is asked for here.
const MEMORY: std::ops::RangeInclusive<u64> = (6 << 20)..=(1 << 42);

/// The most entries of a map or list, and the longest text in one.
const MANY: usize = 256;
const LONG: usize = 32 * 1024;

/// Labels that begin so are set by us.
const OUR_LABELS: &str = "portcullis.";

/// Bytes of `512m`, `2g`, `65536k` or plain bytes.
pub fn memory_bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let (number, shift) = match text.strip_suffix(['k', 'm', 'g', 't']) {
        Some(number) => {
            let unit = text.as_bytes()[text.len() - 1];
            (
                number,
                [(b'k', 10), (b'm', 20), (b'g', 30), (b't', 40)].into_iter().find(|(u, _)| *u == unit)?.1,
            )
        }
        None => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

pub(super) fn problems(service: &Service) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let wrong = &mut problems;
    match (&service.image, &service.dockerfile_path, &service.container) {
        (Some(_), None, None) | (None, Some(_), None) => super::foreign::refuse(service, wrong),
        (None, None, Some(name)) => {
            super::foreign::problems(service, name, wrong);
            return problems;
        }
        (None, None, None) => {
            wrong.push(FieldError::bare("image", "expected this, or `dockerfile_path`, or `container`"));
        }
        (Some(_), Some(_), _) => {
            wrong.push(FieldError::bare("image", "expected either this or `dockerfile_path`"));
        }
        (_, _, Some(_)) => {
            let detail =
                "expected no `image` and no `dockerfile_path` beside it: somebody else made this container";
            wrong.push(FieldError::bare("container", detail));
        }
    }
    if let Some(image) = &service.image
        && !is_image(image)
    {
        wrong.push(FieldError::new(
            "image",
            image.as_str(),
            "expected the name of an image, e.g. `nginx:1.27` or `ghcr.io/owner/app@sha256:…`",
        ));
    }
    if service.image.is_some() && (service.build_context.is_some() || !service.build_args.is_empty()) {
        let detail =
            "is for services with a Dockerfile: leave it out, or give `dockerfile_path` and no `image`";
        let field = if service.build_context.is_some() { "build_context" } else { "build_args" };
        wrong.push(FieldError::bare(field, detail));
    }
    if service.internal_port == Some(0) {
        wrong.push(FieldError::new("internal_port", 0, "expected a port: 1 to 65535"));
    }
    variables("environment", &service.environment, wrong);
    variables("build_args", &service.build_args, wrong);
    for name in service.secrets.keys() {
        if service.environment.contains_key(name) {
            let detail = "is a secret variable, too: expected each name once";
            wrong.push(FieldError::bare(format!("environment.{name}"), detail));
        }
    }
    texts("command", &service.command, wrong);
    texts("networks", &service.networks, wrong);
    for (index, network) in service.networks.iter().enumerate() {
        if !is_word(network) {
            let detail = "expected the name of a network: letters, digits, '.', '-' or '_'";
            wrong.push(FieldError::new(format!("networks[{index}]"), network.as_str(), detail));
        }
    }
    texts("volumes", &service.volumes, wrong);
    for (index, volume) in service.volumes.iter().enumerate() {
        if let Err(error) = volume.parse::<Volume>() {
            wrong.push(FieldError::new(format!("volumes[{index}]"), volume.as_str(), error.to_string()));
        }
    }
    for (name, value) in &service.labels {
        if name.is_empty() || name.len() > 256 || name.starts_with(OUR_LABELS) || value.len() > LONG {
            let detail = "expected a name of 1 to 256 characters that does not begin with `portcullis.`";
            wrong.push(FieldError::bare(format!("labels.{name}"), detail));
        }
    }
    if !memory_bytes(&service.memory_limit).is_some_and(|bytes| MEMORY.contains(&bytes)) {
        let detail = "expected a size of at least 6m, e.g. `512m` or `2g`";
        wrong.push(FieldError::new("memory_limit", service.memory_limit.as_str(), detail));
    }
    if !(service.cpu_limit >= 0.01 && service.cpu_limit <= 32.0) {
        wrong.push(FieldError::new("cpu_limit", service.cpu_limit, "expected 0.01 to 32"));
    }
    if !(1..=32).contains(&service.replicas) {
        wrong.push(FieldError::new("replicas", service.replicas, "expected 1 to 32"));
    }
    if let Some(user) = &service.user
        && !(user.len() <= 64 && user.split(':').count() <= 2 && user.split(':').all(is_word))
    {
        wrong.push(FieldError::new("user", user.as_str(), "expected `USER` or `USER:GROUP`"));
    }
    for (index, capability) in service.capabilities.iter().enumerate() {
        if capability.is_empty() || !capability.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        {
            let detail = "expected the name of a capability, e.g. `NET_ADMIN`";
            wrong.push(FieldError::new(format!("capabilities[{index}]"), capability.as_str(), detail));
        }
    }
    if let Some(check) = &service.healthcheck {
        wrong.extend(health(check).map(|error| error.within("healthcheck")));
    }
    problems
}

fn health(check: &HealthCheck) -> Option<FieldError> {
    let words: Vec<_> = check.test.iter().map(String::as_str).collect();
    let fits = match words[..] {
        ["NONE"] => true,
        ["CMD-SHELL", command] => !command.trim().is_empty(),
        ["CMD", program, ..] => !program.is_empty(),
        _ => false,
    };
    if !fits || words.iter().any(|word| word.len() > LONG) {
        let detail = "expected `[\"CMD\", PROGRAM, …]`, `[\"CMD-SHELL\", COMMAND]` or `[\"NONE\"]`";
        return Some(FieldError::bare("test", detail));
    }
    let times = [
        ("interval_seconds", check.interval_seconds, 1..=3600),
        ("timeout_seconds", check.timeout_seconds, 1..=3600),
        ("retries", check.retries, 1..=100),
        ("start_period_seconds", check.start_period_seconds, 0..=3600),
    ];
    let (name, value, range) = times.into_iter().find(|(_, value, range)| !range.contains(value))?;
    Some(FieldError::new(name, value, format!("expected {} to {}", range.start(), range.end())))
}

fn variables(field: &str, all: &BTreeMap<String, String>, wrong: &mut Vec<FieldError>) {
    if all.len() > MANY {
        wrong.push(FieldError::bare(field, format!("has {} entries: expected up to {MANY}", all.len())));
    }
    for (name, value) in all {
        if !is_variable(name) {
            let detail = "expected a name of letters, digits and '_' that does not begin with a digit";
            wrong.push(FieldError::bare(format!("{field}.{name}"), detail));
        } else if value.len() > LONG || value.contains('\0') {
            let detail = format!("expected a text of up to {LONG} bytes");
            wrong.push(FieldError::bare(format!("{field}.{name}"), detail));
        }
    }
}

fn texts(field: &str, all: &[String], wrong: &mut Vec<FieldError>) {
    if all.len() > MANY || all.iter().any(|text| text.len() > LONG || text.contains('\0')) {
        wrong.push(FieldError::bare(field, format!("expected up to {MANY} texts of up to {LONG} bytes")));
    }
}

/// Whether a text can name a variable of an environment.
pub(crate) fn is_variable(name: &str) -> bool {
    name.len() <= 256
        && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

pub(super) fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 128
        && text.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn is_image(text: &str) -> bool {
    text.len() <= 512
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte))
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Entity;

    pub(in crate::config::service) fn read(more: Value) -> Result<Service, Vec<FieldError>> {
        let mut fields = json!({ "service_name": "web", "image": "nginx:1" });
        let (Value::Object(fields), Value::Object(more)) = (&mut fields, more) else { panic!("objects") };
        fields.extend(more);
        fields.retain(|_, value| !value.is_null());
        Service::from_fields(std::mem::take(fields))
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in
            [("512m", Some(512 << 20)), ("2g", Some(2 << 30)), ("1024", Some(1024)), ("64KB", Some(65536))]
        {
            assert_eq!(memory_bytes(text), bytes, "{text}");
        }
        for wrong in ["", "m", "-1m", "1.5g", "99999999999t"] {
            assert_eq!(memory_bytes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_its_field() {
        assert!(read(json!({})).is_ok());
        for (more, field) in [
            (json!({ "image": null }), "image"),
            (json!({ "dockerfile_path": "Dockerfile" }), "image"),
            (json!({ "image": "a b" }), "image"),
            (json!({ "build_context": "x" }), "build_context"),
            (json!({ "internal_port": 0 }), "internal_port"),
            (json!({ "environment": { "A=B": "" } }), "environment.A=B"),
            (json!({ "memory_limit": "1m" }), "memory_limit"),
            (json!({ "cpu_limit": 33 }), "cpu_limit"),
            (json!({ "cpu_limit": 1e-10 }), "cpu_limit"),
            (json!({ "replicas": 0 }), "replicas"),
            (json!({ "volumes": ["x"] }), "volumes[0]"),
            (json!({ "networks": ["a b"] }), "networks[0]"),
            (json!({ "labels": { "portcullis.x": "" } }), "labels.portcullis.x"),
            (json!({ "user": "a b" }), "user"),
            (json!({ "healthcheck": { "test": [] } }), "healthcheck.test"),
            (json!({ "healthcheck": { "test": ["NONE"], "retries": 0 } }), "healthcheck.retries"),
            (json!({ "restart_policy": "sometimes" }), "restart_policy"),
        ] {
            let problems = read(more.clone()).expect_err("refused");
            assert_eq!(problems[0].field, field, "{more}: {problems:?}");
        }
    }
}
