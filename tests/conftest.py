"""Fixtures: small .beton files and specs that use them."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

# Before torch and numpy are imported, here and in what tests start: for networks this small,
# threads that wait for each other take more time than the work. Ray's processes get their share of
# the CPUs beside other programs; by default they would be the last to run.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RAY_worker_niceness": "0"}

import pytest
import torch
from safetensors.torch import save_file
from support.spec_contents import KD, spec_content, write_stripes
from support.staging_helpers import instrument

from data_pipeline.staging import Cache
from service.models.build import build_model

# jobs/ is not part of the installed packages.
sys.path.insert(0, str(Path(__file__).parents[1]))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported and collected stays: looking for garbage in it takes as long as all else."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    """train.beton with 256 images and val.beton with 101, which no worker count divides."""
    folder = tmp_path_factory.mktemp("data")
    write_stripes(folder / "train.beton", 256, seed=1)
    write_stripes(folder / "val.beton", 101, seed=2)
    return folder


@pytest.fixture
def own_tracking(monkeypatch):
    """Runs are tracked where the test says; the process's tracking URI is restored."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    # Imported here: MLflow is slow to import, and most tests need none of it.
    from service.tracking.sync_destination import tracking_kept

    with tracking_kept():
        yield


@pytest.fixture
def make_content(data_folder, tmp_path):
    """A function that makes a spec's JSON content; sections given replace the defaults' fields."""

    def make(**sections):
        return spec_content(data_folder, tmp_path / "runs", **sections)

    return make


@pytest.fixture
def write_spec(make_content, tmp_path):
    """A function that writes the spec of make_content to a file and returns its path."""

    def write(**sections):
        path = tmp_path / f"{sections.get('name', 'run')}.json"
        path.write_text(json.dumps(make_content(**sections)))
        return path

    return write


@pytest.fixture
def share(tmp_path):
    """A folder that represents a shared mount."""
    return tmp_path / "share"


@pytest.fixture
def cache(tmp_path):
    """A cache of datasets on the node's own disk."""
    return Cache(tmp_path / "cache")


@pytest.fixture
def log_path(tmp_path, monkeypatch):
    """The log of the bytes of each fetch."""
    path = tmp_path / "fetched"
    instrument(monkeypatch.setattr, path)
    return path


@pytest.fixture
def teacher(tmp_path):
    """A teacher section with random weights in a file."""
    torch.manual_seed(9)
    save_file(build_model("cifar:resnet8", 4).state_dict(), tmp_path / "teacher.safetensors")
    return {"model": "cifar:resnet8", "weights": {"source": str(tmp_path / "teacher.safetensors")}}


@pytest.fixture
def small_disk(request, tmp_path):
    """A file system of 64 kB, or of the size that a test sets as an indirect parameter."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = [
        "mount",
        "-t",
        "tmpfs",
        "-o",
        f"size={getattr(request, 'param', '64k')}",
        "tmpfs",
        str(folder),
    ]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def make_sweep_content(make_content, teacher):
    """A function that makes a sweep's JSON content over a small job with a teacher.

    ``base``: sections of the job; all other fields are the sweep's.
    """

    def make(base=None, **fields):
        sections = {"teacher": teacher, "schedule": {"num_epochs": 9, "milestones": []}}
        job = make_content(**{**sections, **(base or {})})
        return {"name": "sweep", "base": job, "held_out": {"num_images": 64}, **fields}

    return make


@pytest.fixture
def make_compare_content(make_content, teacher):
    """A function that makes a comparison's JSON content over a small job with a teacher.

    ``base``: sections of the job; all other fields are the comparison's.
    """

    def make(base=None, **fields):
        sections = {
            "teacher": teacher,
            "losses": {"ce": {}},
            "schedule": {"num_epochs": 2, "milestones": []},
            "training": {"global_batch_size": 64, "micro_batch_size": 64},
            "resources": {"num_workers": 1, "cpus_per_worker": 1},
        }
        job = make_content(**{**sections, **(base or {})})
        return {"name": "cmp", "base": job, "seeds": [0, 1], "variants": {"kd": KD}, **fields}

    return make
