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


class Comparison(NamedTuple):
    """Two measurements side by side, and what their ratio should be.

    ``measure`` and ``reference`` return rates; the ratio is measure / reference, or with
    ``is_cost`` the time of the first over the time of the second. ``goal`` None promises nothing.
    """

    name: str
    measure: Callable[[], float]
    reference: Callable[[], float]
    goal: float | None
    is_cost: bool = False


def compare(comparisons: Sequence[Comparison], num_rounds: int, unit: str) -> list[Ratio]:
    """Medians over rounds; in each, the two of a comparison run one right after the other.

    Machines that are shared drift: what is compared must be near in time.
    """
    rates: dict[str, list[tuple[float, float]]] = {one.name: [] for one in comparisons}
    for round_index in range(num_rounds):
        for one in comparisons:
            rates[one.name].append((one.measure(), one.reference()))
            first, second = rates[one.name][-1]
            print(
                f"round {round_index + 1}: {one.name}: {first:,.0f} and {second:,.0f} {unit}",
                flush=True,
            )
    return [_ratio(one, rates[one.name], unit) for one in comparisons]


def _ratio(one: Comparison, rates: list[tuple[float, float]], unit: str) -> Ratio:
    ratio = statistics.median(b / a if one.is_cost else a / b for a, b in rates)
    first, second = (statistics.median(column) for column in zip(*rates, strict=True))
    name = f"{one.name} ({first:,.0f} / {second:,.0f} {unit})"
    if one.goal is None:
        return Ratio(name, round(ratio, 3), "-", None)
    met = ratio <= one.goal if one.is_cost else ratio >= one.goal
    return Ratio(name, round(ratio, 3), f"{'<=' if one.is_cost else '>='} {one.goal:g}", met)


def show(ratios: Sequence[Ratio]) -> None:
    """Print the ratios as a table."""
    width = max(len(ratio.name) for ratio in ratios)
    print(f"\n{'median ratio':{width}}  {'measured':>10}  {'goal':>8}  met")
    for name, ratio, goal, met in ratios:
        answer = {None: "-", True: "yes", False: "NO"}[met]
        print(f"{name:{width}}  {ratio:10.3f}  {goal:>8}  {answer}")


def write_json(path: Path, ratios: Sequence[Ratio]) -> None:
    """Write [{"name", "ratio", "goal", "met"}]."""
    path.write_text(json.dumps([ratio._asdict() for ratio in ratios], indent=1) + "\n")
