"""Runs with students that wait for MLflow, which were not trained."""

import torch
from safetensors.torch import save_file

from service.models.build import build_model
from service.run.folder import write_spec, write_tags
from service.run.journal import JOURNAL_NAME, Journal
from service.run.tracked_checkpoints import tracked_checkpoint_path
from service.spec.loading import parse_spec


def write_run(content, fingerprint="f" * 64):
    """The folder of a run; returns its spec."""
    spec = parse_spec(content)
    spec.run_path.mkdir(parents=True)
    write_spec(spec)
    write_tags(spec.run_path, {"dataset_val_fingerprint": fingerprint})
    return spec


def add_students(spec, steps):
    """Evaluate at ``steps`` and keep a network with weights that depend on the step; by step."""
    journal, students = Journal(spec.run_path / JOURNAL_NAME, limit_bytes=10**6), {}
    for step in steps:
        torch.manual_seed(step)
        students[step] = build_model(spec.student.model, spec.dataset.num_classes).eval()
        path = tracked_checkpoint_path(spec.run_path, step)
        path.parent.mkdir(exist_ok=True)
        save_file(students[step].state_dict(), path, {"format": "pt"})
        values = {"val/top1": step / 100, "val/top5": step / 50, "val/loss": 1 / step}
        epoch = step // 4
        journal.append("interval", step, epoch - 1, {"train/loss": 2 / step})
        journal.append("evaluation", step, epoch, {**values, "system/peak_memory_bytes": 5.0})
        journal.append("student", step, epoch, values)
    return students
