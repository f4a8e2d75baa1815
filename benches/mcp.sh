#!/bin/sh
# What it costs a protected host that it knows of MCP: CPU time of the process for each call of a tool, with a policy (a
# few rules with `deny` for the rest, limits, records) and without, in turn. The answers are JSON and, from the other
# server, a stream of events; clients have sessions (2025-11-25) or none (2026-07-28).
#
#   PORTCULLIS_BIN  the binary (default: target/dist/portcullis)
#   ROUNDS          measurements of each (default 21)
#   SECONDS_EACH    of each measurement (default 1)
#   KINDS           of json-2025, sse-2025, json-2026 and sse-2026 those that are measured
#   PAUSE           milliseconds that each of the 16 connections waits before a call (default 2; 0: as fast as it goes)
#   TLS             0: over plain HTTP, which no client sends a token over
set -eu
here=$(cd "$(dirname "$0")" && pwd)
export PORTCULLIS_BIN="${PORTCULLIS_BIN:-$here/../target/dist/portcullis}"
PATH="$PATH:/usr/sbin"
for tool in wrk nginx python3; do
    command -v $tool >/dev/null 2>&1 || { echo "missing: $tool (the package has the same name)" >&2; exit 2; }
done
[ -x "$PORTCULLIS_BIN" ] || { echo "missing: $PORTCULLIS_BIN (cargo build --profile dist)" >&2; exit 2; }
exec python3 "$here/mcp.py"
