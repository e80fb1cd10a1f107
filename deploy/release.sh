#!/usr/bin/env bash
# The steps of a release, which .github/workflows/release.yml runs.
#
#   deploy/release.sh check TAG                fails unless the sources are ready to be released
#   deploy/release.sh notes                    prints the release notes, cut from CHANGELOG.md
#   deploy/release.sh sbom FOLDER              writes a list of all crates (CycloneDX, JSON)
#   deploy/release.sh checksums FOLDER         writes SHA256SUMS for the files in the folder
#   deploy/release.sh winget FOLDER URL OUT    writes the winget manifests for the .msi in the folder,
#                                              which URL will offer
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source deploy/install.sh

# The tool that writes the list of crates.
readonly CYCLONEDX=0.5.9

main() {
    local step=${1:-}
    case $step in
        check | notes | sbom | checksums | winget) "$step" "${@:2}" ;;
        *) fail "unknown step \"$step\": use check, notes, sbom, checksums or winget" ;;
    esac
}

check() {
    local tag=$1 version heading
    version=$(package_version)
    [[ $tag == "v$version" ]] ||
        fail "the tag is $tag but Cargo.toml has version $version: the tag must be v$version"
    heading=$(grep -m 1 "^## $version" CHANGELOG.md) ||
        fail "CHANGELOG.md has no section \"## $version\": add one"
    [[ $heading =~ ^"## $version - "[0-9]{4}-[0-9]{2}-[0-9]{2}$ ]] ||
        fail "CHANGELOG.md has \"$heading\": write \"## $version - YYYY-MM-DD\""
    grep -q '^repository = "https://' Cargo.toml ||
        fail "Cargo.toml has no repository: set it to the address that offers the releases"
    notes >/dev/null
}

notes() {
    local version text
    version=$(package_version)
    text=$(awk -v version="$version" '
        /^## / { inside = $2 == version; next }
        inside
    ' CHANGELOG.md)
    [[ $text == *[![:space:]]* ]] || fail "CHANGELOG.md says nothing about $version"
    # Without the blank lines around it.
    sed '/./,$!d' <<<"$text"
}

sbom() {
    local folder=$1 tools version file
    tools=${XDG_CACHE_HOME:-$HOME/.cache}/pitwire/cargo-cyclonedx-$CYCLONEDX
    version=$(package_version)
    file=$folder/pitwire-$version.cdx.json
    if [[ ! -x $tools/bin/cargo-cyclonedx ]]; then
        headline "building cargo-cyclonedx $CYCLONEDX"
        CARGO_TARGET_DIR=$tools/target cargo install --locked --root "$tools" --version "$CYCLONEDX" cargo-cyclonedx
        rm -rf "$tools/target"
    fi
    # It writes next to Cargo.toml.
    SOURCE_DATE_EPOCH=$(source_time) PATH=$tools/bin:$PATH \
        cargo cyclonedx --format json --spec-version 1.5 --features windowless --target all --override-filename pitwire.cdx
    mv pitwire.cdx.json "$file"
    headline "$file: $(grep -c '"purl"' "$file") packages"
}

checksums() {
    cd "$1"
    rm -f SHA256SUMS
    local sums
    sums=$(sha256sum -- *)
    printf '%s\n' "$sums" >SHA256SUMS
    sha256sum --check --quiet SHA256SUMS
}

winget() {
    local folder=$1 url=$2 out=$3 version msi product hash template
    version=$(package_version)
    msi=$(echo "$folder"/pitwire-*-windows.msi)
    [[ -f $msi ]] || fail "no .msi in $folder"
    has msiinfo || apt_install msitools
    product=$(msiinfo export "$msi" Property | tr -d '\r' | awk '$1 == "ProductCode" { print $2 }')
    hash=$(sha256sum "$msi" | cut -d' ' -f1)
    mkdir -p "$out"
    for template in deploy/winget/*.yaml; do
        sed -e "s|@VERSION@|$version|" -e "s|@URL@|$url|" -e "s|@SHA256@|${hash^^}|" \
            -e "s|@PRODUCT_CODE@|$product|" -e "s|@DATE@|$(date --utc --date "@$(source_time)" +%F)|" \
            "$template" >"$out/$(basename "$template")"
    done
    ! grep -n '@[A-Z]' "$out"/*.yaml || fail "a placeholder of the winget manifests is not filled"
}

main "$@"
