"""Submitting a spec: what is rendered, and what is refused before anything is created."""

import json

import pytest
import yaml
from checks.manifests import at
from rayjob import amount
from submit import submit
from support.built_overlays import documents_of, find
from support.submitting import many_jobs

CPU_POD = {"cpu": 16, "memory_gib": 64, "most": 8}
GPU_POD = {"cpu": 64, "memory_gib": 480, "most": 8}
SWEEP = {"held_out": {"num_images": 100}, "space": {"optimizer.momentum": {"choice": [0.8, 0.9]}}}
VARIANTS = {"short": {"schedule.num_epochs": 50, "schedule.milestones": [20, 40]}}


def rendered(capsys, path, *options, overlay="cpu"):
    submit([str(path), "--overlay", overlay, "--dry-run", *options])
    documents = list(yaml.safe_load_all(capsys.readouterr().out))
    assert [d["kind"] for d in documents] == ["ConfigMap", "PodDisruptionBudget", "RayJob"]
    return documents


def test_job_runs_the_spec_on_the_overlays_pods(capsys, write_pod_spec):
    path = write_pod_spec()
    config, budget, job = rendered(capsys, path)
    spec = job["spec"]
    assert json.loads(config["data"]["spec.json"]) == json.loads(path.read_text())
    assert spec["entrypoint"] == "python /opt/dtkd-service/jobs/distill.py /spec/spec.json"
    standing = find(documents_of("cpu"), "RayCluster")["spec"]
    own = spec["rayClusterSpec"]
    for group in ("headGroupSpec", "workerGroupSpecs"):
        for kept in (
            *("securityContext", "containers.image", "containers.securityContext"),
            *("containers.env", "containers.startupProbe", "containers.ports"),
            *("containers.lifecycle", "terminationGracePeriodSeconds", "priorityClassName"),
        ):
            path = f"{group}.template.spec.{kept}"
            assert at(own, path) == at(standing, path)
    assert own["authOptions"] == standing["authOptions"]
    volumes = at(own, "headGroupSpec.template.spec.volumes.configMap.name")
    assert volumes == [config["metadata"]["name"]]
    # No policy or budget of the standing cluster selects its pods.
    assert at(own, "headGroupSpec.template.metadata.labels.cluster") == ["rayjob-first-run"]
    labels = own["headGroupSpec"]["template"]["metadata"]["labels"]
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_job_has_no_part_of_the_standing_cluster_that_it_does_not_need(capsys, write_pod_spec):
    own = rendered(capsys, write_pod_spec())[2]["spec"]["rayClusterSpec"]
    assert not {"autoscalerOptions", "gcsFaultToleranceOptions"} & own.keys()
    head = own["headGroupSpec"]["template"]["spec"]
    assert "serviceAccountName" not in head
    assert at(head, "volumes.projected") == []


@pytest.mark.parametrize(
    ("resources", "overlay", "pod", "num_pods", "workers_per_pod"),
    [
        # Less than a pod: a smaller one.
        ({"num_workers": 1, "cpus_per_worker": 4}, "cpu", CPU_POD, 1, 1),
        ({"num_workers": 3, "cpus_per_worker": 4}, "cpu", CPU_POD, 1, 3),
        # 16 cores hold four workers of 4 and one of 12.
        ({"num_workers": 9, "cpus_per_worker": 4}, "cpu", CPU_POD, 3, 4),
        ({"num_workers": 8, "cpus_per_worker": 12}, "cpu", CPU_POD, 8, 1),
        ({"num_workers": [2, 8], "cpus_per_worker": 16}, "cpu", CPU_POD, 8, 1),
        ({"num_workers": 64, "cpus_per_worker": 8, "gpu": True}, "gpu", GPU_POD, 8, 8),
        ({"num_workers": 2, "cpus_per_worker": 8, "gpu": True}, "gpu", GPU_POD, 1, 2),
        # Four workers of 16 cores leave four of the eight GPUs to nobody.
        ({"num_workers": 8, "cpus_per_worker": 16, "gpu": True}, "spot", GPU_POD, 2, 4),
    ],
)
def test_pods_hold_the_workers(
    capsys, write_pod_spec, resources, overlay, pod, num_pods, workers_per_pod
):
    path = write_pod_spec(
        resources=resources, training={"global_batch_size": 4608, "micro_batch_size": 8}
    )
    job = rendered(capsys, path, overlay=overlay)[2]
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert [group[k] for k in ("replicas", "minReplicas", "maxReplicas")] == [num_pods] * 3
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    cores = workers_per_pod * resources["cpus_per_worker"]
    assert int(limits["cpu"]) == cores
    shares = [cores / pod["cpu"]]
    if resources.get("gpu"):
        assert int(limits["nvidia.com/gpu"]) == workers_per_pod
        shares.append(workers_per_pod / 8)
    memory_gib = amount(limits["memory"]) / 2**30
    assert memory_gib == pytest.approx(max(shares) * pod["memory_gib"], abs=0.01)


@pytest.mark.parametrize(
    ("content", "script", "num_pods"),
    [
        # Workers of two pods each; the cluster has 8 pods.
        ({**SWEEP, "budget": {"trials": 3}}, "sweep", 6),
        ({**SWEEP, "budget": {"trials": 50}}, "sweep", 8),
        ({**SWEEP, "concurrency": 2}, "sweep", 4),
        # Two rows with two seeds.
        ({"variants": VARIANTS, "seeds": [0, 1]}, "compare", 8),
        ({"variants": VARIANTS, "concurrency": 1}, "compare", 2),
    ],
)
def test_sweeps_and_comparisons_are_sized_by_what_runs_at_a_time(
    capsys, tmp_path, write_pod_spec, content, script, num_pods
):
    base = write_pod_spec("base.json", resources={"num_workers": 2, "cpus_per_worker": 16})
    path = many_jobs(tmp_path, base, **content)
    config, _, job = rendered(capsys, path)
    assert f"jobs/{script}.py" in job["spec"]["entrypoint"]
    assert job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] == num_pods
    # The base is in the cluster, too.
    assert json.loads(config["data"]["spec.json"])["base"] == json.loads(base.read_text())


def test_options_reach_the_job(capsys, write_pod_spec, tmp_path):
    options = ["--deadline-hours", "2", "--retries", "5", "--name", "other"]
    job = rendered(capsys, write_pod_spec(), *options)[2]
    assert job["spec"]["activeDeadlineSeconds"] == 7200
    assert job["spec"]["backoffLimit"] == 5
    assert job["metadata"]["name"] == "other"
    sweep = many_jobs(tmp_path, write_pod_spec(), **SWEEP)
    job = rendered(capsys, sweep, "--confirm", "3")[2]
    assert job["spec"]["entrypoint"].endswith("jobs/sweep.py /spec/spec.json --confirm 3")


def test_queue_gets_all_pods_back_at_the_end(capsys, write_pod_spec):
    spec = write_pod_spec()
    job = rendered(capsys, spec, "--queue", "team")[2]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert "deletionStrategy" not in job["spec"]
    assert "deletionStrategy" in rendered(capsys, spec)[2]["spec"]
