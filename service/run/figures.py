"""Figures of a run, drawn from its journal."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from service.run.journal import Event

# Metrics of the loss dtkd.
PREFIX = "dtkd/"
COLORS = {"teacher": "#b2182b", "student": "#2166ac"}


def temperature_figure(events: Sequence[Event], base_temperature: float, title: str) -> Figure:
    """DTKD's temperatures over the optimizer steps: median, and 5th to 95th percentile of a batch.

    Raises:
        ValueError: no event has temperatures, as in a run without the loss dtkd.
    """
    points = [event for event in events if f"{PREFIX}teacher_temperature_p50" in event.values]
    if not points:
        raise ValueError("the run has no temperatures: no loss dtkd, or nothing logged yet")
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.subplots()
    steps = [event.step for event in points]
    for side, color in COLORS.items():
        low, middle, high = (
            [event.values[f"{PREFIX}{side}_temperature_{name}"] for event in points]
            for name in ("p5", "p50", "p95")
        )
        axes.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0)
        axes.plot(steps, middle, color=color, label=f"{side}, median and 5-95 %")
    axes.axhline(
        base_temperature, color="0.4", linewidth=0.8, linestyle="--", label="base temperature"
    )
    axes.set(title=title, xlabel="optimizer step", ylabel="softmax temperature", ylim=(0, None))
    axes.legend(frameon=False, loc="upper right", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
