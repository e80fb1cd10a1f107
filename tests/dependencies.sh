#!/usr/bin/env bash
# Checks the dependencies: licences, sources, and published advisories. Builds the two tools first,
# which takes a quarter of an hour; needs the network for the advisories.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source deploy/install.sh

install_build_tools
ensure_rust
cargo install --locked cargo-deny --version 0.20.2
cargo install --locked cargo-audit --version 0.22.2
cargo deny --config .deny.toml check
cargo audit
