//! An image as they are published, with all that it expects of the machine: nginx, from what Debian has of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use super::*;
use crate::support::docker::Engine;
use crate::support::eventually;

/// As in the image that nginx publishes. It was built with other folders for what it can't keep in memory than
/// Debian's, so those are named.
const CONFIG: &str = r#"
user  nginx;
worker_processes  auto;

error_log  /var/log/nginx/error.log notice;
pid        /var/run/nginx.pid;

events {
    worker_connections  1024;
}

http {
    client_body_temp_path /var/cache/nginx/client_temp;
    proxy_temp_path /var/cache/nginx/proxy_temp;
    fastcgi_temp_path /var/cache/nginx/fastcgi_temp;
    uwsgi_temp_path /var/cache/nginx/uwsgi_temp;
    scgi_temp_path /var/cache/nginx/scgi_temp;

    include       /etc/nginx/mime.types;
    default_type  application/octet-stream;

    log_format  main  '$remote_addr - $remote_user [$time_local] "$request" '
                      '$status $body_bytes_sent "$http_referer" '
                      '"$http_user_agent" "$http_x_forwarded_for"';

    access_log  /var/log/nginx/access.log  main;
    sendfile        on;
    keepalive_timeout  65;

    include /etc/nginx/conf.d/*.conf;
}
"#;

const SITE: &str = "server {
    listen       80;
    listen  [::]:80;
    server_name  localhost;

    location / {
        root   /usr/share/nginx/html;
        index  index.html index.htm;
    }

    error_page   500 502 503 504  /50x.html;
    location = /50x.html {
        root   /usr/share/nginx/html;
    }
}
";

/// Does what the image's own does: looks for scripts, which want to change the configuration and go on if they can't.
const ENTRYPOINT: &str = r#"#!/bin/sh
set -e
if [ "$1" = "nginx" ]; then
    for script in $(find /docker-entrypoint.d/ -follow -type f | sort); do
        if [ -x "$script" ]; then echo "$0: Launching $script"; "$script"; fi
    done
    echo "$0: Configuration complete; ready for start up"
fi
exec "$@"
"#;

const SCRIPT: &str = r#"#!/bin/sh
set -e
touch /etc/nginx/conf.d/default.conf 2>/dev/null || {
    echo "$0: info: can not modify /etc/nginx/conf.d/default.conf (read-only file system?)"
    exit 0
}
echo "$0: Enabled listen on IPv6"
"#;

const DOCKERFILE: &str = r#"FROM scratch
ADD root.tar /
RUN ["/bin/busybox", "--install", "-s", "/bin"]
ENTRYPOINT ["/docker-entrypoint.sh"]
EXPOSE 80
STOPSIGNAL SIGQUIT
CMD ["nginx", "-g", "daemon off;"]
"#;

/// Builds the image `nginx:stock`.
fn build(engine: &Engine) {
    let folder = engine.context("nginx", &[("Dockerfile", DOCKERFILE)]);
    let root = engine.dir().join("root");
    let write = |path: &str, text: &str, mode: u32| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    write("etc/passwd", "root:x:0:0::/root:/bin/sh\nnginx:x:101:101::/nonexistent:/bin/false\n", 0o644);
    write("etc/group", "root:x:0:\nnginx:x:101:\n", 0o644);
    write("etc/nginx/nginx.conf", CONFIG, 0o644);
    write("etc/nginx/mime.types", "types { text/html html htm; }\n", 0o644);
    write("etc/nginx/conf.d/default.conf", SITE, 0o644);
    let page = "<!DOCTYPE html>\n<html><head><title>Welcome to nginx!</title></head></html>\n";
    write("usr/share/nginx/html/index.html", page, 0o644);
    write("docker-entrypoint.sh", ENTRYPOINT, 0o755);
    write("docker-entrypoint.d/10-listen-on-ipv6-by-default.sh", SCRIPT, 0o755);
    for folder in ["var/log/nginx", "var/cache/nginx", "run/lock", "tmp", "bin"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    symlink("/run", root.join("var/run")).unwrap();
    symlink("/dev/stdout", root.join("var/log/nginx/access.log")).unwrap();
    symlink("/dev/stderr", root.join("var/log/nginx/error.log")).unwrap();
    copy(Path::new("/bin/busybox"), &root.join("bin/busybox"));
    let nginx = Path::new("/usr/sbin/nginx");
    copy(nginx, &root.join("usr/sbin/nginx"));
    let libraries = Command::new("ldd").arg(nginx).output().unwrap();
    let libraries = String::from_utf8(libraries.stdout).unwrap();
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        copy(Path::new(library), &root.join(&library[1..]));
    }
    let archive = folder.join("root.tar");
    let mut packed = Command::new("tar");
    packed.args(["--owner=0", "--group=0", "-C"]).arg(&root);
    assert!(packed.arg("-cf").arg(archive).arg(".").status().unwrap().success());
    engine.build(&folder, "nginx:stock");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
}

#[tokio::test]
async fn a_stock_image_of_nginx_runs_unchanged() {
    let engine = Engine::start();
    build(&engine);
    let daemon = engine.daemon();
    let made = daemon.run(&["service", "create", "web", "--image", "nginx:stock", "--host", "web.localhost"]);
    assert_eq!(made["state"]["status"], "running", "{made:#}");
    let welcome = async |path: &str| {
        let answer = plain(daemon.http, get("web.localhost", path)).await;
        assert_eq!(answer.status, 200);
        assert!(String::from_utf8_lossy(&answer.body).contains("Welcome to nginx!"), "{answer:?}");
    };
    welcome("/?first").await;
    let logs = async |wanted: &str| {
        let end = Instant::now() + LONG;
        loop {
            let logs = daemon.run(&["service", "logs", "web"])["logs"].as_str().unwrap().to_owned();
            if logs.contains(wanted) {
                return logs;
            }
            assert!(Instant::now() < end, "{wanted} is not in what it wrote: {logs}");
        }
    };
    let told = logs("\"GET /?first HTTP/1.1\" 200").await;
    assert!(told.contains("can not modify") && told.contains("start worker process"), "{told}");

    let id = made["state"]["containers"][0]["id"].as_str().unwrap();
    let found = engine.get(&format!("/containers/{id}/json"));
    assert_eq!(found["HostConfig"]["ReadonlyRootfs"], true);
    assert_eq!(found["HostConfig"]["CapDrop"], json!(["ALL"]));
    let workers = engine.get(&format!("/containers/{id}/top?ps_args=-o%20pid,uid,args"));
    assert!(workers["Processes"].as_array().unwrap().iter().any(|one| one[1] == "101"), "{workers}");

    let updated = daemon.run(&["service", "update", "web", "--environment", "SEEN=again"]);
    assert_eq!(updated["state"]["status"], "running", "{updated:#}");
    welcome("/?second").await;
    logs("\"GET /?second HTTP/1.1\" 200").await;
    daemon.run(&["service", "restart", "web"]);
    welcome("/?third").await;
    daemon.run(&["service", "delete", "web", "--delete-proxy"]);
    assert_eq!(engine.containers(), Vec::<Value>::new());
    let volumes = engine.get("/volumes")["Volumes"].clone();
    assert!(volumes.as_array().is_none_or(Vec::is_empty), "what it wrote is gone: {volumes}");
}

#[tokio::test]
async fn what_can_be_written_hides_no_volume_where_folders_are_links() {
    let engine = Engine::start();
    build(&engine);
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    // In such images /var/run leads to /run.
    let volumes = ["run:/run/app", "lock:/var/run/other", "tmp:/tmp/app"];
    let service = json!({ "service_name": "web", "image": "nginx:stock", "volumes": volumes });
    let made = create(&api, service).await;
    let id = made["state"]["containers"][0]["id"].as_str().unwrap();
    let write = "echo kept > /run/app/file; echo kept > /run/other/file; echo kept > /tmp/app/file";
    let exec = engine.post(&format!("/containers/{id}/exec"), &json!({ "Cmd": ["sh", "-c", write] }));
    engine.post(&format!("/exec/{}/start", exec["Id"].as_str().unwrap()), &json!({ "Detach": false }));
    for volume in ["run", "lock", "tmp"] {
        let at = engine.get(&format!("/volumes/{volume}"))["Mountpoint"].as_str().unwrap().to_owned();
        // The engine may answer before the command has run.
        let file = Path::new(&at).join("file");
        eventually(volume, async || fs::read_to_string(&file).ok().filter(|text| text == "kept\n").map(drop))
            .await;
    }
}
