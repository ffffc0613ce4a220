#!/usr/bin/env bash
# Builds the container image latchkey:dev, prints its size, and fails if it adds more than 40 MiB to its base.
# LATCHKEY_IMAGE is the name of the image. Arguments are passed to `docker build`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly LIMIT=$((40 * 1024 * 1024))
image=${LATCHKEY_IMAGE:-latchkey:dev}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
revision=$(git rev-parse HEAD 2>/dev/null || true)
epoch=$(git log -1 --format=%ct 2>/dev/null || true)
created=${epoch:+$(date --utc --date="@$epoch" +%Y-%m-%dT%H:%M:%SZ)}

docker build --tag "$image" --build-arg VERSION="$version" --build-arg REVISION="$revision" \
  --build-arg COMMIT_SECONDS="$epoch" --build-arg CREATED="$created" --build-arg SOURCE="${LATCHKEY_SOURCE:-}" "$@" .

# BuildKit keeps no copy of the base among the images, so its size is that of its layers in this one.
layers=$(sed -n '/^FROM debian/,$p' Dockerfile | grep -c '^COPY ')
added=$(docker history --human=false --format '{{.Size}} {{.CreatedBy}}' "$image" | grep -m "$layers" COPY |
  awk '{ sum += $1 } END { print sum }')
printf 'image: %s has %s MiB, of which %s are on top of its base (at most %s)\n' "$image" \
  "$(($(docker image inspect --format '{{.Size}}' "$image") / 1048576))" "$((added / 1048576))" "$((LIMIT / 1048576))"
if ((added > LIMIT)); then
  echo "image: the image is too large: look for debug information or files that do not belong into it" >&2
  exit 1
fi
