"""A run is bound to its spec and files from its first step on, and to nothing before it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.spec_contents import write_stripes

from jobs.distill import main as distill
from service.models.build import build_model
from service.run.claim import check_resumable, forget_rejected, has_started, input_tags
from service.run.folder import read_spec, write_spec, write_tags
from service.run.journal import JOURNAL_NAME, Journal
from service.spec.errors import BadInputError
from service.spec.loading import parse_job


@pytest.fixture
def files(tmp_path, data_folder):
    """A spec's own copies of the datasets."""
    for split in ("train", "val"):
        shutil.copy(data_folder / f"{split}.beton", tmp_path / f"{split}.beton")
    return {split: str(tmp_path / f"{split}.beton") for split in ("train", "val")}


def claim(job):
    """What a submission stores before it trains."""
    job.spec.run_path.mkdir(parents=True, exist_ok=True)
    write_spec(job.spec)
    write_tags(job.spec.run_path, input_tags(job))


def journal(job):
    return Journal(job.spec.run_path / JOURNAL_NAME, 10**6)


def make_step(job):
    journal(job).append("interval", 1, 0, {})


def problems_of(job):
    with pytest.raises(BadInputError) as caught:
        check_resumable(job)
    return {problem.where: str(problem) for problem in caught.value.problems}


def test_any_field_may_change_before_the_first_step(make_content):
    rejected = parse_job(make_content(resources={"cpus_per_worker": 64}))
    claim(rejected)
    journal(rejected).append("start", 0, 0, {})
    journal(rejected).append("teacher", 0, 0, {"teacher/top1": 0.1})
    assert not has_started(rejected.spec.run_path)
    check_resumable(parse_job(make_content(seed=5, resources={"cpus_per_worker": 1})))


@pytest.mark.parametrize("kind", ["interval", "evaluation", "checkpoint", "folder"])
def test_spec_is_fixed_after_a_step_or_checkpoint(make_content, kind):
    job = parse_job(make_content())
    claim(job)
    if kind == "folder":
        (job.spec.run_path / "checkpoint_0000000003").mkdir()
    else:
        journal(job).append(kind, 1, 0, {})
    check_resumable(job)
    check_resumable(parse_job(make_content(tracking={"experiment": "other"})))
    problems = problems_of(parse_job(make_content(seed=5)))
    assert list(problems) == ["seed"]
    assert "differs from the run 'run'" in problems["seed"]


def test_records_of_a_rejected_submission_are_not_those_of_the_next(make_content):
    rejected = parse_job(make_content())
    claim(rejected)
    journal(rejected).append("teacher", 0, 0, {"teacher/top1": 0.1})
    (rejected.spec.run_path / "mlflow_run_id").write_text("another run")
    (rejected.spec.run_path / "notes.txt").write_text("a user's own file")
    forget_rejected(rejected.spec)
    assert (rejected.spec.run_path / JOURNAL_NAME).exists()
    forget_rejected(parse_job(make_content(seed=5)).spec)
    left = {path.name for path in rejected.spec.run_path.iterdir()}
    assert left == {"spec.json", "notes.txt"}


def test_records_of_a_started_run_are_never_removed(make_content):
    job = parse_job(make_content())
    claim(job)
    make_step(job)
    forget_rejected(parse_job(make_content(seed=5)).spec)
    assert (job.spec.run_path / JOURNAL_NAME).exists()
    assert read_spec(job.spec.run_path) == job.spec


@pytest.mark.parametrize("split", ["train", "val"])
def test_run_does_not_go_on_with_other_images(make_content, files, split):
    content = make_content(dataset=files)
    job = parse_job(content)
    claim(job)
    make_step(job)
    write_stripes(Path(files[split]), 128, seed=7)
    changed = parse_job(content)
    problems = problems_of(changed)
    assert list(problems) == [f"dataset.{split}"]
    for each in (job, changed):
        assert getattr(each, split).fingerprint in problems[f"dataset.{split}"]


def test_moved_files_are_the_same_files(make_content, files, tmp_path):
    job = parse_job(make_content(dataset=files))
    claim(job)
    make_step(job)
    moved = Path(files["train"]).rename(tmp_path / "moved.beton")
    check_resumable(parse_job(make_content(dataset={**files, "train": str(moved)})))


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_run_does_not_go_on_with_other_weights(make_content, tmp_path, role):
    path = tmp_path / "weights.safetensors"

    def save(seed):
        torch.manual_seed(seed)
        save_file(build_model("cifar:resnet8", 4).state_dict(), path)

    save(0)
    content = make_content(**{role: {"model": "cifar:resnet8", "weights": {"source": str(path)}}})
    job = parse_job(content)
    claim(job)
    make_step(job)
    check_resumable(parse_job(content))
    save(1)
    assert list(problems_of(parse_job(content))) == [f"{role}.weights.source"]


@pytest.mark.parametrize("option", ["--validate", "--plan"])
def test_checks_without_training_find_changed_images(make_content, files, tmp_path, capsys, option):
    content = make_content(dataset=files)
    claim(parse_job(content))
    make_step(parse_job(content))
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(content))
    assert distill([str(path), option]) == 0
    write_stripes(Path(files["train"]), 128, seed=7)
    assert distill([str(path), option]) == 2
    assert "dataset.train: has the digest" in capsys.readouterr().err
