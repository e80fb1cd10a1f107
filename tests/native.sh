#!/usr/bin/env bash
# Lints, builds and tests on Windows and macOS, where the other tests and their servers do not run:
# the unit tests, the queue and the agent in virtual time. tests/installed.py then checks the program.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source deploy/install.sh

is_new_enough cargo || rustup toolchain install stable --profile minimal --component clippy
cargo clippy --locked --all-targets -- -D warnings
cargo build --locked
cargo test --locked --lib
cargo test --locked --test it -- \
    config:: disk:: help:: inputs:: purge:: queue:: session:: simulation:: store_model::
