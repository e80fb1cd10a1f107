# The Windows compiler, to be sourced after install.sh: Debian's own, with a standard library built
# from source, since Debian packages no binary one for this target. The library is built once, in a
# directory outside the clone.

readonly target=x86_64-pc-windows-gnu
readonly cache=${XDG_CACHE_HOME:-$HOME/.cache}/pitwire/windows
# Absolute, because rustup's programs of the same names come first on the PATH.
readonly debian=/usr/bin

prepare_windows() {
    install_compiler
    mkdir -p "$cache"
    # Of two concurrent runs only one builds, and neither replaces the other's programs.
    exec 9>"$cache/lock"
    flock --wait 1800 9 || fail "another run has held $cache/lock for half an hour: end it, or wait"
    sysroot=$cache/sysroot-$("$debian/rustc" -V | sha256sum | cut -c1-12)
    [[ -e $sysroot ]] || build_standard_library
}

windows_cargo() {
    printf '\n==> cargo %s, for Windows\n' "$*"
    local command=$1
    shift
    CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUSTFLAGS="--sysroot $sysroot" \
        debian_cargo "$command" --target-dir "$cache/target" --target "$target" "$@"
}

# Builds an installer from a folder with the program's files. wixl finds only files below the folder
# of its input.
build_msi() {
    local folder=$1 version=$2 msi=$3
    cp deploy/pitwire.wxs "$folder/"
    # The entry in the Start menu opens it in the browser.
    printf '[InternetShortcut]\r\nURL=http://127.0.0.1:9184/\r\n' >"$folder/pitwire.url"
    wixl --arch x64 --define "Version=$version" --output "$msi" "$folder/pitwire.wxs"
    rm "$folder/pitwire.wxs" "$folder/pitwire.url"
}

install_compiler() {
    has_compiler && return
    apt_install gcc-mingw-w64-x86-64 rustc-web cargo-web rust-web-src rust-web-clippy
    has_compiler || fail "apt's rustc-web must be Rust $(oldest_rust) or newer; \
this is $("$debian/rustc" -V)"
}

has_compiler() {
    has x86_64-w64-mingw32-gcc || return
    [[ -x $debian/cargo && -x $debian/rustc && -x $debian/cargo-clippy ]] || return
    [[ -e $("$debian/rustc" --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock ]] || return
    # With old package lists, apt installs an old compiler.
    is_new_enough "$debian/rustc"
}

# Debian ships no standard library for Windows, only its source.
build_standard_library() {
    headline "building Rust's standard library for Windows into $sysroot"
    local work host
    work=$(mktemp -d "$cache/building.XXXXXX")
    host=$("$debian/rustc" -vV | sed -n 's/^host: //p')
    mkdir "$work/src"
    printf '[package]\nname = "nothing"\nversion = "0.0.0"\nedition = "2024"\n' >"$work/Cargo.toml"
    echo 'fn main() {}' >"$work/src/main.rs"
    # Only a nightly compiler builds it, or a stable one with RUSTC_BOOTSTRAP=1.
    (
        cd "$work" || exit
        RUSTC_BOOTSTRAP=1 debian_cargo build --release --target-dir target --target "$target" \
            -Z build-std=std,panic_abort,panic_unwind,test
    )
    mkdir -p "$work/sysroot/lib/rustlib/$target/lib"
    cp "$work/target/$target"/release/deps/lib*.rlib "$work/sysroot/lib/rustlib/$target/lib/"
    ln -s "$("$debian/rustc" --print sysroot)/lib/rustlib/$host" "$work/sysroot/lib/rustlib/$host"
    mv "$work/sysroot" "$sysroot"
    rm -rf "$work"
}

# These variables would override the flags for the target.
debian_cargo() {
    env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS PATH="$debian:$PATH" RUSTC="$debian/rustc" \
        "$debian/cargo" "$@"
}
