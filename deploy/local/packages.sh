#!/bin/bash
# Installs the locked packages with a Python of a virtual environment:
#   packages.sh PYTHON runtime   what a cluster's nodes need
#   packages.sh PYTHON test      with what tests and checks need
# Each file must have a hash of the lock. WHEELHOUSE=folder installs from it alone, without network.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/local/locked.sh

level=$2
# The lock is complete, so pip does not resolve dependencies, and two of it can run at once.
pip=("$1" -m pip --disable-pip-version-check -q install --no-deps --require-hashes)
[ -z "${WHEELHOUSE:-}" ] || pip+=(--no-index --find-links "$WHEELHOUSE")

"${pip[@]}" --only-binary :all: -r <(locked "$level" 1 "$torch_packages") &
torch=$!
trap 'kill $torch 2>/dev/null || true' EXIT
"${pip[@]}" --only-binary :all: -r <(locked "$level" 0 "$torch_packages|$source_packages")
# ffcv is compiled, with setuptools of the lock.
"${pip[@]}" --no-build-isolation -r <(locked "$level" 1 "$source_packages")
wait $torch
trap - EXIT
