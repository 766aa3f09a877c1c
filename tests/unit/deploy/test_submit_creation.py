"""What submit.py asks of a cluster, creates there, and removes where a part is refused."""

import json

import pytest
from submit import submit
from support.built_overlays import config_map_of, documents_of
from support.fake_kubectl import COMPLETE
from support.submitting import refused

PARTS = ["ConfigMap", "PodDisruptionBudget", "RayJob"]


def labels_of(documents):
    return {document["metadata"]["labels"]["dtkd-submission"] for document in documents}


def test_all_is_created_and_belongs_to_the_job(ready_cluster, write_pod_spec):
    submit([str(write_pod_spec()), "--overlay", "cpu"])
    # Not applied: apply keeps a copy in an annotation, which holds 256 KiB.
    assert {verb for verb, _ in ready_cluster.sent} == {"create"}
    documents = [document for _, items in ready_cluster.sent for document in items]
    assert [document["kind"] for document in documents] == PARTS
    assert len(labels_of(documents)) == 1
    owner = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": "first-run"}
    owner["uid"] = "uid-of-first-run"
    patches = [arguments for arguments in ready_cluster.arguments if arguments[0] == "patch"]
    assert [arguments[1:3] for arguments in patches] == [
        [document["kind"].lower(), document["metadata"]["name"]] for document in documents[:2]
    ]
    for arguments in patches:
        (patch,) = (text for text in arguments if text.startswith("--patch="))
        content = json.loads(patch.removeprefix("--patch="))
        assert content == {"metadata": {"ownerReferences": [owner]}}


def test_large_specs_are_no_annotation(ready_cluster, write_pod_spec):
    weights = {"source": "/data/w.pth", "rename": [["first", "second"]] * 40_000}
    path = write_pod_spec(student={"model": "resnet18", "weights": weights})
    submit([str(path), "--overlay", "cpu"])
    assert not any("apply" in arguments for arguments in ready_cluster.arguments)
    ((_, (config_map,)), *_) = ready_cluster.sent
    assert 700_000 < len(config_map["data"]["spec.json"]) < 2**20
    assert "annotations" not in config_map["metadata"]


def test_two_submissions_have_other_labels(ready_cluster, write_pod_spec):
    for _ in range(2):
        submit([str(write_pod_spec()), "--overlay", "cpu"])
    documents = [document for _, items in ready_cluster.sent for document in items]
    assert len(labels_of(documents)) == 2


@pytest.mark.parametrize("kind", PARTS)
def test_what_was_created_is_removed_where_a_part_is_refused(ready_cluster, write_pod_spec, kind):
    """A cluster may refuse what it accepted a moment before, such as for its quota."""
    ready_cluster.fails(kind)
    (line,) = refused([write_pod_spec(), "--overlay", "cpu"])
    assert line.startswith(f"cluster: Error from server (Forbidden): {kind} is forbidden; ")
    label = ready_cluster.sent[0][1][0]["metadata"]["labels"]["dtkd-submission"]
    last = ready_cluster.arguments[-1]
    assert last[:2] == ["delete", "rayjob,poddisruptionbudget,configmap"]
    assert f"--selector=dtkd-submission={label}" in last


def test_what_cannot_be_removed_is_said(ready_cluster, write_pod_spec):
    ready_cluster.fails("RayJob", "delete")
    first, second = refused([write_pod_spec(), "--overlay", "cpu"])
    assert "RayJob is forbidden" in first
    assert "delete is forbidden; run kubectl delete rayjob,poddis" in second
    assert "--selector=dtkd-submission=" in second


def test_cluster_that_refuses_a_part_gets_none(ready_cluster, write_pod_spec):
    ready_cluster.refuses("RayJob")
    (line,) = refused([write_pod_spec(), "--overlay", "cpu"])
    assert line.startswith("cluster: Error from server (Forbidden): RayJob is forbidden; ")
    assert ready_cluster.sent == []


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ([], "namespace dtkd: is missing; run deploy/kubernetes/apply.py OVERLAY foundation"),
        (
            ["namespace/dtkd"],
            "namespace dtkd: has no Secret dtkd-ray; run deploy/kubernetes/create",
        ),
    ],
)
def test_namespace_must_be_complete(cluster, write_pod_spec, objects, expected):
    cluster.has(*objects)
    (line,) = refused([write_pod_spec(), "--overlay", "cpu"])
    assert line.startswith(expected)
    assert cluster.sent == []


def test_what_pods_mount_must_be_there(cluster, write_pod_spec):
    cluster.has(*COMPLETE)
    lines = refused([write_pod_spec(), "--overlay", "cpu"])
    scripts = config_map_of(documents_of("cpu"), "ray-scripts")["metadata"]["name"]
    start = "namespace dtkd: has no"
    assert lines == [
        f"{start} ConfigMap {scripts}; run deploy/kubernetes/apply.py cpu platform",
        f"{start} PersistentVolumeClaim dtkd-data; run deploy/kubernetes/apply.py cpu foundation",
        f"{start} PersistentVolumeClaim dtkd-runs; run deploy/kubernetes/apply.py cpu foundation",
    ]
    assert cluster.sent == []


def test_what_exists_is_not_replaced(ready_cluster, write_pod_spec):
    ready_cluster.has_also("rayjob/first-run")
    (line,) = refused([write_pod_spec(), "--overlay", "cpu"])
    assert "rayjob first-run: exists; run kubectl delete rayjob first-run -n dtkd" in line
    assert ready_cluster.sent == []


def test_leftovers_of_a_job_are_named(ready_cluster, write_pod_spec):
    ready_cluster.has_also("poddisruptionbudget/rayjob-first-run")
    (line,) = refused([write_pod_spec(), "--overlay", "cpu"])
    assert line.startswith("poddisruptionbudget rayjob-first-run: exists, of a RayJob that is gone")
    assert line.endswith("run kubectl delete poddisruptionbudget rayjob-first-run -n dtkd")
    assert ready_cluster.sent == []
