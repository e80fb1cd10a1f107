#!/usr/bin/env bash
# Enables each fault of tests/planted.txt and checks that the tests find it. See tests/README.md.
#
#   tests/planted.sh            checks all faults
#   tests/planted.sh NAME...    checks these
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The time limit of one test run, with or without a fault.
LIMIT_SECONDS=300
TABLE=tests/planted.txt

main() {
    build
    # shellcheck disable=SC2046
    are_good $(tests_of "$@" | tr ' ' '=' | sort -u)
    local escaped=0 name how found seconds
    printf '%-34s| %-80s| s\n' fault 'caught by'
    while read -r name how; do
        seconds=$SECONDS
        if found=$(first_failure "$name" "$how"); then
            printf '%-34s| %-80s| %d\n' "$name" "$found" $((SECONDS - seconds))
        else
            printf '%-34s| %-80s| %d\n' "$name" "ESCAPED from $how" $((SECONDS - seconds))
            escaped=$((escaped + 1))
        fi
    done < <(faults "$@")
    every_fault_is_listed
    printf '%d escaped, after %d s\n' "$escaped" "$SECONDS"
    [ "$escaped" = 0 ]
}

# Prints the names of the requested faults (default: all) and the test that must find each.
faults() {
    local wanted=" $* "
    sed -E '/^(#|$)/d; s/   +/\t/g' "$TABLE" | while IFS=$'\t' read -r name how _; do
        if [ $# = 0 ] || [[ $wanted == *" $name "* ]]; then
            printf '%s %s\n' "$name" "$how"
        fi
    done
}

tests_of() {
    faults "$@" | cut -d' ' -f2-
}

# One build contains all faults: the variable PLANTED enables one.
build() {
    local target=${CARGO_TARGET_DIR:-target}/planted built
    built=$(RUSTFLAGS='--cfg planted' CARGO_TARGET_DIR=$target CARGO_INCREMENTAL=0 \
        cargo test --locked --no-run --lib --test it --message-format=short 2>&1 |
        tee /dev/stderr)
    LIB=$(sed -n 's/.*unittests src\/lib\.rs (\(.*\))/\1/p' <<<"$built")
    IT=$(sed -n 's/.*tests\/it\/main\.rs (\(.*\))/\1/p' <<<"$built")
}

# Runs the tests that match a filter; a leading `lib` selects the library's unit tests.
run() {
    local binary=$IT filter=$1
    case $filter in lib[\ =]*) binary=$LIB filter=${filter#lib?} ;; esac
    RUST_BACKTRACE=0 PROPTEST_DISABLE_FAILURE_PERSISTENCE=1 PROPTEST_MAX_SHRINK_ITERS=0 \
        timeout "$LIMIT_SECONDS" \
        "$binary" "$filter" 2>&1
}

# Without a fault all tests must pass; otherwise a failure would prove nothing.
are_good() {
    local how
    for how in "$@"; do
        if ! PLANTED='' run "$how" >/dev/null; then
            echo "without any fault fails: $how" >&2
            exit 1
        fi
    done
}

# Prints the first test that fails with this fault; returns 1 if none does.
first_failure() {
    local output status=0
    output=$(PLANTED=$1 run "$2") || status=$?
    case $status in
        0) return 1 ;;
        124) echo "no end after $LIMIT_SECONDS s: $2" ;;
        *) sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' <<<"$output" | head -n 1 ;;
    esac
}

# Checks that the table and the source contain the same faults.
every_fault_is_listed() {
    diff <(faults | cut -d' ' -f1 | sort) \
        <(grep -rhoE 'planted\("[a-z_]+"\)' src | cut -d'"' -f2 | sort -u)
}

main "$@"
