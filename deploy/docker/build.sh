#!/bin/bash
# Builds the image: deploy/docker/build.sh cpu|cuda TAG [options of the engine's build]. ENGINE is
# docker, podman or buildah, with options if it needs any; without it, the first that is installed.
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() {
    echo "deploy: $1" >&2
    exit 2
}

[ $# -ge 2 ] || fail "arguments: there are $#; give a target, cpu or cuda, and a tag"
target=$1 tag=$2
shift 2
case $target in cpu | cuda) ;; *) fail "target: there is no $target; choose cpu or cuda" ;; esac
lock=deploy/requirements/runtime.txt
[ -f $lock ] || fail "$lock: is missing; restore it with git"
read -ra engine <<<"${ENGINE:-}"
for name in docker podman buildah; do
    [ ${#engine[@]} -gt 0 ] || ! command -v $name >/dev/null || engine=("$name")
done
[ ${#engine[@]} -gt 0 ] || fail "ENGINE: none is installed; install docker, podman or buildah"
command -v "${engine[0]}" >/dev/null || fail "ENGINE: there is no ${engine[0]}; install it"

# As the tag git_revision of a run has it; outside git it is unknown.
revision=$(git describe --always --abbrev=40 --exclude='*' --dirty=+changes 2>/dev/null || echo unknown)
exec "${engine[@]}" build -f deploy/docker/Dockerfile --target "$target" -t "$tag" \
    --build-arg "REVISION=$revision" --build-arg "LOCK_SHA256=$(sha256sum <$lock | cut -c -64)" "$@" .
