"""The results of a comparison as a text table."""

import json
from collections.abc import Mapping, Sequence

from service.compare.jobs import other_recipe
from service.compare.spec import CompareSpec, Variant
from service.compare.summary import VariantSummary, mean
from service.run.report import percent
from service.sweep.space import Point

HEADINGS = (
    "variant", "seeds", "top-1 %", "best epoch %", "difference", "interval", "p (Holm)", "verdict",
    "ECE %", "agreement %", "img/s", "peak GB",
)  # fmt: skip
NOTES = (
    "top-1 on val after the last epoch, mean +- deviation over seeds; the best epoch is chosen on "
    "val itself.",
    "difference: to the base, paired by seed, in points; its interval and p-value are those of the "
    "paired t-test, corrected for all rows (Holm, 5 %).",
)


def results_table(
    compare: CompareSpec, summaries: Sequence[VariantSummary], settings: Mapping[Variant, Point]
) -> str:
    """The table, and below it what the rows do not share and which runs failed."""
    lines: list[str] = []
    for pair in compare.pairs or ("",):
        rows: list[tuple[str, ...]] = [HEADINGS]
        rows += [_cells(summary) for summary in summaries if summary.result.pair == pair]
        lines += [f"pair {pair}"] if pair else []
        lines += _aligned(rows)
    return "\n".join([*lines, *NOTES, *_remarks(compare, summaries, settings)])


def _cells(summary: VariantSummary) -> tuple[str, ...]:
    result, speed = summary.result, mean(summary.images_per_s)
    interval = "-"
    if result.interval is not None:
        interval = " to ".join(f"{100 * end:+.2f}" for end in result.interval)
    top1 = _share(result.mean)
    if result.deviation is not None:
        top1 += f" +- {100 * result.deviation:.2f}"
    peak_bytes = summary.typical_peak_bytes
    return (
        result.variant,
        str(len(result.top1)),
        top1,
        _share(result.best_mean),
        "-" if result.difference is None else f"{100 * result.difference:+.2f}",
        interval,
        "-" if result.p_holm is None else f"{result.p_holm:.3g}",
        result.verdict,
        _share(mean(summary.calibration_errors)),
        _share(mean(summary.agreements)),
        "-" if speed is None else f"{speed:,.0f}",
        "-" if peak_bytes is None else f"{peak_bytes / 1e9:.3g}",
    )


def _share(value: float | None) -> str:
    """A share in percent, for a column whose heading says so."""
    return percent(value).removesuffix("%")


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _remarks(
    compare: CompareSpec, summaries: Sequence[VariantSummary], settings: Mapping[Variant, Point]
) -> list[str]:
    lines = [*recipe_remarks(compare), *missing_predictions(summaries)]
    lines += [
        f"{Variant(run.pair, run.variant).label}: seed {run.seed} failed: {run.error}"
        for summary in summaries
        for run in summary.runs
        if run.state == "failed"
    ]
    lines += [f"{label}: {text}" for label, text in tuning_rows(compare, settings)]
    return lines


def recipe_remarks(compare: CompareSpec) -> list[str]:
    """A line for each variant that differs from the base in more than its method."""
    found: dict[str, list[str]] = {}
    for variant in compare.rows():
        if paths := other_recipe(compare, variant):
            found.setdefault(variant.name, paths)
    return [f"{name}: not the same recipe: {', '.join(paths)}" for name, paths in found.items()]


def missing_predictions(summaries: Sequence[VariantSummary]) -> list[str]:
    """A line for each row whose ECE or agreement is a mean over fewer seeds than its top-1."""
    lines = []
    for summary in summaries:
        result, columns = summary.result, {"ECE": summary.calibration_errors}
        columns["agreement"] = summary.agreements
        for name, values in columns.items():
            missing = [str(seed) for seed in result.top1 if seed not in values]
            if values and missing:
                label = Variant(result.pair, result.variant).label
                text = f"{name} is without seed {', '.join(missing)}, which has no predictions"
                lines.append(f"{label}: {text}")
    return lines


def tuning_rows(compare: CompareSpec, settings: Mapping[Variant, Point]) -> list[tuple[str, str]]:
    """What tuning found for each row, if there was tuning."""
    if compare.tuned is None:
        return []
    rows = []
    for variant in compare.rows():
        point = settings.get(variant)
        text = "its search has not ended, or no trial has finished"
        if point is not None:
            values = (f"{path} = {_short(value)}" for path, value in point.items())
            text = f"best of {compare.tuned.trials} trials: " + ", ".join(values)
            text = text if point else "nothing to tune"
        rows.append((variant.label, text))
    return rows


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
