"""The page of an evaluation has what the report has, and takes every name for a text."""

import json
import re
from dataclasses import replace

import pytest
from support.evaluation_reports import KINDS, make_report
from support.parsed_page import Page
from support.sweep_records import ATTACK

from service.evaluate.page import render_evaluation_page

NAMES = ("cat", "dog", "owl", "elk", "cod")
SECTIONS = [
    "Classes",
    "Calibration and corruptions",
    "Top-1 by corruption",
    "Latency and memory",
    "All classes",
]
BARE = {
    "confusions": (),
    "corruptions": (),
    "mean_corrupted_top1": None,
    "agreement": None,
    "latency": (),
    "num_nonfinite": 0,
}


def figures(page):
    return [json.loads(content) for kind, content in page.scripts if kind == "application/json"]


def facts(text):
    return dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", text))


def rows_after(page, header):
    """The table whose first columns are these, as dictionaries."""
    start = next(n for n, row in enumerate(page.rows) if row[: len(header)] == header)
    columns = page.rows[start]
    rows = []
    for row in page.rows[start + 1 :]:
        if len(row) != len(columns):
            break
        rows.append(dict(zip(columns, row, strict=True)))
    return rows


def test_page_states_the_figures():
    found = facts(render_evaluation_page(make_report(NAMES)))
    assert found["Model"] == "run r18 at its last step"
    assert found["Top-1"] == "70.00% (68.00% to 72.00%), 95 % interval"
    assert found["NLL"] == "1.2345 nats"
    assert found["ECE"] == "4.32%"
    assert found["Corrupted images"] == "top-1 40.00%, mean of 20 ways"
    assert "81.00%" in found["Agreement"]
    assert "74.00%" in found["Agreement"]
    # Four bytes for each of 11,689,512 parameters.
    assert "46.76 MB" in found["Architecture"]


def test_tables_have_corruptions_latency_and_classes():
    text = render_evaluation_page(make_report(NAMES))
    assert "JPEG of quality 25, 18, 15, 10, 7." in text
    page = Page(text)
    corruptions = rows_after(page, ["corruption"])
    assert [row["corruption"] for row in corruptions] == [*KINDS, "all"]
    assert corruptions[0]["strength 1"] == "60.00"
    assert {row["mean"] for row in corruptions} == {"40.00"}
    assert {row["% of clean"] for row in corruptions} == {"57.1"}
    first, second = rows_after(page, ["batch", "device"])
    assert (first["median ms"], first["images/s"], first["memory MB"]) == ("20.00", "50.0", "31.0")
    assert (second["batch"], second["95th percentile ms"], second["memory MB"]) == (
        "32",
        "600.00",
        "",
    )
    classes = rows_after(page, ["class"])
    assert [row["class"] for row in classes] == [*NAMES]
    assert [row["top-1 %"] for row in classes] == ["0.00", "5.00", "10.00", "15.00", "20.00"]


def test_sections_are_in_order_and_only_where_there_is_data():
    def headings(report):
        return re.findall("<h2>(.*?)</h2>", render_evaluation_page(report))

    report = make_report(NAMES)
    assert headings(report) == SECTIONS
    assert headings(replace(report, **BARE)) == ["Classes", "Calibration", "All classes"]
    nothing_finite = replace(report, **BARE, reliability=(), ece=None, nll=None)
    assert headings(nothing_finite) == ["Classes", "All classes"]
    assert facts(render_evaluation_page(nothing_finite))["ECE"] == "not finite"


@pytest.mark.parametrize("num_classes", [5, 100])
def test_names_are_texts_everywhere(num_classes):
    report = make_report((ATTACK,) * num_classes)
    model = report.model._replace(origin=ATTACK, architecture=ATTACK, preprocessing_origin=ATTACK)
    data = report.data._replace(path=ATTACK)
    agreement = report.agreement._replace(origin=ATTACK)
    text = render_evaluation_page(replace(report, model=model, data=data, agreement=agreement))
    page = Page(text)
    assert [kind for kind, _ in page.scripts].count(None) == 1
    assert "img" not in page.tags
    assert page.sources == []
    drawn = json.dumps(figures(page))
    assert "<script" not in drawn
    assert "<img" not in drawn


def test_page_stays_small_with_many_classes():
    report = make_report([f"n{n:08d}, a long name of a class" for n in range(1000)])
    assert len(render_evaluation_page(report)) < 2_300_000
