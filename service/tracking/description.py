"""The descriptions of runs, which MLflow's UI shows on their pages as Markdown.

Addresses are relative, so that they hold at any server, and at the UI of a database.
"""

from collections.abc import Iterable, Sequence
from urllib.parse import quote

from service.run.report import percent
from service.run.result import RunResult, last_top1_text
from service.spec.mlflow_rules import MAX_TAG_LENGTH
from service.tracking.markdown import code_block, escaped, limited, table
from service.tracking.mlflow_run import UI_MODE, MlflowRun
from service.tracking.registration import RegisteredStudent

NOTE_TAG = "mlflow.note.content"
# Characters that links and verdicts above a table may need.
LINKS_LENGTH = 2000


def describe_run(
    run: MlflowRun,
    result: RunResult,
    facts: Iterable[tuple[str, str]],
    page: str | None,
    picture: str | None,
    registered: RegisteredStudent | None,
) -> None:
    """Set a run's description: accuracy, links, a table of ``facts``, and the picture.

    ``result``: of the run. ``facts``: labels and texts. ``page``, ``picture``: artifacts
    of the run, where there are such. The UI shows the first lines only, until one asks for more.

    Raises:
        One of TRACKING_ERRORS: the server fails or does not answer.
    """
    links = [page_link(run, page)] if page is not None else []
    if registered is not None:
        links.append(_version_text(registered))
    parts = [_accuracy_text(result), *([", ".join(links)] if links else [])]
    if picture is not None:
        parts.append(f"![temperatures of both softmaxes]({_file_address(run, picture)})")
    set_description(run, parts, table("Run", facts))


def set_description(run: MlflowRun, parts: Sequence[str], last: str) -> None:
    """Set the description to paragraphs and ``last``, of which lines beyond the limit are cut off.

    Raises:
        One of TRACKING_ERRORS: the server fails or does not answer.
    """
    run.set_tags({NOTE_TAG: limited("\n\n".join([*parts, last]), MAX_TAG_LENGTH)})


def described_table(text: str) -> str:
    """A table that is aligned with spaces, short enough for a description with some links."""
    return code_block(limited(text, MAX_TAG_LENGTH - LINKS_LENGTH))


def page_link(run: MlflowRun, name: str) -> str:
    """A link to a page that is an artifact of the run, as the UI shows it."""
    run_page = f"#/experiments/{run.experiment_id}/runs/{run.run_id}"
    return f"[{escaped(name)}]({run_page}/artifacts/{quote(name)}?{UI_MODE})"


def _accuracy_text(result: RunResult) -> str:
    progress = result.progress
    best = f"best {percent(progress.best_top1)} after epoch {progress.best_epoch}"
    teacher = progress.teacher_top1
    others = [best, *([f"teacher {percent(teacher)}"] if teacher is not None else [])]
    last = f"**top-1 {last_top1_text(result)}** after epoch {progress.epoch}"
    return f"{last} ({', '.join(others)})"


def _version_text(registered: RegisteredStudent) -> str:
    address = f"#/models/{quote(registered.name, safe='')}/versions/{registered.version}"
    link = f"[Version {registered.version} of {escaped(registered.name)}]({address})"
    return link if registered.promotion is None else f"{link}: {escaped(registered.promotion)}"


def _file_address(run: MlflowRun, name: str) -> str:
    return f"get-artifact?path={quote(name, safe='')}&run_uuid={run.run_id}"
