#!/bin/sh
# Counts the instructions and allocations of a plain HTTP/1.1 request through the full stack of a public host, its log
# record included, with callgrind: the same on a busy machine as on a quiet one. Fails above the limits.
#
#   PORTCULLIS_BIN    the binary (default: target/dist/portcullis)
#   MAX_INSTRUCTIONS  per request (default 50000)
#   MAX_ALLOCATIONS   per request (default 16)
#   POLICIES          of round_robin, least_connections and hash those that are measured, too, each over three upstreams
#   CALLGRIND_OUT     keeps the profile of one upstream there, for callgrind_annotate
set -eu
here=$(cd "$(dirname "$0")" && pwd)
export PORTCULLIS_BIN="${PORTCULLIS_BIN:-$here/../target/dist/portcullis}"
for tool in valgrind callgrind_control python3; do
    command -v $tool >/dev/null 2>&1 || { echo "missing: $tool (package valgrind or python3)" >&2; exit 2; }
done
[ -x "$PORTCULLIS_BIN" ] || { echo "missing: $PORTCULLIS_BIN (cargo build --profile dist)" >&2; exit 2; }
exec python3 "$here/instructions.py"
