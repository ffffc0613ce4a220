#!/usr/bin/env bash
# Installs the packed client in a fresh directory, like a user, and tries it: first alone, then with all frameworks.
#
#   clients/node/test/packed/run.sh TARBALL
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tarball=$(realpath "$1")
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
cd "$fresh"

install() { npm install --no-fund --no-audit --loglevel=error --prefer-offline "$@"; }
# The version of a package that the client is tested with.
at() { node -p 'process.argv[2] + "@" + require(process.argv[1]).devDependencies[process.argv[2]]' "$here/../../package.json" "$1"; }

npm init --yes >/dev/null
install "$tarball"
cp "$here"/smoke.* .
timeout 60 node smoke.cjs

packages=(typescript @types/node @types/express express fastify @nestjs/common @nestjs/core rxjs reflect-metadata
  @connectrpc/connect)
mapfile -t packages < <(for package in "${packages[@]}"; do at "$package"; done)
install "${packages[@]}"
cp "$here/types.mts" types.mts
cp "$here/types.mts" types.cts
for module in nodenext commonjs; do
  # `commonjs` compiles types.cts alone: an .mts file is always an ES module.
  files=(types.cts)
  [[ $module == commonjs ]] || files+=(types.mts)
  npx tsc --ignoreConfig --module "$module" --moduleResolution "$([[ $module == commonjs ]] && echo bundler || echo nodenext)" \
    --target es2022 --strict --experimentalDecorators --skipLibCheck --noEmit --types node "${files[@]}"
done
