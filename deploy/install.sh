# What the scripts here share to install packages; for `source`.
# Missing packages come from apt (Debian 12 or a relative), as root or through sudo.

apt_install() {
    headline "installing with apt: $*"
    apt_get update -qq
    apt_get install -y -qq --no-install-recommends "$@"
}

apt_get() {
    has apt-get || fail "no apt-get here: install the packages by hand and run this again"
    local as_root=()
    if ((EUID != 0)); then
        has sudo || fail "neither root nor sudo: run as root: apt-get $*"
        as_root=(sudo)
    fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get "$@"
}

has() { command -v "$1" >/dev/null; }
headline() { printf '\n==> %s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*"
    exit 1
}
