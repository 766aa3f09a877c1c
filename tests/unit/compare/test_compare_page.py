import json
import re
from types import SimpleNamespace

import pytest
from support.comparison_records import make_results, make_runs
from support.parsed_page import Page
from support.sweep_records import ATTACK

from service.compare.page import render_compare_page
from service.compare.summary import summarize

VARIANTS = ["labels", "kd", "dtkd"]
SEEDS = (0, 1, 2)
SECTIONS = [
    "Results",
    "Accuracy",
    "Learning curves",
    "Temperatures",
    "Calibration",
    "Calibration error and agreement",
    "Classes",
    "Cost",
    "All runs",
]


@pytest.fixture(scope="module")
def runs():
    return make_runs(VARIANTS, SEEDS)


def text_of(runs, variants=VARIANTS, pairs=("",), facts=(("Seeds", "three"),), classes=None):
    spec = SimpleNamespace(
        name="losses",
        base_label=variants[0],
        base=SimpleNamespace(dataset=SimpleNamespace(num_classes=5)),
    )
    summaries = summarize(runs, make_results(runs, variants, pairs), 5)
    return render_compare_page(spec, runs, summaries, facts, classes)


def tables(page):
    """Rows of the table of results and of that of all runs, as dictionaries."""
    starts = [n for n, row in enumerate(page.rows) if "variant" in row[:2]]
    parts = page.rows[starts[0] : starts[1]], page.rows[starts[1] :]
    return [[dict(zip(rows[0], row, strict=True)) for row in rows[1:]] for rows in parts]


def headings(text):
    return re.findall("<h2>(.*?)</h2>", text)


def figures(page):
    return [json.loads(content) for kind, content in page.scripts if kind == "application/json"]


def test_results_are_those_of_the_variants_in_their_order(runs):
    rows, _ = tables(Page(text_of(runs)))
    results = make_results(runs, VARIANTS)
    assert [row["variant"] for row in rows] == VARIANTS
    for row, result in zip(rows, results, strict=True):
        assert row["seeds"] == "3"
        assert row["top-1 %"] == f"{100 * result.mean:.2f} ± {100 * result.deviation:.2f}"
        assert row["best epoch %"] == f"{100 * result.best_mean:.2f}"
        assert row["verdict"] == result.verdict
    low, high = results[2].interval
    text = f"{100 * results[2].difference:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
    assert rows[2]["difference"] == text
    assert float(rows[2]["p (Holm)"]) == pytest.approx(results[2].p_holm, rel=0.05)
    assert rows[0]["difference"] == rows[0]["p (Holm)"] == rows[0]["agreement %"] == ""
    assert (rows[1]["img/s"], rows[1]["peak GB"]) == ("991", "2.1")


def test_deviations_are_written_alike_and_explained_once(runs):
    text = text_of(runs)
    assert "+-" not in text
    assert text.count("paired t-test") == 1


def test_runs_are_listed_with_their_errors(runs):
    error = "progress 10%\rout of memory"
    failed = runs[1]._replace(state="failed", error=error, last_top1=None, curve=runs[1].curve[:4])
    text = text_of([runs[0], failed, *runs[2:]])
    _, rows = tables(Page(text))
    assert len(rows) == len(runs)
    assert (rows[1]["state"], rows[1]["epochs"], rows[1]["top-1 %"]) == ("failed", "4 of 12", "")
    assert rows[1]["error"].endswith("out of memory")
    assert rows[0]["top-1 %"] == f"{100 * runs[0].last_top1:.2f}"
    assert "8 finished, 1 failed" in text


def test_sections_are_in_order_and_only_where_there_is_data(runs):
    assert headings(text_of(runs)) == SECTIONS
    bare = [run._replace(student=None, teacher=None, temperatures={}) for run in runs]
    left = ["Results", "Accuracy", "Learning curves", "Cost", "All runs"]
    assert headings(text_of(bare)) == left


def test_comparison_in_which_nothing_has_started_has_a_page(runs):
    waiting = [
        run._replace(
            state="waiting",
            curve=(),
            last_top1=None,
            best_top1=None,
            seconds=0.0,
            images_per_s=None,
            peak_memory_bytes=None,
            temperatures={},
            student=None,
            teacher=None,
        )
        for run in runs
    ]
    text = text_of(waiting)
    assert headings(text) == ["Results", "All runs"]
    rows, _ = tables(Page(text))
    assert [row["seeds"] for row in rows] == ["0"] * 3
    assert headings(text_of([])) == ["Results", "All runs"]


def test_every_pair_has_its_pictures_and_rows():
    pairs = ("r34-r18", "r50-mobilenet")
    runs = make_runs(["labels", "kd"], [0, 1], pairs)
    page = Page(text_of(runs, ["labels", "kd"], pairs))
    rows, all_runs = tables(page)
    assert [(row["pair"], row["variant"]) for row in rows] == [
        (pair, variant) for pair in pairs for variant in ("labels", "kd")
    ]
    assert len(all_runs) == 8
    titles = [figure["layout"]["title"]["text"] for figure in figures(page)]
    for pair in pairs:
        assert sum(title.startswith(pair) for title in titles) == len(titles) / 2 == 10


def test_tables_have_no_column_of_pairs_without_pairs(runs):
    results, all_runs = tables(Page(text_of(runs)))
    assert "pair" not in results[0]
    assert "pair" not in all_runs[0]


def test_untrusted_text_is_escaped_everywhere():
    variants = ["labels", ATTACK]
    runs = make_runs(variants, SEEDS, (ATTACK,))
    runs[1] = runs[1]._replace(state="failed", error=ATTACK)
    text = text_of(runs, variants, (ATTACK,), [(ATTACK, ATTACK)], (ATTACK,) * 5)
    page = Page(text)
    assert [kind for kind, _ in page.scripts].count(None) == 1
    assert "img" not in page.tags
    assert page.sources == []
    _, rows = tables(page)
    assert (rows[1]["pair"], rows[1]["variant"], rows[1]["error"]) == (ATTACK,) * 3
    drawn = json.dumps(figures(page))
    assert "<script" not in drawn
    assert "<img" not in drawn


def test_page_stays_small_with_many_runs_and_images():
    names = [f"variant{number}" for number in range(21)]
    runs = make_runs(names, range(3), num_images=2000, num_classes=5, num_epochs=60)
    assert len(text_of(runs, names)) < 2_600_000


def test_names_of_classes_are_shown(runs):
    names = ("cat", "dog", "owl", "elk", "cod")
    assert "dtkd, elk" in text_of(runs, classes=names)
    assert "dtkd, class 3" in text_of(runs)
