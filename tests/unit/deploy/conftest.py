"""Fixtures: a cluster that records what is sent to it, and specs for it."""

import json

import pytest
from kubectl import find_kubectl
from support.built_overlays import documents_of
from support.fake_kubectl import COMPLETE, FakeCluster


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    yield FakeCluster(tmp_path / "kubectl", monkeypatch)
    find_kubectl.cache_clear()


@pytest.fixture
def ready_cluster(cluster):
    kinds = ("ConfigMap", "PersistentVolumeClaim")
    mounted = [
        f"{document['kind'].lower()}/{document['metadata']['name']}"
        for document in documents_of("cpu")
        if document["kind"] in kinds and "dtkd-run" not in document["metadata"].get("labels", {})
    ]
    cluster.has(*COMPLETE, *mounted)
    return cluster


@pytest.fixture
def write_pod_spec(tmp_path):
    """Writes a job's spec with these sections in place of its own; returns its path."""

    def write(file_name="spec.json", **sections):
        content = {
            "name": "first-run",
            "dataset": {"train": "/data/t.beton", "val": "/data/v.beton", "num_classes": 10},
            "student": {"model": "resnet18"},
            "training": {"global_batch_size": 256},
            "resources": {"num_workers": 2, "cpus_per_worker": 4},
            "checkpoints": {"storage_path": "/runs"},
            **sections,
        }
        path = tmp_path / file_name
        path.write_text(json.dumps(content))
        return path

    return write
