"""The page of a run: facts, and a picture of each thing that it has data for."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import plotly.graph_objects as go

from data_pipeline.files import write_atomically
from data_pipeline.uris import redacted
from service.pages import page, reliability
from service.run.folder import PAGE_NAME
from service.run_page import pictures
from service.run_page.facts import run_facts
from service.run_page.record import RunRecord, read_record
from service.spec.job import JobSpec

logger = logging.getLogger(__name__)


def render_run_page(spec: JobSpec, run_path: Path) -> str:
    """The page as HTML, of a run that has finished or not; one file that opens offline.

    ``run_path``: the run's folder, wherever it is now.

    Raises:
        BadInputError: the run's journal is no file.
        OSError: the storage fails.
    """
    run = read_record(spec, run_path)
    parts = [page.facts(run_facts(run)), *_sections(run)]
    parts.append(page.preformatted("Spec", spec.model_dump_json(indent=1)))
    return page.render_page(f"Run {spec.name}", parts)


def write_run_page(spec: JobSpec, run_path: Path) -> Path | None:
    """Write the page into the run's folder; returns its path, or None with a warning."""
    path = run_path / PAGE_NAME
    try:
        write_atomically(path, render_run_page(spec, run_path))
    except Exception as error:
        # Of whatever kind: the student is trained, and a picture of it must not fail the job.
        logger.warning("the page %s cannot be written: %s", path, redacted(str(error)))
        return None
    return path


def _sections(run: RunRecord) -> Iterator[str]:
    """Every picture for which there is data, most informative first."""
    figures = [pictures.learning_curve(run), pictures.agreement(run)]
    caption = "The best epoch was chosen on the images that it is measured on: do not report it."
    yield from _section("Accuracy", figures, caption)
    yield from _temperatures(run)
    diagram = reliability.reliability_figure(run.diagrams) if run.diagrams else None
    caption = f"{reliability.CAPTION} The student's diagram is that of the last epoch."
    yield from _section("Calibration", [pictures.calibration_error(run), diagram], caption)
    figures = [pictures.losses(run), pictures.learning_rate(run), pictures.speed(run)]
    caption = "Long lines are drawn with means of neighboring values."
    yield from _section("Training", figures, caption)


def _temperatures(run: RunRecord) -> Iterator[str]:
    found = pictures.temperature_figures(run)
    if found:
        yield page.heading("Temperatures")
    for figures in found.values():
        caption = "Lines are means over the samples of a batch, bands their 5th to 95th percentile."
        if len(figures) > 1:
            caption += (
                " The gap is the difference of the logsumexps of teacher's and student's logits, "
                "divided by the base temperature, and by the temperatures of each sample."
            )
        yield page.picture(figures, caption)


def _section(title: str, figures: Sequence[go.Figure | None], caption: str) -> Iterator[str]:
    drawn = [figure for figure in figures if figure is not None]
    if drawn:
        yield page.heading(title)
        yield page.picture(drawn, caption)
