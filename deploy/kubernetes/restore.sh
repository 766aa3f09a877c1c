#!/bin/bash
# Replace MLflow's databases by a dump, with MLflow stopped meanwhile: restore.sh [DUMP]. Without DUMP, the
# name of a dump such as 20261126T021700Z, the newest is used. Runs go on: what MLflow misses, they send later.
set -euo pipefail
dump=${1:-}
k() { kubectl --namespace dtkd "$@"; }

if ! replicas=$(k get deployment mlflow --output=jsonpath='{.spec.replicas}'); then
    echo "deploy: Deployment mlflow: is not there; run deploy/kubernetes/apply.py OVERLAY platform" >&2
    exit 2
fi
if [ -n "$(k get job postgres-restore --ignore-not-found --output=name)" ]; then
    echo "deploy: Job postgres-restore: exists; run kubectl delete job postgres-restore -n dtkd" >&2
    exit 2
fi
trap 'k scale deployment mlflow --replicas="$replicas"' EXIT
k scale deployment mlflow --replicas=0
k wait pod --selector=app=mlflow --for=delete --timeout=180s
k create job postgres-restore --from=cronjob/postgres-backup --dry-run=client --output=yaml |
    k set env --local --filename=- ACTION=restore DUMP="$dump" --output=yaml | k create --filename=-
if ! k wait job postgres-restore --for=condition=complete --timeout=7200s; then
    k logs job/postgres-restore >&2
    exit 1
fi
k logs job/postgres-restore
k delete job postgres-restore
