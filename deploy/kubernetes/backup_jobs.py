"""Jobs with another action in the pod of postgres-backup, which has the dumps and the password."""

import contextlib
import time
from typing import NamedTuple

from checks.manifests import Document, at
from external import NAMESPACE
from kubectl import LOG_IN, call, get, send

from service.spec.errors import BadInputError

POLL_S = 1.0
# A Job whose deadline has passed has failed, and says so soon after.
END_TIMEOUT_S = 60.0


class Ended(NamedTuple):
    """How a Job has ended."""

    is_complete: bool
    log: str


def backup_job(cron_job: Document, name: str, timeout_s: int, **variables: str) -> Document:
    """The Job of a CronJob with other variables, which is tried once."""
    spec: Document = cron_job["spec"]["jobTemplate"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    kept = [entry for entry in container["env"] if entry["name"] not in variables]
    given = [{"name": key, "value": value} for key, value in variables.items()]
    pod = {**pod, "containers": [{**container, "env": [*kept, *given]}]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            **spec,
            "backoffLimit": 0,
            "activeDeadlineSeconds": timeout_s,
            "template": {**spec["template"], "spec": pod},
        },
    }


def run_job(job: Document) -> Ended:
    """Create a Job, wait until it has completed or failed, and delete it, whatever happens.

    Raises:
        BadInputError: the cluster refuses it.
    """
    name = job["metadata"]["name"]
    place = (f"job/{name}", "--namespace", NAMESPACE)
    try:
        send("create", [job])
        is_complete = _is_complete(name, job["spec"]["activeDeadlineSeconds"] + END_TIMEOUT_S)
        log = ""
        # Of a pod that never started there is none.
        with contextlib.suppress(BadInputError):
            log = call("logs", *place, remedy=LOG_IN)
        return Ended(is_complete, log)
    finally:
        # Its pod first: until that has ended, it may be changing the databases.
        delete = ("delete", *place, "--cascade=foreground", "--ignore-not-found")
        call(*delete, remedy=f"run kubectl {' '.join(delete)}")


def _is_complete(name: str, timeout_s: float) -> bool:
    """Whether a Job has completed, when it has ended; no if it is gone."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        # A cluster that does not answer is asked again: the Job goes on.
        with contextlib.suppress(BadInputError):
            job = get("job", name)
            if job is None:
                return False
            for condition in at(job, "status.conditions"):
                if condition["status"] == "True" and condition["type"] in ("Complete", "Failed"):
                    return bool(condition["type"] == "Complete")
        time.sleep(POLL_S)
    return False
