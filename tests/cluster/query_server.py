"""Answers queries about a Ray cluster, one JSON line for each, from inside its network.

A separate process that lives as long as the cluster and does not join it: joining it for each
query takes seconds, and a worker.
"""

import json
import sys
import time

from ray._private.state import GlobalState
from ray._raylet import GcsClient, GcsClientOptions
from ray.core.generated import autoscaler_pb2
from ray.job_submission import JobSubmissionClient

PREEMPTION = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")


class Queries:
    """The queries, one method each."""

    def __init__(self, host):
        self._host, self._gcs_address = host, f"{host}:6379"
        self._state = GlobalState()
        options = GcsClientOptions.create(
            self._gcs_address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False
        )
        self._state._initialize_global_state(options)

    def num_alive(self):
        """Number of nodes."""
        return sum(node["Alive"] for node in self._state.node_table())

    def held_resources(self):
        """Numbers of placement groups that exist, and of CPUs that are not free."""
        groups = self._state.placement_group_table().values()
        num_groups = sum(group["state"] != "REMOVED" for group in groups)
        num_cpus = self._state.cluster_resources()["CPU"]
        return [num_groups, num_cpus - self._state.available_resources().get("CPU", 0)]

    def drain(self, address, seconds):
        """Drain a node, as a cloud's preemption notice does; returns whether it is accepted."""
        node = next(
            node
            for node in self._state.node_table()
            if node["Alive"] and node["NodeManagerAddress"] == address
        )
        deadline_ms = int(1000 * (time.time() + seconds))
        client = GcsClient(address=self._gcs_address)
        return client.drain_node(node["NodeID"], PREEMPTION, "test", deadline_ms)[0]

    def stop_jobs(self):
        """Run ``ray job stop`` for every running job; returns the number of jobs."""
        client = JobSubmissionClient(f"http://{self._host}:8265")
        running = [
            job.submission_id
            for job in client.list_jobs()
            if job.submission_id and job.status == "RUNNING"
        ]
        return sum(client.stop_job(submission_id) for submission_id in running)

    def job_status(self, submission_id):
        """Ray's word for the state of a job, such as RUNNING; empty while it cannot be asked."""
        try:
            client = JobSubmissionClient(f"http://{self._host}:8265")
            return str(client.get_job_status(submission_id).value)
        except (ConnectionError, RuntimeError):
            # The dashboard of a head that has just started.
            return ""


def main(host):
    """Answer queries from stdin until it is closed."""
    queries = Queries(host)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(queries, name)(*arguments)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
