"""Files that runs and caches create have the permissions that the umask gives."""

import os
import stat

import mlflow
import pytest
import torch

from data_pipeline.files import write_atomically
from data_pipeline.staging.fetch import PartialCopy, allocate
from service.models.weights import save_weights
from service.run.progress import Progress
from service.spec.loading import parse_spec
from service.tracking.mlflow_run import MlflowRun, tracking_uri
from service.training.checkpoint import Snapshot, save_checkpoint


@pytest.fixture(params=[0o002, 0o027, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def wrong_modes(folder, umask):
    """The paths below a folder with other permissions than new files and folders have."""
    return [
        (str(path.relative_to(folder)), oct(mode))
        for path in folder.rglob("*")
        if (mode := stat.S_IMODE(path.stat().st_mode))
        != (0o777 if path.is_dir() else 0o666) & ~umask
    ]


def test_checkpoints_and_weights(tmp_path, umask):
    weights = {"a": torch.zeros(3)}
    folder = tmp_path / "run"
    snapshot = Snapshot(weights, weights, {"state": weights}, [{"b": 1}], Progress())
    save_checkpoint(folder / "checkpoint_0000000001", "hash", snapshot)
    save_weights(weights, folder / "teacher_weights.safetensors", {})
    write_atomically(folder / "spec.json", "{}")
    allocate(PartialCopy(folder / "copy", 100, "0f"))
    assert len(list(folder.rglob("*"))) == 9
    assert wrong_modes(folder, umask) == []


def test_the_default_tracking_store(tmp_path, umask, make_content, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    spec = parse_spec(make_content(checkpoints={"storage_path": str(tmp_path / "storage")}))
    spec.run_path.mkdir(parents=True)
    run = MlflowRun(spec, tracking_uri(spec))
    run.log_spec({})
    mlflow.set_tracking_uri(None)
    assert (tmp_path / "storage" / "mlflow.db").exists()
    assert wrong_modes(tmp_path / "storage", umask) == []
