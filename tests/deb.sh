#!/usr/bin/env bash
# Installs the .deb over an older version of itself in fresh Debian systems, uses it, and removes it.
# Needs root; debootstrap comes from apt. See tests/README.md.
#
#   tests/deb.sh PACKAGE [SUITE...]     default: bookworm trixie
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source deploy/install.sh
source tests/debian.sh

# The version of the package that is installed first and then upgraded.
readonly OLDER=0.0.1

main() {
    local package=$1 suite suites=("${@:2}")
    ((${#suites[@]})) || suites=(bookworm trixie)
    has debootstrap || apt_install debootstrap
    work=$(mktemp -d)
    trap 'rm -rf --one-file-system "$work"' EXIT
    cp "$package" "$work/new.deb"
    make_older
    for suite in "${suites[@]}"; do
        check_in "$suite"
    done
}

# Makes the same package with an older version number, in place of an earlier release.
make_older() {
    dpkg-deb --raw-extract "$work/new.deb" "$work/older"
    sed -i "s/^Version: .*/Version: $OLDER/" "$work/older/DEBIAN/control"
    dpkg-deb --root-owner-group --build "$work/older" "$work/old.deb" >/dev/null
}

check_in() {
    local suite=$1 root=$work/$1
    headline "the .deb on Debian $suite"
    debian_image "$suite"
    mkdir "$root"
    tar --extract --gzip --file "$cache/debian-$suite.tar.gz" --directory "$root"
    cp "$work"/{old,new}.deb "$root/root/"
    chroot "$root" useradd --create-home --shell /bin/bash racer
    tests/export.sh 20 >"$root/home/racer/frames.jsonl"
    steps >"$root/root/steps.sh"
    # Processes and mounts end with the namespaces.
    unshare --mount --pid --fork --kill-child bash -euc '
        mount -t proc proc "$1/proc"
        mount -t tmpfs shm "$1/dev/shm"
        exec chroot "$1" bash /root/steps.sh
    ' bash "$root"
    rm -rf --one-file-system "$root"
}

# Prints the script that runs in the new system.
steps() {
    printf 'OLDER=%q VERSION=%q COMMIT=%q\n' "$OLDER" "$(package_version)" "$(source_commit)"
    cat <<'STEPS'
set -euo pipefail
fail() { printf 'error: %s\n' "$*"; exit 1; }
# Runs a command as the user who drives.
racer() { su racer --command "cd; $*"; }
queued() { racer pitwire queue status | awk '$1 == "queued" { print $2 }'; }

dpkg --install /root/old.deb
[[ $(dpkg-query --show --showformat '${Version}' pitwire) == "$OLDER" ]]

# A driver's PC whose server is unreachable: a configuration, autostart, and a queue with frames.
racer 'mkdir -p .config/pitwire && echo "server.url = \"http://127.0.0.1:9\"" >.config/pitwire/pitwire.toml'
racer pitwire autostart enable
before=$(racer pitwire autostart status)
[[ $before == *pitwire* ]] || fail "autostart status: $before"
racer pitwire queue import /home/racer/frames.jsonl --apply
[[ $(queued) == 20 ]] || fail "queued: $(queued)"

dpkg --install /root/new.deb
dpkg --verify pitwire
printed=$(pitwire --version)
[[ $printed == "pitwire $VERSION ($COMMIT"* ]] || fail "it prints $printed, not $VERSION and $COMMIT"
[[ $(queued) == 20 ]] || fail "the upgrade changed the queue: $(queued)"
after=$(racer pitwire autostart status)
[[ $after == "$before" ]] || fail "autostart before the upgrade: $before; after: $after"
racer pitwire check
[[ -e /usr/lib/systemd/user/pitwire.service ]] || fail "there is no systemd unit"
racer pitwire demo --seconds 8 --outage 2:3

files=$(dpkg-query --listfiles pitwire | while read -r path; do [[ ! -f $path ]] || echo "$path"; done)
[[ $files == */usr/bin/pitwire* ]]
dpkg --purge pitwire
for file in $files; do [[ ! -e $file ]] || fail "$file is still there after the removal"; done
[[ -s /home/racer/.config/pitwire/pitwire.toml ]] || fail "the removal deleted the configuration"
[[ -d /home/racer/.local/share/pitwire/queue ]] || fail "the removal deleted the queue"
STEPS
}

main "$@"
