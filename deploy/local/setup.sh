#!/bin/bash
# Creates .venv with the locked packages. Safe to run again, also after an interruption. If everything
# is installed, it exits at once. PYTHON=... chooses the Python: 3.11, 3.12 or 3.13.
set -euo pipefail
cd "$(dirname "$0")/../.."

lock=deploy/requirements.lock
stamp=.venv/installed
debian_packages=(libjpeg62-turbo-dev libturbojpeg0-dev libopencv-dev pkg-config g++ dataset-fashion-mnist)

is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null
}

# With what building needs, or from Debian, which has the rest in packages.
is_complete() {
    "$1" -c 'import pathlib, sys, sysconfig
if not sys.base_prefix == "/usr":
    import ensurepip, venv
    sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' 2>/dev/null
}

# PYTHON if it is given, else that of .venv, else the first that runs; nothing if none does.
find_python() {
    local candidate
    local -a candidates=(.venv/bin/python python3.13 python3.12 python3.11)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        if is_supported "$candidate" && is_complete "$candidate"; then
            "$candidate" -c 'import sys
print("%s/bin/python%d.%d" % (sys.base_prefix, *sys.version_info[:2]))'
            return
        fi
    done
}

missing_debian_packages() {
    local package
    for package in "${debian_packages[@]}"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            echo "$package"
    done
    if [ -z "$python" ]; then
        echo python3 python3-venv python3-dev
        return
    fi
    # A Python that is not from Debian includes these.
    local name
    name=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo "$name-venv"
    "$python" -c 'import pathlib, sysconfig, sys
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' 2>/dev/null ||
        echo "$name-dev"
}

# What is installed, as a digest.
expected() {
    { echo "$python" && "$python" -V && cat "$lock" pyproject.toml deploy/local/setup.sh data_pipeline/native/*.[ch] service/distillation/fused/*.[ch]; } | sha256sum
}

install_debian_packages() {
    local missing
    missing=$(missing_debian_packages | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        if ! sudo -n true 2>/dev/null; then
            echo "setup: as root, run: apt-get install --no-install-recommends $missing" >&2
            exit 2
        fi
        as_root=(sudo -n)
    fi
    echo "setup: installing Debian packages: $missing"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    # shellcheck disable=SC2086 - one word per package
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

install_python_packages() {
    if [ "$(.venv/bin/python -c 'import sys; print(sys.base_prefix, sys.version)' 2>&1)" != \
        "$("$python" -c 'import sys; print(sys.base_prefix, sys.version)')" ] ||
        ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        echo "setup: creating .venv with $("$python" -V)"
        rm -rf .venv
        "$python" -m venv .venv
    fi
    local pip=(.venv/bin/python -m pip --disable-pip-version-check -q)
    # The lock is complete, so pip does not resolve dependencies, and two of it can run at once. ffcv is
    # compiled, with other packages but without torch.
    echo "setup: 1 of 2, installing torch (7 GB), and all other packages"
    "${pip[@]}" install --no-deps -r <(grep -E '^(torch|torchvision|nvidia-[^=]*|triton)==' "$lock") &
    local torch=$!
    trap "kill $torch 2>/dev/null || true" EXIT
    "${pip[@]}" install --no-deps \
        -r <(grep -vE '^(torch|torchvision|nvidia-[^=]*|triton|ffcv|fastargs|assertpy)==' "$lock")
    "${pip[@]}" install --no-deps --no-build-isolation -r <(grep -E '^(ffcv|fastargs|assertpy)==' "$lock")
    wait $torch
    trap - EXIT
    echo "setup: 2 of 2, compiling the inner loops"
    "${pip[@]}" install --no-deps --no-build-isolation -e .
    # Compiled here so that the first job does not have to.
    .venv/bin/python -m data_pipeline.warm_up
}

python=$(find_python)
if [ -z "$python" ] && [ -n "${PYTHON:-}" ]; then
    echo "setup: PYTHON=$PYTHON is no Python 3.11, 3.12 or 3.13 with venv and headers; give the path of one, or leave PYTHON out" >&2
    exit 2
fi
if [ -n "$(missing_debian_packages)" ]; then
    install_debian_packages
    python=$(find_python)
    if [ -z "$python" ]; then
        echo "setup: Debian has no Python 3.11, 3.12 or 3.13; set PYTHON to the path of one" >&2
        exit 2
    fi
fi
if [ "$(cat $stamp 2>/dev/null)" != "$(expected)" ] || ! .venv/bin/python -V >/dev/null 2>&1; then
    install_python_packages
    expected >$stamp
    echo "setup: done"
fi
