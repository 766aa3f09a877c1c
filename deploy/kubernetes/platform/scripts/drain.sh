#!/bin/bash
# Before a worker's pod ends: Ray drains its node, the workers of runs save and leave, and only then does
# the pod end. drain.sh SECONDS, how long that may take. Runs see a drained node as no failure of theirs.
set -u
seconds=$1
processes=${PROC:-/proc}

# Ray names its processes. Those that every node has, and helpers, whose names start with _, are no work.
is_busy() {
    grep -hsaoE '^ray::[[:alnum:]_]+' "$processes"/[0-9]*/cmdline |
        grep -qvE '^ray::(IDLE|DashboardAgent|RuntimeEnvAgent|_.*)$'
}

deadline=$((SECONDS + seconds))
timeout 15 ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION \
    --reason-message "the pod is being deleted" --deadline-remaining-seconds "$seconds" ||
    echo "drain: Ray's head does not answer" >&2
while is_busy && [ "$SECONDS" -lt "$deadline" ]; do
    sleep 1
done
