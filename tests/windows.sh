#!/usr/bin/env bash
# Checks the whole crate for Windows, builds pitwire.exe and tests it under Wine. See
# tests/README.md.
#
# The compiler, the source of its standard library and Wine come from apt (Debian 12 or a relative),
# as root or through sudo. The standard library is built once and Wine's folder is made once, in a
# directory outside the clone. Anything that cannot be installed or built ends the script.
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
    # The other tests are those of Linux, and so are the servers: agent and game are for Windows.
    PITWIRE_WINDOWS_TESTS=$(test_program --test it)
    export PITWIRE_WINDOWS_TESTS
    export PITWIRE_WINDOWS_BINARY=$cache/target/$target/debug/pitwire.exe
    prepare_wine
    test_under_wine 300 wine "$library"
    test_under_wine 300 cargo test --locked --test it process::crash::what_was_reported_stored_reaches
    test_under_wine 200 cargo test --locked --test it -- --ignored lmu::wine
}

# Builds tests; prints where.
test_program() {
    windows_cargo test --locked --no-run "$@" 2>&1 | tee /dev/stderr |
        sed -n 's/^ *Executable .*(\(.*\.exe\))$/\1/p'
}

# A filter that fits nothing would be a success.
test_under_wine() {
    under_wine "$@"
    grep -q '^test result: ok. [1-9]' "$cache/wine.log" || fail "no test ran under Wine"
}

main "$@"
