#!/usr/bin/env bash
# Runs every check of the project. See tests/README.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source deploy/install.sh

step() {
    local began=$SECONDS
    printf '\n==> %s\n' "$*"
    "$@"
    printf -- '--- %d s: %s\n' "$((SECONDS - began))" "$*"
}

main() {
    ensure_rust rust-web-clippy rustfmt-web
    PITWIRE_PEERS=$(tests/setup.sh)
    printf -- '--- %d s: tests/setup.sh\n' "$SECONDS"
    export PITWIRE_PEERS
    install_rust_components
    step cargo fmt --check
    step cargo clippy --locked --all-targets -- -D warnings
    step env RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
    check_dependencies
    step tests/mutations.sh --apply
    step cargo test --locked
    # Cargo.toml has two binaries; this runs the default one.
    step cargo run --locked --quiet -- --version
    step tests/windows.sh
    step tests/packages.sh
    # Uses the release build that the packages have just made.
    step tests/budget.sh
    step tests/workflows.sh --lint
    printf '\n==> all good after %d s\n' "$SECONDS"
}

# rustup's minimal profile includes neither component.
install_rust_components() {
    cargo fmt --version >/dev/null 2>&1 || step rustup component add rustfmt
    cargo clippy --version >/dev/null 2>&1 || step rustup component add clippy
}

# Runs only if cargo-deny is installed: building it takes longer than everything else. Advisories
# are not checked, since a new one must not fail an old commit.
check_dependencies() {
    if cargo deny --version >/dev/null 2>&1; then
        step cargo deny --config .deny.toml check licenses bans sources
    fi
}

main
