#!/bin/bash
# Dumps MLflow's databases into a new folder of FOLDER and keeps the newest NUM_TO_KEEP: backup.sh FOLDER.
# PGHOST, PGUSER and PGPASSWORD say where they are.
set -euo pipefail
folder=$1
name=$(date -u +%Y%m%dT%H%M%SZ)
partial=$folder/.partial-$name
trap 'rm -rf "$partial"' EXIT
rm -rf "$folder"/.partial-*
mkdir "$partial"
for database in mlflow mlflow_auth; do
    pg_dump --format=custom --file="$partial/$database.dump" "$database"
    # Reads all of the file's directory: a dump that was cut off fails here, not when it is needed.
    pg_restore --list "$partial/$database.dump" >/dev/null
done
sync "$partial"/*
mv "$partial" "$folder/$name"
echo "backup: $name, $(du -sh "$folder/$name" | cut -f1)"
find "$folder" -mindepth 1 -maxdepth 1 -type d -name '????????T??????Z' | sort -r |
    tail -n "+$((NUM_TO_KEEP + 1))" | while read -r old; do
    rm -r "$old"
    echo "backup: removed $(basename "$old")"
done
