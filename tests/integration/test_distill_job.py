"""Jobs through jobs/distill.py on a Ray node of this machine, and their runs in MLflow."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import mlflow
import pytest
import ray
import torch
from mlflow import MlflowClient
from ray.train import WorkerGroupError
from safetensors.torch import load_file, save_file
from support.image_makers import converted, write_folder
from support.spec_contents import spec_content
from support.training_runs import run_alone

from data_pipeline.beton import open_beton
from data_pipeline.manifest import manifest_path
from jobs.distill import main as distill_here
from service import job as job_module
from service.cluster import launch
from service.models.build import build_model
from service.spec.job import JobSpec
from service.spec.loading import load_spec

ROOT = Path(__file__).parents[2]
# For jobs that need no MLflow: creating its database takes seconds.
UNREACHABLE = {"uri": "http://127.0.0.1:9"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """Folder of the caches of compiled code, and of temporary files, of the workers."""
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(scope="module")
def cluster(caches):
    """Environment of a driver that joins a Ray node of this session, which has no C++ compiler."""
    (caches / "temporary").mkdir()
    variables = {
        "CXX": str(caches / "missing"),
        "NUMBA_CACHE_DIR": str(caches / "numba"),
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        # Paths of Ray's sockets must be short.
        "RAY_TMPDIR": tempfile.gettempdir(),
        "TMPDIR": str(caches / "temporary"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        context = ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
        environment = {**os.environ, "RAY_ADDRESS": context.address_info["address"]}
    yield environment
    ray.shutdown()


@pytest.fixture(autouse=True)
def _no_other_mlflow(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def distill(path, environment):
    environment = {k: v for k, v in environment.items() if k != "MLFLOW_TRACKING_URI"}
    return subprocess.run(
        [sys.executable, "jobs/distill.py", str(path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    torch.manual_seed(9)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_file(build_model("cifar:resnet8", 4).state_dict(), path)
    return {"model": "cifar:resnet8", "weights": {"source": str(path)}}


class FinishedJob(NamedTuple):
    """A job that has finished, and MLflow's database."""

    spec_path: Path
    spec: JobSpec
    mlflow_uri: str
    stdout: str


@pytest.fixture(scope="module")
def finished(cluster, data_folder, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    tracking = {"register_as": "stripes", "promote": {"alias": "champion"}}
    content = spec_content(
        data_folder,
        folder / "runs",
        teacher=teacher,
        training={"compile": "on"},
        tracking=tracking,
    )
    path = folder / "run.json"
    path.write_text(json.dumps(content))
    done = distill(path, cluster)
    assert done.returncode == 0, done.stdout + done.stderr
    uri = f"sqlite:///{folder / 'runs' / 'mlflow.db'}"
    return FinishedJob(path, load_spec(path), uri, done.stdout)


def student_of(finished):
    student = build_model("cifar:tiny_cnn", 4).eval()
    student.load_state_dict(load_file(finished.spec.run_path / "student.safetensors"))
    return student


def test_finished_job_is_completely_in_mlflow(finished):
    assert "student, last (epoch 2)" in finished.stdout
    assert "epoch 1/2  step 2  loss" in finished.stdout
    page_path = finished.spec.run_path / "run.html"
    assert f"page: {page_path}" in finished.stdout
    assert "finished, 2 of 2 epochs, 8 steps" in page_path.read_text()
    spec, client = finished.spec, MlflowClient(finished.mlflow_uri)
    run = client.get_run((spec.run_path / "mlflow_run_id").read_text().strip())
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.learning_rate"] == "0.05"
    assert run.data.tags["spec_hash"] == spec.content_hash()
    assert len(run.data.tags["teacher_sha256"]) == 64
    for metric, steps in (("train/loss", [2, 4, 6, 8]), ("val/top1", [4, 8])):
        history = client.get_metric_history(run.info.run_id, metric)
        assert [point.step for point in history] == steps
    names = {"teacher/top1", "result/last_top1", "result/best_top1", "speed/data_wait_share"}
    assert names <= run.data.metrics.keys()
    # Each is in a section of MLflow's charts.
    assert all("/" in name for name in run.data.metrics)
    # The share of the CPUs may be missing: this run may have no interval that is long enough.
    assert "system/system_memory_usage_percentage" in run.data.metrics
    assert "spec.json" in [file.path for file in client.list_artifacts(run.info.run_id)]


def test_without_a_compiler_the_job_is_eager_with_one_warning(finished):
    (line,) = (line for line in finished.stdout.splitlines() if "warning" in line)
    assert "torch.compile fails here, training is eager (" in line


def test_compiled_code_is_cached_where_the_environment_of_the_cluster_says(caches, finished):
    """The loader's, and torch's as far as there is any (see test_compiling.py)."""
    assert {".nbi", ".nbc"} <= {path.suffix for path in (caches / "numba").rglob("*")}
    assert (caches / "inductor").is_dir()
    assert not list((caches / "temporary").glob("torchinductor*"))


def test_registered_model_returns_the_logits_of_the_student(finished):
    mlflow.set_tracking_uri(finished.mlflow_uri)
    loaded, eager = mlflow.pytorch.load_model("models:/stripes@champion"), student_of(finished)
    for batch_size in (1, 5):
        images = torch.randn(batch_size, 3, 16, 16)
        torch.testing.assert_close(loaded(images), eager(images), rtol=1e-4, atol=1e-5)


def test_finished_job_can_be_resubmitted_but_not_changed(finished, tmp_path, capsys):
    assert distill_here([str(finished.spec_path)]) == 0
    assert "finished already; nothing to train" in capsys.readouterr().out
    changed = tmp_path / "changed.json"
    content = json.loads(finished.spec_path.read_text())
    changed.write_text(json.dumps({**content, "seed": 5}))
    assert distill_here([str(changed)]) == 2
    assert "seed: differs from the run 'run'" in capsys.readouterr().err


def test_finished_job_can_be_registered_elsewhere(finished, tmp_path, capsys):
    content = json.loads(finished.spec_path.read_text())
    changes = {"experiment": "other", "promote": {"alias": "second"}}
    content["tracking"] = {**content["tracking"], **changes}
    moved = tmp_path / "moved.json"
    moved.write_text(json.dumps(content))
    assert distill_here([str(moved)]) == 0
    assert "nothing to train" in capsys.readouterr().out
    client = MlflowClient(finished.mlflow_uri)
    version = client.get_model_version_by_alias("stripes", "second")
    assert version.version != client.get_model_version_by_alias("stripes", "champion").version
    experiment = client.get_experiment_by_name("other")
    (run,) = client.search_runs([experiment.experiment_id])
    for metric, steps in (("train/loss", [2, 4, 6, 8]), ("val/top1", [4, 8])):
        history = client.get_metric_history(run.info.run_id, metric)
        assert [point.step for point in history] == steps


def test_weak_teacher_aborts_the_job_with_advice(
    cluster, data_folder, finished, write_spec, teacher
):
    """The student starts from a registered model, which the driver fetches for the workers."""
    path = write_spec(
        name="weak",
        dataset={"val": str(data_folder / "train.beton")},
        student={"model": "cifar:tiny_cnn", "weights": {"source": "models:/stripes@champion"}},
        teacher={**teacher, "min_top1": 0.99},
        tracking={"uri": finished.mlflow_uri},
        resources={"num_workers": 1},
    )
    done = distill(path, cluster)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "warning: 256 of 256 images of dataset.val are also in dataset.train" in done.stdout
    assert (done.stdout + done.stderr).count("teacher.min_top1: the teacher's top-1 is") == 1
    (stored,) = (load_spec(path).checkpoints.storage_path / ".weights").iterdir()
    assert torch.equal(load_file(stored)["fc.weight"], student_of(finished).fc.weight)
    # No step was made, so the advice can be followed under the same name.
    content = json.loads(path.read_text())
    content["teacher"]["min_top1"] = 0.0
    content["seed"] = 3
    path.write_text(json.dumps(content))
    assert distill_here([str(path), "--validate"]) == 0


def test_job_too_large_for_the_cluster_is_rejected(cluster, write_spec, monkeypatch, capsys):
    # This process has joined the cluster already.
    monkeypatch.setattr(job_module, "connect", lambda: None)
    path = write_spec(resources={"cpus_per_worker": 8}, tracking=UNREACHABLE)
    assert distill_here([str(path)]) == 2
    text = "resources.cpus_per_worker: 2 workers need 16 CPUs, the cluster has 4"
    assert text in capsys.readouterr().err


def test_wrong_weights_are_rejected_before_the_cluster_is_used(
    write_spec, teacher, monkeypatch, capsys
):
    monkeypatch.setattr(job_module, "connect", lambda: pytest.fail("the cluster is used"))
    weights = {**teacher["weights"], "sha256": "0" * 64}
    assert distill_here([str(write_spec(teacher={**teacher, "weights": weights}))]) == 2
    assert "teacher.weights.sha256" in capsys.readouterr().err


class TrainerHere:
    """Takes the place of Ray's trainer: one worker in this process, whose errors Ray reports."""

    def __init__(self, spec, num_workers, work):
        self._spec = spec

    def fit(self):
        try:
            run_alone(self._spec)
        except Exception as error:
            raise WorkerGroupError("a worker failed", {0: error}) from error


def test_undecodable_image_fails_the_job_without_a_retry(
    cluster, write_spec, tmp_path, monkeypatch, capsys
):
    path = tmp_path / "train.beton"
    converted(write_folder(tmp_path / "images", 4, 20), path)
    manifest_path(path).unlink()
    with path.open("r+b") as file:
        file.seek(int(open_beton(path).samples["image"]["data_ptr"][3]))
        file.write(bytes(100))
    augmentation = {"crop": "random_resized", "size": 12}
    spec = write_spec(
        dataset={"train": str(path)},
        augmentation=augmentation,
        resources={"max_failures": 3, "num_workers": 1},
        tracking=UNREACHABLE,
    )
    # This process has joined the cluster already.
    monkeypatch.setattr(job_module, "connect", lambda: None)
    monkeypatch.setattr(launch, "_trainer", TrainerHere)
    assert distill_here([str(spec)]) == 1
    printed = "".join(capsys.readouterr())
    assert "run failed: " in printed
    assert printed.count("sample 3 does not decode") == 1
    # A retry would fail too.
    assert printed.count("training on 1 worker") == 1
    status = json.loads((load_spec(spec).run_path / "status.json").read_text())
    assert (status["state"], status["restarts"]) == ("failed", 0)
    assert "sample 3 does not decode" in status["last_failure"]
