#!/usr/bin/env bash
# Builds the container image as `pitwire` and checks that it runs and becomes healthy.
#
# With docker, everything is built as in deploy/Containerfile. Without docker, buildah (from apt) is
# used, which needs root: on a base image that debootstrap makes, with the .deb in target/packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source deploy/install.sh

# Seconds until the program in the image must be healthy.
readonly PATIENCE=60

main() {
    if has docker && docker info >/dev/null 2>&1; then
        with_docker
    else
        with_buildah
    fi
}

with_docker() {
    docker build --file deploy/Containerfile --tag pitwire --build-arg "BUILD_COMMIT=$(source_commit)" .
    work=$(mktemp -d)
    make_token
    container=$(docker run --detach --volume "$work/token:/run/secrets/pitwire-token:ro" \
        --health-interval 2s pitwire)
    trap 'docker rm --force "$container" >/dev/null; rm -rf "$work"' EXIT
    local second status
    for ((second = 0; second < PATIENCE; second++)); do
        status=$(docker inspect --format '{{.State.Health.Status}}' "$container")
        [[ $status != healthy ]] || return 0
        sleep 1
    done
    docker logs "$container"
    fail "after $PATIENCE s the container is $status"
}

with_buildah() {
    ((EUID == 0)) || fail "neither docker nor root: run this as root"
    has buildah || apt_install buildah
    has debootstrap || apt_install debootstrap
    source tests/debian.sh
    work=$(mktemp -d)
    trap 'rm -rf --one-file-system "$work"' EXIT
    make_token
    export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
    local container
    container=$(in_storage from scratch)
    debian_image bookworm
    in_storage add --quiet "$container" "$cache/debian-bookworm.tar.gz" /
    in_storage commit --quiet "$container" base
    # The package takes the place of the stage that builds it.
    mkdir -p "$work/build/packages"
    cp target/packages/pitwire_*.deb "$work/build/packages/"
    in_storage bud --quiet --pull-never --format docker --build-arg BASE=localhost/base --build-arg BUILD_COMMIT= \
        --build-context "build=$work/build" --file deploy/Containerfile --tag pitwire .
    container=$(in_storage from localhost/pitwire)
    in_storage inspect --type image localhost/pitwire | python3 -c '
import json, shlex, sys
print(shlex.join(json.load(sys.stdin)["Docker"]["config"]["Healthcheck"]["Test"][1:]))
' >"$work/check.sh"
    # In a separate network, where the default ports are free.
    export -f in_storage
    export work container PATIENCE
    unshare --net bash -euc '
        ip link set lo up
        in_storage run --volume "$work/token:/run/secrets/pitwire-token:ro" \
            --volume "$work/check.sh:/check.sh:ro" "$container" -- bash -c "
                pitwire run & agent=\$!
                for ((second = 0; second < $PATIENCE; second++)); do
                    sleep 1
                    ! bash /check.sh 2>/dev/null || break
                done
                bash /check.sh && kill \$agent && wait \$agent"
    ' || fail "after $PATIENCE s the program in the image is not healthy"
}

make_token() {
    printf 'a token for this test only\n' | tr ' ' '-' >"$work/token"
    chmod 644 "$work/token"
}

in_storage() { buildah --root "$work/storage" --runroot "$work/run" "$@"; }

main "$@"
