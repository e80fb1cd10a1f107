#!/usr/bin/env bash
# Builds the packages: a .deb and a tarball for this processor, an .msi and a zip for Windows on
# x86-64. Made for Debian 12 and its relatives.
#
#   deploy/package.sh [--linux | --windows] [FOLDER]     default: both, into target/packages
#
# Build dependencies come from apt, as root or through sudo. If anything cannot be installed or
# built, the script fails.
#
# With WINDOWS_CERTIFICATE (a certificate and its key, PKCS #12 in base64) and
# WINDOWS_CERTIFICATE_PASSWORD in the environment, the programs and the installer for Windows are
# signed; WINDOWS_TIMESTAMP_URL names a time stamp server, so that the signatures outlive the
# certificate.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source deploy/install.sh
source deploy/windows.sh

main() {
    local system=both
    case ${1:-} in
        --linux | --windows)
            system=${1#--}
            shift
            ;;
    esac
    out=$(realpath --canonicalize-missing "${1:-target/packages}")
    version=$(package_version)
    BUILD_COMMIT=$(source_commit)
    SOURCE_DATE_EPOCH=$(source_time)
    export BUILD_COMMIT SOURCE_DATE_EPOCH
    mkdir -p "$out"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    if [[ $system != windows ]]; then
        rm -f "$out"/pitwire_*.deb "$out"/pitwire-*-linux.tar.gz
        package_linux
    fi
    if [[ $system != linux ]]; then
        rm -f "$out"/pitwire-*-windows.{msi,zip}
        prepare_windows
        package_windows
    fi
    headline "in $out"
    ls -l "$out"
}

package_linux() {
    install_build_tools
    ensure_rust
    build_packaged
    # A panic message of a stripped program still names the file and the line.
    local programs=$work/linux
    mkdir "$programs"
    strip -o "$programs/pitwire" "${CARGO_TARGET_DIR:-target}/release/pitwire"
    local folder
    folder=pitwire-$version-$(uname -m)-linux
    gather "$work/$folder" "$programs/pitwire" deploy/pitwire.service
    "$programs/pitwire" man "$work/$folder/man"
    complete_commands "$programs/pitwire" "$work/$folder"/completions/{pitwire.bash,_pitwire,pitwire.fish}
    tar --create --sort name --mtime "@$SOURCE_DATE_EPOCH" --owner 0 --group 0 --numeric-owner \
        --directory "$work" "$folder" | gzip --no-name >"$out/$folder.tar.gz"
    has dpkg-shlibdeps || apt_install dpkg-dev
    package_deb "$programs/pitwire"
}

package_deb() {
    local program=$1 root=$work/deb architecture
    architecture=$(dpkg --print-architecture)
    install -D --mode 755 "$program" "$root/usr/bin/pitwire"
    local doc=$root/usr/share/doc/pitwire
    install -D --mode 644 README.md --target-directory "$doc"
    install -D --mode 644 LICENSE "$doc/copyright"
    # The README links to these pages.
    mkdir "$doc/deploy"
    cp --recursive deploy/docs "$doc/deploy/"
    install -D --mode 644 deploy/pitwire.toml deploy/hub.toml --target-directory "$doc/examples"
    install -D --mode 644 <(sed 's|%h/.local/bin/|/usr/bin/|' deploy/pitwire.service) \
        "$root/usr/lib/systemd/user/pitwire.service"
    "$program" man "$root/usr/share/man/man1"
    complete_commands "$program" "$root/usr/share/bash-completion/completions/pitwire" \
        "$root/usr/share/zsh/vendor-completions/_pitwire" \
        "$root/usr/share/fish/vendor_completions.d/pitwire.fish"
    debian_changelog >"$doc/changelog"
    gzip -9n "$root"/usr/share/man/man1/* "$doc/changelog"
    mkdir "$root/DEBIAN"
    local depends
    # Not in the text below, where a failure would be ignored.
    depends=$(libraries "$program")
    cat >"$root/DEBIAN/control" <<END
Package: pitwire
Version: $version
Architecture: $architecture
Maintainer: $MAINTAINER
Section: net
Priority: optional
Installed-Size: $(du --summarize --block-size 1024 "$root/usr" | cut -f1)
Depends: $depends
Description: store-and-forward telemetry agent for sim racing
 Writes a race sim's telemetry and the car's setup to a bounded queue on disk
 and sends them to the team's dashboard in order, through outages and crashes.
 .
 Start it at log-on with: pitwire autostart enable
END
    # These modes must not depend on the umask of the build.
    chmod -R u=rwX,go=rX "$root"
    dpkg-deb --root-owner-group --build "$root" "$out/pitwire_${version}_$architecture.deb"
}

readonly MAINTAINER='pitwire contributors <contributors@pitwire.invalid>'

debian_changelog() {
    cat <<END
pitwire ($version) unstable; urgency=medium

  * Release $version. The changes are in CHANGELOG.md of the source.

 -- $MAINTAINER  $(date --utc --rfc-email --date "@$SOURCE_DATE_EPOCH")
END
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
    windows_cargo build --locked --release --features windowless
    local programs=$cache/target/$target/release
    local folder=pitwire-$version-x86_64-windows
    gather "$work/$folder" "$programs/pitwire.exe" "$programs/pitwirew.exe"
    x86_64-w64-mingw32-strip "$work/$folder"/*.exe
    sign "$work/$folder/pitwire.exe"
    sign "$work/$folder/pitwirew.exe"
    (cd "$work" && python3 -m zipfile --create "$folder.zip" "$folder")
    mv "$work/$folder.zip" "$out/"
    build_msi "$work/$folder" "$version" "$out/$folder.msi"
    sign "$out/$folder.msi"
}

# Signs a Windows program or installer in place, if there is a certificate.
sign() {
    [[ -n ${WINDOWS_CERTIFICATE:-} ]] || return 0
    has osslsigncode || apt_install osslsigncode
    local stamp=()
    [[ -z ${WINDOWS_TIMESTAMP_URL:-} ]] || stamp=(-ts "$WINDOWS_TIMESTAMP_URL")
    # Files that only this user can read, because other users can see a command line.
    (umask 077 && base64 --decode <<<"$WINDOWS_CERTIFICATE" >"$work/certificate" &&
        printf %s "${WINDOWS_CERTIFICATE_PASSWORD:-}" >"$work/password")
    osslsigncode sign -pkcs12 "$work/certificate" -readpass "$work/password" -h sha256 -n pitwire \
        "${stamp[@]}" -in "$1" -out "$1.signed"
    rm "$work/certificate" "$work/password"
    mv "$1.signed" "$1"
}

# Makes a folder with the given files and the files common to all packages.
gather() {
    local folder=$1
    mkdir --parents "$folder/deploy"
    cp "${@:2}" README.md LICENSE deploy/pitwire.toml deploy/hub.toml "$folder/"
    cp --recursive deploy/docs "$folder/deploy/"
}

main "$@"
