#!/bin/bash
# Prints the names of the dumps of backup.sh that are complete: dumps.sh FOLDER.
set -euo pipefail
for dump in "$1"/????????T??????Z; do
    if [ -s "$dump/mlflow.dump" ] && [ -s "$dump/mlflow_auth.dump" ]; then
        basename "$dump"
    fi
done
