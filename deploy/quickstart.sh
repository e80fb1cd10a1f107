#!/usr/bin/env bash
# Installs the build dependencies of pitwire on Debian 12 or a relative, builds it and starts the
# demo. Packages come from apt, as root or through sudo; Rust comes from rustup, or from Debian if
# rustup's server cannot be reached. The program is then target/release/pitwire; Ctrl-C ends the
# demo.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source deploy/install.sh

install_build_tools
ensure_rust
headline "building pitwire (several minutes the first time)"
build_release
exec "${CARGO_TARGET_DIR:-target}/release/pitwire" demo "$@"
