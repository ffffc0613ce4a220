#!/usr/bin/env bash
# Installs and builds the peers that `make peers` measures, each below target/peers with a launcher called `start`. A peer
# that cannot be installed is reported, and is not measured.
#
#   scripts/peers.sh [go] [node] [django] [sa-token] [keycloak]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly KEYCLOAK=26.7.3
readonly sources=$PWD/crates/latchkey-bench/peers

# The benchmark looks for them here, wherever Cargo builds.
readonly out=$PWD/target/peers
mkdir -p "$out"

say() { printf 'peers: %s\n' "$*" >&2; }
tool() { scripts/tools.sh install "$1" >&2 && scripts/tools.sh path "$1"; }

# Writes the launcher, which replaces itself by the server.
launcher() {
  local folder=$1
  shift
  printf '#!/usr/bin/env bash\ncd "$(dirname "${BASH_SOURCE[0]}")"\n%s\n' "$*" >"$folder/start"
  chmod +x "$folder/start"
}

build_go() {
  local go
  go=$(tool go) || return 1
  (cd "$sources/go" && "$go" build -trimpath -o "$1/server" .) || return 1
  launcher "$1" exec ./server
}

build_node() {
  local node
  node=$(tool node) || return 1
  cp "$sources"/node/{index.js,package.json} "$1" || return 1
  # Installs only if the lock file has changed.
  if ! cmp -s "$sources/node/package-lock.json" "$1/package-lock.json" || [[ ! -d $1/node_modules ]]; then
    cp "$sources/node/package-lock.json" "$1" || return 1
    (cd "$1" && PATH=$(dirname "$node"):$PATH npm ci --ignore-scripts --no-fund --no-audit --loglevel=error) >&2 ||
      { rm -rf "$1/node_modules"; return 1; }
  fi
  launcher "$1" "PEER_PROTO='$PWD/proto' NODE_ENV=production exec '$node' index.js"
}

build_django() {
  local python
  python=$(tool peers-python) || return 1
  cp "$sources"/django/*.py "$1" || return 1
  launcher "$1" "DJANGO_SETTINGS_MODULE=settings exec '$python' -m gunicorn"
}

maven() { mvn --batch-mode --no-transfer-progress -Dstyle.color=never -q "$@" >&2; }

build_sa-token() {
  local java
  java=$(tool java) || return 1
  maven -f "$sources/sa-token/pom.xml" -Dout="$1/target" package || return 1
  launcher "$1" "exec '$java' -Xmx1g -jar target/peer.jar"
}

build_keycloak() {
  local java archive=$1/keycloak-quarkus-dist-$KEYCLOAK.zip
  java=$(tool java) || return 1
  if [[ ! -f $archive ]]; then
    maven org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy -DoutputDirectory="$1" \
      -Dartifact=org.keycloak:keycloak-quarkus-dist:$KEYCLOAK:zip || return 1
  fi
  # Its build, for a database in memory, takes a minute.
  if [[ ! -f $1/keycloak/built-$KEYCLOAK ]]; then
    rm -rf "$1/keycloak"
    (cd "$1" && "${java%java}jar" xf "$archive" && mv "keycloak-$KEYCLOAK" keycloak) || return 1
    bash "$1/keycloak/bin/kc.sh" build --db=dev-mem >&2 || return 1
    touch "$1/keycloak/built-$KEYCLOAK"
  fi
  # Its script waits for the server, which would outlive it.
  printf '#!/usr/bin/env bash\nexec setpriv --pdeathsig KILL %q "$@"\n' "$java" >"$1/java"
  chmod +x "$1/java"
  # It prints its address too late for the benchmark, which waits until it answers.
  launcher "$1" "echo \"Keycloak listens on 127.0.0.1:\$PEER_PORT\"
JAVA=\$PWD/java exec bash keycloak/bin/kc.sh start --optimized --import-realm --http-enabled=true --http-host=127.0.0.1 \\
  --http-port=\"\$PEER_PORT\" --hostname-strict=false --cache=local >log 2>&1"
}

(($# > 0)) || set -- go node django sa-token keycloak
scripts/tools.sh install wrk
for peer in "$@"; do
  mkdir -p "$out/$peer"
  rm -f "$out/$peer/start"
  "build_$peer" "$out/$peer" || say "$peer could not be installed, and is not measured"
done
