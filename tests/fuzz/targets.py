"""All targets by their names."""

from collections.abc import Callable
from pathlib import Path

from fuzz.cache_target import cache_target
from fuzz.checkpoint_target import checkpoint_target
from fuzz.dataset_targets import beton_target, manifest_target
from fuzz.jpeg_target import jpeg_target
from fuzz.run_targets import journal_target, state_target
from fuzz.spec_targets import compare_target, spec_target, sweep_target
from fuzz.target import Target
from fuzz.weights_targets import pth_target, safetensors_target

TARGETS: dict[str, Callable[[Path], Target]] = {
    "spec": spec_target,
    "sweep": sweep_target,
    "compare": compare_target,
    "manifest": manifest_target,
    "beton": beton_target,
    "checkpoint": checkpoint_target,
    "journal": journal_target,
    "state": state_target,
    "cache": cache_target,
    "safetensors": safetensors_target,
    "pth": pth_target,
    "jpeg": jpeg_target,
}
"""Functions that make a target whose files are in a folder, which must exist."""
