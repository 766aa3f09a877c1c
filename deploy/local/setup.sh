#!/bin/bash
# Creates .venv with the locked packages. Safe to run again, also after an interruption. If everything
# is installed, it exits at once.
set -euo pipefail
cd "$(dirname "$0")/../.."

lock=deploy/requirements.lock
stamp=.venv/installed
expected=$(cat "$lock" pyproject.toml deploy/local/setup.sh data_pipeline/native/*.[ch] | sha256sum)

debian_packages=(libjpeg62-turbo-dev libturbojpeg0-dev libopencv-dev pkg-config g++ dataset-fashion-mnist)

missing_debian_packages() {
    local package
    for package in "${debian_packages[@]}"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            echo "$package"
    done
    # A Python that is not from Debian includes these.
    python3.11 -c 'import ensurepip, venv' 2>/dev/null || echo python3.11-venv
    python3.11 -c 'import pathlib, sysconfig, sys
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' 2>/dev/null ||
        echo python3.11-dev
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
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        echo "setup: creating .venv"
        rm -rf .venv
        python3.11 -m venv .venv
    fi
    local pip=(.venv/bin/python -m pip --disable-pip-version-check -q)
    # The lock is complete, so pip does not resolve dependencies. ffcv is compiled and comes last.
    echo "setup: 1 of 3, torch and torchvision (about a minute, 2 GB)"
    "${pip[@]}" install --no-deps $(grep -E '^(torch|torchvision)==' "$lock")
    echo "setup: 2 of 3, all other packages"
    "${pip[@]}" install --no-deps -r <(grep -vE '^(torch|torchvision|ffcv|fastargs|assertpy)==' "$lock")
    echo "setup: 3 of 3, compiling ffcv and the inner loops"
    "${pip[@]}" install --no-deps --no-build-isolation -r <(grep -E '^(ffcv|fastargs|assertpy)==' "$lock")
    "${pip[@]}" install --no-deps --no-build-isolation -e .
    # Compiled here so that the first job does not have to.
    .venv/bin/python -m data_pipeline.warm_up
}

if [ "$(cat $stamp 2>/dev/null)" != "$expected" ] || [ -n "$(missing_debian_packages)" ]; then
    install_debian_packages
    install_python_packages
    echo "$expected" >$stamp
    echo "setup: done"
fi
