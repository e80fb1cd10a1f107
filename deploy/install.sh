# Functions that install packages; the other scripts source this file.
# Missing packages come from apt (Debian 12 or a relative), as root or through sudo.

apt_install() {
    headline "installing with apt: $*"
    apt_get update -qq
    apt_get install -y -qq --no-install-recommends "$@"
}

apt_get() {
    has apt-get || fail "no apt-get here: install the packages by hand and run this again"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get "$@"
}

# Runs a command as root, through sudo if necessary.
as_root() {
    if ((EUID == 0)); then
        "$@"
    else
        has sudo || fail "neither root nor sudo: run as root: $*"
        sudo "$@"
    fi
}

# Puts a Rust toolchain that is new enough for Cargo.toml on the PATH: an installed one, else
# rustup's, else Debian's. The arguments are further Debian packages to install together with Debian's
# toolchain.
ensure_rust() {
    is_new_enough cargo && return
    PATH=$HOME/.cargo/bin:$PATH
    is_new_enough cargo && return
    has curl || apt_install curl ca-certificates
    local installer
    # With a predictable name, another user could replace the program before it runs.
    installer=$(mktemp)
    if curl --proto '=https' --tlsv1.2 -sSf --max-time 60 https://sh.rustup.rs >"$installer"; then
        headline "installing Rust with rustup"
        sh "$installer" -y --profile minimal
        rm "$installer"
    else
        rm "$installer"
        headline "sh.rustup.rs cannot be reached: installing Debian's Rust"
        apt_install rustc-web cargo-web "$@"
        PATH=/usr/bin:$PATH
    fi
    is_new_enough cargo || fail "no Rust $(oldest_rust) or newer: install it from https://rustup.rs"
}

is_new_enough() {
    has "$1" && printf '%s\n' "$(oldest_rust)" "$("$1" -V | cut -d' ' -f2)" |
        sort --check=quiet --version-sort
}

# The oldest Rust version that builds pitwire.
oldest_rust() { sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml; }

# Builds the program for this machine; arguments are further ones of cargo.
build_release() {
    headline "cargo build --release $*"
    BUILD_COMMIT=$(source_commit) cargo build --locked --release --bin pitwire "$@"
}

# Builds the program of the packages, which brings OpenSSL along. Scripts that share a target
# directory build it with the same commit and time, so that only the first one does the work: the
# crates with C code are built again for another time.
build_packaged() {
    local missing=()
    # OpenSSL's build needs modules that perl-base lacks.
    perl -MFindBin -MIPC::Cmd -MFile::Compare -e 1 2>/dev/null || missing+=(perl)
    has make || missing+=(make)
    ((${#missing[@]} == 0)) || apt_install "${missing[@]}"
    SOURCE_DATE_EPOCH=$(source_time) build_release --features vendored-openssl
}

package_version() { sed -n '/^version = /{s/.*"\(.*\)"/\1/p;q}' Cargo.toml; }

# Prints the commit that the sources are, for `pitwire --version`: nothing if they were modified or
# are not in a git repository. In a container, git may be missing or refuse the repository's owner.
source_commit() {
    local commit=${BUILD_COMMIT:-${GITHUB_SHA:-}}
    if [[ -z $commit ]] && git diff --quiet HEAD -- src deploy Cargo.toml Cargo.lock 2>/dev/null; then
        commit=$(git rev-parse HEAD)
    fi
    printf '%.12s' "$commit"
}

# Prints the time of that commit, so that packages built twice have the same time stamps.
source_time() {
    git log -1 --format=%ct 2>/dev/null || stat --format %Y CHANGELOG.md
}

# Installs the dependencies of the linker and of the crates with C code.
install_build_tools() {
    local missing=()
    has cc || missing+=(gcc libc6-dev)
    { has pkg-config && pkg-config --exists openssl; } || missing+=(pkg-config libssl-dev)
    ((${#missing[@]} == 0)) || apt_install "${missing[@]}"
}

has() { command -v "$1" >/dev/null; }
headline() { printf '\n==> %s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
