"""Compares the best settings with the base's own: both are trained with several seeds.

These runs train on all images of train, and each evaluates val once, after its last epoch.
"""

import shutil
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from service.run.folder import has_spec, read_spec
from service.run.journal import JOURNAL_NAME, read_events
from service.run.report import print_now
from service.run.result import read_result
from service.spec.identity import fixed_differences
from service.spec.job import JobSpec
from service.spec.loading import parse_spec
from service.sweep.comparison import ROLES, Comparison, Role, welch
from service.sweep.progress import SweepStatus
from service.sweep.space import Point, given_content, with_shared_cache, with_values
from service.sweep.spec import SweepSpec
from service.trials.run_progress import RunsProgress

CONFIRM_NAME = "confirm"


def confirm_specs(
    sweep: SweepSpec, base: JobSpec, best: Point, num_seeds: int
) -> dict[tuple[Role, int], JobSpec]:
    """The job specs by role and seed; seeds are consecutive, starting with the base's."""
    specs = {}
    for seed in range(sweep.base.seed, sweep.base.seed + num_seeds):
        for role in ROLES:
            content = with_values(given_content(base), best if role == "best" else {})
            content = with_shared_cache(content, base)
            content |= {"name": f"{role}-seed-{seed}", "seed": seed}
            content.setdefault("evaluation", {})["every_epochs"] = base.schedule.num_epochs
            if role == "best" and (epochs := best.get("schedule.num_epochs")):
                content["evaluation"]["every_epochs"] = epochs
            if sweep.resources is not None:
                content["resources"] = sweep.resources.model_dump(mode="json", exclude_unset=True)
            content["checkpoints"]["storage_path"] = str(sweep.sweep_path / CONFIRM_NAME)
            for field in ("register_as", "promote"):
                content.get("tracking", {}).pop(field, None)
            specs[role, seed] = parse_spec(content)
    return specs


def remove_outdated(specs: Iterable[JobSpec]) -> None:
    """Remove folders of runs with other best settings, which are not compared any more."""
    for spec in specs:
        if has_spec(spec.run_path) and fixed_differences(read_spec(spec.run_path), spec):
            shutil.rmtree(spec.run_path)


def confirm_progress(
    sweep: SweepSpec,
    specs: Sequence[JobSpec],
    status: SweepStatus,
    show: Callable[[str], None] = print_now,
) -> RunsProgress:
    """The progress of the confirming runs in the log and in the sweep's status."""
    return RunsProgress(
        f"{sweep.name}: confirming",
        specs,
        sweep.metric,
        sweep.progress_interval_s,
        status.update_confirming,
        show,
    )


def confirm_tags(spec: JobSpec) -> dict[str, str]:
    """MLflow tags of a confirming run."""
    return {"confirms": spec.name}


def compare(
    sweep: SweepSpec, specs: dict[tuple[Role, int], JobSpec], num_tried: int
) -> Comparison | None:
    """Compare the seeds that finished with both settings; None if there are none.

    All runs must have ended: a seed without both results is one with which a run failed.
    """
    scores: dict[Role, dict[int, float]] = {"best": {}, "default": {}}
    for (role, seed), spec in specs.items():
        if read_result(spec.run_path) is not None:
            scores[role][seed] = last_score(spec, f"val/{sweep.metric}")
    seeds = [seed for seed in scores["best"] if seed in scores["default"]]
    if not seeds:
        return None
    left_out = tuple(sorted({seed for _, seed in specs} - set(seeds)))
    best, default = ({seed: scores[role][seed] for seed in seeds} for role in ROLES)
    difference = float(np.mean(list(best.values())) - np.mean(list(default.values())))
    interval, p_value = welch(list(best.values()), list(default.values()))
    return Comparison(
        f"val/{sweep.metric}", sweep.maximizes, num_tried, best, default, difference, interval,
        p_value, left_out,
    )  # fmt: skip


def last_score(spec: JobSpec, name: str) -> float:
    """A metric of the last evaluation of a finished run."""
    events = read_events(spec.run_path / JOURNAL_NAME)
    return next(event.values[name] for event in reversed(events) if name in event.values)
