"""Which script a spec is for, where a command takes those of jobs, sweeps and comparisons."""

from collections.abc import Mapping
from typing import Literal

from service.compare.spec import CompareSpec
from service.sweep.spec import SweepSpec

Script = Literal["distill", "sweep", "compare"]
"""Names of scripts in jobs/, without .py."""

OF_COMPARISONS = CompareSpec.model_fields.keys() - SweepSpec.model_fields.keys()


def script_of(content: object) -> Script:
    """The script that a spec's content, as it was read, is for; what is no object is a job's."""
    if not isinstance(content, Mapping) or "base" not in content:
        return "distill"
    return "compare" if content.keys() & OF_COMPARISONS else "sweep"
