#!/usr/bin/env bash
# Pushes the image that tests/container.sh has built.
#
#   deploy/publish-image.sh NAME VERSION      with REGISTRY_USER and REGISTRY_TOKEN in the environment
set -euo pipefail

# The names of images have no capital letters.
name=${1,,} version=$2
docker login "${name%%/*}" --username "$REGISTRY_USER" --password-stdin <<<"$REGISTRY_TOKEN"
for tag in "$version" latest; do
    docker tag pitwire "$name:$tag"
    docker push "$name:$tag"
done
