"""The job that fills the teacher's cache before any run."""

import json

import pytest
from comparison import assert_same_result
from support.spec_contents import KD
from support.training_runs import CPU, run_alone

from jobs import cache_teacher
from service import cache_job
from service.compare.loading import parse_comparison
from service.run.claim import input_tags
from service.run.folder import write_tags
from service.run.journal import JOURNAL_NAME, read_events
from service.spec.loading import parse_job, parse_spec
from service.sweep.loading import load_sweep
from service.sweep.trials import trial_spec
from service.training.cache_filling import fill_epoch
from service.training.cached_logits import CacheFillingError
from service.training.distributed import World


@pytest.fixture
def content(make_content, teacher):
    """The JSON content of a spec whose three epochs have two different sets of images."""
    return make_content(
        name="run",
        teacher={**teacher, "cache": {"epochs": 2}},
        schedule={"num_epochs": 3, "milestones": []},
        augmentation={"mixing": {"mixup_alpha": 0.4}},
        training={"drop_last": False, "global_batch_size": 96, "micro_batch_size": 16},
    )


@pytest.fixture
def filled_here(monkeypatch):
    """Epochs are filled in this process; a list of how many images were computed for each."""
    counts = []

    def fill_epochs(tasks, done, check):
        for task in tasks:
            check()
            counts.append(fill_epoch(task.spec, task.epoch, World(0, 1, CPU, 1)))
            done(task, counts[-1])

    monkeypatch.setattr(cache_job, "fill_epochs", fill_epochs)
    monkeypatch.setattr(cache_job, "connect", lambda: None)
    monkeypatch.setattr(cache_job, "check_cluster", lambda resources: None)
    return counts


def write(path, content):
    path.write_text(json.dumps(content))
    return str(path)


def run_as_submitted(content):
    """Train a spec alone, with the tags that a submission gives to its run; returns the spec."""
    return train(parse_job(content))


def train(job):
    job.spec.run_path.mkdir(parents=True)
    write_tags(job.spec.run_path, input_tags(job))
    run_alone(job.spec)
    return job.spec


def read_share(spec):
    texts = [event.text for event in read_events(spec.run_path / JOURNAL_NAME)]
    return next(text for text in texts if "were read" in text)


def test_a_run_after_the_job_reads_everything_and_is_the_run_without_it(
    content, filled_here, tmp_path
):
    path = write(tmp_path / "spec.json", content)
    assert cache_teacher.main([path]) == 0
    # Batches of one of two workers, 48 images each; 256 are no multiple of them.
    assert filled_here == [256, 256]
    assert cache_teacher.main([path]) == 0
    assert filled_here[2:] == [0, 0]
    spec = parse_spec(content)
    folders = {path.name for path in spec.checkpoints.storage_path.iterdir()}
    assert folders == {".teacher_cache", ".execution"}
    run_as_submitted(content)
    assert "100.0% of the logits were read" in read_share(spec)
    other_cache = {**content["teacher"], "cache": {"epochs": 2, "path": str(tmp_path / "other")}}
    alone = run_as_submitted({**content, "name": "alone", "teacher": other_cache})
    assert "were read" in read_share(alone)
    assert_same_result(spec, alone)


def test_samples_that_repeat_within_a_global_batch_are_filled_as_runs_read_them(
    content, filled_here, tmp_path
):
    repeated = {"repeats": 2}
    content = {**content, "augmentation": {**content["augmentation"], **repeated}}
    content["training"] = {**content["training"], "drop_last": True}
    assert cache_teacher.main([write(tmp_path / "spec.json", content)]) == 0
    spec = run_as_submitted(content)
    assert "100.0% of the logits were read" in read_share(spec)
    # Its spot checks have found the logits of these images.
    texts = [event.text for event in read_events(spec.run_path / JOURNAL_NAME)]
    assert not [text for text in texts if "warning" in text]


def test_a_job_that_was_ended_computes_what_is_missing(content, filled_here, tmp_path):
    path = write(tmp_path / "spec.json", content)
    assert cache_teacher.main([path]) == 0
    spec = parse_spec(content)
    for file in spec.teacher_cache_path.glob("*/epoch-*"):
        row_bytes = file.stat().st_size // 256
        with file.open("r+b") as stored:
            # Of the second batch.
            stored.seek(60 * row_bytes)
            stored.write(bytes(4))
    assert cache_teacher.main([path]) == 0
    assert filled_here[2:] == [48, 48]


def test_a_spec_without_a_cache_is_refused_and_a_plan_computes_nothing(
    content, filled_here, tmp_path, capsys
):
    without = {**content, "teacher": {**content["teacher"], "cache": None}}
    assert cache_teacher.main([write(tmp_path / "without.json", without)]) == 2
    assert "teacher.cache: is absent" in capsys.readouterr().err
    assert cache_teacher.main([write(tmp_path / "spec.json", content), "--plan"]) == 0
    # 2 epochs of 256 images, with 4 logits of 2 bytes and a checksum of 4 bytes each.
    assert "logits of 2 epochs, 6.14 kB" in capsys.readouterr().out
    assert not filled_here
    assert not parse_spec(content).checkpoints.storage_path.exists()


def test_what_no_run_would_read_or_does_not_fit_is_not_computed(
    content, filled_here, tmp_path, capsys
):
    def with_cache(**cache):
        return write(
            tmp_path / "spec.json", {**content, "teacher": {**content["teacher"], "cache": cache}}
        )

    inexact = with_cache(max_error=1e-9)
    with pytest.raises(CacheFillingError, match="no run would read them"):
        cache_teacher.main([inexact])
    assert not filled_here
    # Three epochs of 256 images, with 4 logits of 2 bytes and a checksum of 4 bytes each.
    small = with_cache(limit_bytes=3 * 256 * 12 - 1)
    assert cache_teacher.main([small]) == 2
    error = capsys.readouterr().err
    assert "teacher.cache.limit_bytes: is 9,215, but the logits of 3 epochs have 9,216" in error
    assert cache_teacher.main([small, "--plan"]) == 0
    assert "warning: teacher.cache.limit_bytes is 9.21 kB" in capsys.readouterr().out
    assert not filled_here
    assert cache_teacher.main([with_cache(limit_bytes=3 * 256 * 12)]) == 0
    assert filled_here == [256] * 3


TWO_EPOCHS = {"schedule": {"num_epochs": 2, "milestones": []}}


def test_all_runs_of_a_comparison_read_what_was_computed_once_for_each_seed(
    make_compare_content, teacher, filled_here, tmp_path, capsys
):
    cached = {**teacher, "cache": {"epochs": 1}}
    variants = {"kd": KD, "dtkd": {"losses": None}, "plain": {"teacher": None, "losses": None}}
    content = make_compare_content({"teacher": cached, **TWO_EPOCHS}, variants=variants)
    path = write(tmp_path / "compare.json", content)
    assert cache_teacher.main([path]) == 0
    assert filled_here == [256, 256]
    output = capsys.readouterr().out
    for seed in (0, 1):
        line = f"seed {seed}, epoch 1: the teacher's logits of 256 images computed"
        assert line in output
    # The folders in which it was decided what auto means are gone.
    folders = {path.name for path in (tmp_path / "runs").iterdir()}
    assert folders == {".teacher_cache", ".execution"}
    assert cache_teacher.main([path, "--plan"]) == 0
    assert "; 2 stored, 6.14 kB, 0 to compute" in capsys.readouterr().out
    loaded = parse_comparison(content)
    for key, spec in loaded.run_specs().items():
        if key.variant.name in ("kd", "dtkd"):
            train(loaded.jobs[key.variant]._replace(spec=spec))
            assert "100.0% of the logits were read" in read_share(spec)


def test_trials_of_a_sweep_read_what_was_computed_for_each_choice(
    make_sweep_content, teacher, filled_here, tmp_path, capsys
):
    cached = {**teacher, "cache": {"epochs": 1}}
    space = {"augmentation.padding": {"choice": [0, 2]}, "losses.kd.weight": {"linear": [0.5, 2]}}
    resources = {"num_workers": 1, "cpus_per_worker": 1}
    base = {"teacher": cached, **TWO_EPOCHS, "resources": resources}
    content = make_sweep_content(base, space=space)
    path = write(tmp_path / "sweep.json", content)
    assert cache_teacher.main([path]) == 0
    # Without the 64 images that are held out.
    assert filled_here == [192, 192]
    assert "augmentation.padding 2, epoch 1: " in capsys.readouterr().out
    sweep, job = load_sweep(tmp_path / "sweep.json")
    for number, padding in enumerate((0, 2)):
        point = {"augmentation.padding": padding, "losses.kd.weight": 0.7}
        trial = trial_spec(sweep, sweep.base, number, point)
        train(job._replace(spec=trial))
        assert "100.0% of the logits were read" in read_share(trial)


def test_trials_that_share_no_logits_are_not_worth_filling_for(
    make_sweep_content, teacher, filled_here, tmp_path, capsys
):
    cached = {**teacher, "cache": {}}
    space = {"augmentation.flip_probability": {"linear": [0, 1]}}
    content = make_sweep_content({"teacher": cached}, space=space)
    assert cache_teacher.main([write(tmp_path / "sweep.json", content)]) == 2
    error = capsys.readouterr().err
    assert "space.augmentation.flip_probability: is a range, and the teacher's logits" in error
    assert not filled_here
