#!/usr/bin/env bash
# Checks that the crate compiles for the targets that it is built for elsewhere: Windows with MSVC,
# Linux on ARM, macOS. The compiler checks all Rust code but links nothing, so C code need not be
# compiled for them. Takes a quarter of an hour; the compiler is the one of tests/windows.sh.
#
#   tests/targets.sh [TARGET...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source deploy/install.sh
source deploy/windows.sh

main() {
    local targets=("$@") one
    ((${#targets[@]})) ||
        targets=(x86_64-pc-windows-msvc aarch64-unknown-linux-gnu aarch64-apple-darwin)
    install_compiler
    install_build_tools
    tools=$(mktemp -d)
    trap 'rm -rf "$tools"' EXIT
    make_tools
    for one in "${targets[@]}"; do
        check_target "$one"
    done
}

check_target() {
    headline "cargo check for $1"
    local name=${1//-/_}
    # Only a nightly compiler builds the standard library, or a stable one with RUSTC_BOOTSTRAP=1.
    env RUSTC_BOOTSTRAP=1 "CC_$name=$tools/cc" "AR_$name=$tools/ar" "RANLIB_$name=true" \
        CARGO_INCREMENTAL=0 PATH="$debian:$PATH" RUSTC="$debian/rustc" RUSTFLAGS="-D warnings" \
        "$debian/cargo" check --locked --lib --bins --features vendored-openssl,windowless --target "$1" \
        --target-dir "${CARGO_TARGET_DIR:-target}/targets" -Z build-std=std,panic_abort,panic_unwind
}

# Fake a C compiler and an archiver, which write empty files. The preprocessor is real, because
# build scripts read version numbers with it.
make_tools() {
    cat >"$tools/cc" <<'END'
#!/usr/bin/env bash
for word in "$@"; do
    [[ $word != -E ]] || exec cc "$@"
done
while (($#)); do
    case $1 in
        -o) : >"$2" ;;
        -o?* | -Fo?*) : >"${1#-?}" ;;
    esac
    shift
done
END
    cat >"$tools/ar" <<'END'
#!/usr/bin/env bash
for word in "$@"; do
    case $word in
        *.a | *.lib) : >"${word#-out:}" ;;
    esac
done
END
    chmod +x "$tools"/*
}

main "$@"
