"""What the scripts of jobs/ share: arguments, output that nobody reads, signals, exit status."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn, TextIO

from data_pipeline.uris import redacted
from service.run.logs import set_up_logging
from service.run.stop_signals import SIGNALS, JobStoppedError, StopSignals
from service.spec.errors import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_STOPPED,
    BadInputError,
)
from service.spec.fields import Section
from service.spec.reference import format_fields, json_schema


class ScriptParser(argparse.ArgumentParser):
    """A parser whose help begins with the script's docstring, and whose errors are one line."""

    def __init__(self, description: str | None):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=formatter)

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, without the usage that argparse puts before it, and exit."""
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: error: {message}\n")


class _Output(io.FileIO):
    """A file descriptor for output; what nobody reads any more is dropped.

    The job goes on: its output is the progress of what it does, and a pipe to ``head`` or ``tee``
    may end before it.
    """

    def write(self, data: object, /) -> int:
        """Write, or drop the data where the reader of a pipe has closed it."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return len(memoryview(data))  # type: ignore[arg-type]


def run_script(main: Callable[[list[str]], int]) -> NoReturn:
    """Call ``main`` with the arguments of the process, and exit with the status it returns."""
    sys.stdout, sys.stderr = _output(sys.stdout), _output(sys.stderr)
    exit_status = main(sys.argv[1:])
    # All is done: a signal while the libraries shut down, which takes seconds, changes nothing.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(exit_status)


def _output(stream: TextIO) -> TextIO:
    """The same stream without errors of closed pipes; None where the process has none."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(stream.fileno(), "w", closefd=False)),
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def run_stoppable(
    work: Callable[[], None], failures: tuple[type[Exception], ...], outcome: str = ""
) -> int:
    """Do the work of a script that SIGINT and SIGTERM end in order; returns the exit status.

    ``failures``: types of errors that are reported as one line. ``outcome``: ends that line, such
    as "; the file was not written".
    """
    signals = StopSignals()
    try:
        with signals.installed(), signals.interruptible():
            work()
    except BadInputError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT
    except failures as error:
        print(redacted(f"{error}{outcome}"), file=sys.stderr)
        return EXIT_FAILED
    except JobStoppedError:
        print(f"stopped{outcome}", file=sys.stderr)
        return EXIT_STOPPED
    return EXIT_DONE


def run_spec(
    parser: argparse.ArgumentParser,
    arguments: list[str],
    model: type[Section],
    run: Callable[[argparse.Namespace], int],
) -> int:
    """Run the spec that the arguments name, or print the reference of its fields.

    ``parser``: has the arguments spec, --fields and --schema. ``run``: gets all arguments, and
    returns the exit status.
    """
    set_up_logging()
    options = parser.parse_args(arguments)
    if options.fields or options.schema:
        print(format_fields(model) if options.fields else json_schema(model))
        return EXIT_DONE
    if options.spec is None:
        parser.error("give a spec, or --fields or --schema")
    try:
        return run(options)
    except BadInputError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT
