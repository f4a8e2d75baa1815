use serde_json::{Value, json};

use super::*;
use crate::config::Entity;

fn service(more: Value) -> Service {
    let mut fields = json!({ "service_name": "web", "image": "nginx:1" });
    let (Value::Object(fields), Value::Object(more)) = (&mut fields, more) else { panic!("objects") };
    fields.extend(more);
    Service::from_fields(std::mem::take(fields)).expect("a service")
}

fn owner() -> Owner {
    Owner { deployment: "https://auth.example.com".into(), node: "main".parse().expect("a name") }
}

fn made(service: &Service, policy: &Policy) -> Result<ContainerCreateBody, Refusal> {
    container(service, 0, &Secrets::new(), &ImageFacts::default(), policy, &owner())
}

#[test]
fn a_container_has_as_little_as_stock_images_need() {
    let body = made(&service(json!({})), &Policy::default()).expect("allowed");
    let host = body.host_config.expect("there");
    assert_eq!((host.privileged, host.readonly_rootfs), (Some(false), Some(true)));
    assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
    assert_eq!(host.cap_add.expect("there"), USUAL_CAPABILITIES);
    assert_eq!(host.security_opt, Some(vec!["no-new-privileges".to_owned()]));
    assert_eq!(host.network_mode.as_deref(), Some("portcullis"));
    assert_eq!((host.pid_mode, host.ipc_mode.as_deref(), host.uts_mode), (None, Some("private"), None));
    assert_eq!((host.port_bindings, host.publish_all_ports), (None, Some(false)));
    assert_eq!((host.memory, host.memory_swap), (Some(512 << 20), Some(512 << 20)));
    assert_eq!((host.nano_cpus, host.pids_limit), (Some(1_000_000_000), Some(512)));
    assert!(host.tmpfs.expect("there").contains_key("/tmp"));
    let log = host.log_config.and_then(|log| log.config).expect("there");
    assert_eq!((log["max-size"].as_str(), log["max-file"].as_str()), ("10m", "3"));
}

#[test]
fn what_can_be_written_hides_no_volume() {
    let tmpfs = |volumes: serde_json::Value| {
        let body = made(&service(json!({ "volumes": volumes })), &Policy::default()).expect("allowed");
        let mut paths: Vec<_> =
            body.host_config.and_then(|host| host.tmpfs).expect("there").into_keys().collect();
        paths.sort();
        paths.join(" ")
    };
    assert_eq!(tmpfs(json!([])), "/run /tmp /var/run /var/tmp");
    assert_eq!(tmpfs(json!(["a:/run/app"])), "/run /tmp /var/tmp", "/var/run may be a link to /run");
    assert_eq!(tmpfs(json!(["a:/tmp", "b:/var/run/app"])), "/run /var/run");
    assert_eq!(tmpfs(json!(["a:/runner/app"])), "/run /tmp /var/run /var/tmp");
}

#[test]
fn whatever_policy_refuses_is_named_with_the_setting() {
    let strict = Policy {
        images: vec!["nginx:*".parse().expect("a pattern")],
        paths: vec!["/srv".into(), "/var".into()],
        networks: vec!["backend".into()],
        ..Policy::default()
    };
    for (more, field, says) in [
        (json!({ "image": "redis:7" }), "image", "PORTCULLIS_DOCKER_IMAGES"),
        (json!({ "volumes": ["/etc:/x"] }), "volumes[0]", "PORTCULLIS_DOCKER_MOUNTS"),
        (json!({ "volumes": ["/srvx:/x"] }), "volumes[0]", "PORTCULLIS_DOCKER_MOUNTS"),
        (json!({ "volumes": ["/var/run/docker.sock:/x"] }), "volumes[0]", "socket is never mounted"),
        (json!({ "volumes": ["/var/run:/x:ro"] }), "volumes[0]", "socket is never mounted"),
        (json!({ "volumes": ["/:/x"] }), "volumes[0]", "socket is never mounted"),
        (json!({ "capabilities": ["NET_ADMIN"] }), "capabilities[0]", "PORTCULLIS_DOCKER_CAPABILITIES"),
        (json!({ "capabilities": ["cap_sys_admin"] }), "capabilities[0]", "never given"),
        (json!({ "capabilities": ["ALL"] }), "capabilities[0]", "never given"),
        (json!({ "networks": ["host"] }), "networks[0]", "never use that of their machine"),
        (json!({ "networks": ["none"] }), "networks[0]", "never use"),
        (json!({ "networks": ["backend", "other"] }), "networks[1]", "PORTCULLIS_DOCKER_NETWORKS"),
    ] {
        let refused = made(&service(more.clone()), &strict).expect_err("refused");
        assert_eq!(refused.field, field, "{more}: {refused}");
        assert!(refused.detail.contains(says), "{more}: {refused}");
    }
    for more in [
        json!({ "volumes": ["/srv/www:/www:ro", "data:/data"], "networks": ["backend"] }),
        json!({ "capabilities": ["CHOWN"] }),
    ] {
        made(&service(more.clone()), &strict).unwrap_or_else(|refused| panic!("{more}: {refused}"));
    }
    let pinned = Policy { digests: true, ..Policy::default() };
    assert!(made(&service(json!({})), &pinned).is_err());
    let digest = format!("nginx@sha256:{}", "a".repeat(64));
    assert!(made(&service(json!({ "image": digest })), &pinned).is_ok());
}

#[test]
fn no_field_of_a_document_asks_for_privileges() {
    for field in ["privileged", "network_mode", "pid_mode", "ipc_mode", "devices", "security_opt", "cap_add"]
    {
        let mut fields = json!({ "service_name": "web", "image": "nginx:1" });
        fields[field] = json!("host");
        let Value::Object(fields) = fields else { panic!("an object") };
        assert!(Service::from_fields(fields).is_err(), "{field}");
    }
}

#[test]
fn build_contexts_stay_below_their_folder() {
    let policy = Policy::default();
    for wrong in ["..", "a/../../b", "/etc"] {
        assert!(policy.context(Some(wrong)).is_err(), "{wrong}");
    }
    assert_eq!(policy.context(Some("app")).expect("allowed"), std::path::Path::new("contexts/app"));
}

#[test]
fn another_wish_is_another_container_and_secrets_are_not_in_its_name() {
    let policy = Policy::default();
    let print = |more| fingerprint(&service(more), &policy).expect("allowed");
    let plain = print(json!({}));
    assert_eq!(plain, print(json!({ "replicas": 3, "description": "x" })));
    for more in [
        json!({ "environment": { "A": "b" } }),
        json!({ "memory_limit": "1g" }),
        json!({ "generation": 1 }),
        json!({ "internal_port": 81 }),
        json!({ "secrets": { "KEY": "one" } }),
    ] {
        assert_ne!(plain, print(more.clone()), "{more}");
    }
    let with = service(json!({ "secrets": { "KEY": "one" } }));
    let secret = |value: &str| Secrets::from([("KEY".to_owned(), value.to_owned().into())]);
    let of = |value: &str| {
        container(&with, 0, &secret(value), &ImageFacts::default(), &policy, &owner()).expect("allowed")
    };
    assert!(of("v1").env.expect("there").contains(&"KEY=v1".to_owned()));
    assert_eq!(of("v1").labels, of("v2").labels);
    assert!(made(&with, &policy).is_err(), "a value that is not there is no empty one");
}
