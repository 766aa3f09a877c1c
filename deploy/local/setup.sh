#!/bin/bash
# Creates .venv with the locked packages, and compiles the inner loops. Safe to run again, also after
# an interruption. If everything is installed, it exits at once.
#   setup.sh           for tests and development
#   setup.sh demo      for the demo: the packages of the runtime, and Fashion-MNIST
#   setup.sh runtime   for a node of a cluster
# PYTHON=path chooses the Python: 3.11, 3.12 or 3.13. WHEELHOUSE=folder: without network, see wheelhouse.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/local/capabilities.sh
. deploy/local/locked.sh

stamp=.venv/installed
images=train-images-idx3-ubyte.gz

# What is installed for a level, as a digest.
expected() {
    local -a files
    mapfile -t files < <(locked_files "$1")
    {
        echo "$python" && "$python" -V
        cat "${files[@]}" pyproject.toml deploy/local/*.sh data_pipeline/native/*.[ch] \
            service/distillation/fused/*.[ch]
    } | sha256sum | sed "s/ .*/ $1/"
}

is_installed() {
    [ -f "$stamp" ] && [ -n "$python" ] && grep -qxF "$(expected "$level")" "$stamp" &&
        .venv/bin/python -V >/dev/null 2>&1
}

require_wheelhouse() {
    local tag
    tag=cp$("$python" -c 'import sys; print("%d%d" % sys.version_info[:2])')
    compgen -G "$WHEELHOUSE/torch-*-$tag-*.whl" >/dev/null ||
        fail "WHEELHOUSE=$WHEELHOUSE: no wheel of torch for $python; run make wheelhouse FOLDER=$WHEELHOUSE PYTHON=${python##*/} on a machine with network"
}

install_packages() {
    if [ "$(.venv/bin/python -c 'import sys; print(sys.base_prefix, sys.version)' 2>&1)" != \
        "$("$python" -c 'import sys; print(sys.base_prefix, sys.version)')" ] ||
        ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        echo "setup: creating .venv with $("$python" -V)"
        rm -rf .venv
        "$python" -m venv .venv
    fi
    rm -f "$stamp"
    echo "setup: 1 of 2, installing torch (7 GB), and all other packages"
    deploy/local/packages.sh .venv/bin/python "$level"
    echo "setup: 2 of 2, compiling the inner loops"
    .venv/bin/python -m pip --disable-pip-version-check -q install --no-deps --no-build-isolation \
        --no-index -e .
    # Compiled here so that the first job does not have to.
    .venv/bin/python -m data_pipeline.warm_up
    # A level has all of those before it.
    { expected runtime && { [ "$level" = runtime ] || expected test; }; } >"$stamp"
    echo "setup: done"
}

level=${1:-test}
case $level in
    runtime | test) ;;
    demo)
        level=runtime
        if [ -n "${FASHION_MNIST:-}" ]; then
            [ -f "$FASHION_MNIST/$images" ] ||
                fail "FASHION_MNIST=$FASHION_MNIST: no $images; give the folder of Fashion-MNIST's four .gz files"
        elif [ ! -f "/usr/share/datasets/fashion-mnist/$images" ]; then
            provide fashion-mnist
        fi
        ;;
    *) fail "$level: give runtime, demo or test" ;;
esac
python=$(find_python)
if ! is_installed; then
    require_capabilities
    [ -z "${WHEELHOUSE:-}" ] || require_wheelhouse
    install_packages
fi
