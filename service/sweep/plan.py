"""The plan of a sweep: what it would try, and how many epochs that takes."""

import math

from service.spec.overlap import overlap_warnings
from service.sweep.space import Dimension, SearchSpace, num_trials
from service.sweep.spec import MAX_STANDARD_ERROR, SweepSpec
from service.sweep.study import rungs


def format_plan(sweep: SweepSpec) -> str:
    """The plan as text."""
    base = sweep.base
    resources = sweep.resources or base.resources
    space = SearchSpace(sweep.space)
    is_grid = sweep.algorithm.kind == "grid"
    count = num_trials(sweep)
    epochs = base.schedule.num_epochs
    lines = [
        f"sweep {sweep.name}, in {sweep.sweep_path}",
        f"{count} trials of at most {epochs} epochs, chosen by {sweep.algorithm.kind}",
        *(f"  {_dimension_text(dimension, is_grid)}" for dimension in space.dimensions),
        f"scored by {sweep.metric_name} on {sweep.held_out.num_images:,} images of train, which no "
        "trial is trained on; val is not evaluated",
        _scheduler_text(sweep),
        _epochs_text(sweep, count),
        f"each trial: {resources.max_workers} x {resources.cpus_per_worker} CPUs"
        + (" and a GPU" if resources.gpu else "")
        + f", {_concurrency_text(sweep)} at a time",
    ]
    lines += _finish_lines(sweep, count)
    if is_grid and len(space.grid()) > count:
        lines.append(
            f"warning: the grid has {len(space.grid())} points, of which budget.trials allows the "
            f"first {count}"
        )
    overlaps = overlap_warnings(base.dataset, sweep.held_out)
    lines += [f"warning: {warning}" for warning in overlaps]
    return "\n".join(lines)


def _dimension_text(dimension: Dimension, is_grid: bool) -> str:
    parameter = dimension.parameter
    if parameter.choice is not None:
        text = f"one of {list(parameter.choice)}"
    elif is_grid:
        text = f"one of {', '.join(f'{value:g}' for value in dimension.grid())}"
    else:
        low, high = dimension.ends
        text = f"{parameter.kind} {low:g} to {high:g}"
        text += f" in steps of {parameter.step:g}" if parameter.step else ""
    if parameter.when:
        conditions = (f"{path} in {list(values)}" for path, values in parameter.when.items())
        text += ", where " + " and ".join(conditions)
    return f"{dimension.path}: {text}"


def _scheduler_text(sweep: SweepSpec) -> str:
    scheduler = sweep.scheduler
    if scheduler.kind == "none":
        return "every trial is trained to its last epoch"
    if scheduler.kind == "median":
        return f"from epoch {sweep.min_epochs} on, trials below the median of the others stop"
    epochs = ", ".join(map(str, rungs(sweep)))
    text = f"after epoch {epochs}, the best 1 / {scheduler.reduction_factor} of the trials continue"
    if not sweep.maximizes:
        return text
    # The standard error of the difference of two accuracies.
    margin = math.sqrt(2) * 100 * sweep.standard_error
    return f"{text}, and those that are worse by no more than about {margin:.1f} points of accuracy"


def _epochs_text(sweep: SweepSpec, num_trials: int) -> str:
    """Epochs of training over all trials, and the limits of the budget."""
    epochs = sweep.base.schedule.num_epochs
    text = f"{num_trials * epochs:,} epochs of training at most"
    if sweep.scheduler.kind == "asha":
        text += f", about {expected_epochs(sweep, num_trials):,.0f} at least with asha"
    budget = sweep.budget
    if budget.epochs is not None:
        text += f"; budget.epochs stops the search after {budget.epochs:,}"
    if budget.hours is not None:
        text += f"; budget.hours stops the search after {budget.hours:g} hours"
    return text


def _finish_lines(sweep: SweepSpec, num_trials: int) -> list[str]:
    """How many trials can finish, and warnings where the search could not tell them apart."""
    num_finishing = expected_finishing(sweep, num_trials)
    extent = "at least" if sweep.scheduler.kind == "asha" else "about"
    lines = [f"{extent} {num_finishing} of {num_trials} trials can finish"]
    if 3 * num_finishing < num_trials:
        lines.append(
            "warning: fewer than a third of the trials can finish; raise scheduler.min_epochs or "
            'budget, or set "scheduler": {"kind": "none"}'
        )
    if sweep.maximizes and sweep.standard_error > MAX_STANDARD_ERROR:
        lines.append(
            f"warning: on {sweep.held_out.num_images} held-out images an accuracy of 50 % has a "
            f"standard error of {100 * sweep.standard_error:.1f} points; raise held_out.num_images"
        )
    return lines


def expected_finishing(sweep: SweepSpec, num_trials: int) -> int:
    """Trials that reach their last epoch, if the scheduler and budget.epochs stop the others."""
    is_asha, is_median = (sweep.scheduler.kind == kind for kind in ("asha", "median"))
    share, epochs = 1.0, float(sweep.base.schedule.num_epochs)
    if is_asha:
        share = sweep.scheduler.reduction_factor ** -float(len(rungs(sweep)))
        epochs = expected_epochs(sweep, 1)
    elif is_median:
        share = 0.5
    if sweep.budget.epochs is not None:
        num_trials = min(num_trials, int(sweep.budget.epochs / epochs))
    return min(num_trials, max(1, round(num_trials * share)))


def expected_epochs(sweep: SweepSpec, num_trials: int) -> float:
    """asha: epochs of all trials, if exactly 1 / reduction_factor of them continue at each rung.

    The true number is higher: early trials are compared with few others, and trials within the
    noise of the cut continue too.
    """
    total, before, share = 0.0, 0, 1.0
    for epoch in [*rungs(sweep), sweep.base.schedule.num_epochs]:
        total += share * (epoch - before)
        before, share = epoch, share / sweep.scheduler.reduction_factor
    return num_trials * total


def _concurrency_text(sweep: SweepSpec) -> str:
    if sweep.concurrency is not None:
        return str(sweep.concurrency)
    return "the most that fit on the cluster"
