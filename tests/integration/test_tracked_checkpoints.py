"""Evaluated students wait for MLflow as files, once each, whenever their run is killed."""

import pytest
import torch
from safetensors.torch import load_file
from support.training_runs import InterruptedRunError, run_alone

from service.run.journal import JOURNAL_NAME, Journal, read_events
from service.run.tracked_checkpoints import (
    FOLDER_NAME,
    tracked_checkpoint_path,
    waiting_steps,
)
from service.spec.loading import parse_spec
from service.training import tracked_checkpoints
from service.training.checkpoint import checkpoint_name
from service.training.checkpoint_saver import CheckpointError, CheckpointSaver

NUM_EPOCHS, STEPS_PER_EPOCH = 5, 4
EVERY = {"newest": 9}
STEPS = [4, 8, 12, 16]


def spec_of(make_content, name, checkpoints, **sections):
    content = make_content(
        name=name,
        schedule={"num_epochs": NUM_EPOCHS, "milestones": []},
        tracking={"checkpoints": checkpoints},
        checkpoints={"num_to_keep": 99},
        **sections,
    )
    return parse_spec(content)


def events_of(spec, kind):
    return [e for e in read_events(spec.run_path / JOURNAL_NAME) if e.kind == kind]


def assert_weights_are_those_of(spec, reference, name):
    """Each waiting file has the tensors of an uninterrupted run's checkpoint of the same step."""
    for step in waiting_steps(spec.run_path):
        found = load_file(tracked_checkpoint_path(spec.run_path, step))
        expected = load_file(reference.run_path / checkpoint_name(step) / name)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], value) for key, value in expected.items())


def kill_while_writing(monkeypatch):
    def fail(*_):
        raise InterruptedRunError

    monkeypatch.setattr(tracked_checkpoints, "write_weights", fail)


def kill_before_the_event(monkeypatch):
    append = Journal.append

    def append_or_fail(journal, kind, *arguments, **options):
        if kind == "student":
            raise InterruptedRunError
        append(journal, kind, *arguments, **options)

    monkeypatch.setattr(Journal, "append", append_or_fail)


def kill_before_the_checkpoint(monkeypatch):
    def fail(*_):
        raise InterruptedRunError

    monkeypatch.setattr(CheckpointSaver, "_save", fail)


KILLS = (kill_while_writing, kill_before_the_event, kill_before_the_checkpoint)


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_killed_anywhere_each_student_is_there_once(make_content, monkeypatch, ema_decay):
    training = {"ema_decay": ema_decay}
    reference = spec_of(make_content, "reference", "last", training=training)
    run_alone(reference)
    assert not (reference.run_path / FOLDER_NAME).exists()
    spec = spec_of(make_content, "killed", EVERY, training=training)
    for kill in KILLS:
        with monkeypatch.context() as patch:
            kill(patch)
            with pytest.raises(CheckpointError):
                run_alone(spec)
        with pytest.raises(InterruptedRunError):
            run_alone(spec, stop_after_epochs=1)
    run_alone(spec)
    assert waiting_steps(spec.run_path) == STEPS[::-1]
    assert_weights_are_those_of(
        spec, reference, "student.safetensors" if ema_decay is None else "ema.safetensors"
    )
    students, evaluations = events_of(spec, "student"), events_of(spec, "evaluation")
    assert [event.step for event in students] == STEPS
    # The final student's evaluation has no file: it is logged as the run's result.
    assert [event.step for event in evaluations] == [*STEPS, NUM_EPOCHS * STEPS_PER_EPOCH]
    for student, evaluation in zip(students, evaluations, strict=False):
        assert (student.time_ms, student.epoch) == (evaluation.time_ms, evaluation.epoch)
        assert {"val/top1", "val/top5", "val/loss"} <= student.values.keys()
        assert student.values == {k: v for k, v in evaluation.values.items() if k[:4] == "val/"}


def test_what_is_there_is_not_written_again(make_content):
    """All of the run is repeated, after its checkpoints are lost; MLflow has taken a file."""
    spec = spec_of(make_content, "repeated", EVERY)
    run_alone(spec)
    before = (spec.run_path / JOURNAL_NAME).read_bytes().count(b'"student"')
    tracked_checkpoint_path(spec.run_path, STEPS[0]).unlink()
    ages = [tracked_checkpoint_path(spec.run_path, s).stat().st_mtime_ns for s in STEPS[1:]]
    for path in spec.run_path.glob("checkpoint_*"):
        path.rename(path.with_name(f"lost_{path.name}"))
    run_alone(spec)
    assert waiting_steps(spec.run_path) == STEPS[:0:-1]
    assert [tracked_checkpoint_path(spec.run_path, s).stat().st_mtime_ns for s in STEPS[1:]] == ages
    assert (spec.run_path / JOURNAL_NAME).read_bytes().count(b'"student"') == before


def test_the_newest_wait_and_the_best_are_those_of_the_evaluations(make_content):
    spec = spec_of(make_content, "best", "best", optimizer={"learning_rate": 0.3})
    run_alone(spec)
    best_top1, best_steps = 0.0, []
    for event in events_of(spec, "evaluation")[:-1]:
        if event.values["val/top1"] > best_top1:
            best_top1 = event.values["val/top1"]
            best_steps.append(event.step)
    assert [event.step for event in events_of(spec, "student")] == best_steps
    assert waiting_steps(spec.run_path) == best_steps[:-4:-1]
    every = spec_of(make_content, "every", {"every_evaluations": 2, "newest": 1})
    run_alone(every)
    assert [event.step for event in events_of(every, "student")] == [8, 16]
    assert waiting_steps(every.run_path) == [16]


def test_files_without_an_event_are_removed_when_the_run_resumes(make_content):
    spec = spec_of(make_content, "leftovers", EVERY)
    with pytest.raises(InterruptedRunError):
        run_alone(spec, stop_after_epochs=2)
    folder = spec.run_path / FOLDER_NAME
    # Killed between a file and its event, and while a file was being written.
    names = ("step_0000000011.safetensors", ".step_0000000012.safetensors.0123456789abcdef.partial")
    for name in names:
        (folder / name).write_bytes(b"x")
    with pytest.raises(InterruptedRunError):
        run_alone(spec, stop_after_epochs=1)
    assert not any((folder / name).exists() for name in names)
    assert waiting_steps(spec.run_path) == [12, 8, 4]


def test_runs_with_held_out_images_keep_none(make_content):
    held_out = {"held_out": {"num_images": 32}}
    spec = spec_of(make_content, "trial", "best", dataset=held_out)
    run_alone(spec)
    assert events_of(spec, "student") == []
    assert not (spec.run_path / FOLDER_NAME).exists()
