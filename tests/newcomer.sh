#!/usr/bin/env bash
# Runs the commands of the README and of the pages for newcomers, in order and as written, on a
# clean Debian 12: a fresh clone, and a user with sudo. Needs root and debootstrap. See
# tests/README.md.
#
#   tests/newcomer.sh           runs the commands of the documentation: a quarter of an hour
#   tests/newcomer.sh tests     runs tests/run.sh instead: more than an hour, as nothing is built yet
#   tests/newcomer.sh commands  prints the commands
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source deploy/install.sh

SUITE=bookworm
MIRROR=http://deb.debian.org/debian

main() {
    case ${1:-documented} in
        commands) documented ;;
        tests | documented) run_on_clean_machine "${1:-documented}" ;;
        *) fail "unknown argument \"$1\": use tests or commands" ;;
    esac
}

# Runs the commands that the given function prints.
run_on_clean_machine() {
    root=$(mktemp -d)
    chmod 755 "$root"
    trap 'rm -rf --one-file-system "$root"' EXIT
    make_machine
    git clone --quiet . "$root/home/racer/pitwire"
    "$1" >"$root/home/racer/way.sh"
    # Its processes and mounts end with the namespaces. With chroot instead of pivot_root, the kernel
    # would refuse the user namespaces that some tests make.
    unshare --mount --pid --fork --kill-child bash -euc '
        mount --bind "$1" "$1"
        cd "$1"
        mount -t proc proc proc
        mount -t tmpfs shm dev/shm
        mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
        for device in null zero full random urandom tty; do
            touch "dev/$device"
            mount --bind "/dev/$device" "dev/$device"
        done
        ln --symbolic --force pts/ptmx dev/ptmx
        ln --symbolic --force --no-dereference /proc/self/fd dev/fd
        mkdir outside
        pivot_root . outside
        umount --lazy outside
        rmdir outside
        chown -R racer: /home/racer
        exec su - racer -c "bash way.sh"
    ' bash "$root"
    headline "every command ran, after $SECONDS s"
}

tests() {
    printf 'set -eu\ncd ~/pitwire\ntests/run.sh\n'
}

make_machine() {
    debootstrap --variant=minbase --include=ca-certificates,git,sudo "$SUITE" "$root" "$MIRROR"
    cp /etc/resolv.conf /etc/hosts "$root/etc/"
    # As Debian's installer sets it up: the newest Rust is a security update.
    cat >"$root/etc/apt/sources.list" <<END
deb $MIRROR $SUITE main
deb $MIRROR $SUITE-updates main
deb $MIRROR-security $SUITE-security main
END
    # Networks with a private certificate authority need its certificates.
    if [ -d /usr/local/share/ca-certificates ]; then
        cp -r /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
        chroot "$root" update-ca-certificates
    fi
    chroot "$root" useradd --create-home --shell /bin/bash racer
    echo 'racer ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/racer"
    mkdir -p "$root/dev/shm" "$root/dev/pts"
}

# Prints the shell blocks of the documentation as one script.
documented() {
    cat <<'SETUP'
set -eux
cd ~/pitwire
# Replaces the reader's own program.
your-reader() { pitwire simulate; }
# Interrupts the command after ten seconds; it must then exit with 0.
for_ten_seconds() { timeout --preserve-status --signal=INT --kill-after=10 10 bash -euc "$1"; }
export -f your-reader
# A tool exits with 1 if it has findings.
or_found() { [ $? = 1 ]; }
SETUP
    local blocks block
    mapfile -d '' -t blocks < <(awk '
        /^ *```sh$/ { block = ""; inside = 1; next }
        /^ *```$/ { if (inside) printf "%s%c", block, 0; inside = 0; next }
        inside { sub(/^  /, ""); block = block $0 "\n" }
    ' README.md deploy/docs/{install,sources,configuration,queue-tools}.md)
    for block in "${blocks[@]}"; do
        case $block in
            'tests/run.sh'*) printf '# left to CI: %s' "$block" ;;
            deploy/quickstart.sh*)
                printf '%s --seconds 40\n' "${block%$'\n'}"
                printf '[ ! -e ~/.cargo/env ] || . ~/.cargo/env\n'
                printf 'export PATH=$PWD/target/release:$PATH\npitwire serve & server=$!\n'
                ;;
            # Posts need a running agent; the other lines of the block run one after the other.
            curl*v1*)
                printf 'sleep 1; pitwire run & agent=$!\nsleep 3\n'
                sed '/^your-reader\|^pitwire/d' <<<"$block"
                printf 'kill $agent; wait $agent\n'
                endless_commands "$block"
                ;;
            'your-reader'*) endless_commands "$block" ;;
            'pitwire run '*) printf 'for_ten_seconds %q\n' "$block" ;;
            'pitwire queue'*) sed -E 's/^(.*[^ ]) *#.*$/\1/; s/$/ || or_found/' <<<"${block%$'\n'}" ;;
            # There is no terminal for the questions of the setup, and no agent for the reload.
            'pitwire setup'*)
                sed -E 's/^pitwire setup/& --server http:\/\/localhost:5000 --yes/; s/^pitwire reload/! &/' \
                    <<<"${block%$'\n'}"
                ;;
            'pitwire doctor'*) printf '%s || or_found\n' "${block%$'\n'}" ;;
            *) printf '%s' "$block" ;;
        esac
    done
    # shellcheck disable=SC2016
    printf 'kill $server; wait $server\n'
}

# Prints the commands of a block that read an endless source, each with a time limit.
endless_commands() {
    sed -n '/^your-reader\|^pitwire simulate/p' <<<"$1" |
        while read -r line; do printf 'for_ten_seconds %q\n' "$line"; done
}

main "$@"
