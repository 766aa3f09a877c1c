"""The page of a sweep: its outcome, pictures and trials."""

from collections.abc import Iterator, Sequence

import pandas as pd

from service.pages import page
from service.sweep.analysis import (
    TrialRecord,
    best_so_far,
    counts_text,
    importances,
    value_text,
)
from service.sweep.pictures import SweepPictures
from service.sweep.space import SearchSpace
from service.sweep.spec import SweepSpec


def render_sweep_page(
    sweep: SweepSpec,
    records: Sequence[TrialRecord],
    summary: Sequence[tuple[str, str]],
    comparison: str,
    front: Sequence[TrialRecord] | None,
    table: pd.DataFrame,
) -> str:
    """The page as HTML.

    ``summary``: labels and texts. ``comparison``: of the best settings with the default, may be
    empty. ``front``: see ``outcome.time_front``. ``table``: all trials, a row each.
    """
    parts = [page.facts(summary)]
    if comparison:
        parts.append(page.preformatted("Best and default settings, by seed", comparison))
    if records:
        parts += _pictures(sweep, records, front)
    best = best_so_far(records, sweep.maximizes)
    if best is not None:
        table.loc[table["trial"] == best.number, "state"] += " (best)"
    parts.append(page.table("All trials", counts_text(records), table.map(value_text)))
    return page.render_page(f"Sweep {sweep.name}", parts)


def _pictures(
    sweep: SweepSpec, records: Sequence[TrialRecord], front: Sequence[TrialRecord] | None
) -> Iterator[str]:
    """Every picture for which there is data, most informative first."""
    log_params = {path for path, parameter in sweep.space.items() if parameter.log is not None}
    pictures = SweepPictures(records, sweep.metric_name, sweep.maximizes, log_params)
    if front:
        caption = "Finished trials. On the line, no other trial is better in both."
        yield page.picture([pictures.by_time(front)], caption)
    caption = "Trials stopped early have their last score; those without one are at the bottom."
    yield page.picture([pictures.by_parameter(path) for path in pictures.paths], caption)
    if (figure := pictures.temperature_map()) is not None:
        caption = "Darker is better. The background is a smooth fit to the finished trials."
        yield page.picture([figure], caption)
    caption = "Each line is a trial, to the metric at the last epoch reached. Darker is better."
    yield page.picture([pictures.parallel_coordinates()], caption, is_wide=True)
    if (figure := pictures.learning_curves()) is not None:
        yield page.picture([figure], "Every evaluation of every trial.")
    epoch = importance_epoch(sweep)
    if shares := importances(records, SearchSpace(sweep.space), epoch):
        caption = "fANOVA, at an epoch before which no trial is stopped early."
        yield page.picture([pictures.importances(shares, epoch)], caption)


def importance_epoch(sweep: SweepSpec) -> int:
    """The epoch of the metric for importances: the last before which no trial is stopped early."""
    stops = sweep.scheduler.kind != "none"
    return sweep.min_epochs if stops else sweep.base.schedule.num_epochs
