"""Collect the results of a comparison: python jobs/results/collect.py FOLDER TARGET.

FOLDER is that of a comparison that has ended. TARGET gets its results.csv and runs.csv, and its
page with the pictures drawn, without scripts, as results.html; a table in Markdown is printed. It
needs Chromium on PATH, or what CHROMIUM names.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd

from data_pipeline.files import write_atomically
from service.compare.outcome import PAGE_NAME, RESULTS_NAME, RUNS_TABLE_NAME
from service.run.scripts import ScriptParser, run_script
from service.spec.errors import EXIT_DONE

PAGE_LIMIT_BYTES = 1_500_000
DRAWING_LIMIT_MS = 30_000
# Plotly adds its rules where a copy of the page does not have them.
STYLE = (
    ".plotly .main-svg{position:absolute;top:0;left:0;pointer-events:none}"
    ".plotly .modebar{display:none}th{cursor:auto}"
)
# What only a script does.
INTERACTIONS = (" Click a column's heading to sort by it.", "; a double click shows all")


def main(arguments: list[str]) -> int:
    """Write the files, print the table and return the exit status."""
    parser = ScriptParser(__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("target", type=Path, metavar="TARGET")
    options = parser.parse_args(arguments)
    names = (RESULTS_NAME, RUNS_TABLE_NAME, PAGE_NAME)
    if missing := [name for name in names if not (options.folder / name).is_file()]:
        parser.error(f"{options.folder} has no {missing[0]}: give the folder of a comparison")
    browser = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    if browser is None:
        parser.error("no Chromium on PATH: install it, or give its path in CHROMIUM")
    try:
        page = static_page(drawn_page(browser, (options.folder / PAGE_NAME).absolute()))
    except subprocess.SubprocessError as error:
        parser.error(f"{PAGE_NAME} could not be drawn: {error}")
    if len(page.encode()) > PAGE_LIMIT_BYTES:
        parser.error(
            f"{PAGE_NAME}: {len(page.encode()):,} bytes without scripts, too large to keep"
        )
    options.target.mkdir(parents=True, exist_ok=True)
    for name in (RESULTS_NAME, RUNS_TABLE_NAME):
        shutil.copyfile(options.folder / name, options.target / name)
    write_atomically(options.target / "results.html", page)
    results, runs = (read_texts(options.target / n) for n in (RESULTS_NAME, RUNS_TABLE_NAME))
    print(markdown(results), cost(runs), sep="\n\n")
    return EXIT_DONE


def read_texts(path: Path) -> pd.DataFrame:
    """The rows of a table as texts, empty where it is."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def drawn_page(browser: str, path: Path) -> str:
    """The document of a page after its script has drawn the pictures."""
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu",
        "--window-size=1200,900", f"--virtual-time-budget={DRAWING_LIMIT_MS}", "--dump-dom",
        path.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


def static_page(document: str) -> str:
    """The page without scripts, with what they have drawn; numbers in it have two decimals."""
    page = re.sub(r"<script.*?</script>\s*", "", document, flags=re.DOTALL)
    for text in INTERACTIONS:
        page = page.replace(text, "")
    page = re.sub(r"(\d\.\d\d)\d+(?=[^<>]*>)", r"\1", page)
    return page.replace("</head>", f"<style>{STYLE}</style>\n</head>")


def markdown(results: pd.DataFrame) -> str:
    """The results as a table; accuracies, ECE and agreement in percent, differences in points."""
    headings = ["losses", "top-1 %", "difference", "interval", "p (Holm)", "verdict", "ECE %",
                "agreement %", "images/s"]  # fmt: skip
    has_pairs = bool(results["pair"].any())
    headings = ["pair", *headings] if has_pairs else headings
    rows = [
        [row["pair"], *_cells(row)] if has_pairs else _cells(row) for _, row in results.iterrows()
    ]
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: "pd.Series[str]") -> list[str]:
    interval = f"{_points(row['interval_low'])} to {_points(row['interval_high'])}"
    return [
        row["variant"],
        " +- ".join(filter(None, (_percent(row[n], 2) for n in ("top1_mean", "top1_deviation")))),
        _points(row["difference"]),
        interval if row["interval_low"] else "",
        f"{float(row['p_holm']):.3g}" if row["p_holm"] else "",
        row["verdict"],
        _percent(row["ece"], 1),
        _percent(row["teacher_agreement"], 1),
        f"{float(row['images_per_s']):,.0f}" if row["images_per_s"] else "",
    ]


def _percent(value: str, num_decimals: int) -> str:
    return f"{100 * float(value):.{num_decimals}f}" if value else ""


def _points(value: str) -> str:
    # Adding zero removes the sign of a negative one.
    return f"{round(100 * float(value), 2) + 0:+.2f}" if value else ""


def cost(runs: pd.DataFrame) -> str:
    """How many runs and epochs there were, and the time that they took one after the other."""
    finished = runs[runs["state"] == "finished"]
    num_epochs = finished["epochs"].astype(int).sum()
    hours = finished["seconds"].astype(float).sum() / 3600
    return f"{len(finished)} runs, {num_epochs:,} epochs, {hours:.2f} hours of training"


if __name__ == "__main__":
    run_script(main)
