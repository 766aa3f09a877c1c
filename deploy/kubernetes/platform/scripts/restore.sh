#!/bin/bash
# Replaces MLflow's databases by a dump of backup.sh: restore.sh FOLDER. The environment variable DUMP is
# the dump's name; the newest if it is not set. Nothing may be connected: MLflow must be stopped.
set -euo pipefail
folder=$1
dump=${DUMP:-$(find "$folder" -mindepth 1 -maxdepth 1 -type d -name '????????T??????Z' -printf '%f\n' | sort | tail -n 1)}
for database in mlflow mlflow_auth; do
    if [ ! -s "$folder/$dump/$database.dump" ]; then
        echo "deploy: $folder/$dump: has no $database.dump; set DUMP to one of: $(ls "$folder" | tr '\n' ' ')" >&2
        exit 2
    fi
done
for database in mlflow mlflow_auth; do
    # One transaction: a dump that does not load changes nothing. Tables of a newer schema go, too.
    {
        echo 'BEGIN; DROP SCHEMA public CASCADE; CREATE SCHEMA public;'
        pg_restore --no-owner --no-privileges --file=- "$folder/$dump/$database.dump" && echo 'COMMIT;'
    } | psql --no-psqlrc --quiet -v ON_ERROR_STOP=1 --dbname="$database" >/dev/null
    echo "restore: $database from $dump"
done
