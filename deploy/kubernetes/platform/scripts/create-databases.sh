#!/bin/bash
# Run once by the image of Postgres, when its volume is empty: MLflow's databases and their owner.
set -euo pipefail
psql --no-psqlrc -v ON_ERROR_STOP=1 -v password="$MLFLOW_PASSWORD" --username "${POSTGRES_USER:-postgres}" <<'SQL'
CREATE ROLE mlflow LOGIN PASSWORD :'password';
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_auth OWNER mlflow;
SQL
