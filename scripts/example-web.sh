#!/usr/bin/env bash
# Serves the page in examples/web at http://localhost:8000 until Ctrl-C, with a Latchkey on its usual ports and in the
# usual directory, ./latchkey-data.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

program=${CARGO_TARGET_DIR:-target}/release/latchkey
python3 -m http.server 8000 --bind 127.0.0.1 --directory examples/web >/dev/null 2>&1 &
page=$!
trap 'kill "$page" 2>/dev/null || true' EXIT

"$program" serve --config examples/web/latchkey.toml &
latchkey=$!
trap 'kill "$page" "$latchkey" 2>/dev/null || true; wait' EXIT
until "$program" health >/dev/null 2>&1; do
  kill -0 "$latchkey" 2>/dev/null || { echo "Latchkey has ended: see its message above." >&2; exit 1; }
  sleep 0.1
done
kill -0 "$page" 2>/dev/null || { echo "The page cannot be served: is port 8000 in use?" >&2; exit 1; }
cat <<TEXT

The page is at http://localhost:8000 (not at http://127.0.0.1:8000, which is another origin).
Add a user in another terminal:

  echo 'correct horse battery staple' | $program account add anna

Then log in in two browsers, or log in again with

  echo 'correct horse battery staple' | $program login anna --device iPhone

Ctrl-C ends both servers.
TEXT
wait "$latchkey"
