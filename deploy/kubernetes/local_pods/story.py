"""What happens in the pods: a job trains, strangers are refused, a node is drained."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import image_facts
from checks.manifests import Document, Pod, pods
from podman_engine import CommandError

from local_pods import inside, observations
from local_pods.cluster import LocalCluster
from local_pods.kuberay import DASHBOARD_PORT, head_pod, head_service, submitter_pod, worker_pod

Secrets = Mapping[tuple[str, str], str]

HEAD, WORKERS = "dtkd-head", ("dtkd-worker-1", "dtkd-worker-2")
MLFLOW, DATABASE, LOADER = "mlflow", "mlflow-database", "dtkd-loader"
SUBMITTER, STRANGER = "submitter", "stranger"
SPEC_PATH, RUN, MODEL = "/runs/specs/spec.json", "pods-check", "small"
ENTRYPOINT = f"python jobs/distill.py {SPEC_PATH}"
JOB_TIMEOUT_S, START_TIMEOUT_S, DRAIN_S = 600, 240, 20
LOGINS = {"nobody": 401, "wrong password": 401, "runs": 200, "runs, for an administrator": 403}
# Ray takes Redis's password in no other way; SECURITY.md says so.
KNOWN_LEAKS = {
    f"{HEAD}: arguments of {process}: ('dtkd-redis', 'password')"
    for process in ("ray", "raylet", "gcs_server")
}


def plan(documents: list[Document]) -> dict[str, Pod]:
    """The pods to run, by name: those of the manifests, and those that KubeRay would create."""
    (ray,) = (document for document in documents if document["kind"] == "RayCluster")
    (job,) = (document for document in documents if document["kind"] == "RayJob")
    named = {
        pod.document["metadata"]["name"]: pod
        for pod in pods(documents)
        if pod.document["kind"] in ("Deployment", "StatefulSet", "Job", "Pod")
    }
    submitters = {
        name: Pod(job, "submitter", submitter_pod(ray, job, ENTRYPOINT, token=token))
        for name, token in ((SUBMITTER, True), (STRANGER, False))
    }
    workers = {name: Pod(ray, "worker", worker_pod(ray)) for name in WORKERS}
    return {**named, HEAD: Pod(ray, "head", head_pod(ray)), **workers, **submitters}


def run_all(cluster: LocalCluster, secrets: Secrets) -> None:
    """Run the pods and check what they do.

    Raises:
        CommandError: something is not as it should be.
    """
    start_services(cluster)
    start_ray(cluster)
    check_stranger(cluster)
    check_job(cluster, secrets)
    check_refusals(cluster)
    for name in ("postgres", "redis", "object-store", MLFLOW, HEAD, *WORKERS):
        cluster.check_health(name)
    report("all pods are healthy")
    check_drain(cluster)


def start_services(cluster: LocalCluster) -> None:
    """Start MLflow, and what it stores its state in.

    Raises:
        CommandError: one does not start.
    """
    for name in ("postgres", "redis", "object-store"):
        start(cluster, name)
    cluster.play(DATABASE)
    expect(f"{DATABASE} ends with", cluster.wait_until_ended(DATABASE, START_TIMEOUT_S), 0)
    start(cluster, MLFLOW)


def start_ray(cluster: LocalCluster) -> None:
    """Write a data set with the loader, start the standing cluster, and write a spec.

    Raises:
        CommandError: one does not start.
    """
    cluster.play(LOADER)
    facts = Path(image_facts.__file__).read_text()
    cluster.run(LOADER, "python", "-", "data", stdin=facts)
    convert = ("python", "jobs/convert.py", "/data/images", "/data/train.beton")
    report(cluster.run(LOADER, *convert).splitlines()[-1])
    for name in (HEAD, *WORKERS):
        start(cluster, name)
    spec = {
        **image_facts.SPEC,
        "name": RUN,
        "schedule": {"num_epochs": 60, "milestones": [40]},
        "training": {"global_batch_size": 16, "micro_batch_size": 8},
        # One in each pod.
        "resources": {"num_workers": 2, "cpus_per_worker": 2, "max_failures": 0},
        "tracking": {"uri": "http://mlflow:5000", "register_as": MODEL},
    }
    write = f"mkdir -p $(dirname {SPEC_PATH}) && cat > {SPEC_PATH}"
    cluster.run(HEAD, "bash", "-c", write, stdin=json.dumps(spec))


def check_stranger(cluster: LocalCluster) -> None:
    """Submit a job without the token.

    Raises:
        CommandError: it is taken, or refused for another reason.
    """
    cluster.play(STRANGER)
    status = cluster.wait_until_ended(STRANGER, START_TIMEOUT_S)
    lines = [
        line for line in cluster.logs(STRANGER).splitlines() if "401" in line or "token" in line
    ]
    expect("a job without the token is refused", [status != 0, bool(lines)], [True, True])
    report(f"without the token: {lines[-1].strip()}")
    expect("Ray's dashboard answers nobody with", ask_dashboard(cluster, None)[0], 401)
    expect("and a wrong token with", ask_dashboard(cluster, "wrong")[0], 403)


def check_job(cluster: LocalCluster, secrets: Secrets) -> None:
    """Submit a job with the token; it trains a student, which is then in MLflow.

    Raises:
        CommandError: it does not.
    """
    cluster.play(SUBMITTER)
    run_path = cluster.folder / "dtkd-runs" / RUN
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not any(run_path.glob("checkpoint_*")):
        if time.monotonic() > deadline_s:
            raise CommandError(f"the job has no checkpoint\n{cluster.logs(SUBMITTER)[-4000:]}")
        time.sleep(0.5)
    observe(cluster, secrets)
    status = cluster.wait_until_ended(SUBMITTER, JOB_TIMEOUT_S)
    if status != 0:
        raise CommandError(f"the submitter ends with {status}\n{cluster.logs(SUBMITTER)[-4000:]}")
    _, answer = ask_dashboard(cluster, secrets["dtkd-ray", "auth_token"])
    expect("the jobs are", [job["status"] for job in json.loads(answer)], ["SUCCEEDED"])
    student = inside_of(cluster, HEAD, "student", MODEL, f"/runs/{RUN}")
    report(f"in MLflow: {student}")
    expect("its run is", student["status"], "FINISHED")
    expect("its weights are the run's", student["weights are the run's"], True)


def observe(cluster: LocalCluster, secrets: Secrets) -> None:
    """While a job trains: what processes may do, what listens, and where secrets are.

    Raises:
        CommandError: a process may do more than it should, or a secret is where it should not be.
    """
    running = [name for name in cluster.played if name not in (DATABASE, STRANGER)]
    for name in running:
        expect(f"{name}: what it may do", observations.fault_of_restrictions(cluster, name), None)
    report(f"{len(running)} pods: user, capabilities, privileges, seccomp and roots are restricted")
    print(f"{'pod':14} {'listens on':28} {'process':16} reached by")
    for name in running:
        for socket in observations.listeners(cluster, name):
            where, who = f"{socket.address}:{socket.port}", ", ".join(socket.reached_by)
            print(f"{name:14} {where:28} {socket.process:16} {who or 'no pod'}")
    found = {leak for name in running for leak in observations.leaks(cluster, name, secrets)}
    for name in cluster.played:
        found.update(observations.leaks_in_log(cluster, name, secrets))
    expect("secrets in logs, arguments, other environments", sorted(found - KNOWN_LEAKS), [])
    expect("secrets in files", [*observations.leaks_in_files(cluster.folder, secrets)], [])
    report(f"{len(secrets)} secrets: only in the environment of the containers that refer to them")


def check_refusals(cluster: LocalCluster) -> None:
    """Who has no password, a wrong one, or no policy, is refused.

    Raises:
        CommandError: somebody is let in.
    """
    expect("MLflow answers", inside_of(cluster, HEAD, "logins"), LOGINS)
    expect("Redis answers nobody", inside_of(cluster, HEAD, "redis")["says"][:7], "-NOAUTH")
    answer = inside_of(cluster, MLFLOW, "database")["says"]
    expect("Postgres refuses a wrong password", "authentication failed" in answer, True)
    worker = cluster.address(WORKERS[0])
    reached = {
        "mlflow:5000": True, "redis:6379": True, f"{worker}:6380": True,
        "postgres:5432": False, "object-store:8333": False, f"{worker}:8080": False,
    }  # fmt: skip
    expect("the head reaches", inside_of(cluster, HEAD, "reach", *reached), reached)
    nothing = dict.fromkeys((*reached, f"{head_service_of(cluster)}:{DASHBOARD_PORT}"), False)
    expect("the loader reaches", inside_of(cluster, LOADER, "reach", *nothing), nothing)
    report("refused: no password, wrong passwords, and what no policy opens")


def check_drain(cluster: LocalCluster) -> None:
    """End a worker's pod as Kubernetes does: its preStop hook, then the signal.

    Raises:
        CommandError: Ray does not drain the node, or the pod does not end in time.
    """
    name = WORKERS[-1]
    (container,) = cluster.plan[name].main_containers
    *hook, _ = container["lifecycle"]["preStop"]["exec"]["command"]
    cluster.run(name, *hook, str(DRAIN_S), timeout_s=2 * DRAIN_S)
    log = "".join(
        path.read_text() for path in cluster.folder.glob(f"{HEAD}-ray-logs/*/logs/gcs_server.out")
    )
    expect("Ray drains the node", "drain" in log.lower(), True)
    start_s = time.monotonic()
    grace_s = cluster.plan[name].spec["terminationGracePeriodSeconds"] - DRAIN_S
    cluster.remove(name, grace_s)
    report(f"{name}: drained, and gone {time.monotonic() - start_s:.1f} s after its signal")


def start(cluster: LocalCluster, name: str) -> None:
    """Start a pod and wait until its probes succeed.

    Raises:
        CommandError: they do not.
    """
    start_s = time.monotonic()
    cluster.play(name)
    cluster.wait_until_ready(name)
    report(f"{name}: ready after {time.monotonic() - start_s:.1f} s")


def ask_dashboard(cluster: LocalCluster, token: str | None) -> tuple[int, str]:
    """Status and text of Ray's list of jobs, asked for with a token or with none."""
    request = urllib.request.Request(f"http://{cluster.address(HEAD)}:{DASHBOARD_PORT}/api/jobs/")
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def inside_of(cluster: LocalCluster, name: str, *command: str) -> dict[str, Any]:
    """What a command of inside.py finds in a pod."""
    script = Path(inside.__file__).read_text()
    return json.loads(cluster.run(name, "python", "-", *command, stdin=script).splitlines()[-1])


def head_service_of(cluster: LocalCluster) -> str:
    """The name of the standing cluster's head."""
    return head_service(cluster.plan[HEAD].document)


def report(text: str) -> None:
    """Print what has been found."""
    print(f"ok: {text}", flush=True)


def expect(what: str, found: object, expected: object) -> None:
    """Check one thing.

    Raises:
        CommandError: it is another.
    """
    if found != expected:
        raise CommandError(f"{what}: {found}, and it should be {expected}")
