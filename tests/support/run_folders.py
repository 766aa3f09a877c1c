"""Folders of invented runs, for tests of what is read from them."""

import json

import numpy as np

from service.run.folder import TAGS_NAME
from service.run.journal import JOURNAL_NAME
from service.run.predictions import (
    STUDENT_PREDICTIONS_NAME,
    TEACHER_PREDICTIONS_NAME,
    Predictions,
)
from service.run.status import STATUS_NAME

STEPS_PER_EPOCH = 10


def temperature_values(loss, level, gap=True):
    """What a loss logs of its pairs of temperatures, around a level."""
    values = {
        f"{loss}/{side}_temperature_{name}": level + offset + shift
        for side, offset in (("teacher", 1.0), ("student", -1.0))
        for name, shift in (("mean", 0.0), ("p5", -0.5), ("p50", 0.1), ("p95", 0.5))
    }
    return values | ({f"{loss}/gap_before": level, f"{loss}/gap_after": level / 10} if gap else {})


def journal_events(num_epochs, intervals_per_epoch=2, split="val", teacher_top1=0.8):
    """(kind, step, epoch, values) of a run with the losses dtkd and kd, over whole epochs."""
    rng = np.random.default_rng(0)
    events = []
    if teacher_top1 is not None:
        events.append(("teacher", 0, 0, {"teacher/top1": teacher_top1, "teacher/loss": 0.7}))
    stride = STEPS_PER_EPOCH // intervals_per_epoch
    for epoch in range(num_epochs):
        for step in range(stride, STEPS_PER_EPOCH + 1, stride):
            values = {
                "train/loss": float(rng.uniform(2, 3)),
                "train/dtkd": float(rng.uniform(0, 1)),
                "train/kd": float(rng.uniform(0, 1)),
                "train/learning_rate": 0.1 / (epoch + 1),
                "train/agreement": float(rng.uniform(0.3, 0.9)),
                "speed/images_per_s": float(rng.uniform(900, 1000)),
                **temperature_values("dtkd", float(rng.uniform(3, 5))),
            }
            events.append(("interval", epoch * STEPS_PER_EPOCH + step, epoch, values))
        names = ("top1", "top5", "loss", "ece", "agreement")
        values = {f"{split}/{name}": float(rng.uniform(0.2, 0.7)) for name in names}
        events.append(("evaluation", (epoch + 1) * STEPS_PER_EPOCH, epoch + 1, values))
    return events


def random_predictions(seed, num_images=200):
    """Of two classes, with confidences that say nothing."""
    rng = np.random.default_rng(seed)
    return Predictions(
        np.arange(num_images),
        np.zeros(num_images, np.int32),
        rng.integers(0, 2, num_images).astype(np.int32),
        rng.uniform(0.3, 1.0, num_images).astype(np.float32),
        np.ones(num_images, bool),
        np.ones(num_images, np.float32),
    )


def write_run_folder(run_path, events, *, state="finished", tags=None, predicts=True):
    """A run's folder with these events, in a state; ``predicts``: of student and teacher."""
    run_path.mkdir(parents=True, exist_ok=True)
    fields = ("kind", "step", "epoch", "values")
    lines = [
        json.dumps({**dict(zip(fields, event, strict=True)), "time_ms": 1000 * n, "number": n + 1})
        for n, event in enumerate(events)
    ]
    (run_path / JOURNAL_NAME).write_text("".join(f"{line}\n" for line in lines))
    (run_path / STATUS_NAME).write_text(json.dumps({"name": run_path.name, "state": state}))
    (run_path / TAGS_NAME).write_text(json.dumps(tags or {}))
    if predicts:
        random_predictions(1).write(run_path / STUDENT_PREDICTIONS_NAME)
        random_predictions(2).write(run_path / TEACHER_PREDICTIONS_NAME)
