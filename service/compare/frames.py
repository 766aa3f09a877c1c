"""The runs and the results of a comparison as the rows of runs.csv and results.csv."""

import json
from collections.abc import Mapping, Sequence

import pandas as pd

from service.compare.jobs import other_recipe
from service.compare.records import VariantResult
from service.compare.spec import CompareSpec, Variant
from service.compare.summary import VariantSummary, mean
from service.sweep.space import Point


def result_figures(result: VariantResult) -> dict[str, float | None]:
    """The figures of a row by the names that files and MLflow have; None where not known."""
    low, high = result.interval or (None, None)
    return {
        "top1_mean": result.mean,
        "top1_deviation": result.deviation,
        "best_epoch_top1_mean": result.best_mean,
        "difference": result.difference,
        "interval_low": low,
        "interval_high": high,
        "p_value": result.p_value,
        "p_holm": result.p_holm,
    }


def runs_frame(summaries: Sequence[VariantSummary]) -> pd.DataFrame:
    """A row for each run; empty where a value is not known."""
    rows = [
        {
            "pair": run.pair,
            "variant": run.variant,
            "seed": run.seed,
            "state": run.state,
            "epochs": int(run.curve[-1][0]) if run.curve else 0,
            "last_top1": run.last_top1,
            "last_top5": run.last_top5,
            "best_top1": run.best_top1,
            "best_epoch": run.best_epoch,
            "ece": summary.calibration_errors.get(run.seed),
            "teacher_agreement": summary.agreements.get(run.seed),
            "seconds": round(run.seconds, 1),
            "images_per_s": run.images_per_s,
            "peak_memory_bytes": run.peak_memory_bytes,
            # A progress bar's text has carriage returns, which CSV takes for ends of rows.
            "error": (run.error or "").replace("\r", "\n"),
        }
        for summary in summaries
        for run in summary.runs
    ]
    return pd.DataFrame(rows, dtype=object)


def results_frame(
    compare: CompareSpec, summaries: Sequence[VariantSummary], settings: Mapping[Variant, Point]
) -> pd.DataFrame:
    """A row for each variant of each pair; empty where a value is not known."""
    rows = []
    for summary in summaries:
        result = summary.result
        variant = Variant(result.pair, result.variant)
        rows.append(
            {
                "pair": result.pair,
                "variant": result.variant,
                "seeds": " ".join(map(str, result.top1)),
                **result_figures(result),
                "verdict": result.verdict,
                "ece": mean(summary.calibration_errors),
                "teacher_agreement": mean(summary.agreements),
                "images_per_s": mean(summary.images_per_s),
                "peak_memory_bytes": summary.typical_peak_bytes,
                "other_recipe": " ".join(other_recipe(compare, variant)),
                "tuned": json.dumps(settings[variant]) if variant in settings else "",
            }
        )
    return pd.DataFrame(rows, dtype=object)
