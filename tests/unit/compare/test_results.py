"""The specs of the results page are valid, and its tables are those of their files."""

import csv
import json
from pathlib import Path

import pytest

from service.compare.jobs import run_specs
from service.compare.spec import CompareSpec

JOBS = Path(__file__).parents[3] / "jobs"
RESULTS = sorted(path.parent for path in (JOBS / "results").glob("*/compare.json"))


def test_there_are_results():
    assert len(RESULTS) >= 2


@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_results_are_those_of_the_spec(folder):
    compare = CompareSpec.model_validate(json.loads((folder / "compare.json").read_text()))
    assert len(run_specs(compare)) == len(list(compare.rows())) * len(compare.seeds)
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows] == list(compare.patches)
    seeds = " ".join(map(str, compare.seeds))
    assert {row["seeds"] for row in rows} == {seeds}


def percent(text, style):
    return "" if text == "" else format(100 * float(text), style)


def page_row(row):
    """A row of results.csv as the page has it."""
    ends = [percent(row[f"interval_{end}"], "+.2f") for end in ("low", "high")]
    cells = [
        row["variant"],
        f"{percent(row['top1_mean'], '.2f')} +- {percent(row['top1_deviation'], '.2f')}",
        percent(row["difference"], "+.2f"),
        " to ".join(ends) if all(ends) else "",
        row["p_holm"] and f"{float(row['p_holm']):.3g}",
        row["verdict"],
        percent(row["ece"], ".1f"),
        percent(row["teacher_agreement"], ".1f"),
        f"{float(row['images_per_s']):,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_page_quotes_the_results(folder):
    page = (JOBS / "RESULTS.md").read_text().splitlines()
    with (folder / "results.csv").open() as file:
        for row in csv.DictReader(file):
            assert page_row(row) in page


def test_readme_quotes_the_results():
    readme = (JOBS.parent / "README.md").read_text()
    with (JOBS / "results" / "losses-cifar10" / "results.csv").open() as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    for variant in ("alone", "kd", "dtkd"):
        _, top1, difference, interval, _, verdict, *_ = page_row(rows[variant]).split(" | ")
        shown = f" | {difference} ({interval}) | {verdict} |" if interval else ""
        assert f"| {top1}{shown}" in readme
