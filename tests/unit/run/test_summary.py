"""The table at the end of a run's log."""

import pytest

from service.run.durations import Durations
from service.run.progress import Progress
from service.run.report import summary_table


@pytest.mark.parametrize(
    ("evaluated", "heading"), [("val", "on val"), ("held_out", "on held-out images of train")]
)
def test_table_says_which_images_its_accuracies_are_of(evaluated, heading):
    progress = Progress(step=36, epoch=9, last_top1=0.6034, last_top5=0.98)
    lines = summary_table(progress, evaluated, Durations(60, 5), "address").splitlines()

    assert lines[0].split("  ")[0] == heading
    assert lines[0].split()[-2:] == ["top-1", "top-5"]
    assert lines[1].split()[-2:] == ["60.34%", "98.00%"]
    assert len(lines[0]) == len(lines[1])
