#!/usr/bin/env bash
# Compiles a package of this workspace for fuzzing: scripts/fuzz.sh sets it as RUSTC_WORKSPACE_WRAPPER.
#
# Only the code of Latchkey is instrumented, with the options of `cargo fuzz`. The dependencies are those of `make test`,
# compiled once for both. Instrumenting them, too, would compile all of them again.
set -euo pipefail

rustc=$1
shift
# Build scripts and tests are programs without the fuzzer, which the instrumentation calls.
if [[ " $* " == *" --crate-name build_script_"* || " $* " == *" --test "* ]]; then
  exec "$rustc" "$@" --cfg fuzzing
fi
exec "$rustc" "$@" --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares
