"""Checks of a job that need the tracking server: whether it takes the run, and has its weights."""

from service.run.claim import has_started
from service.spec.errors import BadInputError, Problem
from service.spec.job import JobSpec
from service.spec.loading import LoadedJob
from service.spec.published_weights import class_count_problem
from service.spec.sections import Student, is_mlflow_source
from service.spec.teacher_classes import classes_of_card, resolved
from service.spec.teacher_sections import TeacherNetwork
from service.spec.weights_cards import card_problems
from service.tracking.mlflow_run import TRACKING_ERRORS, tracking_uri
from service.tracking.server_check import ask, check_server, is_new_database
from service.tracking.weights_source import FoundWeights, find_described

MEGABYTE = 1_000_000


def check_tracking(job: LoadedJob) -> list[str]:
    """Check the tracking server and the weights it has; returns a line for each finding.

    A server that does not answer is a finding, no error.

    Raises:
        BadInputError: the server refuses the run, or lacks the weights, or they are of other
            models or classes.
    """
    return unanswered(job.spec) or check_weights(job)


def unanswered(spec: JobSpec) -> list[str]:
    """A line if the tracking server does not answer, else none.

    Raises:
        BadInputError: the server refuses the run.
    """
    note = check_server(spec, tracking_uri(spec))
    return [] if note is None else [f"not checked: {note}"]


def check_weights(job: LoadedJob) -> list[str]:
    """Check the weights that come from MLflow; returns a line for each network with such.

    Raises:
        BadInputError: as ``check_tracking``, with the problems of all networks.
    """
    spec, lines = job.spec, []
    problems: list[Problem] = []
    if has_started(spec.run_path):
        # A run that is resumed has fetched its weights; the registry may have changed since.
        return []
    for path, network in spec.networks().items():
        if network.weights is None or not is_mlflow_source(network.weights.source):
            continue
        try:
            lines.append(_check_network(job, path, network, network.weights.source))
        except BadInputError as error:
            problems += error.problems
    if problems:
        raise BadInputError("spec", problems)
    return lines


def _check_network(
    job: LoadedJob, path: str, network: Student | TeacherNetwork, source: str
) -> str:
    uri, where = tracking_uri(job.spec), f"{path}.weights.source"
    if is_new_database(uri):
        problem = Problem(
            where, f"{source} is in MLflow, but {uri} is new", "set tracking.uri to its server"
        )
        raise BadInputError("spec", [problem])
    try:
        found = ask(uri, lambda: find_described(source, uri, where))
    except (TimeoutError, *TRACKING_ERRORS):
        return f"{path} weights: {source} not checked: MLflow at {uri} does not answer"
    wrong = list(card_problems(path, found.card, network, job.classes))
    dataset, num_classes = job.spec.dataset, found.card.get("num_classes")
    if isinstance(network, TeacherNetwork) and network.classes is not None:
        # Without a number, they are checked when the weights have been fetched.
        if num_classes is not None:
            resolved(path, network, classes_of_card(found.card), dataset, job.classes)
    elif isinstance(num_classes, int) and num_classes != dataset.num_classes:
        where = f"{path}.weights"
        wrong.append(class_count_problem(where, source, num_classes, dataset.num_classes))
    if wrong:
        raise BadInputError("spec", wrong)
    return f"{path} weights: {source} is {_text(found)}"


def _text(found: FoundWeights) -> str:
    card, size = found.card, found.num_bytes
    parts = [found.origin]
    if "architecture" in card:
        parts.append(card["architecture"])
    if "num_classes" in card:
        parts.append(f"{card['num_classes']} classes")
    if size is not None:
        parts.append(f"{size / 1e6:.1f} MB" if size >= MEGABYTE else f"{size / 1e3:.1f} kB")
    return ", ".join(parts)
