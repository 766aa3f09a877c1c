"""Steps whose loss or gradient is not finite are skipped or rolled back, or abort the run."""

import json

import mlflow
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.training_runs import final, run_alone, run_rank, run_ranks

from data_pipeline.order import train_batches
from jobs import sync
from service.distillation.task import DistillationTask
from service.models.build import build_model
from service.result import IncompleteRunError, collect_result
from service.run.control import clear_abort
from service.run.folder import write_spec
from service.run.journal import JOURNAL_NAME, read_events
from service.run.progress import Progress
from service.run.report import progress_line
from service.run.result import RunResult
from service.spec.loading import parse_spec
from service.training.checkpoint import (
    checkpoint_paths,
    copied_to_cpu,
    newest_checkpoint,
    read_metadata,
)
from service.training.gradient import GradientComputer
from service.training.trainer import Trainer


def make_gradient_infinite(steps, setattr_):
    """Make the gradient of these steps infinite."""
    compute = GradientComputer.compute

    def compute_infinite(computer, batch, share, progress):
        gradient = compute(computer, batch, share, progress)
        if progress.step in steps:
            next(iter(computer._task.trainee.parameters())).grad.add_(float("inf"))
        return gradient

    setattr_(GradientComputer, "compute", compute_infinite)


def make_loss_infinite(steps, setattr_, rank=0):
    """Make the loss of these steps infinite on one rank; its gradient is unchanged."""
    compute, outputs = GradientComputer.compute, DistillationTask.outputs
    current = [-1]

    def compute_and_record(computer, batch, share, progress):
        current[0] = progress.step if computer._world.rank == rank else -1
        return compute(computer, batch, share, progress)

    def infinite_outputs(task, *arguments):
        found = outputs(task, *arguments)
        if current[0] not in steps:
            return found
        return [output._replace(loss=output.loss + float("inf")) for output in found]

    setattr_(GradientComputer, "compute", compute_and_record)
    setattr_(DistillationTask, "outputs", infinite_outputs)


def read_dump(spec, step, rank=0):
    """The samples that one worker dumped in a step."""
    return json.loads((spec.run_path / f"nonfinite_step{step:010d}_rank{rank}.json").read_text())


def notes(spec):
    """The messages in a run's journal."""
    return [e.text for e in read_events(spec.run_path / JOURNAL_NAME) if e.kind == "note"]


def samples_of_step(step):
    """The samples of a step of the first epoch."""
    return next(train_batches(256, 64, seed=0, epoch=0, start=step)).tolist()


def test_diverging_run_aborts_with_advice(make_content):
    spec = parse_spec(make_content(optimizer={"learning_rate": 1e30}))
    run_alone(spec)
    reason = json.loads((spec.run_path / "abort.json").read_text())
    assert "optimizer.learning_rate" in reason["text"]
    assert reason["exit_status"] == 1


@pytest.fixture
def infinite_teacher(tmp_path):
    """A teacher section; finite weights so large that logits overflow."""
    state = build_model("cifar:resnet8", 4).state_dict()
    state["fc.weight"].fill_(3e38)
    save_file(state, tmp_path / "large.safetensors")
    return {"model": "cifar:resnet8", "weights": {"source": str(tmp_path / "large.safetensors")}}


@pytest.mark.parametrize("held_out", [None, {"num_images": 64}])
def test_teacher_with_infinite_logits_is_named(make_content, infinite_teacher, held_out):
    # With held-out images the teacher is not evaluated; the first step shows it.
    dataset = {"held_out": held_out} if held_out else {}
    spec = parse_spec(make_content(teacher=infinite_teacher, dataset=dataset))
    run_alone(spec)
    reason = json.loads((spec.run_path / "abort.json").read_text())
    num_images = 64 if held_out else 101
    assert reason["text"].startswith("teacher.weights.source: the teacher's logits are not finite")
    assert f"{num_images} images; {infinite_teacher['weights']['source']}" in reason["text"]
    assert "learning_rate" not in reason["text"]
    assert reason["exit_status"] == 2


def make_student_nan(setattr_, epoch):
    """Make the running variance of the student NaN before the evaluation after ``epoch`` epochs."""
    finish_epoch = Trainer.finish_epoch

    def finish_nan(trainer):
        if trainer.progress.epoch + 1 == epoch:
            for name, buffer in trainer._learner.trainee.student.named_buffers():
                if name.endswith("running_var"):
                    buffer.fill_(float("nan"))
        finish_epoch(trainer)

    setattr_(Trainer, "finish_epoch", finish_nan)


def test_student_with_nan_logits_is_no_result(make_content, monkeypatch, capsys):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracking = {"register_as": "student", "promote": {"alias": "champion"}}
    spec = parse_spec(make_content(tracking=tracking, resources={"num_workers": 1}))
    make_student_nan(monkeypatch.setattr, epoch=2)
    spec.run_path.mkdir(parents=True)
    write_spec(spec)
    run_alone(spec)
    evaluations = [e for e in read_events(spec.run_path / JOURNAL_NAME) if e.kind == "evaluation"]
    assert "val/nonfinite_images" not in evaluations[0].values
    assert evaluations[1].values["val/nonfinite_images"] == 101
    assert evaluations[1].values["val/top1"] == 0
    assert "101 images with logits that are not finite" in progress_line(evaluations[1], spec, None)

    # Its files are kept, and submitting it again does not make it a result.
    for _ in range(2):
        reason = json.loads((spec.run_path / "abort.json").read_text())
        assert "are not finite for 101 images of val" in reason["text"]
        assert reason["exit_status"] == 1
        assert newest_checkpoint(spec.run_path) is not None
        with pytest.raises(IncompleteRunError, match="not finite"):
            collect_result(spec.run_path, 2)
        clear_abort(spec.run_path)
        run_alone(spec)
    assert sync.main([str(spec.run_path)]) == 0
    client = mlflow.MlflowClient(f"sqlite:///{spec.run_path.parent / 'mlflow.db'}")
    assert list(client.search_registered_models()) == []

    # Nor does a result that somebody else wrote.
    progress = Progress(step=8, epoch=2, last_top1=0.9)
    save_file(final(spec)[0], spec.run_path / "student.safetensors")
    RunResult(progress, "val", 1.0, 0.0, time_ms=0).write(spec.run_path)
    assert sync.main([str(spec.run_path)]) == 2
    assert "is a student whose logits are not finite" in capsys.readouterr().err
    assert list(client.search_registered_models()) == []


def test_skipped_step_changes_nothing_but_the_counters(make_content, monkeypatch):
    sections = {
        "training": {"on_nonfinite": "skip", "max_skipped_steps": 2, "ema_decay": 0.9},
        "schedule": {"num_epochs": 1, "milestones": []},
        "tracking": {"log_every_steps": 4},
    }
    spec = parse_spec(make_content(name="skipped", **sections))
    make_gradient_infinite({1, 3}, monkeypatch.setattr)
    step, changes = Trainer.step, []

    def tensors(trainer):
        learner = trainer._learner
        student, average = learner.trainee.student, learner.average
        found = {**student.state_dict(), "num_updates": average.num_updates}
        found |= {f"average.{name}": one for name, one in average.module.state_dict().items()}
        for index, state in enumerate(learner.optimizer.state.values()):
            found |= {f"optimizer.{index}.{name}": one for name, one in state.items()}
        return copied_to_cpu(found)

    def record(trainer, batch):
        before = tensors(trainer)
        output = step(trainer, batch)
        after = tensors(trainer)
        changes.append({name for name in after if not torch.equal(after[name], before[name])})
        return output

    monkeypatch.setattr(Trainer, "step", record)
    run_alone(spec)
    assert [len(names) > 0 for names in changes] == [True, False, True, False]
    assert {
        "fc.weight",
        "average.fc.weight",
        "num_updates",
        "optimizer.0.momentum_buffer",
    } <= changes[0]
    assert final(spec)[1]["skipped"] == 2
    interval = next(e for e in read_events(spec.run_path / JOURNAL_NAME) if e.kind == "interval")
    assert np.isfinite(interval.values["train/loss"])
    assert interval.values["train/skipped_steps"] == 2
    assert read_dump(spec, 3)["samples"] == samples_of_step(3)


def test_interval_of_skipped_steps_has_no_metrics(make_content, monkeypatch):
    spec = parse_spec(make_content(training={"on_nonfinite": "skip"}))
    make_gradient_infinite({2, 3}, monkeypatch.setattr)
    run_alone(spec)
    events = read_events(spec.run_path / JOURNAL_NAME)
    assert [event.step for event in events if event.kind == "interval"] == [2, 6, 8]
    assert len(notes(spec)) == 2


def test_one_skipped_step_too_many_aborts_the_run(make_content, monkeypatch):
    training = {"on_nonfinite": "skip", "max_skipped_steps": 1}
    spec = parse_spec(make_content(training=training))
    make_gradient_infinite({2, 5}, monkeypatch.setattr)
    run_alone(spec)
    text = json.loads((spec.run_path / "abort.json").read_text())["text"]
    assert "step 5 is not finite, after 1 others" in text
    assert newest_checkpoint(spec.run_path).name == "checkpoint_0000000004"


def test_run_rolls_back_to_its_last_checkpoint_and_continues_with_the_next_step(
    make_content, monkeypatch
):
    sections = {
        "training": {"on_nonfinite": "roll_back"},
        "checkpoints": {"every_steps": 2, "num_to_keep": 9},
        "schedule": {"num_epochs": 2, "milestones": []},
    }
    spec = parse_spec(make_content(**sections))
    make_loss_infinite({3}, monkeypatch.setattr)
    run_alone(spec)
    (note,) = notes(spec)
    assert "step 3 skipped" in note
    assert "rolled back to the weights of step 2" in note
    checkpoints = {path.name: path for path in checkpoint_paths(spec.run_path)}
    before, after = (checkpoints[f"checkpoint_{step:010d}"] for step in (2, 4))
    weights = [(path / "student.safetensors").read_bytes() for path in (before, after)]
    assert weights[0] == weights[1]
    assert read_metadata(after).progress.skipped == 1
    dump = read_dump(spec, 3)
    assert dump["samples"] == samples_of_step(3)
    assert dump["loss"] == "inf"
    assert final(spec)[1]["step"] == 8


def test_run_without_a_checkpoint_rolls_back_to_its_initial_weights(make_content, monkeypatch):
    spec = parse_spec(make_content(training={"on_nonfinite": "roll_back"}))
    make_loss_infinite({1}, monkeypatch.setattr)
    run_alone(spec)
    assert "rolled back to the weights of step 0" in notes(spec)[0]


def run_rank_with_an_infinite_loss(rank, content, store):
    make_loss_infinite({3}, setattr, rank=1)
    run_rank(rank, content, 2, store)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "precision"),
    [("stop", "float32"), ("skip", "float32"), ("roll_back", "float32"), ("skip", "float16")],
)
def test_all_ranks_act_on_an_infinite_loss_of_one_in_the_same_step(
    make_content, tmp_path, policy, precision
):
    content = make_content(training={"on_nonfinite": policy, "precision": precision})
    spec = parse_spec(content)
    spec.run_path.mkdir(parents=True)
    run_ranks(run_rank_with_an_infinite_loss, (content, tmp_path / "store"), 2)
    for rank in (0, 1):
        assert read_dump(spec, 3, rank)["step"] == 3
    if policy == "stop":
        reason = json.loads((spec.run_path / "abort.json").read_text())
        assert "step 3" in reason["text"]
        assert reason["exit_status"] == 1
    else:
        assert final(spec)[1] | {"skipped": 1, "step": 8} == final(spec)[1]


def test_an_infinite_loss_counts_in_float16_too(make_content, monkeypatch):
    """It is not scaled: it is no overflow of scaled gradients, which would not count."""
    training = {"precision": "float16", "on_nonfinite": "skip"}
    spec = parse_spec(make_content(training=training))
    make_loss_infinite({3}, monkeypatch.setattr)
    run_alone(spec)
    assert read_dump(spec, 3)["loss"] == "inf"
    assert final(spec)[1]["skipped"] == 1
