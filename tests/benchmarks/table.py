"""Measured ratios as a table for people and as JSON for programs."""

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple


class Ratio(NamedTuple):
    """How two measurements compare; met says whether the goal is, None where there is none."""

    name: str
    ratio: float
    goal: str
    met: bool | None


def at_least(name: str, ratio: float, goal: float) -> Ratio:
    """A ratio that should be ``goal`` or more."""
    return Ratio(name, round(ratio, 3), f">= {goal:g}", ratio >= goal)


def at_most(name: str, ratio: float, goal: float) -> Ratio:
    """A ratio that should be ``goal`` or less."""
    return Ratio(name, round(ratio, 3), f"<= {goal:g}", ratio <= goal)


def for_information(name: str, ratio: float) -> Ratio:
    """A ratio that nothing was promised of."""
    return Ratio(name, round(ratio, 3), "-", None)


def median_rates(measures: dict[str, Callable[[], float]], num_rounds: int) -> dict[str, float]:
    """Median over rounds of what each function returns; every round runs all of them in turn."""
    rates: dict[str, list[float]] = {name: [] for name in measures}
    for round_index in range(num_rounds):
        for name, measure in measures.items():
            rates[name].append(measure())
            print(f"round {round_index + 1}: {name}: {rates[name][-1]:,.1f}", flush=True)
    return {name: statistics.median(values) for name, values in rates.items()}


def show(rates: dict[str, float], ratios: Sequence[Ratio], unit: str) -> None:
    """Print medians and ratios."""
    width = max(map(len, [*rates, *(ratio.name for ratio in ratios)]))
    print(f"\n{'median':{width}}  {unit:>10}")
    for name, rate in rates.items():
        print(f"{name:{width}}  {rate:10,.1f}")
    print(f"\n{'ratio':{width}}  {'measured':>10}  {'goal':>8}  met")
    for name, ratio, goal, met in ratios:
        answer = {None: "-", True: "yes", False: "NO"}[met]
        print(f"{name:{width}}  {ratio:10.3f}  {goal:>8}  {answer}")


def write_json(path: Path, ratios: Sequence[Ratio]) -> None:
    """Write [{"name", "ratio", "goal", "met"}]."""
    path.write_text(json.dumps([ratio._asdict() for ratio in ratios], indent=1) + "\n")
