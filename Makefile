# Everything that is done by hand, and everything that CI does. Longer shell stands in scripts/.

SHELL := bash
.NOTPARALLEL:
.DEFAULT_GOAL := help

# Passed on to the program by `run`, `bench`, `growth`, `micro`, `displacement`, `reads` and
# `commits`, to the test runner by `test`, and to `test-clients` as the languages to test.
ARGS ?=

.PHONY: help
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## Build and serve on the embedded store, in ./latchkey-data (ARGS="..." adds arguments)
	cargo run --release --locked -- serve $(ARGS)

.PHONY: test
test: ## Install what the tests need where it is missing, and run them all (ARGS="name" selects)
	@scripts/test.sh $(ARGS)

.PHONY: test-clients
test-clients: ## Test the clients in Go, Python, Node.js, Java and Rust against the server (ARGS="go" selects)
	@scripts/test-clients.sh $(ARGS)

.PHONY: ci
ci: fmt-check lint docs deny proto test test-clients ## Everything that must pass before a change is merged

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all

.PHONY: fmt-check
fmt-check: ## Check that the code is formatted
	@scripts/tools.sh install rustfmt
	cargo fmt --all --check

.PHONY: lint
lint: ## Clippy on everything; a warning is an error
	@scripts/tools.sh install clippy
	cargo clippy --locked --workspace --all-targets -- -D warnings

.PHONY: docs
docs: ## Build the documentation of the crate; a broken link is an error
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" \
	  cargo doc --locked --workspace --no-deps --document-private-items

.PHONY: deny
deny: ## Check licences, bans and sources of the dependencies
	@scripts/tools.sh install cargo-deny
	cargo deny --locked check --hide-inclusion-graph bans licenses sources

.PHONY: bench
bench: ## Measure Validate against a bare echo and Login against its bare hash, and write docs/performance
	@scripts/tools.sh install redis
	cargo build --release --locked --bin latchkey --bin echo --bin bench
	cargo run --release --locked --bin bench -- $(ARGS)

.PHONY: growth
growth: ## Measure a million sessions: memory, start, random users against a few; writes docs/performance
	@scripts/tools.sh install redis
	cargo build --release --locked --bin latchkey --bin growth
	cargo run --release --locked --bin growth -- $(ARGS)

.PHONY: micro
micro: ## Time the pure parts by themselves (ARGS="name" selects)
	cargo bench --locked -p latchkey-bench --bench micro -- $(ARGS)

.PHONY: redis-memory
redis-memory: ## Measure what a user with one session costs in Redis, over 100,000 users
	@scripts/tools.sh install redis
	cargo run --release --locked --bin redis_memory

.PHONY: displacement
displacement: ## Measure how long after a login the displaced client knows, over 10,000 displacements
	@scripts/tools.sh install redis
	cargo build --release --locked --bin latchkey --bin displacement
	cargo run --release --locked --bin displacement -- $(ARGS)

.PHONY: reads
reads: ## Measure what it is worth that concurrent loads share round trips to Redis
	@scripts/tools.sh install redis
	cargo run --release --locked --bin reads -- $(ARGS)

.PHONY: commits
commits: ## Measure what it is worth that concurrent commits to the embedded store share a transaction
	cargo run --release --locked --bin commits -- $(ARGS)

.PHONY: advisories
advisories: ## Check the dependencies for known vulnerabilities (downloads the RustSec database)
	@scripts/tools.sh install cargo-deny
	cargo deny --locked check advisories

.PHONY: proto
proto: ## Lint the protocol, and compare it with that of the last release: nothing that is used may break
	@scripts/tools.sh install buf
	"$$(scripts/tools.sh path buf)" lint
	"$$(scripts/tools.sh path buf)" breaking --against proto/released/latchkey.binpb

.PHONY: generate
generate: ## Renew the generated code of the Rust client from proto/
	@scripts/generate.sh

.PHONY: freeze-proto
freeze-proto: ## Keep the protocol as it is now as that of the last release
	cargo build --locked --bin latchkey
	$${CARGO_TARGET_DIR:-target}/debug/latchkey descriptor > proto/released/latchkey.binpb

.PHONY: tools
tools: ## Install the tools of all targets where they are missing
	@scripts/tools.sh install rustfmt clippy cargo-deny buf redis postgres mariadb valkey grpcurl \
	  grpc-health-probe django envoy nginx go node java clients-python

.PHONY: image
image: ## Build the container image latchkey:dev
	docker build -t latchkey:dev .

.PHONY: clean
clean: ## Remove what was built, and the tools below target/
	cargo clean
