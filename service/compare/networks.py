"""Checks of the networks of a comparison: each set of them once, however many variants have it.

Imports neither torch nor MLflow unless weights are in MLflow.
"""

from collections.abc import Callable

from service.compare.loading import LoadedComparison
from service.compare.rules import place_of_field
from service.spec.errors import BadInputError
from service.spec.job import JobSpec
from service.spec.loading import LoadedJob


def check_networks(loaded: LoadedComparison, check: Callable[[LoadedJob], object]) -> None:
    """Check each set of networks once; a problem is one of the first variant that has them.

    Raises:
        BadInputError: what ``check`` finds, at the place where the comparison has it.
    """
    checked: set[str] = set()
    for variant, job in loaded.jobs.items():
        networks = networks_key(job.spec)
        if networks in checked:
            continue
        checked.add(networks)
        try:
            check(job)
        except BadInputError as error:
            problems = [
                problem._replace(where=place_of_field(loaded.compare, variant, problem.where))
                for problem in error.problems
            ]
            raise BadInputError("comparison", problems) from error


def networks_key(spec: JobSpec) -> str:
    """What is checked of models and weights; equal for jobs that are built alike."""
    needs_classifier = spec.effective_losses().needs_classifier
    return repr((spec.dataset, spec.student, spec.teacher, spec.augmentation, needs_classifier))


def check_mlflow_weights(loaded: LoadedComparison) -> list[str]:
    """Check the weights that come from MLflow; a line for each network with such.

    Raises:
        BadInputError: see ``service.tracking.job_check.check_weights``.
    """
    lines: list[str] = []

    def check(job: LoadedJob) -> None:
        if job.spec.has_mlflow_weights:
            # MLflow is slow to import, and most weights are files.
            from service.tracking.job_check import check_weights

            lines.extend(check_weights(job))

    check_networks(loaded, check)
    return list(dict.fromkeys(lines))
