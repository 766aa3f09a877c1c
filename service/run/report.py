"""The job's log: a line per event of the journal, and a table at the end."""

from collections.abc import Mapping
from functools import partial

from service.run.durations import Durations
from service.run.journal import Event
from service.run.progress import Progress
from service.spec.data_sections import Split
from service.spec.job import JobSpec

# Name, within the group of a split, of the number of images whose logits are not finite.
NONFINITE_METRIC = "nonfinite_images"

# Into a file or a pipe, print() alone would keep lines back until its buffer is full.
print_now = partial(print, flush=True)

SPLIT_WORDS: dict[Split, str] = {"val": "val", "held_out": "held-out images of train"}


def progress_line(event: Event, spec: JobSpec, last_top1: float | None) -> str:
    """One line of the log; ``last_top1`` is that of the last evaluation before it."""
    values, num_epochs = event.values, spec.schedule.num_epochs
    if event.kind in ("note", "start"):
        return event.text
    if event.kind == "teacher":
        return f"teacher: {_accuracies(values, 'teacher')}{_nonfinite(values, 'teacher')}"
    if event.kind == "evaluation":
        split = spec.dataset.evaluated
        return (
            f"epoch {event.epoch}/{num_epochs}  step {event.step}  "
            f"{split} {_accuracies(values, split)}  loss {figure(values, f'{split}/loss', '.4f')}"
            f"{_nonfinite(values, split)}{_undecodable(values)}"
        )
    line = (
        f"epoch {event.epoch + 1}/{num_epochs}  step {event.step}  "
        f"loss {figure(values, 'train/loss', '.4f')}  top-1 {percent(last_top1)}  "
        f"lr {figure(values, 'train/learning_rate', '.4g')}  "
        f"{figure(values, 'speed/images_per_s', ',.0f')} img/s  "
        f"data wait {figure(values, 'speed/data_wait_share', '.0%')}"
    )
    return line if event.eta_s is None else f"{line}  ETA {duration(event.eta_s)}"


def figure(values: Mapping[str, float], name: str, form: str) -> str:
    """A value of an event as ``format`` writes it; - where the event was damaged and lacks it."""
    return format(values[name], form) if name in values else "-"


def _accuracies(values: Mapping[str, float], split: str) -> str:
    top1, top5 = (values.get(f"{split}/{name}") for name in ("top1", "top5"))
    return f"top-1 {percent(top1)}  top-5 {percent(top5)}"


def _nonfinite(values: dict[str, float], split: str) -> str:
    count = values.get(f"{split}/{NONFINITE_METRIC}", 0)
    return f"  {count:.0f} images with logits that are not finite count as wrong" if count else ""


def _undecodable(values: dict[str, float]) -> str:
    count = values.get("data/undecodable", 0)
    return f"  {count:.0f} undecodable images skipped or replaced" if count else ""


class ProgressPrinter:
    """Prints events as they come, each interval with the newest accuracy known."""

    def __init__(self, spec: JobSpec):
        self._spec = spec
        self._last_top1: float | None = None
        self.last_note = ""
        """Text of the last note that was printed."""

    def __call__(self, event: Event) -> None:
        """Print one event, if it belongs into the log."""
        if event.kind in ("checkpoint", "student"):
            return
        self._last_top1 = event.values.get(f"{self._spec.dataset.evaluated}/top1", self._last_top1)
        if event.kind == "note":
            self.last_note = event.text
        print(progress_line(event, self._spec, self._last_top1), flush=True)


def summary_table(progress: Progress, evaluated: Split, times: Durations, address: str) -> str:
    """Last, best and teacher's accuracy, the time it took, and the run's address.

    ``evaluated``: which images the accuracies are of.
    """
    rows = [(f"on {SPLIT_WORDS[evaluated]}", "top-1", "top-5")]
    if progress.teacher_top1 is not None:
        rows.append(("teacher", percent(progress.teacher_top1), percent(progress.teacher_top5)))
    last = f"student, last (epoch {progress.epoch})"
    best = f"student, best (epoch {progress.best_epoch})"
    rows.append((last, percent(progress.last_top1), percent(progress.last_top5)))
    rows.append((best, percent(progress.best_top1), percent(progress.best_top5)))
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{name:<{width}}  {top1:>8}  {top5:>8}" for name, top1, top5 in rows]
    lines.append(
        f"{progress.step:,} steps, {duration(times.training_s)} of training, "
        f"{duration(times.waiting_s)} of waiting"
    )
    lines.append(f"run: {address}")
    return "\n".join(lines)


def percent(share: float | None) -> str:
    """A share (0 to 1) as a percentage; - where it is not known."""
    return "-" if share is None else f"{share:.2%}"


def is_accuracy(metric: str) -> bool:
    """Whether the metric is an accuracy, which is shown in percent."""
    return "top" in metric


def metric_text(value: float, metric: str) -> str:
    """A value of the metric, rounded for display."""
    return f"{value:.2%}" if is_accuracy(metric) else f"{value:.5g}"


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
