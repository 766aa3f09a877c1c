"""The pages of results say what the tables beside them have."""

from pathlib import Path

import pytest

from jobs.results import collect

PAPER = Path(collect.__file__).parent / "paper"
TABLES = sorted(PAPER.glob("*/results.html"))


@pytest.mark.parametrize("page", TABLES, ids=lambda page: page.parent.name)
def test_tables_of_the_page_are_those_of_the_results(page):
    table = collect.markdown(collect.read_texts(page.with_name("results.csv")))
    assert table in (PAPER / "README.md").read_text()


def test_page_has_a_table_for_each_comparison():
    folders = {path.parent for path in PAPER.glob("*/compare.json")}
    assert {page.parent for page in TABLES} == folders
