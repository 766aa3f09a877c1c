import base64
import gzip
import json
import math
import re

import pytest
from plotly.offline import get_plotlyjs
from support.parsed_page import Page
from support.sweep_records import ATTACK, KIND, TEMPERATURE, WEIGHT, make_records

from service.sweep.analysis import TrialRecord
from service.sweep.outcome import ranked, table
from service.sweep.page import render_sweep_page
from service.sweep.spec import SweepSpec


@pytest.fixture(scope="module")
def records():
    return make_records()


@pytest.fixture
def sweep(make_sweep_content):
    space = {
        TEMPERATURE: {"log": [1, 16]},
        WEIGHT: {"linear": [0, 1]},
        KIND: {"choice": ["cosine", "linear", "step"]},
    }
    return SweepSpec.model_validate(make_sweep_content(space=space))


def page_of(sweep, records, comparison="", front=None, summary=(("best", "trial 4"),)):
    rows = table(sweep, ranked(sweep, records))
    return render_sweep_page(sweep, records, summary, comparison, front, rows)


def test_table_lists_every_trial_by_state_and_score(sweep, records):
    header, *rows = Page(page_of(sweep, records)).rows
    assert header[:6] == ["trial", "state", "held_out/top1", "epochs", "seconds", "failures"]
    assert header[-1] == "error"
    order = ["finished", "stopped", "failed"]
    expected = sorted(records, key=lambda r: (order.index(r.state), -r.score))
    assert [int(row[0]) for row in rows] == [record.number for record in expected]
    assert rows[0][1] == "finished (best)"
    assert float(rows[0][2]) == pytest.approx(expected[0].score, rel=1e-4)
    assert {row[-1] for row in rows[-6:]} == {"out of memory"}


def test_pictures_are_in_order(sweep, records):
    front = [record for record in records if record.state == "finished"][:1]
    captions = Page(page_of(sweep, records, front=front)).captions
    starts = ("Finished trials", "Trials stopped", "Darker", "Each line", "Every", "fANOVA")
    assert len(captions) == len(starts)
    assert all(map(str.startswith, captions, starts))
    assert not any(c.startswith("Finished trials") for c in Page(page_of(sweep, records)).captions)


def test_a_sweep_without_trials_has_a_page(sweep):
    page = Page(page_of(sweep, []))
    assert page.captions == []
    assert len(page.rows) == 1


def test_untrusted_text_is_escaped_everywhere(sweep):
    params = {ATTACK: ATTACK, WEIGHT: ATTACK}
    record = TrialRecord(0, "failed", params, None, (), 1.0, 1, ATTACK)
    text = page_of(sweep, [record], comparison=ATTACK, summary=[(ATTACK, ATTACK)])
    page = Page(text)
    kinds = [kind for kind, _ in page.scripts]
    assert kinds.count(None) == 1
    assert set(kinds) == {None, "application/json", "text/plain"}
    assert "img" not in page.tags
    assert page.rows[1][-1] == ATTACK
    assert page.rows[1][page.rows[0].index(WEIGHT)] == ATTACK


def test_figures_are_those_of_plotly(sweep, records):
    """What the page's script draws: the library as it is, and a figure's data in JSON."""
    page = Page(page_of(sweep, records))
    (packed,) = (content for kind, content in page.scripts if kind == "text/plain")
    assert gzip.decompress(base64.b64decode(packed)).decode() == get_plotlyjs()
    figures = [json.loads(text) for kind, text in page.scripts if kind == "application/json"]
    assert len(figures) == 4 + 4
    assert all(figure["data"] and figure["layout"]["title"]["text"] for figure in figures)


def test_page_loads_nothing_from_a_server(sweep, records):
    text = page_of(sweep, records)
    page = Page(text)
    assert page.sources == []
    assert not re.search(r"https?://|url\(", re.sub(r'(?s)"text/plain".*?</script>', "", text))
    directives = dict(part.strip().split(" ", 1) for part in page.policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["img-src"] == "data: blob:"
    assert re.fullmatch(r"('sha256-\S+' ?){2}", directives["script-src"])
    assert len(text) < 3_000_000


def test_comparison_is_shown_only_if_given(sweep, records):
    assert "<pre>run &amp; see</pre>" in page_of(sweep, records, comparison="run & see")
    assert "<pre>" not in page_of(sweep, records)


def test_rows_of_the_table_are_whole_whatever_an_error_says(sweep, records):
    error = "progress 10%\rprogress 20%\rdone"
    changed = [record._replace(error=error, seconds=123456.78) for record in records]
    rows = Page(page_of(sweep, changed)).rows
    assert len(rows) == 1 + len(records)
    assert rows[1][1] == "finished (best)"
    assert {row[4] for row in rows[1:]} == {"123457"}


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_page_of_scores_that_are_not_finite(sweep, records, score):
    curve = tuple((epoch, score) for epoch in range(1, 10))
    changed = [record._replace(score=score, curve=curve) for record in records]
    assert len(Page(page_of(sweep, changed)).rows) == 1 + len(records)
    mixed = [*records[:8], records[8]._replace(score=score, curve=curve)]
    assert len(Page(page_of(sweep, mixed)).captions) >= 4
