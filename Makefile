# Targets for developers and CI. Longer shell scripts are in scripts/.

SHELL := bash
.NOTPARALLEL:
.DEFAULT_GOAL := help

# Arguments for the program (`run`, `bench`, `growth`, `topologies`, `peers`, `scaling`, `micro`, `displacement`,
# `connections`, `reads`, `commits`), for the test runner (`test`), the failures to cause (`faults`), the histories to
# check (`histories`), the seconds and targets of `fuzz`, or the languages to test (`test-clients`).
ARGS ?=
# The seed of a run of `histories` to repeat.
export SEED ?=

.PHONY: help
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## Build and serve with the embedded store in ./latchkey-data (ARGS="..." adds arguments)
	cargo run --release --locked -- serve $(ARGS)

.PHONY: example-web
example-web: ## Serve the page in examples/web at http://localhost:8000, with Latchkey
	cargo build --release --locked
	@scripts/example-web.sh

.PHONY: test
test: ## Install missing test tools and run all tests (ARGS="name" selects)
	@scripts/test.sh $(ARGS)

.PHONY: fuzz
fuzz: ## Fuzz each target for ten seconds, from fuzz/corpus (ARGS="600 token" selects the time and targets)
	@scripts/fuzz.sh $(ARGS)

.PHONY: faults
faults: ## Run the fault lab and update docs/operations.md (ARGS="sentinel" selects, RUNS=5 for medians)
	@scripts/faults.sh $(ARGS)

.PHONY: test-clients
test-clients: ## Test the clients in Go, Python, Node.js, Java and Rust against the server (ARGS="go" selects)
	@scripts/test-clients.sh $(ARGS)

.PHONY: histories
histories: ## Check the histories of thousands of users while Redis fails, and measure its losses (ARGS="losses" selects)
	@scripts/test.sh process::history::$(ARGS) -- --ignored --nocapture --test-threads 1

.PHONY: ci
ci: fmt-check lint unused docs book deny proto test fuzz test-clients ## Run all checks that must pass before a change is merged

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all

.PHONY: fmt-check
fmt-check: ## Check that the code is formatted
	@scripts/tools.sh install rustfmt
	cargo fmt --all --check

.PHONY: lint
lint: ## Run Clippy on all code; a warning is an error
	@scripts/tools.sh install clippy
	cargo clippy --locked --workspace --all-targets -- -D warnings

.PHONY: unused
unused: ## Check that every dependency is used
	@scripts/tools.sh install cargo-machete
	cargo machete

.PHONY: docs
docs: ## Build the documentation of the crate; a broken link is an error
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" \
	  cargo doc --locked --workspace --no-deps --document-private-items

.PHONY: book
book: ## Build the documentation as a book in target/book
	@scripts/book.sh

.PHONY: deny
deny: ## Check licences, bans and sources of the dependencies
	@scripts/tools.sh install cargo-deny
	cargo deny --locked check --hide-inclusion-graph bans licenses sources

.PHONY: bench
bench: ## Measure Validate against an echo server and Login against its hash, and update docs/performance
	@scripts/tools.sh install redis
	cargo build --release --locked -p latchkey -p latchkey-bench --bin latchkey --bin echo --bin echo_h2 --bin bench
	cargo run --release --locked -p latchkey-bench --bin bench -- $(ARGS)

.PHONY: growth
growth: ## Measure memory, startup and random access with a million sessions, and update docs/performance
	@scripts/tools.sh install redis
	cargo build --release --locked -p latchkey -p latchkey-bench --bin latchkey --bin growth
	cargo run --release --locked -p latchkey-bench --bin growth -- $(ARGS)

.PHONY: topologies
topologies: ## Measure what Sentinel, a cluster, buckets and followers cost, and update docs/performance
	@scripts/tools.sh install redis
	cargo build --release --locked -p latchkey -p latchkey-bench --bin latchkey --bin topologies
	cargo run --release --locked -p latchkey-bench --bin topologies -- $(ARGS)

.PHONY: peers
peers: ## Measure Validate against other servers that do the same, and update docs/performance (ARGS="go_hs256" selects)
	@scripts/tools.sh install redis
	@scripts/peers.sh
	cargo build --release --locked -p latchkey -p latchkey-bench --bin latchkey --bin peers
	cargo run --release --locked -p latchkey-bench --bin peers -- $(ARGS)

.PHONY: scaling
scaling: ## Estimate what a number of users needs, and update docs/scaling.md (ARGS="--users 3e6" only prints)
	cargo run --locked -p latchkey-bench --bin scaling -- $(ARGS)

.PHONY: micro
micro: ## Run the microbenchmarks (ARGS="name" selects)
	cargo bench --locked -p latchkey-bench --bench micro -- $(ARGS)

.PHONY: redis-memory
redis-memory: ## Measure the memory of a user with one session in Redis, over 100,000 users
	@scripts/tools.sh install redis
	cargo run --release --locked -p latchkey-bench --bin redis_memory

.PHONY: displacement
displacement: ## Measure the delay until a displaced client is notified, over 10,000 displacements
	@scripts/tools.sh install redis
	cargo build --release --locked -p latchkey -p latchkey-bench --bin latchkey --bin displacement
	cargo run --release --locked -p latchkey-bench --bin displacement -- $(ARGS)

.PHONY: connections
connections: ## Measure the memory of 9,000 connections with an idle watch each, and what stays after they close
	cargo build --release --locked -p latchkey -p latchkey-bench --bin latchkey --bin connections
	cargo run --release --locked -p latchkey-bench --bin connections -- $(ARGS)

.PHONY: reads
reads: ## Measure the gain of batching concurrent loads from Redis
	@scripts/tools.sh install redis
	cargo run --release --locked -p latchkey-bench --bin reads -- $(ARGS)

.PHONY: commits
commits: ## Measure the gain of batching concurrent commits to the embedded store
	cargo run --release --locked -p latchkey-bench --bin commits -- $(ARGS)

.PHONY: advisories
advisories: ## Check the dependencies for known vulnerabilities (downloads the RustSec database)
	@scripts/tools.sh install cargo-deny
	cargo deny --locked check advisories

.PHONY: proto
proto: ## Lint the protocol and check it for breaking changes since the last release
	@scripts/tools.sh install buf
	"$$(scripts/tools.sh path buf)" lint
	"$$(scripts/tools.sh path buf)" breaking --against proto/released/latchkey.binpb

.PHONY: generate
generate: ## Renew the generated code of the Rust client and docs/configuration.md
	@scripts/generate.sh

.PHONY: freeze
freeze: ## Store the current protocol, and data in the current formats, as those of the last release
	cargo build --locked --bin latchkey
	$${CARGO_TARGET_DIR:-target}/debug/latchkey descriptor > proto/released/latchkey.binpb
	@scripts/test.sh process::upgrade::record -- --ignored

.PHONY: tools
tools: ## Install the missing tools of all targets
	@scripts/tools.sh install rustfmt clippy c++ cargo-deny cargo-machete buf redis postgres mariadb pgbouncer \
	  valkey grpcurl grpc-health-probe django grpcio envoy nginx helm kubernetes-decoder prometheus go node java \
	  connect-client connect-es chromium openapi clients-python wrk peers-python

.PHONY: image
image: ## Build the container image latchkey:dev and check its size
	@scripts/image.sh

.PHONY: release
release: ## Build the archive, the Debian package, the SBOM, the licences and the image into target/dist
	@scripts/release.sh

.PHONY: clean
clean: ## Remove all build output, including the tools below target/
	cargo clean
