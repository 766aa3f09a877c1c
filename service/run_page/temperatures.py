"""Both temperatures of a run as a small picture, for where a page of figures does not fit."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from service.pages.lines import COLORS
from service.pages.series import thinned
from service.run.journal import JOURNAL_NAME, Event, read_events
from service.spec.job import JobSpec
from service.spec.losses.dtkd import Dtkd
from service.spec.losses.temperatures import DynamicTemperatures, SoftenedLoss

SIZE_INCHES = (7.2, 3.2)
WIDTH_PX = 1000
SIDES = ("teacher", "student")
STATISTICS = ("p5", "mean", "p95")


def temperatures_png(spec: JobSpec, run_path: Path) -> bytes | None:
    """The picture of the first loss that logs a pair of temperatures; None if none does.

    Raises:
        BadInputError: the run's journal is no file.
        OSError: the storage fails.
    """
    events = read_events(run_path / JOURNAL_NAME)
    loss = next((name for name in spec.effective_losses().active if _points(events, name)), None)
    if loss is None:
        return None
    title = f"{spec.name}: temperatures of {loss}"
    figure = temperature_figure(events, loss, base_temperature(spec, loss), title)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=WIDTH_PX / SIZE_INCHES[0])
    return content.getvalue()


def temperature_figure(
    events: Sequence[Event], loss: str, base: float | None, title: str
) -> Figure:
    """A loss's temperatures over the optimizer steps: mean, and 5th to 95th percentile of a batch.

    ``base``: the base temperature of both, if they have one.

    Raises:
        ValueError: no event has temperatures, as in a run without this loss.
    """
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    draw_temperatures(figure.subplots(), events, loss, base)
    figure.axes[0].set(title=title)
    return figure


def draw_temperatures(axes: Axes, events: Sequence[Event], loss: str, base: float | None) -> None:
    """Draw a loss's temperatures into a part of a figure; see ``temperature_figure``."""
    points = _points(events, loss)
    if not points:
        raise ValueError(f"the run has no temperatures of {loss}: no such loss, or nothing logged")
    for side in SIDES:
        metrics = (_metric(loss, side, name) for name in STATISTICS)
        steps, low, middle, high = _columns(points, [*metrics])
        color = COLORS[side]
        axes.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0)
        axes.plot(steps, middle, color=color, label=f"{side}, mean and 5-95 %")
    if base is not None:
        axes.axhline(base, color="0.4", linewidth=0.8, linestyle="--", label="base temperature")
    axes.set(xlabel="optimizer step", ylabel="softmax temperature", ylim=(0, None))
    axes.legend(frameon=False, loc="upper right", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def base_temperature(spec: JobSpec, loss: str) -> float | None:
    """What both temperatures of a loss are chosen around; None where there is no such number."""
    section = spec.effective_losses().active.get(loss)
    rule = section.temperature if isinstance(section, SoftenedLoss) else section
    return rule.base_temperature if isinstance(rule, Dtkd | DynamicTemperatures) else None


def _points(events: Sequence[Event], loss: str) -> list[Event]:
    needed = {_metric(loss, side, name) for side in SIDES for name in STATISTICS}
    return [event for event in events if event.kind == "interval" and needed <= event.values.keys()]


def _columns(points: Sequence[Event], metrics: Sequence[str]) -> list[NDArray[np.float64]]:
    """The steps, and the values of each metric, of at most as many points as are seen."""
    lines = [
        np.array(thinned(tuple((float(event.step), event.values[name]) for event in points)))
        for name in metrics
    ]
    return [lines[0][:, 0], *(line[:, 1] for line in lines)]


def _metric(loss: str, side: str, statistic: str) -> str:
    return f"{loss}/{side}_temperature_{statistic}"
