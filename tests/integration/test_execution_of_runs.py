"""Whole runs with the precisions and forms that are not the default."""

import pytest
import torch
from comparison import assert_same_result
from support.training_runs import InterruptedRunError, run_alone

from service.run.execution import Execution, StudentForm, read_execution, write_execution
from service.spec.loading import parse_spec
from service.training import execution, loss_scale
from service.training.checkpoint import newest_checkpoint


def scale_of(spec):
    path = newest_checkpoint(spec.run_path) / "per_rank_state.pt"
    return torch.load(path)[0]["loss_scale"]["scale"].item()


def test_float16_finds_its_scale_and_resumes(make_content, teacher, monkeypatch):
    """A scale that overflows is not the run's fault: it goes on, whatever on_nonfinite says."""
    monkeypatch.setattr(loss_scale, "INITIAL_SCALE", 2.0**22)
    sections = {
        "teacher": teacher,
        "training": {"precision": "float16", "on_nonfinite": "stop"},
        "schedule": {"num_epochs": 2, "milestones": [1]},
    }
    reference = parse_spec(make_content(name="reference", **sections))
    resumed = parse_spec(make_content(name="resumed", **sections))
    run_alone(reference)
    assert read_execution(reference.run_path).precision == "float16"
    assert 2.0**8 <= scale_of(reference) < 2.0**22
    with pytest.raises(InterruptedRunError):
        run_alone(resumed, stop_after_epochs=1)
    run_alone(resumed)
    assert_same_result(resumed, reference)
    assert scale_of(resumed) == scale_of(reference)


def test_teacher_is_folded_and_a_resumed_run_keeps_what_it_began_with(
    make_content, teacher, monkeypatch
):
    sections = {"teacher": teacher, "training": {"precision": "auto"}}
    monkeypatch.setattr(execution, "decide_student", lambda *_: StudentForm("bfloat16"))
    spec = parse_spec(make_content(**sections))
    with pytest.raises(InterruptedRunError):
        run_alone(spec, stop_after_epochs=1)
    found = read_execution(spec.run_path)
    assert (found.precision, found.teacher_form) == ("bfloat16", "folded")
    # Another decision would be found now; the run's own counts.
    other = Execution("float32")
    write_execution(spec.run_path, other)
    run_alone(spec)
    assert read_execution(spec.run_path) == other
