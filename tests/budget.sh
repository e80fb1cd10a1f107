#!/usr/bin/env bash
# Measures the cost of the release build and fails if it exceeds the budget: see tests/it/budget.rs.
# Takes a minute once it is built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source deploy/install.sh

missing=()
for tool in strace valgrind; do
    has "$tool" || missing+=("$tool")
done
[[ ${#missing[@]} == 0 ]] || apt_install "${missing[@]}"
build_packaged
PITWIRE_BINARY=$(realpath "${CARGO_TARGET_DIR:-target}/release/pitwire") \
    cargo test --locked --test it -- --ignored --nocapture --test-threads 1 budget::
