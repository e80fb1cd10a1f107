#!/usr/bin/env bash
# Installs the test dependencies other than a Rust toolchain, and prints their directory, which is
# outside the clone, on the last line. It holds a Python venv, old/ (Python packages of an old
# server), node_modules, bin/promtool and bin/nats-server.
#
# Missing system packages come from apt (Debian 12 or a relative), as root or through sudo.
# If anything cannot be installed, the script fails: no test is skipped for it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../deploy/install.sh"
peers=$here/peers
cache=${XDG_CACHE_HOME:-$HOME/.cache}/pitwire

main() {
    # Standard output carries only the directory.
    exec 3>&1 1>&2
    install_system_packages
    mkdir -p "$cache"
    # Of two concurrent test runs, only one installs.
    exec 9>"$cache/lock"
    flock --wait 1800 9 || fail "another run has held $cache/lock for half an hour: end it, or wait"
    local target
    target=$cache/peers-$(fingerprint)
    if [[ ! -e $target/ready ]]; then
        headline "installing the test servers into $target"
        rm -rf "$target"
        install_peers "$target"
        touch "$target/ready"
    fi
    echo "$target" >&3
}

install_system_packages() {
    install_build_tools
    local missing=()
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
    # Applies the mutations.
    has patch || missing+=(patch)
    # Certificates for the TLS tests.
    has openssl || missing+=(openssl)
    has node || missing+=(nodejs)
    has npm || missing+=(npm)
    # Checks the units in deploy/.
    has systemd-analyze || missing+=(systemd)
    # Sets the wall clock of an agent.
    compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || missing+=(libfaketime)
    # The pages are tested in a real browser.
    has chromium || missing+=(chromium)
    # A proxy in front of the dashboard.
    has nginx || [[ -x /usr/sbin/nginx ]] || missing+=(nginx)
    if ((${#missing[@]})); then
        apt_install "${missing[@]}"
    fi
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "python3 is $(python3 --version), the servers need 3.11 or newer"
    [[ $(node -p 'process.versions.node.split(".")[0]') -ge 18 ]] ||
        fail "node is $(node --version), the servers need 18 or newer"
}

# The cache key: a changed pin, script or interpreter creates a new cache.
fingerprint() {
    {
        cat "$here/setup.sh" "$peers"/{requirements.txt,requirements-old.txt,package.json,package-lock.json}
        python3 -c 'import sys; print(sys.version, sys.base_prefix)'
        node --version
    } | sha256sum | cut -c1-12
}

install_peers() {
    local target=$1
    mkdir -p "$target/bin"
    python3 -m venv "$target/venv"
    "$target/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --requirement "$peers/requirements.txt"
    "$target/venv/bin/python" -m pip check --disable-pip-version-check
    # Packages that replace those of the venv for a server of 2021.
    "$target/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --target "$target/old" --requirement "$peers/requirements-old.txt"
    cp "$peers"/{package.json,package-lock.json,.npmrc} "$target/"
    (cd "$target" && npm ci --no-audit --no-fund --loglevel=error)
    install_program "$target/bin" promtool prometheus https://prometheus.io/download
    install_program "$target/bin" nats-server nats-server https://nats.io/download
}

# Extracts a single program from a Debian package: installing the package would start a server.
install_program() {
    local bin=$1 program=$2 package=$3 home=$4
    if has "$program"; then
        ln -s "$(command -v "$program")" "$bin/$program"
        return
    fi
    has apt-get || fail "$program is missing: install it from $home"
    local unpacked
    unpacked=$(mktemp -d)
    (
        cd "$unpacked"
        # Needs no root, unless the package lists are missing or out of date.
        download "$package" || { apt_get update -qq && download "$package"; }
        dpkg-deb --extract "$package"_*.deb .
        cp usr/*bin/"$program" "$bin/$program"
    )
    rm -rf "$unpacked"
    "$bin/$program" --version | sed -n 1p
}

download() {
    # Without this option, apt warns that its sandbox user cannot write here.
    apt-get download -qq -o APT::Sandbox::User=root "$1"
}

main "$@"
