#!/usr/bin/env bash
# Lints the whole crate for Windows, builds pitwire.exe and tests it under Wine. See
# tests/README.md.
#
# The compiler, its standard library's source and Wine come from apt (Debian 12 or a relative), as
# root or through sudo. The standard library and Wine's folder are built once, in a directory
# outside the clone. If anything cannot be installed or built, the script fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source deploy/install.sh
source deploy/windows.sh
source tests/wine.sh

main() {
    prepare_windows
    windows_cargo clippy --locked --all-targets -- -D warnings
    windows_cargo build --locked
    local library
    library=$(test_program --lib)
    # The other tests and the servers are Linux programs; only the agent and the game run on
    # Windows.
    PITWIRE_WINDOWS_TESTS=$(test_program --test it)
    export PITWIRE_WINDOWS_TESTS
    export PITWIRE_WINDOWS_BINARY=$cache/target/$target/debug/pitwire.exe
    prepare_wine
    test_under_wine 300 wine "$library"
    test_under_wine 300 cargo test --locked --test it process::crash::stored_entries_reach
    test_under_wine 200 cargo test --locked --test it -- --ignored lmu::wine
}

# Builds tests and prints the path of the executable.
test_program() {
    windows_cargo test --locked --no-run "$@" 2>&1 | tee --append /dev/stderr |
        sed -n 's/^ *Executable .*(\(.*\.exe\))$/\1/p'
}

# Requires at least one passed test: a filter without a match would succeed as well.
test_under_wine() {
    under_wine "$@"
    grep -q '^test result: ok. [1-9]' "$cache/wine.log" || fail "no test ran under Wine"
}

main "$@"
