#!/usr/bin/env bash
# Fuzzes each target for a bounded time, beginning with its kept inputs in fuzz/corpus. Fails if an input makes one fail.
#
#   scripts/fuzz.sh [SECONDS] [TARGET...]      the default is 10 seconds for each of all targets
#
# It needs neither a nightly compiler nor cargo-fuzz, and instruments only the code of Latchkey: see fuzz-rustc.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds=10
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
  seconds=$1
  shift
fi
targets=("$@")
if ((${#targets[@]} == 0)); then
  targets=(fuzz/fuzz_targets/*.rs)
  targets=("${targets[@]##*/}")
  targets=("${targets[@]%.rs}")
fi
for name in "${targets[@]}"; do
  [[ -f fuzz/fuzz_targets/$name.rs ]] || { printf 'fuzz: there is no target %s\n' "$name" >&2; exit 2; }
done

scripts/tools.sh install c++

target=${CARGO_TARGET_DIR:-target}
[[ $target == /* ]] || target=$PWD/$target

# `--test` selects no program that runs here. With it, the features of the dependencies are those of `make test`, so
# that they need not be compiled again.
RUSTC_WORKSPACE_WRAPPER=$PWD/scripts/fuzz-rustc.sh \
  cargo build --locked --workspace --test corpus "${targets[@]/#/--bin=}"

failed=()
for name in "${targets[@]}"; do
  out=$target/fuzz/$name
  mkdir -p "$out/corpus" "$out/artifacts"
  # `make test` builds other programs of the same names.
  ln -f "$target/debug/$name" "$out/program"
  # New inputs go to the first directory.
  printf 'fuzz: %s, %s s\n' "$name" "$seconds" >&2
  if ! "$out/program" "$out/corpus" "fuzz/corpus/$name" -max_total_time="$seconds" -timeout=20 \
    -rss_limit_mb=2048 -artifact_prefix="$out/artifacts/" -print_final_stats=1 >"$out/log" 2>&1; then
    failed+=("$name")
    tail -n 60 "$out/log" >&2
    printf 'fuzz: %s fails; to run it again on that input: %s INPUT\n' "$name" "$out/program" >&2
    continue
  fi
  grep -E '^stat::(number_of_executed_units|new_units_added)' "$out/log" >&2
done
if ((${#failed[@]} > 0)); then
  printf 'fuzz: failed: %s\n' "${failed[*]}" >&2
  exit 1
fi
