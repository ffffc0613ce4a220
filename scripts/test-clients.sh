#!/usr/bin/env bash
# Tests the clients: checks that generated code is up to date, runs the tests of each client, and plays the scenarios
# against a guarded server in each language with a real Latchkey.
#
#   scripts/test-clients.sh [go] [python] [node] [java] [rust]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly root=$PWD
target=${CARGO_TARGET_DIR:-target}
[[ $target == /* ]] || target=$PWD/$target
readonly out=$target/clients
mkdir -p "$out"

say() { printf 'clients: %s\n' "$*" >&2; }
tool() { scripts/tools.sh path "$1"; }

# Repeats a download once if it fails.
again() { "$@" || { say "trying again: $*"; sleep 5; "$@"; }; }

# Compares the generated code in the repository with newly generated code.
same() {
  diff -r --exclude=__pycache__ "$1" "$2" >&2 && return
  say "$1 is out of date with proto/: $3"
  return 1
}

# Plays the scenarios against the gRPC server that this command starts. NAME is LANGUAGE or "LANGUAGE, GUARD".
scenarios() { play the_guard_gives_every_verdict_of_the_scenarios "$1" "$2"; }

# The same for an HTTP server.
scenarios_http() { play the_http_guard_gives_every_verdict_of_the_scenarios "$1" "$2"; }

play() {
  local test=clients::$1 name=$2 said counts
  say "scenarios: $name"
  # Building the tests can take minutes; running them takes seconds.
  said=$(LATCHKEY_TEST_GUARD=$3 timeout 1200 cargo test --quiet --locked --workspace --test suite -- --exact "$test" --ignored --nocapture) ||
    { printf '%s\n' "$said" >&2; return 1; }
  # Without a test of this name cargo would run nothing and succeed.
  counts=$(grep '^scenarios: ' <<<"$said") && grep -q '1 passed' <<<"$said" ||
    { say "no scenario was played"; return 1; }
  say "$counts"
  printf '%s\t%s\n' "$name" "$counts" >>"$out/conformance"
}

# Prints a table of the scenarios that were played, for each language.
conformance() {
  [[ -s $out/conformance ]] || return 0
  printf '\nconformance with clients/scenarios.json\n'
  awk -F '\t' '
    {
      language = guard = $1
      if (!sub(/, .*/, "", language) || !sub(/^[^,]*, /, "", guard)) guard = "gRPC"
      if (language != last) {
        format = "\n%-24s %10s %10s %16s\n"
        printf format, language, "scenarios", "calls", "not applicable"
      }
      last = language
      split($2, counts, /[^0-9]+/)
      printf "  %-22s %10d %10d %16d\n", guard, counts[2], counts[3], counts[4]
    }' "$out/conformance"
}

# Restarts two servers in turn while this command validates tokens, and shows its figures.
rolling() {
  local name=restarts_of_all_replicas_in_turn_fail_no_call_of_another_client said
  say "rolling restarts: $1"
  said=$(LATCHKEY_TEST_ROLLING=$2 timeout 1200 cargo test --quiet --locked --workspace --test suite -- --exact "process::rolling::$name" --ignored --nocapture) ||
    { printf '%s\n' "$said" >&2; return 1; }
  grep '1 passed' <<<"$said" >&2
}

# Runs the commands that docs/integration.md shows for this client, after these that install it.
documented() {
  local name=the_commands_of_a_client_work said
  say "commands in the documentation: $1"
  said=$(LATCHKEY_TEST_COMMANDS=$1 LATCHKEY_TEST_COMMANDS_SETUP=$2 timeout 1200 cargo test --quiet --locked --workspace --test suite -- --exact "process::commands::$name" --ignored) ||
    { printf '%s\n' "$said" >&2; return 1; }
  grep '1 passed' <<<"$said" >&2
}

test_go() {
  scripts/tools.sh install go buf staticcheck
  local fresh sample race=()
  fresh=$(mktemp -d)
  export PATH=$out:$PATH LATCHKEY_TEST_BINARY=$target/debug/latchkey
  ln -sf "$(tool go)" "$out/go"
  ln -sf "$(tool buf)" "$out/buf"
  # The race detector needs a C compiler.
  [[ $(go env CGO_ENABLED) != 1 ]] || race=(-race)
  go_module clients/go
  go_module clients/go/latchkeyconnect
  go_module examples/go
  (
    cd clients/go
    buf generate --output "$fresh"
    same latchkeyv1 "$fresh/latchkeyv1" "run go generate in clients/go"
    same internal/sample/samplev1 "$fresh/internal/sample/samplev1" "run go generate in clients/go"
    go_tests "${race[@]}"
    go build -o "$out/go-sample" ./internal/sample
    go build -o "$out/go-rolling" ./internal/rolling
    cd latchkeyconnect
    go_tests "${race[@]}"
    cd ../../../examples/go
    buf generate --output "$fresh/examples"
    same samplev1 "$fresh/examples/samplev1" "run go generate in examples/go"
  )
  rm -r "$fresh"
  oldest_go
  packed_go
  scenarios Go "$out/go-sample"
  scenarios "Go, Connect" "$out/go-user/connect/connect"
  for sample in nethttp chi gin; do
    scenarios_http "Go, ${sample/nethttp/net\/http}" "$out/go-user/$sample/$sample"
  done
  # grpc-go itself repeats calls that were not sent, so no call fails in either mode.
  rolling "Go, with retries" "$out/go-rolling retry"
  rolling "Go, without retries" "$out/go-rolling once"
}

# Checks what a module needs to be published.
go_module() (
  cd "$1"
  again go mod download
  go mod tidy -diff
  go mod verify
  go list -m
  local unformatted
  unformatted=$("$(go env GOROOT)/bin/gofmt" -l .)
  [[ -z $unformatted ]] || { say "not formatted: $unformatted"; exit 1; }
)

# The arguments are options of go test.
go_tests() {
  local staticcheck
  go vet ./...
  if staticcheck=$("$root/scripts/tools.sh" path staticcheck); then
    "$staticcheck" ./...
  else
    say "staticcheck is missing: skipped"
  fi
  go test "$@" ./...
}

# Tests with the oldest version of Go that the modules allow.
oldest_go() (
  cd clients/go
  GOTOOLCHAIN=go$(sed -n 's/^go //p' go.mod)
  export GOTOOLCHAIN
  if ! again go version >&2; then
    [[ ${CI:-} != true ]] || exit 1
    say "$GOTOOLCHAIN could not be downloaded: its tests are skipped"
    exit 0
  fi
  go test ./...
  cd latchkeyconnect
  go test ./...
)

# Builds the examples outside of the repository, with the modules as a module proxy serves them.
packed_go() (
  local user=$out/go-user latchkey=github.com/latchkey-auth/latchkey/clients/go sample version
  version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
  # The cache of the other modules is kept.
  rm -rf "$out/go-proxy" "$user" "$out"/go-cache{,/cache/download}/github.com/latchkey-auth
  (cd clients/go/internal/pack && go run . ../.. "$version" "$out/go-proxy")
  cp -r examples/go "$user"
  cd "$user"
  go mod edit -dropreplace "$latchkey" -dropreplace "$latchkey/latchkeyconnect"
  GOPROXY=file://$out/go-proxy,file://$(go env GOMODCACHE)/cache/download,$(go env GOPROXY)
  export GOPROXY GONOSUMDB=$latchkey GOMODCACHE=$out/go-cache
  GOFLAGS="$(go env GOFLAGS) -modcacherw"
  export GOFLAGS
  again go mod tidy
  go list -m "$latchkey@v$version" "$latchkey/latchkeyconnect@v$version" >&2
  go vet ./...
  for sample in nethttp chi gin connect; do
    go build -o "$sample/$sample" "./$sample"
  done
)

test_python() {
  scripts/tools.sh install clients-python
  local python fresh version
  python=$(tool clients-python)
  fresh=$(mktemp -d)
  version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
  (
    cd clients/python
    "$python" generate.py "$fresh"
    same src/latchkey_auth/v1 "$fresh/src/latchkey_auth/v1" "run generate.py in clients/python"
    same tests/sample/v1 "$fresh/tests/sample/v1" "run generate.py in clients/python"
    "$python" -m ruff check --quiet --config pyproject.toml . ../../examples/python
    "$python" -m ruff format --quiet --check --config pyproject.toml . ../../examples/python
    "$python" -m build --no-isolation --outdir "$fresh/dist" . >"$fresh/build.log" 2>&1 || { cat "$fresh/build.log" >&2; exit 1; }
    # Install it like a user, instead of testing the source folder.
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$fresh"/dist/*.whl
    "$python" -m mypy
    "$python" -m pytest --quiet
    cp tests/packed.py tests/typed.py "$fresh"
  )
  # The oldest and the newest supported Python. Without them scripts/tools.sh says so, and in CI it fails.
  local supported other
  for supported in 3.10 3.13; do
    scripts/tools.sh install "clients-python-$supported"
    other=$(tool "clients-python-$supported") || continue
    say "tests with $("$other" --version)"
    "$other" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$fresh"/dist/*.whl
    (cd clients/python && "$other" -m pytest --quiet -p no:cacheprovider)
  done
  # A new user: an environment of its own, outside of the repository.
  (
    cd "$fresh"
    "$python" -m venv user
    again user/bin/pip install --quiet --disable-pip-version-check --only-binary :all: \
      --constraint "$OLDPWD/clients/python/requirements-dev.txt" "$(echo dist/*.whl)[fastapi,flask]" uvicorn
    user/bin/python packed.py "$version"
    "$python" -m mypy --strict --python-executable user/bin/python typed.py
  )
  documented python "ln -s '$fresh/user' .venv; ln -s '$PWD/examples' examples"
  rm -r "$fresh"
  scenarios "Python, grpc.aio" "$python clients/python/tests/sample_aio.py"
  scenarios "Python, threads" "$python clients/python/tests/sample_sync.py"
  local sample
  for sample in asgi fastapi wsgi flask django; do
    scenarios_http "Python, $sample" "$python examples/python/$sample/main.py"
  done
  rolling "Python, with retries" "$python clients/python/tests/rolling.py retry"
  rolling "Python, without retries" "$python clients/python/tests/rolling.py once"
}

test_node() {
  scripts/tools.sh install node node20 node22
  local node guard packed
  node=$(tool node)
  PATH=$(dirname "$node"):$PATH
  (
    cd clients/node
    npm_ci clients-node
    npm run --silent build
    npm run --silent lint
  )
  node_versions
  packed=$out/$(cd clients/node && npm pack --silent --ignore-scripts --pack-destination "$out")
  clients/node/test/packed/run.sh "$packed"
  (
    cd examples/node
    npm_ci examples-node
    # The examples use the package, and not the folder that it is made of.
    rm -rf node_modules/@latchkey-auth/client
    mkdir -p node_modules/@latchkey-auth/client
    tar -xzf "$packed" --strip-components 1 -C node_modules/@latchkey-auth/client
    npm run --silent build
  )
  scenarios "Node.js, grpc-js" "$node clients/node/dist/test/sample.js"
  scenarios "Node.js, Connect" "$node examples/node/dist/connect.js"
  for guard in Express Fastify Nest; do
    scenarios_http "Node.js, $guard" "$node examples/node/dist/${guard,,}.js"
  done
}

# Installs the packages of a folder, if its lock file has changed.
npm_ci() {
  cmp -s package-lock.json "$out/$1.json" && [[ -d node_modules ]] && return
  say "installing the packages of $PWD/package-lock.json"
  again npm ci --no-fund --no-audit --loglevel=error
  cp package-lock.json "$out/$1.json"
}

# Runs the tests of the client with the oldest versions of Node.js that it supports, or else with the one that is there.
node_versions() {
  local name node tested=
  for name in node20 node22; do
    node=$(tool "$name") || continue
    say "Node.js $("$node" --version)"
    "$node" --test --test-reporter=spec clients/node/dist/test/*.test.mjs
    tested=1
  done
  [[ -n $tested ]] || node --test --test-reporter=spec clients/node/dist/test/*.test.mjs
}

test_java() {
  scripts/tools.sh install java
  # A repository of its own, so that a test never uses packages that a developer has installed, nor installs any. It
  # begins with the downloads of the developer.
  local repository=$out/m2 java sample
  if [[ ! -d $repository ]]; then
    mkdir -p "$repository"
    cp -al ~/.m2/repository/. "$repository" 2>/dev/null || say "downloading all packages from Maven Central"
  fi
  rm -rf "$repository/io/github/latchkey-auth"
  local mvn=(mvn --batch-mode --no-transfer-progress -Dstyle.color=never -q "-Dmaven.repo.local=$repository")
  again "${mvn[@]}" -f clients/java -DskipTests -Dmaven.javadoc.skip test-compile
  # Builds the jars with sources and documentation, runs the tests, and installs the jars.
  "${mvn[@]}" -f clients/java "-Dlatchkey.program=$target/debug/latchkey" install

  # A short JVM start matters more than fast code.
  java="$(tool java) -XX:TieredStopAtLevel=1"
  local client=clients/java/client/target
  scenarios "Java, gRPC" "$java -cp $client/test-classes:$client/classes:$(<$client/test.classpath) latchkey.sample.Sample"

  # Like a user, outside of the repository and with the packed jars.
  sample=$(mktemp -d)
  cp -r examples/java/servlet examples/java/spring-boot "$sample"
  rm -rf "$sample"/*/target
  again "${mvn[@]}" -f "$sample/servlet" package
  again "${mvn[@]}" -f "$sample/spring-boot" package
  scenarios_http "Java, servlet" "$java -cp '$sample/servlet/target/greeter.jar:$sample/servlet/target/lib/*' example.Greeter"
  scenarios_http "Java, Spring Boot" "$java -jar $sample/spring-boot/target/greeter.jar"
  rm -r "$sample"
}

# Its own tests run with those of Latchkey; this plays only the common scenarios, and packs the crates.
test_rust() {
  cargo build --quiet --locked --workspace --example guarded --example guarded_axum
  scenarios "Rust, tonic" "$target/debug/examples/guarded"
  scenarios_http "Rust, axum" "$target/debug/examples/guarded_axum"
  # Together, because the server depends on the client, which no registry has. Neither is compiled again.
  local said
  said=$(cargo package --no-verify --allow-dirty --locked -p latchkey -p latchkey-client 2>&1) ||
    { printf '%s\n' "$said" >&2; return 1; }
  packed latchkey LICENSE NOTICE README.md build.rs proto/latchkey/v1/auth.proto src/config.default.toml
  packed latchkey-client LICENSE README.md src/generated/latchkey.v1.rs src/extract.rs examples/guarded_axum.rs
}

# Checks that the package of a crate has these files.
packed() {
  local crate=$1 version missing
  version=$(cargo pkgid -p "$crate")
  version=${version##*[#@]}
  missing=$(comm -13 <(tar -tzf "$target/package/$crate-$version.crate" | sort) \
    <(printf "$crate-$version/%s\n" "${@:2}" | sort))
  [[ -z $missing ]] || { say "the package of $crate lacks $missing"; return 1; }
  say "packed $crate $version"
}

# Builds with the features of the other tests. A separate build of the server would compile all dependencies again.
cargo test --quiet --locked --workspace --test suite --no-run
rm -f "$out/conformance"
(($# > 0)) || set -- go python node java rust
for client in "$@"; do
  case $client in
    go | python | node | java | rust)
      say "$client"
      "test_$client"
      ;;
    *)
      say "there is no client for $client: go, python, node, java or rust"
      exit 2
      ;;
  esac
done
conformance
say "all tests passed"
