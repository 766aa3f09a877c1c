"""Draw both temperatures of runs side by side: python jobs/results/temperatures.py OUT RUN ...

OUT is an SVG file, each RUN the folder of a run whose loss has temperatures of its own.
"""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from service.run.folder import read_spec
from service.run.journal import JOURNAL_NAME, read_events
from service.run.scripts import ScriptParser, run_script
from service.run_page.temperatures import base_temperature, draw_temperatures
from service.spec.errors import EXIT_DONE, BadInputError

WIDTH_INCHES, HEIGHT_INCHES = 4.6, 3.2
LOSS = "dtkd"


def main(arguments: list[str]) -> int:
    """Write the picture and return the exit status."""
    parser = ScriptParser(__doc__)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    options = parser.parse_args(arguments)
    # The same runs give the same file.
    try:
        with rc_context({"svg.hashsalt": "temperatures"}):
            picture(options.runs).savefig(options.out, format="svg", metadata={"Date": None})
    except (BadInputError, OSError, ValueError) as error:
        parser.error(str(error))
    return EXIT_DONE


def picture(runs: Sequence[Path]) -> Figure:
    """The temperatures of each run, on axes of the same range.

    Raises:
        BadInputError: a run's files are damaged.
        OSError: the storage fails, or a folder has no run.
        ValueError: a run has no temperatures.
    """
    figure = Figure(figsize=(WIDTH_INCHES * len(runs), HEIGHT_INCHES), layout="constrained")
    panels = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    for axes, run_path in zip(panels, runs, strict=True):
        events = read_events(run_path / JOURNAL_NAME)
        draw_temperatures(axes, events, LOSS, base_temperature(read_spec(run_path), LOSS))
        axes.set(title=run_path.name)
    return figure


if __name__ == "__main__":
    run_script(main)
