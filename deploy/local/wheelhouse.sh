#!/bin/bash
# Downloads the files that setup.sh installs, for a machine without network: wheelhouse.sh FOLDER.
# They are the lock's own files, with its hashes; what comes as source is compiled where it is installed.
# PYTHON=path chooses the Python that they are for, as in setup.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/local/capabilities.sh
. deploy/local/locked.sh

folder=${1:-}
[ -n "$folder" ] || fail "FOLDER: missing; give the folder to fill: make wheelhouse FOLDER=path"
require_capabilities
builder=$(mktemp -d)
trap 'rm -rf "$builder"' EXIT
"$python" -m venv "$builder"
pip=("$builder/bin/python" -m pip --disable-pip-version-check -q)
# pip runs the setup.py of what comes as source, to read its name.
"${pip[@]}" install --no-deps --require-hashes --only-binary :all: -r <(locked test 1 'setuptools|wheel')
"${pip[@]}" download --no-deps --require-hashes --only-binary :all: --no-binary "${source_packages//|/,}" \
    --no-build-isolation -d "$folder" -r deploy/requirements/test.txt
echo "setup: $folder has $(find "$folder" -type f | wc -l) files, $(du -sh "$folder" | cut -f1), for $("$python" -V)"
