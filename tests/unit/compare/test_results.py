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


@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_page_quotes_the_results(folder):
    page = (JOBS / "RESULTS.md").read_text()
    with (folder / "results.csv").open() as file:
        for row in csv.DictReader(file):
            mean, deviation = (100 * float(row[name]) for name in ("top1_mean", "top1_deviation"))
            assert f"| {row['variant']} | {mean:.2f} +- {deviation:.2f} |" in page
            assert f"| {row['verdict']} |" in page
