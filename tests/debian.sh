# Minimal Debian systems, made once and kept outside the clone; source after deploy/install.sh.

readonly cache=${XDG_CACHE_HOME:-$HOME/.cache}/pitwire

# Makes $cache/debian-SUITE.tar.gz, unless it exists. Needs root and debootstrap.
debian_image() {
    local suite=$1 image=$cache/debian-$1.tar.gz folder
    [[ ! -e $image ]] || return 0
    headline "making a minimal Debian $suite"
    mkdir -p "$cache"
    folder=$(mktemp -d)
    debootstrap --variant=minbase "$suite" "$folder/root"
    rm -rf "$folder"/root/var/cache/apt/archives/*.deb "$folder"/root/var/lib/apt/lists/*
    tar --create --gzip --file "$folder/image" --directory "$folder/root" .
    mv "$folder/image" "$image"
    rm -rf --one-file-system "$folder"
}
