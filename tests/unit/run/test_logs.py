"""Warnings of the service are shown whatever other libraries do to the root logger."""

import subprocess
import sys

SCRIPT = """
import logging
from service.run.logs import set_up_logging
set_up_logging()
{change}
logging.getLogger("service.job").warning("a warning")
logging.getLogger("service.job").info("a detail")
"""


def printed_after(change):
    command = [sys.executable, "-c", SCRIPT.format(change=change)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def test_warnings_are_shown_once_after_other_libraries_change_the_root_logger():
    for change in (
        "",
        "logging.basicConfig(level=logging.ERROR)",
        "logging.getLogger().setLevel(logging.ERROR)",
    ):
        assert printed_after(change) == "WARNING: a warning\n"
