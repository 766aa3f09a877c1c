import base64
import json
from html.parser import HTMLParser

import pytest
from support.sweep_records import ATTACK, make_records

from service.sweep.analysis import TrialRecord
from service.sweep.pages.page import render_page


@pytest.fixture(scope="module")
def records():
    return make_records()


class Page(HTMLParser):
    """The page as a browser parses it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.sources, self.policy = [], [], [], ""
        self.in_cell = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.sources += [values[name] for name in ("src", "href") if name in values]
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.in_cell:
            self.rows[-1][-1] += data


def page_of(records, **changes):
    arguments = {
        "title": "Sweep",
        "summary": [("best", "trial 4")],
        "metric": "held_out/top1",
        "maximizes": True,
        "figures": {"importance": b"picture"},
    } | changes
    return render_page(records=records, **arguments)


def test_table_lists_every_trial_by_state_and_score(records):
    header, *rows = Page(page_of(records)).rows
    assert header[:6] == ["trial", "state", "held_out/top1", "epochs", "seconds", "failures"]
    assert header[-1] == "error"
    order = ["finished", "stopped", "failed"]
    expected = sorted(records, key=lambda r: (order.index(r.state), -r.score))
    assert [int(row[0]) for row in rows] == [record.number for record in expected]
    assert rows[0][1] == "finished (best)"
    assert rows[0][2] == f"{expected[0].score:.2%}"
    assert {row[-1] for row in rows[-6:]} == {"out of memory"}


def test_parameters_that_do_not_apply_are_empty_cells(records):
    header, *rows = Page(page_of(records)).rows
    column = header.index("schedule.step_epochs")
    unused = {r.number for r in records if "schedule.step_epochs" not in r.params}
    assert {int(row[0]) for row in rows if row[column] == ""} == unused


def test_untrusted_text_is_escaped_everywhere():
    params = {ATTACK: ATTACK, "list": [ATTACK]}
    record = TrialRecord(0, "failed", params, None, (), 1.0, 1, ATTACK)
    changes = {"title": ATTACK, "summary": [(ATTACK, ATTACK)], "metric": ATTACK, "confirm": ATTACK}
    text = page_of([record], figures={ATTACK: b""}, **changes)
    page = Page(text)
    assert page.tags.count("script") == 1
    assert page.tags.count("img") == 1
    assert page.rows[1][-1] == ATTACK
    assert page.rows[1][page.rows[0].index("list")] == json.dumps([ATTACK])


def test_page_loads_nothing_from_a_server(records):
    text = page_of(records)
    page = Page(text)
    assert page.sources == ["data:image/png;base64," + base64.b64encode(b"picture").decode()]
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    directives = dict(part.strip().split(" ", 1) for part in page.policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["img-src"] == "data:"
    assert directives["script-src"].startswith("'sha256-")


def test_confirmation_commands_are_shown_only_if_given(records):
    assert "<pre>run &amp; see</pre>" in page_of(records, confirm="run & see")
    assert "<pre>" not in page_of(records)
