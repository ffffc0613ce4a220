#!/usr/bin/env bash
# Builds the documentation as a book in target/book. docs/SUMMARY.md is its table of contents.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/tools.sh install mdbook
target=${CARGO_TARGET_DIR:-target}
rm -rf "$target/book" "$target/book-source"
mkdir -p "$target/book-source/src"
# With the files that the pages link to.
git ls-files -z -- '*.md' clients crates deploy docs examples proto src/config.default.toml tests/suite LICENSE |
  xargs -0 cp --parents --target-directory "$target/book-source/src"
# In the book, the table of contents is in the folder above docs.
sed -E 's|\]\(\.\./|](#/|; s|\]\(([a-z])|](docs/\1|; s|\]\(#/|](|' docs/SUMMARY.md > "$target/book-source/src/SUMMARY.md"
rm "$target/book-source/src/docs/SUMMARY.md"
cp docs/book.toml "$target/book-source/"
"$(scripts/tools.sh path mdbook)" build "$target/book-source" --dest-dir "$(realpath "$target")/book"
