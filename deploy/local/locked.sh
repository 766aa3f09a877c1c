#!/bin/bash
# Reads the locked requirements of deploy/requirements. Sourced from the project's root.
# shellcheck disable=SC2034 # for those who source it

# What has no wheel; all else is installed from wheels alone.
source_packages='ffcv|fastargs|assertpy'
# Half of all bytes.
torch_packages='torch|torchvision|nvidia-[^=]*|triton'

# The files of a level: of the runtime, or of the tests, which need the runtime too.
locked_files() {
    echo deploy/requirements/runtime.txt
    [ "$1" != test ] || echo deploy/requirements/test.txt
}

# The requirements of a level whose names match (1) or do not (0), with their hashes.
locked() {
    local -a files
    mapfile -t files < <(locked_files "$1")
    awk -v pattern="^($3)==" -v matching="$2" \
        '/^[^ ]/ { keep = /^[a-z0-9]/ && ($0 ~ pattern) == matching } keep' "${files[@]}"
}
