"""What a run came to: written beside it when training is done, then given to MLflow.

The two are apart because MLflow may be away: what it has not got is sent later, from these files.
"""

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from service.files import write_atomically
from service.spec import JobSpec
from service.tracking.mlflow_run import MlflowRun
from service.tracking.report import summary_table
from service.tracking.student_model import log_student
from service.training.checkpoints import (
    STUDENT_NAME,
    Progress,
    final_student_path,
    newest_checkpoint,
    read_metadata,
)

RESULT_NAME = "result.json"


@dataclass
class RunResult:
    """``seconds`` is what the last submission took; ``time_ms`` when training was done."""

    progress: Progress
    seconds: float
    time_ms: int
    address: str | None = None

    @property
    def is_published(self) -> bool:
        """Whether MLflow has everything."""
        return self.address is not None

    @property
    def summary(self) -> str:
        """The table that a job ends with."""
        return summary_table(self.progress, self.seconds, self.address or "not in MLflow yet")

    def write(self, run_path: Path) -> None:
        """Keep it beside the run."""
        write_atomically(run_path / RESULT_NAME, json.dumps(asdict(self), indent=1) + "\n")


def read_result(run_path: Path) -> RunResult | None:
    """What a finished run came to; None while it is not finished."""
    path = run_path / RESULT_NAME
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text())
    return RunResult(**{**content, "progress": Progress(**content["progress"])})


class IncompleteRunError(RuntimeError):
    """The workers ended, but the last checkpoint is not that of a finished run."""


def collect_result(spec: JobSpec, seconds: float) -> RunResult:
    """Take the student out of the last checkpoint and write the result.

    Raises:
        IncompleteRunError: there is no checkpoint of the last epoch's end.
        OSError: the storage fails.
    """
    checkpoint = newest_checkpoint(spec.run_path)
    progress = Progress()
    if checkpoint is not None:
        progress = Progress(**read_metadata(checkpoint)["progress"])
    if checkpoint is None or progress.epoch != spec.schedule.num_epochs:
        raise IncompleteRunError(
            f"the newest checkpoint in {spec.run_path} is of epoch {progress.epoch}, not of the "
            f"last, {spec.schedule.num_epochs}"
        )
    partial_path = spec.run_path / f".{STUDENT_NAME}.partial"
    shutil.copyfile(final_student_path(checkpoint), partial_path)
    partial_path.replace(spec.run_path / STUDENT_NAME)
    result = RunResult(progress, seconds, int(time.time() * 1000))
    result.write(spec.run_path)
    return result


def publish(result: RunResult, spec: JobSpec, run: MlflowRun) -> None:
    """Give MLflow the figures and the student; each is there once, however often this is begun.

    A run with images held out is for choosing settings: its student stays in its folder.

    Raises:
        One of TRACKING_ERRORS: the server does not do its part.
    """
    run.send_figures(result.progress, result.time_ms)
    if spec.dataset.held_out is None:
        log_student(run, spec, spec.run_path / STUDENT_NAME)
    run.end("FINISHED")
    result.address = run.address
    result.write(spec.run_path)
