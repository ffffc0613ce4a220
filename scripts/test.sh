#!/usr/bin/env bash
# Runs the tests and installs the servers and clients that they need. Arguments select tests, as with cargo test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/tools.sh install redis postgres mariadb pgbouncer valkey grpcurl grpc-health-probe django grpcio envoy nginx

# The tests look for a program in its variable first, then on the PATH.
for tool in redis=LATCHKEY_TEST_REDIS_SERVER valkey=LATCHKEY_TEST_VALKEY_SERVER grpcurl=LATCHKEY_TEST_GRPCURL \
  postgres=LATCHKEY_TEST_POSTGRES mariadb=LATCHKEY_TEST_MARIADB pgbouncer=LATCHKEY_TEST_PGBOUNCER \
  django=LATCHKEY_TEST_DJANGO grpcio=LATCHKEY_TEST_GRPCIO grpc-health-probe=LATCHKEY_TEST_GRPC_HEALTH_PROBE \
  envoy=LATCHKEY_TEST_ENVOY nginx=LATCHKEY_TEST_NGINX; do
  if path=$(scripts/tools.sh path "${tool%%=*}"); then
    export "${tool#*=}=$path"
    printf 'test: %s=%s\n' "${tool#*=}" "$path" >&2
  fi
done

set -x
if (($# == 0)); then
  cargo test --locked --workspace --doc
fi
exec cargo test --locked --workspace --all-targets "$@"
