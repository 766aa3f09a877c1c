"""The result of a finished run, stored in its folder as result.json before MLflow gets it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import with_config

from data_pipeline.files import write_atomically
from service.run.durations import Durations
from service.run.progress import Progress
from service.run.report import SPLIT_WORDS, percent, summary_table
from service.run.state_files import WITHOUT_OTHER_FIELDS, read_state
from service.spec.data_sections import Split

RESULT_NAME = "result.json"


@with_config(WITHOUT_OTHER_FIELDS)
@dataclass
class RunResult:
    """Final progress of a run.

    ``evaluated``: which images the accuracies are of; a trial's are held-out images of train.
    ``training_s``, ``waiting_s``: see ``Durations``. ``time_ms``: when training was done, Unix
    time. ``address``: the run's page in MLflow, and ``published_as`` the publication key of what is
    there; None until MLflow has everything. ``promotion``: whether its registered version got an
    alias, and why.
    """

    progress: Progress
    evaluated: Split
    training_s: float
    waiting_s: float
    time_ms: int
    address: str | None = None
    published_as: str | None = None
    promotion: str | None = None

    @property
    def is_published(self) -> bool:
        """Whether MLflow has everything."""
        return self.address is not None

    @property
    def times(self) -> Durations:
        """How long it took."""
        return Durations(self.training_s, self.waiting_s)

    @property
    def summary(self) -> str:
        """The table at the end of a job's log."""
        address = self.address or "not in MLflow yet"
        table = summary_table(self.progress, self.evaluated, self.times, address)
        return table if self.promotion is None else f"{table}\npromotion: {self.promotion}"

    def write(self, run_path: Path) -> None:
        """Store it in the run's folder."""
        write_atomically(run_path / RESULT_NAME, json.dumps(asdict(self), indent=1) + "\n")


def last_top1_text(result: RunResult) -> str:
    """The top-1 accuracy after the last epoch, with the images that it is of unless it is val."""
    text = percent(result.progress.last_top1)
    return text if result.evaluated == "val" else f"{text} on {SPLIT_WORDS[result.evaluated]}"


def read_result(run_path: Path) -> RunResult | None:
    """The result of a finished run; None while it is not finished.

    Raises:
        BadInputError: the result is damaged.
        OSError: the storage fails.
    """
    remedy = "remove the file and submit the spec again: the last checkpoint has the result"
    return read_state(run_path / RESULT_NAME, RunResult, remedy)
