#!/bin/sh
# What it costs a protected host that it knows of MCP: CPU time of the process for each call of a tool, with a policy (a
# few rules with `deny` for the rest, limits, records) and without, in short turns. The answers are JSON and, from the
# other server, a stream of events; clients have sessions (2025-11-25) or none (2026-07-28).
#
# Calls come alone, 2,000 a second, as those of people do; or in a crowd, 16 at once and the next ones behind the answers.
# The daemon has a CPU of its own. In a crowd none sleeps, which takes root: to wake the one of a peer is dear on a virtual
# machine, and how often that has to be done depends on how long the peer has had nothing to do.
#
#   PORTCULLIS_BIN  the binary (default: target/dist/portcullis)
#   STARTS          how often it is started anew (default 3)
#   ROUNDS          pairs of measurements of each, for each start (default 40)
#   SECONDS_EACH    of each measurement (default 0.3)
#   KINDS           of json-2025, sse-2025, json-2026 and sse-2026 those that are measured
#   LOADS           of alone and crowd those that are measured
#   TLS             0: over plain HTTP, which no client sends a token over
set -eu
here=$(cd "$(dirname "$0")" && pwd)
export PORTCULLIS_BIN="${PORTCULLIS_BIN:-$here/../target/dist/portcullis}"
PATH="$PATH:/usr/sbin"
for tool in nginx python3; do
    command -v $tool >/dev/null 2>&1 || { echo "missing: $tool (the package has the same name)" >&2; exit 2; }
done
[ -x "$PORTCULLIS_BIN" ] || { echo "missing: $PORTCULLIS_BIN (cargo build --profile dist)" >&2; exit 2; }
exec python3 "$here/mcp.py"
