#!/usr/bin/env bash
# Builds the packages into target/packages, or into the given folder: a .deb and a tarball for
# Linux, an .msi and a zip for Windows, all x86-64. Made for Debian 12 and its relatives.
#
# Build dependencies come from apt, as root or through sudo. If anything cannot be installed or
# built, the script fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source deploy/install.sh
source deploy/windows.sh

readonly out=$(realpath --canonicalize-missing "${1:-target/packages}")

main() {
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
    mkdir -p "$out"
    rm -f "$out"/pitwire[-_]*
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    package_linux
    prepare_windows
    package_windows
    headline "in $out"
    ls -l "$out"
}

package_linux() {
    headline "cargo build --release"
    cargo build --locked --release --bin pitwire
    local programs
    programs=$(realpath "${CARGO_TARGET_DIR:-target}/release")
    local folder=pitwire-$version-x86_64-linux
    gather "$work/$folder" "$programs/pitwire" deploy/pitwire.service
    "$programs/pitwire" man "$work/$folder/man"
    complete_commands "$programs/pitwire" "$work/$folder"/completions/{pitwire.bash,_pitwire,pitwire.fish}
    tar --create --gzip --owner 0 --group 0 --file "$out/$folder.tar.gz" --directory "$work" "$folder"
    has dpkg-shlibdeps || apt_install dpkg-dev
    package_deb "$programs/pitwire"
}

package_deb() {
    local program=$1 root=$work/deb
    install -D --mode 755 "$program" "$root/usr/bin/pitwire"
    install -D --mode 644 README.md LICENSE --target-directory "$root/usr/share/doc/pitwire"
    # The README links to these pages.
    mkdir "$root/usr/share/doc/pitwire/deploy"
    cp --recursive deploy/docs "$root/usr/share/doc/pitwire/deploy/"
    install -D --mode 644 deploy/pitwire.toml deploy/hub.toml --target-directory "$root/usr/share/doc/pitwire/examples"
    install -D --mode 644 <(sed 's|%h/.local/bin/|/usr/bin/|' deploy/pitwire.service) \
        "$root/usr/lib/systemd/user/pitwire.service"
    "$program" man "$root/usr/share/man/man1"
    gzip -9n "$root"/usr/share/man/man1/*
    complete_commands "$program" "$root/usr/share/bash-completion/completions/pitwire" \
        "$root/usr/share/zsh/vendor-completions/_pitwire" \
        "$root/usr/share/fish/vendor_completions.d/pitwire.fish"
    mkdir "$root/DEBIAN"
    cat >"$root/DEBIAN/control" <<END
Package: pitwire
Version: $version
Architecture: amd64
Maintainer: pitwire contributors <pitwire@localhost>
Section: games
Priority: optional
Depends: $(libraries "$program")
Description: store-and-forward telemetry agent for sim racing
 Writes a race sim's telemetry and the car's setup to a bounded queue on disk and
 brings them to the team's dashboard, in order, through outages and crashes.
 .
 Start it at log-on with: pitwire autostart enable
END
    dpkg-deb --root-owner-group --build "$root" "$out/pitwire_${version}_amd64.deb"
}

# Writes the shell completions of a program to three files: for bash, zsh and fish.
complete_commands() {
    local program=$1 shell
    shift
    for shell in bash zsh fish; do
        install -D --mode 644 <("$program" completions "$shell") "$1"
        shift
    done
}

# The packages that a program depends on, with the versions that it was built with.
libraries() {
    local source=$work/source
    mkdir -p "$source/debian"
    touch "$source/debian/control"
    (cd "$source" && dpkg-shlibdeps -O "$1") | sed 's/^shlibs:Depends=//'
}

package_windows() {
    has wixl || apt_install wixl
    windows_cargo build --locked --release
    local programs=$cache/target/$target/release
    local folder=pitwire-$version-x86_64-windows
    gather "$work/$folder" "$programs/pitwire.exe" "$programs/pitwirew.exe"
    (cd "$work" && python3 -m zipfile --create "$folder.zip" "$folder")
    mv "$work/$folder.zip" "$out/"
    # wixl finds only files below the folder of its input.
    cp deploy/pitwire.wxs "$work/$folder/"
    wixl --arch x64 --define "Version=$version" --output "$out/$folder.msi" "$work/$folder/pitwire.wxs"
}

# Makes a folder with the given files and those common to all packages.
gather() {
    local folder=$1
    mkdir --parents "$folder/deploy"
    cp "${@:2}" README.md LICENSE deploy/pitwire.toml deploy/hub.toml "$folder/"
    cp --recursive deploy/docs "$folder/deploy/"
}

main
