#!/bin/bash
# Sets the passwords of Postgres to those of this pod's Secret, after that has changed.
set -euo pipefail
psql --no-psqlrc -v ON_ERROR_STOP=1 -v mlflow="$MLFLOW_PASSWORD" -v superuser="$POSTGRES_PASSWORD" \
    --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
ALTER ROLE mlflow PASSWORD :'mlflow';
ALTER ROLE CURRENT_USER PASSWORD :'superuser';
SQL
