"""What a person reads: a line per interval and a table at the end."""

from service.spec import JobSpec
from service.tracking.journal import Event
from service.training.checkpoints import Progress


def progress_line(event: Event, spec: JobSpec, last_top1: float | None) -> str:
    """One line for the job's log; ``last_top1`` is that of the last evaluation before it."""
    values = event.values
    if event.kind in ("note", "start"):
        return event.text
    if event.kind == "teacher":
        top1, top5 = percent(values["teacher_top1"]), percent(values["teacher_top5"])
        return f"teacher: top-1 {top1}, top-5 {top5}"
    if event.kind == "evaluation":
        split = spec.dataset.evaluated
        top1, top5 = percent(values[f"{split}_top1"]), percent(values[f"{split}_top5"])
        return (
            f"epoch {event.epoch}/{spec.schedule.num_epochs}  step {event.step}  "
            f"{split} top-1 {top1}  top-5 {top5}  "
            f"loss {values[f'{split}_loss']:.4f}{_undecodable(values)}"
        )
    line = (
        f"epoch {event.epoch + 1}/{spec.schedule.num_epochs}  step {event.step}  "
        f"loss {values['loss']:.4f}  top-1 {percent(last_top1)}  lr {values['learning_rate']:.4g}  "
        f"{values['images_per_s']:,.0f} img/s  data wait {values['data_wait_share']:.0%}"
    )
    return line if event.eta_s is None else f"{line}  ETA {duration(event.eta_s)}"


def _undecodable(values: dict[str, float]) -> str:
    count = values.get("undecodable", 0)
    return f"  {count:.0f} undecodable images left out or replaced" if count else ""


class ProgressPrinter:
    """Prints events as they come, each interval with the newest accuracy known."""

    def __init__(self, spec: JobSpec):
        self._spec = spec
        self._last_top1: float | None = None

    def __call__(self, event: Event) -> None:
        """Print one event, if it is for people."""
        if event.kind == "checkpoint":
            return
        self._last_top1 = event.values.get(f"{self._spec.dataset.evaluated}_top1", self._last_top1)
        print(progress_line(event, self._spec, self._last_top1), flush=True)


def summary_table(progress: Progress, seconds: float, address: str) -> str:
    """Last, best and teacher's accuracy, and where the rest is."""
    rows = [("", "top-1", "top-5")]
    if progress.teacher_top1 is not None:
        rows.append(("teacher", percent(progress.teacher_top1), percent(progress.teacher_top5)))
    last = f"student, last (epoch {progress.epoch})"
    best = f"student, best (epoch {progress.best_epoch})"
    rows.append((last, percent(progress.last_top1), percent(progress.last_top5)))
    rows.append((best, percent(progress.best_top1), percent(progress.best_top5)))
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{name:<{width}}  {top1:>8}  {top5:>8}" for name, top1, top5 in rows]
    lines.append(f"{progress.step:,} steps, {duration(seconds)}")
    lines.append(f"run: {address}")
    return "\n".join(lines)


def percent(share: float | None) -> str:
    """A share as a percentage."""
    return "-" if share is None else f"{share:.2%}"


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
