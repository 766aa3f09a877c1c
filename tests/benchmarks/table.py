"""Measured ratios as a table to read and as JSON, and the options that all benchmarks share."""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple


class Ratio(NamedTuple):
    """A measurement, most often a ratio of two; ``met``: its goal is met, None without a goal."""

    name: str
    ratio: float
    goal: str
    met: bool | None


class Comparison(NamedTuple):
    """Two measurements and the goal for their ratio.

    ``measure`` and ``reference`` return rates; the ratio is measure / reference, or with
    ``is_cost`` the time of the first over the time of the second. ``goal`` None: there is none.
    """

    name: str
    measure: Callable[[], float]
    reference: Callable[[], float]
    goal: float | None
    is_cost: bool = False


def compare(comparisons: Sequence[Comparison], num_rounds: int, unit: str) -> list[Ratio]:
    """Medians over rounds; in each, the two of a comparison run one right after the other.

    The speed of shared machines varies: compared measurements must run close together.
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
    return at_most(name, ratio, one.goal) if one.is_cost else at_least(name, ratio, one.goal)


def at_most(name: str, value: float, goal: float) -> Ratio:
    """A measurement that should not exceed its goal."""
    return Ratio(name, round(value, 4), f"<= {goal:g}", value <= goal)


def at_least(name: str, value: float, goal: float) -> Ratio:
    """A measurement that should reach its goal."""
    return Ratio(name, round(value, 4), f">= {goal:g}", value >= goal)


def exactly(name: str, value: float, goal: float) -> Ratio:
    """A measurement that should equal its goal."""
    return Ratio(name, round(value, 4), f"= {goal:g}", value == goal)


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--json FILE``, for ``report``."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurements to FILE")


def report(ratios: Sequence[Ratio], json_path: Path | None) -> None:
    """Print the measurements as a table, and write [{"name", "ratio", "goal", "met"}] as JSON."""
    show(ratios)
    if json_path is not None:
        write_json(ratios, json_path)


def write_json(ratios: Sequence[Ratio], path: Path) -> None:
    """Write the measurements for ``read_json``."""
    path.write_text(json.dumps([ratio._asdict() for ratio in ratios], indent=1) + "\n")


def read_json(path: Path) -> list[Ratio]:
    """The measurements that ``report`` wrote; none where it was not called."""
    return [Ratio(**entry) for entry in json.loads(path.read_text())] if path.exists() else []


def show(ratios: Sequence[Ratio]) -> None:
    """Print the measurements as a table."""
    width = max((len(ratio.name) for ratio in ratios), default=0)
    print(f"\n{'measurement':{width}}  {'result':>10}  {'goal':>8}  met")
    for name, ratio, goal, met in ratios:
        answer = {None: "-", True: "yes", False: "NO"}[met]
        print(f"{name:{width}}  {ratio:10.3f}  {goal:>8}  {answer}")
