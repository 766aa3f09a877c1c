#!/bin/bash
# Writes deploy/requirements/*.txt from pyproject.toml: all packages, with versions and hashes. Versions
# change only where pyproject.toml demands it, or with UPGRADE=1.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/local/capabilities.sh

runtime=deploy/requirements/runtime.txt
tests=deploy/requirements/test.txt
python=$(find_python)
[ -n "$python" ] || fail "missing: $(describe python); install it, or give its path as PYTHON"
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
"$python" -m venv "$tools"
"$tools/bin/python" -m pip --disable-pip-version-check -q install 'uv>=0.9'

# For all supported versions of Python at once; what all packages have in common is no condition.
compile() {
    "$tools/bin/uv" pip compile -q pyproject.toml --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate ${UPGRADE:+--upgrade} "$@" >/dev/null
    sed -Ei "s/ ; python_full_version < '3.14'( and implementation_name != 'PyPy')? and platform_machine == 'x86_64' and platform_python_implementation == 'CPython' and sys_platform == 'linux' / /" "${@: -1}"
}

compile --extra export --extra gpu-metrics --extra mlflow-server --extra timm --group build -o "$runtime"
mapfile -t of_runtime < <(sed -nE 's/^([a-z0-9-]+)==.*/--no-emit-package=\1/p' "$runtime")
compile --extra dev --group build --group test-data -c "$runtime" "${of_runtime[@]}" -o "$tests"
sed -i '1i -r runtime.txt' "$tests"
echo "setup: $(grep -c == "$runtime") packages in $runtime, $(grep -c == "$tests") more in $tests"
