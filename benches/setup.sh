#!/usr/bin/env bash
# Unpacks rsyslog and syslog-ng for `cargo bench --bench report`, and prints where. Installing the
# packages would start one as the logger of this machine, and take the other one away.
set -euo pipefail
source "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/../deploy/install.sh"

target=${XDG_CACHE_HOME:-$HOME/.cache}/pitwire/syslog
if [[ ! -e $target/ready ]]; then
    has apt-get || fail "these packages come from Debian"
    rm -rf "$target"
    mkdir -p "$target"
    cd "$target"
    for package in rsyslog libestr0 libfastjson4 \
        syslog-ng-core libivykis0 libnet1 libpcre3 libwrap0; do
        # Without this apt warns that its own user may not write here.
        apt-get download -qq -o APT::Sandbox::User=root "$package"
        dpkg-deb --extract "$package"_*.deb .
    done
    touch ready
fi
echo "$target"
