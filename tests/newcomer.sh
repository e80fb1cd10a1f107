#!/usr/bin/env bash
# Runs the commands of the README and of the pages for newcomers, in order and as written, on a
# clean Debian 12: a fresh clone, and a user with sudo. Takes a quarter of an hour; needs root and
# debootstrap. See tests/README.md.
#
#   tests/newcomer.sh           makes the machine and runs the commands there
#   tests/newcomer.sh commands  prints the commands
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

SUITE=bookworm
MIRROR=http://deb.debian.org/debian

main() {
    if [ "${1:-}" = commands ]; then
        script
        return
    fi
    root=$(mktemp -d)
    chmod 755 "$root"
    trap 'rm -rf --one-file-system "$root"' EXIT
    make_machine
    git clone --quiet . "$root/home/racer/pitwire"
    script >"$root/home/racer/way.sh"
    # Its processes and mounts end with the namespaces.
    unshare --mount --pid --fork --kill-child bash -euc '
        mount -t proc proc "$1/proc"
        mount -t tmpfs shm "$1/dev/shm"
        for device in null zero random urandom tty; do
            touch "$1/dev/$device"
            mount --bind "/dev/$device" "$1/dev/$device"
        done
        chroot "$1" chown -R racer: /home/racer
        chroot "$1" su - racer -c "bash way.sh"
    ' bash "$root"
    echo "every command of the documentation ran, after $SECONDS s"
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
    mkdir -p "$root/dev/shm"
}

# Prints the shell blocks of these pages as one script.
script() {
    cat <<'SETUP'
set -eux
cd ~/pitwire
# Stands for the reader's own program.
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
            # No agent is running, so the reload must fail.
            'pitwire check'*) sed -E 's/^(pitwire reload.*)/! \1/' <<<"${block%$'\n'}" ;;
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
