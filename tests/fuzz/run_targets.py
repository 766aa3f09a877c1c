"""A run's folder: its journal, and the other files that jobs read again."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random

from fuzz.json_mutators import mutate_json, mutate_json_lines
from fuzz.outcomes import Call
from fuzz.small_run import NUM_EPOCHS, train_once
from fuzz.target import Target

from service.result import collect_result
from service.run.claim import check_resumable
from service.run.control import ABORT_NAME, read_abort_reason, write_abort_reason
from service.run.durations import SUBMISSIONS_NAME, durations, recorded_submission
from service.run.folder import (
    SPEC_NAME,
    TAGS_NAME,
    read_spec,
    read_tags,
    write_spec,
    write_tags,
)
from service.run.journal import JOURNAL_NAME, Journal, JournalReader, read_events
from service.run.report import ProgressPrinter
from service.run.result import RESULT_NAME, read_result
from service.run.status import STATUS_NAME, Status, StatusFile, read_status, write_stopped
from service.run.student_card import CLASSES_NAME, read_classes, write_classes
from service.run.waiting import WAITING_NAME, read_waiting, report_waiting
from service.spec.errors import BadInputError
from service.spec.job import JobSpec
from service.spec.loading import LoadedJob
from service.sweep.comparison import COMPARISON_NAME, Comparison, read_comparison
from service.tracking.destination import SENT_NAME
from service.tracking.tracker import SentPosition
from service.trials.run_progress import RunReader

LIMIT_BYTES = 100_000


def journal_target(folder: Path) -> Target:
    """The journal of a run, as a resumed run, the log, the status and the result read it."""
    job = train_once(folder)
    spec = job.spec
    path = spec.run_path / JOURNAL_NAME
    seed = path.read_bytes()
    names = (str(spec.run_path),)

    def calls(data: bytes) -> Iterator[Call]:
        for name, read in (
            ("read_events", partial(read_events, path)),
            ("JournalReader", JournalReader(path, 0).read),
            ("Status.update", partial(_update_status, path)),
            ("ProgressPrinter", partial(_print_events, spec)),
            ("RunReader", partial(RunReader(spec, "top1").read, "running")),
            ("durations", partial(durations, spec.run_path)),
            ("Journal.append", partial(_append, path)),
        ):
            path.write_bytes(data)
            yield Call(name, read, (BadInputError,), names)

    return Target(folder, [seed], mutate_json_lines, calls)


def _update_status(path: Path) -> None:
    status = Status("run")
    for event in read_events(path):
        status.update(event)
        status.update_failure(event)
    status.tags()


def _print_events(spec: JobSpec) -> None:
    printer = ProgressPrinter(spec)
    for event in read_events(spec.run_path / JOURNAL_NAME):
        printer(event)


def _append(path: Path) -> None:
    """A resumed run appends an event, which must be found again, after those before."""
    before, num_bytes = read_events(path), path.stat().st_size
    Journal(path, LIMIT_BYTES).note("resumed")
    after = read_events(path)
    assert after[-1].text == "resumed", "the appended event is not found"
    # Journals of that size are thinned.
    assert num_bytes > LIMIT_BYTES - 1_000 or len(after) == len(before) + 1, "events are lost"


def state_target(folder: Path) -> Target:
    """Another file of a run; the first line of an input is its name."""
    job = train_once(folder)
    _write_all(job)
    run_path = job.spec.run_path
    originals = {name: (run_path / name).read_bytes() for name in STATE_FILES}
    # A changed spec or dataset is named by its field.
    names = (str(run_path), "dataset.", "that exists already")

    def calls(data: bytes) -> Iterator[Call]:
        name, content = _name_and_content(data)
        path = run_path / name
        for reader in STATE_FILES[name]:
            path.write_bytes(content)
            call = partial(reader, job)
            yield Call(f"{name}: {reader.__name__}", call, (BadInputError,), names)
        path.write_bytes(originals[name])

    seeds = [f"{name}\n".encode() + content for name, content in originals.items()]
    return Target(folder, seeds, _mutate_state, calls)


def _name_and_content(data: bytes) -> tuple[str, bytes]:
    name, _, content = data.partition(b"\n")
    return name.decode(), content


def _mutate_state(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Other content under the same name; at times that of another file."""
    name, content = _name_and_content(data)
    contents = [_name_and_content(other)[1] for other in others]
    if random.random() < 0.1:
        content = random.choice(contents)
    return f"{name}\n".encode() + mutate_json(random, content, contents)


def _write_all(job: LoadedJob) -> None:
    """The files of a run, by the functions that write them."""
    spec = job.spec
    run_path = spec.run_path
    with recorded_submission(run_path):
        write_spec(spec)
    write_tags(
        run_path, {"git_revision": "unknown", "dataset_train_fingerprint": job.train.fingerprint}
    )
    write_classes(run_path, ("cat", "dog"))
    report_waiting(run_path, "waiting for 2 CPUs, 0 of 2 free")
    write_abort_reason(run_path, "run failed: no memory", 2)
    collect_result(run_path, NUM_EPOCHS)
    StatusFile(run_path, Status("run", "running", step=2)).close()
    SentPosition(run_path).save(7)
    Comparison("top1", True, 4, {0: 0.5}, {0: 0.4}, 0.1, (0.05, 0.15), 0.01).write(run_path)


def _status(job: LoadedJob) -> None:
    read_status(job.spec.run_path)


def _stopped(job: LoadedJob) -> None:
    write_stopped(job.spec.run_path)


def _waiting(job: LoadedJob) -> None:
    read_waiting(job.spec.run_path)


def _report_waiting(job: LoadedJob) -> None:
    report_waiting(job.spec.run_path, "waiting for 1 CPU")


def _abort_reason(job: LoadedJob) -> None:
    read_abort_reason(job.spec.run_path)


def _tags(job: LoadedJob) -> None:
    read_tags(job.spec.run_path)


def _resumable(job: LoadedJob) -> None:
    check_resumable(job)


def _spec(job: LoadedJob) -> None:
    read_spec(job.spec.run_path)


def _durations(job: LoadedJob) -> None:
    durations(job.spec.run_path)


def _classes(job: LoadedJob) -> None:
    read_classes(job.spec.run_path)


def _result(job: LoadedJob) -> None:
    result = read_result(job.spec.run_path)
    assert result is not None
    str(result.summary)


def _comparison(job: LoadedJob) -> None:
    str(read_comparison(job.spec.run_path))


def _sent(job: LoadedJob) -> None:
    SentPosition(job.spec.run_path)


STATE_FILES: dict[str, tuple[Callable[[LoadedJob], None], ...]] = {
    STATUS_NAME: (_status, _stopped),
    WAITING_NAME: (_waiting, _report_waiting),
    ABORT_NAME: (_abort_reason,),
    TAGS_NAME: (_tags, _resumable),
    SPEC_NAME: (_spec, _resumable),
    SUBMISSIONS_NAME: (_durations,),
    CLASSES_NAME: (_classes,),
    RESULT_NAME: (_result,),
    COMPARISON_NAME: (_comparison,),
    SENT_NAME: (_sent,),
}
