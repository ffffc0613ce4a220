#!/usr/bin/env bash
# Runs the tests and installs the servers and clients that they need. Arguments select tests, as with cargo test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/tools.sh install redis postgres mariadb pgbouncer valkey grpcurl grpc-health-probe django grpcio envoy nginx \
  helm kubernetes-decoder prometheus connect-client connect-es chromium openapi apache authlib spring-resource-server

# The tests look for a program in its variable first, then on the PATH.
for tool in redis=LATCHKEY_TEST_REDIS_SERVER valkey=LATCHKEY_TEST_VALKEY_SERVER grpcurl=LATCHKEY_TEST_GRPCURL \
  postgres=LATCHKEY_TEST_POSTGRES mariadb=LATCHKEY_TEST_MARIADB pgbouncer=LATCHKEY_TEST_PGBOUNCER \
  django=LATCHKEY_TEST_DJANGO grpcio=LATCHKEY_TEST_GRPCIO grpc-health-probe=LATCHKEY_TEST_GRPC_HEALTH_PROBE \
  envoy=LATCHKEY_TEST_ENVOY nginx=LATCHKEY_TEST_NGINX helm=LATCHKEY_TEST_HELM \
  kubernetes-decoder=LATCHKEY_TEST_KUBERNETES_DECODER prometheus=LATCHKEY_TEST_PROMETHEUS \
  connect-client=LATCHKEY_TEST_CONNECT_CLIENT \
  connect-es=LATCHKEY_TEST_CONNECT_ES chromium=LATCHKEY_TEST_CHROMIUM openapi=LATCHKEY_TEST_OPENAPI \
  apache=LATCHKEY_TEST_APACHE authlib=LATCHKEY_TEST_AUTHLIB spring-resource-server=LATCHKEY_TEST_SPRING; do
  if path=$(scripts/tools.sh path "${tool%%=*}"); then
    export "${tool#*=}=$path"
    printf 'test: %s=%s\n' "${tool#*=}" "$path" >&2
  fi
done

if (($# == 0)); then
  cargo test --locked --workspace --doc
fi

# A skipped test passes, but says so on stderr; these lines are repeated at the end.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if [[ -t 2 ]]; then
  export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-always}
fi
status=0
{ cargo test --locked --workspace --all-targets "$@" 2>&1 >&3 | tee "$log" >&2; } 3>&1 || status=$?
if skipped=$(grep '^skipped: ' "$log"); then
  printf '\ntest: %s tests were skipped\n%s\n' "$(grep -c '' <<<"$skipped")" "$skipped" >&2
fi
exit "$status"
