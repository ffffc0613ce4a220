#!/usr/bin/env bash
# Runs the fault lab and writes its results into docs/operations.md. Arguments are parts of the names of scenarios, such
# as `sentinel`; without any, all are run. RUNS=5 runs each of them five times and writes the medians.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/tools.sh install redis
if path=$(scripts/tools.sh path redis); then
  export LATCHKEY_TEST_REDIS_SERVER=$path
fi
export LATCHKEY_TEST_FAULTS="$*" LATCHKEY_TEST_FAULTS_RUNS=${RUNS:-1}
cargo test --locked --workspace --test suite -- --ignored --exact --nocapture \
  faults::every_failure_is_survived_and_documented
