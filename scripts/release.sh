#!/usr/bin/env bash
# Builds everything of a release into target/dist: the archive, the Debian package, the licences of the dependencies, the
# SBOM, the container image where a Docker engine runs, and their checksums. Paths and times of the machine are kept out of
# them, so that two builds of a commit can be compared.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'release: %s\n' "$*" >&2; }

scripts/tools.sh install cargo-about cargo-cyclonedx cargo-deb
cargo_about=$(scripts/tools.sh path cargo-about)
cargo_cyclonedx=$(scripts/tools.sh path cargo-cyclonedx)
cargo_deb=$(scripts/tools.sh path cargo-deb)

target=${CARGO_TARGET_DIR:-$PWD/target}
[[ $target == /* ]] || target=$PWD/$target
dist=$target/dist
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
triple=$(rustc -vV | sed -n 's/^host: //p')
if [[ -n $(git status --porcelain) ]]; then
  say "the work tree has changes that are not committed: the release would not be that of its commit"
  exit 1
fi
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC

# The paths of this machine are in the program otherwise: in the messages of panics and in assertions of the C code.
cargo_home=${CARGO_HOME:-$HOME/.cargo}
export RUSTFLAGS="--remap-path-prefix=$PWD=/src --remap-path-prefix=$cargo_home=/cargo --remap-path-prefix=$target=/target"
export CFLAGS="-ffile-prefix-map=$cargo_home=/cargo -ffile-prefix-map=$target=/target"
export CARGO_TARGET_DIR=$target/release-build
built=$CARGO_TARGET_DIR/release

rm -rf "$dist"
mkdir -p "$dist"

say "compiling"
# Not exported: the program takes variables of this form for settings.
BUILD_COMMIT=$(git rev-parse HEAD) cargo build --release --locked -p latchkey --bin latchkey

say "collecting licences"
"$cargo_about" generate --locked --fail --config deploy/release/about.toml \
  deploy/release/licenses.hbs > "$built/THIRD-PARTY-LICENSES.txt"

say "writing the SBOM"
"$cargo_cyclonedx" cyclonedx --format json --spec-version 1.5 --target "$triple" \
  --no-build-deps --override-filename latchkey.cdx
sed "s|path+file://$PWD|path+file:///src|g" latchkey.cdx.json > "$dist/latchkey-$version.cdx.json"
find . -path "$target" -prune -o -name latchkey.cdx.json -exec rm {} +

# The Debian package takes these files from here, see Cargo.toml.
"$built/latchkey" serve --print-defaults > "$built/latchkey.defaults.toml"
rm -rf "$built/man" "$built/completions"
mkdir "$built/completions"
for shell in bash zsh fish; do
  "$built/latchkey" completions "$shell" > "$built/completions/latchkey.$shell"
done
"$built/latchkey" man --dir "$built/man"

say "packing the archive"
name=latchkey-$version-$triple
mkdir -p "$dist/$name"
cp -r LICENSE NOTICE README.md CHANGELOG.md deploy/debian/latchkey.service \
  "$built"/{latchkey,latchkey.defaults.toml,THIRD-PARTY-LICENSES.txt,man,completions} "$dist/$name/"
tar --create --sort=name --mtime="@$SOURCE_DATE_EPOCH" --mode=u=rwX,go=rX --owner=0 --group=0 --numeric-owner \
  --directory "$dist" "$name" | gzip --no-name --best > "$dist/$name.tar.gz"
rm -r "${dist:?}/$name"

say "packing the Debian package"
"$cargo_deb" deb --no-build --locked --output "$dist/" >&2
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
dpkg-deb --extract "$dist"/latchkey_*.deb "$root"
"$root/usr/bin/latchkey" --version >&2
LATCHKEY_DATA_DIR=$root/data "$root/usr/bin/latchkey" serve --check --config "$root/etc/latchkey/latchkey.toml" >&2
# 20 is an exposure of 2.0 out of 10.
systemd-analyze security --no-pager --offline=true --threshold=20 "$root/usr/lib/systemd/system/latchkey.service" |
  tail -n 1 >&2

if docker info >/dev/null 2>&1; then
  scripts/image.sh
  docker save "${LATCHKEY_IMAGE:-latchkey:dev}" | gzip --no-name > "$dist/latchkey-$version-image.tar.gz"
else
  say "no Docker engine runs: no image"
fi

(cd "$dist" && sha256sum -- * > SHA256SUMS && cat SHA256SUMS)
