"""What submit.py says about specs, and specs of many jobs for it."""

import json

import pytest
from submit import submit

from service.spec.errors import BadInputError


def refused(arguments):
    """The lines with which submit.py refuses its arguments."""
    with pytest.raises(BadInputError) as caught:
        submit([str(argument) for argument in arguments])
    lines = [str(problem) for problem in caught.value.problems]
    assert all("\n" not in line and "; " in line for line in lines)
    return lines


def many_jobs(folder, base, **content):
    """Write a sweep or a comparison of a base, which is a file; returns its path."""
    path = folder / "many.json"
    path.write_text(json.dumps({"name": "many", "base": str(base), **content}))
    return path
