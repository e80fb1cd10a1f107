#!/usr/bin/env bash
# Builds the packages and checks each: the .deb with lintian and on a fresh Debian 12, the tarball
# in a folder whose name contains a space and an accent, the .msi and the zip under Wine. Leaves an
# .msi of an older version in target/older, for tests/installed.py on Windows. See tests/README.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source deploy/install.sh
source deploy/windows.sh
source tests/wine.sh

main() {
    # For the tests only: the installed program refuses it as an unknown setting.
    unset PITWIRE_PEERS
    out=$PWD/target/packages
    deploy/package.sh "$out"
    work=$(mktemp -d)
    trap 'stop_wine; rm -rf "$work"' EXIT
    check_binstall
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
    has systemd-analyze || apt_install systemd
    has lintian || apt_install lintian
    local package
    package=$(echo "$out"/pitwire_*.deb)
    lintian --fail-on error "$package"
    # Extracted, not installed: a system may be configured to exclude manuals.
    dpkg-deb --extract "$package" "$work/deb"
    local share=$work/deb/usr/share
    check_manual "$share"/man/man1/pitwire{,-run,-doctor,-queue-export}.1.gz
    check_completions "$share/bash-completion/completions/pitwire" \
        "$share/zsh/vendor-completions/_pitwire" "$share/fish/vendor_completions.d/pitwire.fish"
    # The unit names the program where it will be installed.
    local unit=$work/pitwire.service said
    sed "s|/usr/bin/|$work/deb&|" "$work/deb/usr/lib/systemd/user/pitwire.service" >"$unit"
    # It exits with 0 even if it prints warnings.
    said=$(XDG_RUNTIME_DIR=$work systemd-analyze verify --user --man=no "$unit" 2>&1)
    [[ -z $said ]] || fail "systemd-analyze: $said"
    as_root tests/deb.sh "$package" bookworm
}

check_tarball() {
    headline "the tarball"
    local folder="$work/Frédéric G"
    mkdir "$folder"
    tar --extract --gzip --file "$out"/pitwire-*-linux.tar.gz --strip-components 1 --directory "$folder"
    demo "$folder/pitwire"
    check_version "$("$folder/pitwire" --version)"
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
    python3 -m zipfile --extract "$out"/pitwire-*-windows.zip "$work/zip"
    demo_under_wine "$folder"/pitwire-*-windows/pitwire.exe
}

# Installs an older version, uses it, installs this one over it, and removes it.
check_msi() {
    headline "the .msi"
    check_tables "$out"/pitwire-*-windows.msi
    local user
    user=$prefix/drive_c/users/$(id -un)
    local installed=$user/AppData/Local/Programs/pitwire data=$user/AppData/Local/pitwire
    local menu="$user/AppData/Roaming/Microsoft/Windows/Start Menu/Programs/pitwire.url"
    # Without an earlier release, the same files get an older version number.
    mkdir -p target/older
    build_msi "$(echo "$work/zip"/pitwire-*-windows)" "$OLDER" target/older/pitwire-older.msi
    cp target/older/pitwire-older.msi "$work/older.msi"
    cp "$out"/pitwire-*-windows.msi "$work/newer.msi"
    msiexec /i "$work/older.msi"
    for file in "$installed"/{pitwire.exe,pitwirew.exe,pitwire.toml,hub.toml} "$menu"; do
        [[ -e $file ]] || fail "the .msi does not install $file"
    done
    grep -q 'URL=http://127.0.0.1:9184/' "$menu" || fail "the Start menu leads elsewhere"
    demo_under_wine "$installed/pitwire.exe"
    mkdir -p "$data"
    printf 'server.url = "http://127.0.0.1:9"\n' >"$data/pitwire.toml"
    tests/export.sh 20 >"$work/frames.jsonl"
    under_wine 60 wine "$installed/pitwire.exe" queue import "Z:${work//\//\\}\frames.jsonl" --apply
    under_wine 60 wine "$installed/pitwire.exe" autostart enable
    starts_at_log_on || fail "the program does not start at log-on"

    msiexec /i "$work/newer.msi"
    [[ $(products) == "$(product_code "$work/newer.msi")" ]] ||
        fail "installed after the upgrade: $(products)"
    # The start at log-on ends with a removal, but not with an upgrade, during which Windows sets this
    # property. Wine 8.0 does not; tests/installed.py checks it on Windows.
    grep -qP '^NoAutostart\tREMOVE="ALL" AND NOT UPGRADINGPRODUCTCODE\t3490' \
        <<<"$(msiinfo export "$work/newer.msi" InstallExecuteSequence)" ||
        fail "an upgrade ends the start at log-on"
    # Only an installation that a person attends ends with the questions of `pitwire setup`.
    grep -qP '^AskSettings\tNOT Installed AND NOT WIX_UPGRADE_DETECTED AND UILevel > 2\t6650' \
        <<<"$(msiinfo export "$work/newer.msi" InstallExecuteSequence)" ||
        fail "the .msi does not offer the setup"
    under_wine 60 wine "$installed/pitwire.exe" autostart enable
    [[ $(queued "$installed/pitwire.exe") == 20 ]] || fail "the upgrade changed the queue"
    under_wine 60 wine "$installed/pitwire.exe" check
    under_wine 60 wine "$installed/pitwire.exe" --version
    check_version "$(tr -d '\r' <"$cache/wine.log")"

    msiexec /x "$work/newer.msi"
    [[ ! -e $installed && ! -e $menu ]] || fail "the .msi leaves $installed or $menu behind"
    ! starts_at_log_on || fail "the removed program is still started at log-on"
    [[ -s $data/pitwire.toml && -d $data/queue ]] || fail "the removal deleted $data"
}

# The version of the .msi that is installed first and then upgraded.
readonly OLDER=0.0.1

# Checks what Windows reads first: versions and codes for the upgrade, for one user, no empty columns.
check_tables() {
    has msiinfo || apt_install msitools
    local properties upgrade
    properties=$(msiinfo export "$1" Property | tr -d '\r')
    [[ $(awk '$1 == "ProductVersion" { print $2 }' <<<"$properties") == "$(package_version)" ]] ||
        fail "the .msi has another version: $properties"
    ! grep -q '^ALLUSERS' <<<"$properties" || fail "the .msi is not for one user: $properties"
    upgrade=$(awk '$1 == "UpgradeCode" { print toupper($2) }' <<<"$properties")
    [[ $(msiinfo export "$1" Upgrade | grep -c "^$upgrade") == 2 ]] ||
        fail "the .msi does not look for older and newer versions"
    grep -q '^NOT WIX_DOWNGRADE_DETECTED' <<<"$(msiinfo export "$1" LaunchCondition)" ||
        fail "the .msi replaces a newer version"
    # An identifier that two releases share would keep an old file.
    [[ $(msiinfo export "$1" Component | cut -f2 | sort | uniq -d) == '' ]] ||
        fail "two components have the same identifier"
    grep -q '^Template: x64;1033' <<<"$(msiinfo suminfo "$1")" || fail "the .msi is not for x64"
}

msiexec() { under_wine 120 wine msiexec "$1" "Z:${2//\//\\}" /qn; }

# Prints the product codes of pitwire that Windows lists as installed programs.
products() {
    in_wine timeout 60 wine uninstaller --list | tr -d '\r' | sed -n 's/|||pitwire$//p'
}

product_code() { msiinfo export "$1" Property | tr -d '\r' | awk '$1 == "ProductCode" { print $2 }'; }

queued() {
    in_wine timeout 60 wine "$1" queue status | tr -d '\r' | awk '$1 == "queued" { print $2 }'
}

# Checks what `pitwire --version` prints.
check_version() {
    local start
    start="pitwire $(package_version) ($(source_commit)"
    [[ $1 == "$start"* ]] || fail "--version prints \"$1\" instead of \"$start…\""
}

# Checks that `cargo binstall` finds the archives that Cargo.toml describes, and the program in them.
check_binstall() {
    headline "cargo binstall"
    python3 - "$out" <<'PYTHON'
import pathlib, subprocess, sys, tarfile, tomllib, zipfile
manifest = tomllib.loads(pathlib.Path("Cargo.toml").read_text())["package"]
settings = manifest["metadata"]["binstall"]
arch = subprocess.check_output(["uname", "-m"], text=True).strip()
for entry in (settings, settings["overrides"]["x86_64-pc-windows-msvc"]):
    def fill(text):
        values = {"repo": "R", "version": manifest["version"], "target-arch": arch, "bin": "pitwire"}
        for name, value in values.items():
            text = text.replace("{ %s }" % name, value)
        return text
    path = pathlib.Path(sys.argv[1], fill(entry["pkg-url"]).rsplit("/", 1)[1])
    names = zipfile.ZipFile(path).namelist() if path.suffix == ".zip" else tarfile.open(path).getnames()
    assert fill(entry["bin-dir"]) in names, (path, entry["bin-dir"], names)
PYTHON
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
