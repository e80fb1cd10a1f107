#!/usr/bin/env bash
# Builds the packages and installs each: the .deb on this machine, as root or through sudo, and
# removes it again; the tarball into a folder whose name contains a space and an accent; the .msi
# and the zip under Wine. See tests/README.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source deploy/install.sh
source deploy/windows.sh
source tests/wine.sh

main() {
    out=$PWD/target/packages
    deploy/package.sh "$out"
    work=$(mktemp -d)
    trap 'stop_wine; rm -rf "$work"' EXIT
    check_deb
    check_tarball
    prepare_windows
    prepare_wine
    # Use a copy, so that files from a failed run do not affect the next one.
    cp --archive "$prefix" "$work/wine"
    prefix=$work/wine
    check_zip
    check_msi
    headline "the packages are good"
}

check_deb() {
    headline "the .deb"
    [[ ! -e /usr/bin/pitwire ]] || fail "pitwire is installed here: take it off to test its package"
    has systemd-analyze || apt_install systemd
    # Extracted, not installed: a system may be configured to exclude manuals.
    dpkg-deb --extract "$out"/pitwire_*.deb "$work/deb"
    local share=$work/deb/usr/share
    check_manual "$share"/man/man1/pitwire{,-run,-doctor,-queue-export}.1.gz
    check_completions "$share/bash-completion/completions/pitwire" \
        "$share/zsh/vendor-completions/_pitwire" "$share/fish/vendor_completions.d/pitwire.fish"
    apt_get install -y -qq --no-install-recommends "$out"/pitwire_*.deb
    demo /usr/bin/pitwire
    local unit=/usr/lib/systemd/user/pitwire.service said
    # It exits with 0 even if it prints warnings.
    said=$(XDG_RUNTIME_DIR=$work systemd-analyze verify --user --man=no "$unit" 2>&1)
    [[ -z $said ]] || fail "systemd-analyze: $said"
    apt_get remove -y -qq pitwire
    [[ ! -e /usr/bin/pitwire && ! -e $unit ]] || fail "the .deb leaves its files behind"
}

check_tarball() {
    headline "the tarball"
    local folder="$work/Frédéric G"
    mkdir "$folder"
    tar --extract --gzip --file "$out"/pitwire-*-linux.tar.gz --strip-components 1 --directory "$folder"
    demo "$folder/pitwire"
    check_manual "$folder"/man/pitwire{,-run,-doctor,-queue-export}.1
    check_completions "$folder"/completions/{pitwire.bash,_pitwire,pitwire.fish}
}

# Checks that each page exists and that man prints no warnings for it.
check_manual() {
    has man || apt_install man-db
    local page said
    for page in "$@"; do
        said=$(MANWIDTH=80 LC_ALL=C.UTF-8 man --warnings --local-file -Tutf8 --ditroff "$page" 2>&1 >/dev/null)
        [[ -z $said ]] || fail "man: $said"
    done
}

# Checks that each file exists and that bash loads its own.
check_completions() {
    local file said
    for file in "$@"; do
        [[ -s $file ]] || fail "there is no $file"
    done
    bash -n "$1"
    said=$(bash --norc -c 'source "$1" && complete -p pitwire' - "$1")
    [[ $said == complete*pitwire ]] || fail "bash completes nothing: $said"
}

check_zip() {
    headline "the zip"
    local folder="$work/Zoë's PC"
    python3 -m zipfile --extract "$out"/pitwire-*-windows.zip "$folder"
    demo_under_wine "$folder"/pitwire-*-windows/pitwire.exe
}

check_msi() {
    headline "the .msi"
    local msi=$work/pitwire.msi installed
    installed=$prefix/drive_c/users/$(id -un)/AppData/Local/Programs/pitwire
    cp "$out"/pitwire-*-windows.msi "$msi"
    under_wine 120 wine msiexec /i "Z:${msi//\//\\}" /qn
    [[ -e $installed/pitwirew.exe ]] || fail "the .msi puts nothing into $installed"
    demo_under_wine "$installed/pitwire.exe"
    under_wine 60 wine "$installed/pitwire.exe" autostart enable
    starts_at_log_on || fail "the program does not start at log-on"
    under_wine 120 wine msiexec /x "Z:${msi//\//\\}" /qn
    [[ ! -e $installed ]] || fail "the .msi leaves $installed behind"
    ! starts_at_log_on || fail "what is gone is still started at log-on"
}

# Otherwise Wine's server would keep writing into the folder.
stop_wine() {
    [[ -z ${prefix:-} ]] || in_wine wineserver --kill || true
}

starts_at_log_on() {
    in_wine timeout 60 wine reg query 'HKCU\Software\Microsoft\Windows\CurrentVersion\Run' /v pitwire
}

demo_under_wine() {
    under_wine 120 wine "$1" demo --seconds 8 --outage 2:3
}

# Runs every part of the program, with an outage.
demo() {
    "$1" demo --seconds 8 --outage 2:3
}

main
