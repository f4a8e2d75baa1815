#!/bin/sh
# Starts portcullis in the foreground for a benchmark of reverse proxies, configured through its own command line:
# `bench.test` (public), `jwt.bench.test` (a token of another issuer is needed) and, on demand, 1,000 hosts.
#
#   BENCH_DIR         a folder for data (made anew)
#   BENCH_MATERIAL    cert.pem, key.pem, jwks.json, hosts.txt and about.json
#   BENCH_BACKEND     port of the origin on 127.0.0.1
#   BENCH_VHOST_PORT  host number i belongs to this port + i
#   BENCH_HOSTS       how many of hosts.txt there are now
#   PORTCULLIS_BIN    the binary (default: target/dist/portcullis)
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
bin=${PORTCULLIS_BIN:-$here/target/dist/portcullis}
export PORTCULLIS_DATA="$BENCH_DIR/data"
rm -rf "$PORTCULLIS_DATA"
mkdir -p "$PORTCULLIS_DATA"

bundle() {
    python3 - "$BENCH_MATERIAL" "$BENCH_BACKEND" "${BENCH_VHOST_PORT:-0}" "${BENCH_HOSTS:-0}" "${BENCH_GEN:-0}" <<'PYTHON'
import json, pathlib, sys
material, backend, first, hosts, generation = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:])
about = json.loads((material / "about.json").read_text())

def host(name, port, **more):
    return {"proxy_hostname": name, "target_url": f"http://127.0.0.1:{port}", "https_redirect": "off",
            "response_headers": {"set": {"X-Gen": str(generation)}}, **more}

names = (material / "hosts.txt").read_text().split()[:hosts]
json.dump({"proxies": [
    host(about["host"], backend),
    host("jwt." + about["host"], backend, auth_enabled=True, auth_required_users=["*"],
         auth_required_emails=None, request_headers={"set": {"X-Bench": "1"}, "remove": ["X-Debug"]},
         trusted_issuers=[{"issuer": about["issuer"], "audience": about["audience"],
                           "jwks": json.loads((material / "jwks.json").read_text())}]),
    *(host(name, first + i) for i, name in enumerate(names)),
]}, sys.stdout)
PYTHON
}

# Waits for the daemon that this shell becomes, and configures it.
(
    while [ ! -S "$PORTCULLIS_DATA/admin.sock" ]; do
        kill -0 $$ || exit 1
        sleep 0.05
    done
    "$bin" cert upload bench --cert "@$BENCH_MATERIAL/cert.pem" --key "@$BENCH_MATERIAL/key.pem"
    bundle > "$BENCH_DIR/bundle.json"
    "$bin" system config import "@$BENCH_DIR/bundle.json"
) > "$BENCH_DIR/configure.log" 2>&1 &

export SERVER_HOST=127.0.0.1 HTTP_PORT="${HTTP_PORT:-28080}" HTTPS_PORT="${HTTPS_PORT:-28443}"
exec "$bin" serve
