"""The comparison of the best settings with the base's own: statistics, file and text."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from scipy import stats

from data_pipeline.files import write_atomically
from service.run.state_files import read_if_usable

COMPARISON_NAME = "confirm.json"
SIGNIFICANCE = 0.05

Role = Literal["best", "default"]
ROLES: tuple[Role, ...] = ("best", "default")


@dataclass(frozen=True)
class Comparison:
    """Scores on val by seed, and Welch's t-test of the difference of their means.

    ``difference``: mean of best minus mean of default. ``interval``: its 95 % confidence interval.
    ``interval`` and ``p_value`` are None for one seed, or if the scores do not vary. ``num_tried``:
    number of settings from which the best was chosen. ``left_out``: seeds with which a run failed.
    """

    metric: str
    maximizes: bool
    num_tried: int
    best: Annotated[dict[int, float], Field(min_length=1)]
    default: Annotated[dict[int, float], Field(min_length=1)]
    difference: float
    interval: tuple[float, float] | None
    p_value: float | None
    left_out: tuple[int, ...] = ()

    @property
    def verdict(self) -> str:
        """Whether the difference is significant, in words."""
        if self.p_value is None:
            return "more seeds are needed to distinguish it from noise"
        if self.p_value >= SIGNIFICANCE:
            return "no more than noise"
        is_better = (self.difference > 0) == self.maximizes
        return f"more than noise: the best settings are {'better' if is_better else 'WORSE'}"

    def write(self, folder: Path) -> None:
        """Write the comparison to the sweep's folder."""
        content = {**asdict(self), "verdict": self.verdict}
        write_atomically(folder / COMPARISON_NAME, json.dumps(content, indent=1) + "\n")

    def __str__(self) -> str:
        scale, unit = (100.0, " %") if self.maximizes else (1.0, "")
        rows = [("", f"{self.metric}{unit}", "deviation", "by seed")]
        for role in ROLES:
            scores = scale * np.array(list(getattr(self, role).values()))
            deviation = f"{scores.std(ddof=1):.2f}" if len(scores) > 1 else "-"
            each = ", ".join(f"{score:.2f}" for score in scores)
            rows.append((role, f"{scores.mean():.2f}", deviation, each))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            "  ".join(
                [*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]
            ).rstrip()
            for row in rows
        ]
        line = f"difference {scale * self.difference:+.2f}{unit}"
        if self.interval is not None and self.p_value is not None:
            low, high = (scale * end for end in self.interval)
            line += f" (95 % interval {low:+.2f} to {high:+.2f}, Welch's t-test p = "
            line += f"{self.p_value:.3f})"
        lines.append(f"{line}: {self.verdict}")
        if self.left_out:
            seeds = ", ".join(map(str, self.left_out))
            lines.append(f"left out, because a run with it failed: seed {seeds}")
        lines.append(f"the best is that of {self.num_tried} settings tried")
        return "\n".join(lines)


def read_comparison(folder: Path) -> Comparison | None:
    """The comparison in a sweep's folder; None if there is none, or if it is damaged."""
    return read_if_usable(folder / COMPARISON_NAME, Comparison, allow_nan=True)


def welch(
    first: Sequence[float], second: Sequence[float]
) -> tuple[tuple[float, float] | None, float | None]:
    """Welch's t-test: 95 % confidence interval of the difference of two means, and its p-value.

    The two variances may differ. Both results are None if a sample has fewer than two values or if
    neither sample has any variance.

    Source: Welch, Biometrika 34 (1947).
    """
    if min(len(first), len(second)) < 2 or np.std(first) == np.std(second) == 0:
        return None, None
    found = stats.ttest_ind(first, second, equal_var=False)
    interval = found.confidence_interval(1 - SIGNIFICANCE)
    assert math.isfinite(found.pvalue), "the variance is not zero"
    return (float(interval.low), float(interval.high)), float(found.pvalue)
