#!/bin/bash
# As the image of Postgres starts: an empty PGDATA becomes a cluster with the superuser's password, then
# what is in /docker-entrypoint-initdb.d runs against a server that only local processes reach.
set -euo pipefail
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # shellcheck disable=SC2086
    initdb --username=postgres --pwfile=<(echo "$POSTGRES_PASSWORD") ${POSTGRES_INITDB_ARGS:-}
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    pg_ctl -w start -o "-c listen_addresses=''"
    for script in /docker-entrypoint-initdb.d/*.sh; do
        [ -x "$script" ] || { echo "$script: is not executable" >&2 && exit 1; }
        "$script"
    done
    pg_ctl -w -m fast stop
fi
exec postgres -c 'listen_addresses=*'
