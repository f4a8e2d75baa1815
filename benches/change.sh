#!/bin/sh
# Makes the change of a benchmark of reloads: afterwards `bench.test` answers with `X-Gen: $BENCH_GEN`.
# BENCH_DIR and PORTCULLIS_BIN are those of `serve.sh`.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
export PORTCULLIS_DATA="${BENCH_DIR:-${BENCH_TMP:-/tmp/bench-work}/peers/ours}/data"
exec "${PORTCULLIS_BIN:-$here/target/dist/portcullis}" --format json \
    proxy headers set bench.test --response "{\"set\":{\"X-Gen\":\"$BENCH_GEN\"}}" > /dev/null
