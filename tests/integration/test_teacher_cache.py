"""Runs that fill the teacher's cache, read it, or find it damaged have the same result."""

import json
import shutil

import numpy as np
import pytest
import torch
from comparison import assert_same_result
from support.training_runs import (
    CPU,
    InterruptedRunError,
    run_alone,
    stop_at,
)

from service.distillation.task import DistillationTask
from service.run.control import read_abort_reason
from service.run.execution import Execution, StudentForm, read_execution
from service.run.journal import JOURNAL_NAME, read_events
from service.spec.errors import EXIT_FAILED
from service.spec.loading import parse_spec
from service.teacher_cache.epoch_file import EpochFile
from service.teacher_cache.spot_checks import is_spot_check
from service.training import execution
from service.training.cached_logits import DECISION_NAME
from service.training.checkpoint import newest_checkpoint
from service.training.data import WorkerData
from service.training.distributed import World
from service.training.factory import build_task
from service.training.mixing import mixed_views
from service.training.teacher_logits import WrongLogitsError

NUM_CLASSES, NUM_IMAGES, SIZE = 4, 256, 16


@pytest.fixture
def make(make_content, teacher):
    """A function that makes a spec of one worker with this teacher.cache."""

    def make(name, cache=None, **sections):
        sections = {"resources": {"num_workers": 1}, "seed": 3, **sections}
        network = {**teacher, "cache": cache or {}}
        return parse_spec(make_content(name=name, teacher=network, **sections))

    return make


@pytest.fixture
def count_teacher_calls(monkeypatch):
    """A list of the numbers of images that the teacher computed in training."""
    calls, original = [], DistillationTask.teacher_logits

    def counted(task, views):
        calls.append(len(views[0].pixels))
        return original(task, views)

    monkeypatch.setattr(DistillationTask, "teacher_logits", counted)
    return calls


def entry_of(spec):
    """The folder of the only key."""
    (key_path,) = spec.teacher_cache_path.glob("*/key.json")
    return key_path.parent


def notes(spec):
    return [event.text for event in read_events(spec.run_path / JOURNAL_NAME) if event.text]


def warnings_of(spec):
    return [text for text in notes(spec) if "warning" in text]


def checked_steps(seed, epochs=(0, 1)):
    """Epoch and step of what is computed again, in epochs of four steps."""
    steps = [(epoch, step) for epoch in epochs for step in range(4)]
    return [each for each in steps if is_spot_check(seed, *each, 4)]


def test_what_is_stored_is_what_the_teacher_says_about_the_pixels_of_each_place(make):
    spec = make("run", augmentation={"mixing": {"cutmix_alpha": 1.0}})
    run_alone(spec)
    data = WorkerData(spec, World(0, 1, CPU, 1), print)
    network = build_task(spec, CPU, Execution.plain(spec)).teacher.model.double()
    mean, std = (torch.tensor(getattr(spec.dataset.normalization, n)) for n in ("mean", "std"))
    for epoch in (0, 1):
        (path,) = entry_of(spec).glob(f"epoch-{epoch:04d}.logits")
        rows = np.fromfile(path, np.uint8).reshape(NUM_IMAGES, 4 + 2 * NUM_CLASSES)
        stored = rows[:, 4:].copy().view(np.float16).astype(np.float64)
        for step, batch in enumerate(data.train_batches(epoch, 0)):
            views, _ = mixed_views(spec, batch, epoch)
            images = ((views[0].double() / 255 - mean) / std).permute(0, 3, 1, 2)
            with torch.no_grad():
                expected = network(images).numpy()
            found = stored[64 * step : 64 * (step + 1)]
            np.testing.assert_allclose(found, expected, rtol=2**-10, atol=1e-4)
    data.close()


@pytest.mark.parametrize("cache", [{}, {"keep": {"top_k": 2}, "max_error": 0.5}], ids=str)
def test_second_and_resumed_runs_are_the_first_one_bit_for_bit(
    make, monkeypatch, count_teacher_calls, cache
):
    first, second, resumed = (make(name, cache) for name in ("first", "second", "resumed"))
    run_alone(first)
    assert count_teacher_calls == [64] * 8
    count_teacher_calls.clear()
    run_alone(second)
    # The run's own measurement of the error on its first batch, and the spot checks.
    assert len(count_teacher_calls) == len({(0, 0), *checked_steps(first.seed)})
    assert_same_result(second, first)
    # Another run fills a cache of its own and is killed twice.
    shutil.rmtree(first.teacher_cache_path)
    killed_at = (3, 6)
    stop_at(killed_at, monkeypatch.setattr)
    for _ in killed_at:
        with pytest.raises(InterruptedRunError):
            run_alone(resumed)
    run_alone(resumed)
    assert_same_result(resumed, first)
    assert not warnings_of(second)


def test_students_for_which_auto_finds_other_precisions_read_the_same_logits(
    make, monkeypatch, count_teacher_calls
):
    precisions = {"cifar:tiny_cnn": "bfloat16", "cifar:resnet8": "float32"}
    monkeypatch.setattr(
        execution, "decide_student", lambda spec, *_: StudentForm(precisions[spec.student.model])
    )
    sections = {"training": {"precision": "auto", "compile": "off"}}
    for number, (model, precision) in enumerate(precisions.items()):
        spec = make(f"run-{number}", student={"model": model}, **sections)
        count_teacher_calls.clear()
        run_alone(spec)
        found = read_execution(spec.run_path)
        assert (found.precision, found.teacher_precision) == (precision, "bfloat16")
    assert len(count_teacher_calls) == len({(0, 0), *checked_steps(spec.seed)})
    assert json.loads((entry_of(spec) / "key.json").read_text())["execution"]["precision"] == (
        "bfloat16"
    )
    assert "100.0% of the logits were read" in notes(spec)[-1]


def test_a_run_says_in_one_line_why_the_cache_has_nothing_for_it(make):
    first, other, again = make("first"), make("other", augmentation={"padding": 2}), make("again")
    for spec in (first, other, again):
        run_alone(spec)
    said = [[text for text in notes(spec) if "nothing is stored" in text] for spec in
            (first, other, again)]  # fmt: skip
    assert said[0] == said[2] == []
    (line,) = said[1]
    assert line.endswith("have augmentation.padding 1 instead of 2")


def damage(path):
    """Change a byte of each row."""
    rows = np.fromfile(path, np.uint8).reshape(NUM_IMAGES, -1)
    rows[:, 6] ^= 1
    rows.tofile(path)


def test_damaged_rows_are_computed_again_and_no_wrong_logit_is_used(make, count_teacher_calls):
    first, second = make("first"), make("second")
    run_alone(first)
    for path in entry_of(first).glob("epoch-*"):
        damage(path)
    count_teacher_calls.clear()
    run_alone(second)
    assert count_teacher_calls == [64] * 8
    assert_same_result(second, first)
    third = make("third")
    count_teacher_calls.clear()
    run_alone(third)
    assert len(count_teacher_calls) < 8


def test_a_run_that_learned_from_logits_of_another_teacher_is_aborted(make, count_teacher_calls):
    first, second = make("first"), make("second")
    run_alone(first)
    row_bytes = 4 + 2 * NUM_CLASSES
    for path in entry_of(first).glob("epoch-*"):
        rows = np.random.default_rng(0).normal(size=(NUM_IMAGES, NUM_CLASSES))
        content = np.zeros((NUM_IMAGES, row_bytes), np.uint8)
        content[:, 4:] = rows.astype(np.float16).view(np.uint8)
        path.write_bytes(b"")
        file = EpochFile(path, row_bytes)
        file.write(0, content)
        file.close()
    with pytest.raises(WrongLogitsError, match="stored logits differ"):
        run_alone(second)
    reason = read_abort_reason(second.run_path)
    assert reason.exit_status == EXIT_FAILED
    assert "give the run another name" in reason.text
    assert newest_checkpoint(second.run_path) is None
    # Nobody reads them again.
    third = make("third")
    count_teacher_calls.clear()
    run_alone(third)
    assert count_teacher_calls == [64] * 8
    assert_same_result(third, first)


def test_a_stored_form_that_is_too_inexact_is_not_learned_from(make, make_content, teacher):
    inexact = make("inexact", {"max_error": 1e-9})
    run_alone(inexact)
    assert "more than max_error" in warnings_of(inexact)[0]
    assert not [text for text in notes(inexact) if "were read" in text]
    assert json.loads((inexact.run_path / DECISION_NAME).read_text()) == {"is_used": False}
    resources = {"num_workers": 1}
    live = make_content(name="live", teacher=teacher, resources=resources, seed=3)
    run_alone(parse_spec(live))
    assert_same_result(inexact, parse_spec(live))


@pytest.mark.parametrize("small_disk", ["16k"], indirect=True)
def test_a_full_disk_is_one_warning_and_changes_no_weight(make, small_disk):
    full = make("full", {"path": str(small_disk / "cache")})
    # Sparse files promise more than there is.
    (small_disk / "filler").write_bytes(bytes(8000))
    run_alone(full)
    reference = make("reference")
    run_alone(reference)
    (warning,) = warnings_of(full)
    assert "the teacher is run instead" in warning
    assert_same_result(full, reference)


def test_repeated_epochs_have_the_same_images_and_need_no_teacher(make, count_teacher_calls):
    mixing = {"augmentation": {"mixing": {"mixup_alpha": 0.4}}}
    schedule = {"schedule": {"num_epochs": 4, "milestones": []}}
    spec = make("run", {"epochs": 2}, **mixing, **schedule)
    data = WorkerData(spec, World(0, 1, CPU, 1), print)
    pixels = [
        torch.cat([mixed_views(spec, batch, epoch)[0][0] for batch in data.train_batches(epoch, 0)])
        for epoch in range(4)
    ]
    data.close()
    assert torch.equal(pixels[0], pixels[2])
    assert torch.equal(pixels[1], pixels[3])
    assert not torch.equal(pixels[0], pixels[1])
    run_alone(spec)
    assert len(count_teacher_calls) == 8 + len(checked_steps(spec.seed))
