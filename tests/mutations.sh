#!/usr/bin/env bash
# Enables each seeded mutation of tests/mutations/table.txt and checks that the tests find it.
#
#   tests/mutations.sh            checks all mutations
#   tests/mutations.sh NAME...    checks these
#   tests/mutations.sh --apply    only checks that the patches apply and match the table
#
# The mutations are patches for src/, one a file. They are applied to a copy of the source, which is
# built once; the environment variable MUTATION enables one of them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The time limit of one test run, with or without a mutation.
LIMIT_SECONDS=300
MUTATIONS=tests/mutations
TABLE=$MUTATIONS/table.txt
COPY=${CARGO_TARGET_DIR:-target}/mutations

main() {
    copy_source
    apply_patches
    every_mutation_is_listed
    if [ "${1:-}" = --apply ]; then
        return
    fi
    build
    # shellcheck disable=SC2046
    are_good $(tests_of "$@" | tr ' ' '=' | sort -u)
    local escaped=0 name how found seconds
    printf '%-34s| %-80s| s\n' mutation 'caught by'
    while read -r name how; do
        seconds=$SECONDS
        if found=$(first_failure "$name" "$how"); then
            printf '%-34s| %-80s| %d\n' "$name" "$found" $((SECONDS - seconds))
        else
            printf '%-34s| %-80s| %d\n' "$name" "ESCAPED from $how" $((SECONDS - seconds))
            escaped=$((escaped + 1))
        fi
    done < <(mutations "$@")
    printf '%d escaped, after %d s\n' "$escaped" "$SECONDS"
    [ "$escaped" = 0 ]
}

# Prints the names of the requested mutations (default: all) and the test that must find each.
mutations() {
    local wanted=" $* "
    sed -E '/^(#|$)/d; s/   +/\t/g' "$TABLE" | while IFS=$'\t' read -r name how _; do
        if [ $# = 0 ] || [[ $wanted == *" $name "* ]]; then
            printf '%s %s\n' "$name" "$how"
        fi
    done
}

tests_of() {
    mutations "$@" | cut -d' ' -f2-
}

# Copies the source without what git ignores; cargo then rebuilds only what has changed since the
# last run.
copy_source() {
    rm -rf "$COPY/source.new"
    mkdir -p "$COPY/source.new"
    git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$COPY/source.new" -p
}

apply_patches() {
    local patch
    for patch in "$MUTATIONS"/*.patch; do
        if ! patch --quiet --fuzz=0 -p1 -d "$COPY/source.new" <"$patch"; then
            echo "$patch does not apply: adapt it to the source" >&2
            exit 1
        fi
    done
    cp "$MUTATIONS/mutations.rs" "$COPY/source.new/src/"
}

# Checks that the table and the patches contain the same mutations.
every_mutation_is_listed() {
    diff <(mutations | cut -d' ' -f1 | sort) \
        <(grep -rhoE 'mutation\("[a-z_]+"\)' "$COPY/source.new/src" | cut -d'"' -f2 | sort -u)
}

build() {
    local built
    rm -rf "$COPY/source"
    mv "$COPY/source.new" "$COPY/source"
    cd "$COPY/source"
    built=$(CARGO_TARGET_DIR=../target CARGO_INCREMENTAL=0 \
        cargo test --locked --no-run --lib --test it --message-format=short 2>&1 |
        tee --append /dev/stderr)
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

# Without a mutation all tests must pass; otherwise a failure would prove nothing.
are_good() {
    local how
    for how in "$@"; do
        if ! MUTATION='' run "$how" >/dev/null; then
            echo "without any mutation fails: $how" >&2
            exit 1
        fi
    done
}

# Prints the first test that fails with this mutation; returns 1 if none does.
first_failure() {
    local output status=0
    output=$(MUTATION=$1 run "$2") || status=$?
    case $status in
        0) return 1 ;;
        124) echo "no end after $LIMIT_SECONDS s: $2" ;;
        *) sed -n '/^test .* FAILED$/{s/^test \(.*\) \.\.\. FAILED$/\1/p;q}' <<<"$output" ;;
    esac
}

main "$@"
