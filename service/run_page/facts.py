"""What a run's page says in words, above its pictures."""

import statistics
from collections.abc import Iterator
from typing import Literal

from data_pipeline.uris import redacted
from service.run.execution import precision_text
from service.run.folder import VERSION_TAG
from service.run.report import SPLIT_WORDS, duration, percent
from service.run_page.record import RunRecord

FINGERPRINT_LENGTH, MAX_DIGITS = 12, 18


def run_facts(run: RunRecord) -> list[tuple[str, str]]:
    """Labels and texts; without what is not known."""
    rows = [*_state(run), *_models(run), *_data(run), *_figures(run), *_origin(run)]
    return [(label, text) for label, text in rows if text]


def _state(run: RunRecord) -> Iterator[tuple[str, str]]:
    done = max((event.epoch for event in run.events), default=0)
    step = max((event.step for event in run.events), default=0)
    num_epochs = run.spec.schedule.num_epochs
    yield "State", f"{run.status.state}, {done} of {num_epochs} epochs, {step:,} steps"
    yield "Last failure", run.status.last_failure or ""
    training, waiting = map(duration, run.times)
    yield "Time", f"{training} of training and evaluation, {waiting} of waiting"


def _models(run: RunRecord) -> Iterator[tuple[str, str]]:
    spec = run.spec
    average = "" if spec.training.ema_decay is None else " (average of its weights, EMA)"
    yield "Student", f"{spec.student.model}{average}"
    if spec.teacher is not None:
        networks = (spec.teacher, *spec.teacher.others)
        yield "Teacher", ", ".join(f"{n.model} ({redacted(n.weights.source)})" for n in networks)
    losses = spec.effective_losses()
    weights = ", ".join(f"{name} x {each.weight:g}" for name, each in losses.active.items())
    warmup_epochs = losses.warmup_epochs_of(spec.schedule.num_epochs)
    warms_up = spec.uses_teacher and warmup_epochs > 0
    yield "Losses", weights + (f"; warm-up {warmup_epochs:.3g} epochs" if warms_up else "")


def _data(run: RunRecord) -> Iterator[tuple[str, str]]:
    dataset = run.spec.dataset
    yield "Train", _dataset_text(run, "train", dataset.train)
    yield "Val", _dataset_text(run, "val", dataset.val)
    if dataset.held_out is not None:
        yield "Evaluated on", f"{dataset.held_out.num_images:,} {SPLIT_WORDS['held_out']}"


def _dataset_text(run: RunRecord, split: Literal["train", "val"], location: str) -> str:
    num_images = run.tags.get(f"dataset_{split}_num_images", "")
    fingerprint = run.tags.get(f"dataset_{split}_fingerprint", "")
    texts = [redacted(location)]
    # A run's folder may come from somebody else.
    if num_images.isdecimal() and len(num_images) <= MAX_DIGITS:
        texts.append(f"{int(num_images):,} images")
    texts += [f"fingerprint {fingerprint[:FINGERPRINT_LENGTH]}"] if fingerprint else []
    return ", ".join(texts)


def _figures(run: RunRecord) -> Iterator[tuple[str, str]]:
    curve = run.evaluated("top1")
    if curve:
        epoch, best = max(curve, key=lambda point: point[1])
        yield "Top-1, last", percent(curve[-1][1])
        yield "Top-1, best", f"{percent(best)}, after epoch {epoch:g}"
    yield "Top-1, teacher", "" if run.teacher_top1 is None else percent(run.teacher_top1)
    for label, metric in (("Top-5, last", "top5"), ("Agreement", "agreement"), ("ECE", "ece")):
        series = run.evaluated(metric)
        yield label, percent(series[-1][1]) if series else ""
    speeds = [value for _, value in run.series("interval", "speed/images_per_s")]
    yield "Speed", f"{statistics.median(speeds):,.0f} images per second" if speeds else ""


def _origin(run: RunRecord) -> Iterator[tuple[str, str]]:
    resources = run.spec.resources
    low, high = resources.min_workers, resources.max_workers
    workers = f"{low} to {high} workers" if low < high else f"{low} worker{'s' * (low > 1)}"
    device = "GPU" if resources.gpu else "CPU"
    yield "Trained with", f"{workers}, {device}, {precision_text(run.spec)}"
    version, revision = (run.tags.get(name, "") for name in (VERSION_TAG, "git_revision"))
    yield "Software", ", ".join(filter(None, (version, revision)))
    yield "Hash of the spec", run.spec.content_hash()
