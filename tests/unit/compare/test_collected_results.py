"""Results of comparisons as they are kept: a page without scripts, and a table in Markdown."""

import pandas as pd
import pytest

from jobs.results import collect

PAGE = """<html><head><title>t</title></head><body><script>draw()</script>
<table><td>12.3456 %</td></table><p>Seeds. Click a column's heading to sort by it.</p>
<svg><path d="M10.123456,2.05L3,4.9999"/></svg><script type="text/plain" id="plotly">
AAAA</script></body></html>"""
HEADINGS = [
    "pair", "variant", "top1_mean", "top1_deviation", "difference", "interval_low", "interval_high",
    "p_holm", "verdict", "ece", "teacher_agreement", "images_per_s",
]  # fmt: skip


def test_page_keeps_what_scripts_have_drawn_and_no_script():
    page = collect.static_page(PAGE)
    assert "script" not in page
    assert '<path d="M10.12,2.05L3,4.99"/>' in page
    assert "<td>12.3456 %</td>" in page
    assert "<p>Seeds.</p>" in page


def test_table_has_percent_points_and_blanks(tmp_path):
    rows = [
        ["", "kd", 0.46566, 0.013725, "", "", "", "", "the base", 0.0661, 0.5386, 5873.2],
        ["", "dtkd", 0.49426, 0.0094, 0.0286, -0.0328, 0.09, 0.5431, "no more than noise", 0.0529,
         0.574, 4993.0],
        ["", "late", "", "", "", "", "", "", "more seeds needed", "", "", ""],
    ]  # fmt: skip
    pd.DataFrame(rows, columns=HEADINGS).to_csv(tmp_path / "results.csv", index=False)
    found = collect.markdown(collect.read_texts(tmp_path / "results.csv"))
    assert found.splitlines()[2:] == [
        "| kd | 46.57 +- 1.37 |  |  |  | the base | 6.6 | 53.9 | 5,873 |",
        "| dtkd | 49.43 +- 0.94 | +2.86 | -3.28 to +9.00 | 0.543 | no more than noise | 5.3 | 57.4 "
        "| 4,993 |",
        "| late |  |  |  |  | more seeds needed |  |  |  |",
    ]


def test_cost_counts_finished_runs():
    runs = [("finished", 40, 1800.0), ("failed", 7, 9.0), ("finished", 40, 5400.0)]
    frame = pd.DataFrame(runs, columns=["state", "epochs", "seconds"])
    assert collect.cost(frame) == "2 runs, 80 epochs, 2.00 hours of training"


def test_folder_without_a_comparison_is_refused_before_anything_is_written(tmp_path, capsys):
    target = tmp_path / "target"
    with pytest.raises(SystemExit) as caught:
        collect.main([str(tmp_path), str(target)])
    assert caught.value.code == 2
    assert f"{tmp_path} has no results.csv: give the folder" in capsys.readouterr().err
    assert not target.exists()


def test_missing_browser_is_one_error(tmp_path, monkeypatch, capsys):
    for name in ("results.csv", "runs.csv", "compare.html"):
        (tmp_path / name).touch()
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "none"))
    with pytest.raises(SystemExit) as caught:
        collect.main([str(tmp_path), str(tmp_path / "target")])
    assert caught.value.code == 2
    assert "give its path in CHROMIUM" in capsys.readouterr().err
    assert not (tmp_path / "target").exists()
