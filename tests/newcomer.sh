#!/usr/bin/env bash
# A newcomer's way: a clean Debian 12, a fresh clone, a user who may use sudo, and the commands of the
# README from top to bottom, each as it stands there. Takes a quarter of an hour; needs root and
# debootstrap. See tests/README.md.
#
#   tests/newcomer.sh           makes the machine and goes the way
#   tests/newcomer.sh commands  prints what would be typed there
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
    # It only leads on to this file.
    if ! getent hosts sh.rustup.rs >/dev/null; then
        echo 'sh.rustup.rs is not to be had here: the file that it leads to is taken instead' >&2
        sed -i s,https://sh.rustup.rs,https://static.rust-lang.org/rustup/rustup-init.sh, \
            "$root/home/racer/way.sh"
    fi
    # What runs in there ends with it, and what is mounted in there goes with it.
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
    echo "the way of the README goes to its end, after $SECONDS s"
}

make_machine() {
    debootstrap --variant=minbase --include=ca-certificates,git,sudo "$SUITE" "$root" "$MIRROR"
    cp /etc/resolv.conf /etc/hosts "$root/etc/"
    # Where the network has a certificate authority of its own.
    if [ -d /usr/local/share/ca-certificates ]; then
        cp -r /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
        chroot "$root" update-ca-certificates
    fi
    chroot "$root" useradd --create-home --shell /bin/bash racer
    echo 'racer ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/racer"
    mkdir -p "$root/dev/shm"
}

# What is typed: the README's blocks, each as what it is.
script() {
    cat <<'SETUP'
set -eux
cd ~/pitwire
# The program that the README leaves to the reader.
your-reader() { pitwire simulate; }
# Goes on until it is stopped with Ctrl-C, and ends well then.
for_ten_seconds() { timeout --preserve-status --signal=INT --kill-after=10 10 bash -euc "$1"; }
export -f your-reader
# A tool may have found something.
or_found() { [ $? = 1 ]; }
SETUP
    local blocks block
    mapfile -d '' -t blocks < <(awk '
        /^ *```sh$/ { block = ""; inside = 1; next }
        /^ *```$/ { if (inside) printf "%s%c", block, 0; inside = 0; next }
        inside { sub(/^  /, ""); block = block $0 "\n" }
    ' README.md)
    for block in "${blocks[@]}"; do
        case $block in
            'tests/run.sh'*) printf '# left to CI: %s' "$block" ;;
            'pitwire demo'*) printf 'timeout --preserve-status --signal=INT 30 %s' "$block" ;;
            'pitwire run --server http://localhost:5000'$'\n')
                printf 'pitwire serve & server=$!\nsleep 1\n%s' "${block%$'\n'}"
                printf ' & agent=$!\nsleep 3\n'
                ;;
            curl*v1*) printf '%skill $agent; wait $agent\n' "$block" ;;
            'your-reader'* | 'pitwire run '*) printf 'for_ten_seconds %q\n' "$block" ;;
            'pitwire queue'*) sed -E 's/^(.*[^ ]) *#.*$/\1/; s/$/ || or_found/' <<<"${block%$'\n'}" ;;
            # Nobody runs by then.
            'pitwire reload'*) printf '! %s' "$block" ;;
            'pitwire doctor'*) printf '%s || or_found\n' "${block%$'\n'}" ;;
            *) printf '%s' "$block" ;;
        esac
    done
    # shellcheck disable=SC2016
    printf 'kill $server; wait $server\n'
}

main "$@"
