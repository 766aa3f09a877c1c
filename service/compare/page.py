"""The page of a comparison: its results, pictures and runs."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import pandas as pd
import plotly.graph_objects as go

from service.compare import panels
from service.compare.class_pictures import class_gains_figure
from service.compare.pictures import Quantity, by_seed, forest, relative_to_base
from service.compare.records import RunRecord, VariantResult
from service.compare.spec import CompareSpec
from service.compare.summary import VariantSummary, deviation, mean
from service.pages import page, reliability

TOP1 = Quantity("Top-1 on val after the last epoch", "top-1")
CALIBRATION_ERROR = Quantity("Expected calibration error (ECE)", "ECE")
AGREEMENT = Quantity("Agreement with the teacher", "share of the images of val")
IMAGES_PER_S = Quantity("Images per second, relative to the base", "ratio", ".4~g", ".3f")
PEAK_MEMORY = Quantity("Peak memory, relative to the base", "ratio", ".4~g", ".3f")


def render_compare_page(
    compare: CompareSpec,
    records: Sequence[RunRecord],
    summaries: Sequence[VariantSummary],
    facts: Sequence[tuple[str, str]],
    classes: tuple[str, ...] | None = None,
) -> str:
    """The page as HTML.

    ``records``: all runs, in any state. ``summaries``: of every variant of every pair, in the order
    in which they are shown. ``facts``: labels and texts. ``classes``: names of the classes, [K].
    """
    num_classes = compare.base.dataset.num_classes
    names = classes or tuple(f"class {number}" for number in range(num_classes))
    parts = [page.facts(facts)]
    note = (
        f"Top-1 on val after the last epoch, mean ± deviation over the seeds. Differences to "
        f"{compare.base_label} are paired by seed, in percentage points; their intervals and "
        "p-values are those of the paired t-test, corrected for all rows (Holm, 5 %). The best "
        "epoch was chosen on val: its top-1 is not a result to report"
    )
    parts.append(page.table("Results", note, results_table(summaries)))
    parts += _pictures(summaries, names)
    parts.append(page.table("All runs", _states_text(records), runs_table(records)))
    return page.render_page(f"Comparison {compare.name}", parts)


def results_table(summaries: Sequence[VariantSummary]) -> pd.DataFrame:
    """A row of texts for each variant of each pair; empty where nothing is known."""
    rows = [
        {
            "pair": summary.result.pair,
            "variant": summary.name,
            "seeds": str(len(summary.result.top1)),
            "top-1 %": _spread(summary.result.mean, summary.result.deviation),
            "difference": _difference(summary.result),
            "p (Holm)": _number(summary.result.p_holm, ".3g"),
            "verdict": summary.result.verdict,
            "best epoch %": _spread(summary.result.best_mean, None),
            "ECE %": _spread(
                mean(summary.calibration_errors), deviation(summary.calibration_errors)
            ),
            "agreement %": _spread(mean(summary.agreements), deviation(summary.agreements)),
            "img/s": _number(mean(summary.images_per_s), ".0f"),
            "peak GB": _number(summary.typical_peak_bytes, ".3g", 1e-9),
        }
        for summary in summaries
    ]
    return _without_pair(rows)


def runs_table(records: Sequence[RunRecord]) -> pd.DataFrame:
    """A row of texts for each run; empty where nothing is known."""
    rows = [
        {
            "pair": run.pair,
            "variant": run.variant,
            "seed": str(run.seed),
            "state": run.state,
            "epochs": f"{run.curve[-1][0] if run.curve else 0:g} of {run.num_epochs}",
            "top-1 %": _number(run.last_top1, ".2f", 100),
            "best top-1 %": _number(run.best_top1, ".2f", 100),
            "seconds": _number(run.seconds or None, ".0f"),
            "img/s": _number(run.images_per_s, ".0f"),
            "peak GB": _number(run.peak_memory_bytes, ".3g", 1e-9),
            "error": run.error or "",
        }
        for run in records
    ]
    return _without_pair(rows)


def _pictures(summaries: Sequence[VariantSummary], classes: Sequence[str]) -> Iterator[str]:
    """Every picture for which there is data, most informative first, each for all pairs."""
    grouped = groupby(summaries, key=lambda summary: summary.result.pair)
    pairs = [(pair, [*group]) for pair, group in grouped]
    figures = [_accuracy_figures(group, pair) for pair, group in pairs]
    caption = "Green and orange intervals exclude 0: the difference is more than noise of seeds."
    yield from _section("Accuracy", figures, caption)
    caption = (
        "Thin lines are seeds. The lowest values are below the axis; a double click shows all."
    )
    figures = [[panels.learning_curves(group, pair)] for pair, group in pairs]
    yield from _section("Learning curves", figures, caption, is_wide=True)
    figures = [[panels.temperature_panels(group, pair)] for pair, group in pairs]
    caption = "Of the variants whose loss chooses its temperatures."
    yield from _section("Temperatures", figures, caption, is_wide=True)
    figures = [[panels.reliability_panels(group, pair)] for pair, group in pairs]
    caption = f"{reliability.CAPTION} ECE is the mean and deviation over the seeds, of 15 bins."
    yield from _section("Calibration", figures, caption, is_wide=True)
    figures = [_calibration_figures(group, pair) for pair, group in pairs]
    caption = "Agreement is the share of images for which student and teacher predict one class."
    yield from _section("Calibration error and agreement", figures, caption)
    figures = [[class_gains_figure(group, pair, classes)] for pair, group in pairs]
    caption = "Of few images in a class, a large part of the change is noise."
    yield from _section("Classes", figures, caption, is_wide=True)
    figures = [_cost_figures(group, pair) for pair, group in pairs]
    caption = "Of training. Other jobs on the same machines change the images per second."
    yield from _section("Cost", figures, caption)


def _section(
    title: str, groups: Sequence[Sequence[go.Figure | None]], caption: str, *, is_wide: bool = False
) -> Iterator[str]:
    """A heading and a picture for each pair, if there are any figures."""
    drawn = [[figure for figure in group if figure is not None] for group in groups]
    drawn = [group for group in drawn if group]
    if drawn:
        yield page.heading(title)
    for group in drawn:
        yield page.picture(group, caption, is_wide=is_wide)


def _accuracy_figures(group: Sequence[VariantSummary], pair: str) -> list[go.Figure | None]:
    top1 = [summary.result.top1 for summary in group]
    return [forest(group, pair), by_seed(TOP1, group, top1, pair)]


def _calibration_figures(group: Sequence[VariantSummary], pair: str) -> list[go.Figure | None]:
    errors = [summary.calibration_errors for summary in group]
    agreements = [summary.agreements for summary in group]
    return [
        by_seed(CALIBRATION_ERROR, group, errors, pair),
        by_seed(AGREEMENT, group, agreements, pair),
    ]


def _cost_figures(group: Sequence[VariantSummary], pair: str) -> list[go.Figure | None]:
    rates = relative_to_base(group, [summary.images_per_s for summary in group])
    memory = relative_to_base(group, [summary.peak_memory_bytes for summary in group])
    return [by_seed(IMAGES_PER_S, group, rates, pair), by_seed(PEAK_MEMORY, group, memory, pair)]


def _without_pair(rows: Sequence[dict[str, str]]) -> pd.DataFrame:
    """The rows as a table of texts, without a column of pairs where there are none."""
    table = pd.DataFrame(rows, dtype=object)
    return (
        table if any(row["pair"] for row in rows) else table.drop(columns="pair", errors="ignore")
    )


def _states_text(records: Sequence[RunRecord]) -> str:
    states = [run.state for run in records]
    return ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states)) or "None has started"


def _number(value: float | None, style: str, scale: float = 1.0) -> str:
    return "" if value is None else f"{scale * value:{style}}"


def _spread(middle: float | None, spread: float | None) -> str:
    """A share in percent, with its deviation if there is one."""
    text = _number(middle, ".2f", 100)
    return text if spread is None else f"{text} ± {_number(spread, '.2f', 100)}"


def _difference(result: VariantResult) -> str:
    text = _number(result.difference, "+.2f", 100)
    if result.interval is None:
        return text
    low, high = (_number(end, "+.2f", 100) for end in result.interval)
    return f"{text} ({low} to {high})"
