"""Failures of training that a retry would repeat: their reason, where the driver reads it."""

import contextlib
from collections.abc import Iterator

from data_pipeline.batches import UndecodableSampleError
from service.run.control import RunAbortedError, write_abort_reason
from service.spec.errors import EXIT_BAD_INPUT, EXIT_FAILED
from service.spec.job import JobSpec
from service.training.memory import DeviceMemoryError
from service.training.teacher_logits import WrongLogitsError


@contextlib.contextmanager
def reported_failures(spec: JobSpec) -> Iterator[None]:
    """Leave in the run's folder why its training fails where a retry would fail too.

    An abort by all ranks together ends the context without an error.
    """
    try:
        with contextlib.suppress(RunAbortedError):
            yield
    except (UndecodableSampleError, WrongLogitsError) as error:
        write_abort_reason(spec.run_path, f"{spec.name} failed: {error}", EXIT_FAILED)
        raise
    except DeviceMemoryError as error:
        write_abort_reason(spec.run_path, f"{spec.name} failed: {error}", EXIT_BAD_INPUT)
        raise
