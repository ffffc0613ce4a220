#!/usr/bin/env bash
# Renews the generated code of the Rust client from proto/, before anything that uses it is compiled, and the page of the
# settings.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The build script of the server writes it; cargo says where to.
out=$({ cargo check --locked --quiet --keep-going --message-format=json -p latchkey 2>/dev/null || true; } |
  grep '"build-script-executed"' | grep -E '#latchkey@|/latchkey#' | sed 's/.*"out_dir":"//; s/".*//')
if [[ -z $out ]]; then
  echo 'generate: the build script failed; `cargo check -p latchkey` says why' >&2
  exit 1
fi
install -m 0644 "$out/client/latchkey.v1.rs" crates/latchkey-client/src/generated/latchkey.v1.rs

LATCHKEY_TEST_GENERATE=1 cargo test --locked --quiet --test suite generated::the_page
