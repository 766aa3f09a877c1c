#!/bin/bash
# What a machine needs before packages are installed, found by trying it, and what provides it.
# Sourced from the project's root; `require_capabilities` leaves the Python to use in $python.

fail() {
    echo "setup: $1" >&2
    exit 2
}

is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null
}

has_venv() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null
}

has_headers() {
    "$1" -c 'import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' 2>/dev/null
}

# With all that building needs, or of the distribution, which has the rest in packages.
is_usable() {
    is_supported "$1" &&
        { "$1" -c 'import sys; sys.exit(sys.base_prefix != "/usr")' || { has_venv "$1" && has_headers "$1"; }; }
}

# PYTHON if it is given, else that of .venv, else the first that is usable; nothing if none is.
find_python() {
    local candidate
    local -a candidates=(.venv/bin/python python3.13 python3.12 python3.11)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        if is_usable "$candidate"; then
            "$candidate" -c 'import sys
print("%s/bin/python%d.%d" % (sys.base_prefix, *sys.version_info[:2]))'
            return
        fi
    done
    [ -z "${PYTHON:-}" ] ||
        fail "PYTHON=$PYTHON: no Python 3.11, 3.12 or 3.13 with venv and headers; give the path of one, or leave PYTHON out"
}

# Whether a program on stdin compiles and links: language, flags. Not to /dev/null, which a linker
# that runs as root replaces.
compiles() {
    local compiler=${CC:-gcc}
    [ "$1" = c ] || compiler=${CXX:-g++}
    # shellcheck disable=SC2086 # CC may have options
    $compiler -x "$1" - -o "$scratch/program" "${@:2}" >/dev/null 2>&1
}

# Whether a program on stdin compiles with a library: its name for pkg-config, other flags. Without a
# compiler, whether pkg-config knows the library.
has_library() {
    if [ -z "$compiler" ]; then
        pkg-config --exists "$1" 2>/dev/null
        return
    fi
    local flags=("${@:2}")
    if [ ${#flags[@]} = 0 ]; then
        read -ra flags <<<"$(pkg-config --cflags --libs "$1" 2>/dev/null)"
    fi
    [ ${#flags[@]} -gt 0 ] && compiles c++ "${flags[@]}"
}

# The names of what is missing, one a line, for the Python $1 (empty: none was found).
missing_capabilities() (
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    compiler=
    if compiles c <<<'int main(void) { return 0; }' && compiles c++ <<<'#include <vector>
int main() {}'; then
        compiler=yes
    else
        echo compiler
    fi
    has_library libjpeg -ljpeg <<<'#include <cstdio>
#include <jpeglib.h>
int main() { jpeg_error_mgr errors; jpeg_std_error(&errors); }' || echo libjpeg
    has_library libturbojpeg <<<'#include <turbojpeg.h>
int main() { tjDestroy(tjInitDecompress()); }' || echo turbojpeg
    has_library opencv4 <<<'#include <opencv2/imgproc.hpp>
int main() { cv::Mat image; cv::resize(image, image, cv::Size(1, 1)); }' || echo opencv
    if [ -z "$1" ]; then
        echo python
    else
        has_venv "$1" || echo venv
        has_headers "$1" || echo headers
    fi
)

describe() {
    case $1 in
        compiler) echo "compilers of C and C++ (gcc, g++)" ;;
        libjpeg) echo "libjpeg-turbo with jpeglib.h" ;;
        turbojpeg) echo "TurboJPEG with turbojpeg.h (pkg-config libturbojpeg)" ;;
        opencv) echo "OpenCV 4 with headers (pkg-config opencv4)" ;;
        python) echo "Python 3.11, 3.12 or 3.13 with venv and headers" ;;
        venv) echo "venv and ensurepip of $python" ;;
        headers) echo "Python.h of $python" ;;
        fashion-mnist) echo "Fashion-MNIST" ;;
    esac
}

# The distribution, such as "debian 12".
distribution() {
    (. /etc/os-release 2>/dev/null && echo "${ID:-} ${VERSION_ID:-}") || true
}

# The packages that provide $1 on the distribution $2; fails where the distribution is not known.
packages_for() {
    local jpeg=libjpeg62-turbo-dev python_name=python3
    case $2 in
        "debian 12" | "debian 13") ;;
        "ubuntu 22.04") jpeg=libjpeg-turbo8-dev python_name=python3.11 ;;
        "ubuntu 24.04") jpeg=libjpeg-turbo8-dev ;;
        *) return 1 ;;
    esac
    case $1 in
        compiler) echo g++ ;;
        libjpeg) echo "$jpeg" ;;
        turbojpeg) echo libturbojpeg0-dev pkg-config ;;
        opencv) echo libopencv-dev pkg-config ;;
        python) echo "$python_name $python_name-venv $python_name-dev" ;;
        venv) echo "${python##*/}-venv" ;;
        headers) echo "${python##*/}-dev" ;;
        fashion-mnist) echo dataset-fashion-mnist ;;
    esac
}

# The packages that provide what is named, each once, in one line; fails where they are not known.
all_packages() {
    local name packages
    packages=$(for name in "$@"; do packages_for "$name" "$(distribution)" || exit 1; done) || return 1
    tr ' ' '\n' <<<"$packages" | awk '!seen[$0]++' | paste -sd ' '
}

# Installs what is named, or says in one line what is missing and how to get it.
provide() {
    local name packages as_root=()
    local described=""
    for name in "$@"; do
        described+="${described:+, }$(describe "$name")"
    done
    if ! command -v apt-get >/dev/null || ! packages=$(all_packages "$@"); then
        fail "missing: $described; install it, and run this again (the names of packages are known for Debian 12 and 13, Ubuntu 22.04 and 24.04)"
    fi
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null ||
            fail "missing: $described; as root, run: apt-get install --no-install-recommends $packages"
        as_root=(sudo -n)
    fi
    echo "setup: installing $packages"
    # Old lists, or those of some sources alone, may do.
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq || true
    # shellcheck disable=SC2086 # one word per package
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
        --no-install-recommends -o DPkg::Lock::Timeout=300 $packages >/dev/null ||
        fail "missing: $described; apt-get could not install $packages, see above"
}

require_capabilities() {
    local missing described
    python=$(find_python)
    missing=$(missing_capabilities "$python")
    [ -n "$missing" ] || return 0
    # shellcheck disable=SC2086 # one word per name
    provide $missing
    python=$(find_python)
    missing=$(missing_capabilities "$python")
    [ -n "$missing" ] || return 0
    described=$(for name in $missing; do describe "$name"; done | paste -sd ',' | sed 's/,/, /g')
    fail "still missing after the installation of packages: $described"
}
