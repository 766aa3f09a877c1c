"""Attributes the time of a profiler's trace to the parts of a training step.

On a CPU, a moment belongs to the part that the host is in. On a GPU it belongs to the part that
launched the kernel that runs then; where none runs, to the wait for data, or to everything else.
Communication counts only while nothing else runs: what it hides behind costs no time.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.distillation.regions import BACKWARD, DATA, LOSS, OPTIMIZER, STUDENT, TEACHER

WINDOW = "profile/steps"
"""Region around the steps that count."""
ALL_REDUCE, OTHER = "all-reduce", "everything else"
REGIONS = {
    DATA: "data",
    TEACHER: "teacher",
    STUDENT: "student forward",
    LOSS: "loss",
    BACKWARD: "backward",
    OPTIMIZER: "optimizer",
}
PARTS = (
    "data",
    "teacher",
    "student forward",
    "loss",
    "backward",
    ALL_REDUCE,
    "optimizer",
    OTHER,
)
# Where kernels of several streams run at once, the moment belongs to the first of these.
DEVICE_ORDER = ("student forward", "loss", "backward", "optimizer", "teacher", "data")
DEVICE_CATEGORIES = ("kernel", "gpu_memcpy", "gpu_memset")
LAUNCH_CATEGORIES = ("cuda_runtime", "cuda_driver")
# Names of collective operations in traces of gloo and NCCL.
COMMUNICATION = ("gloo:", "nccl")

TraceEvent = Mapping[str, Any]
Mask = NDArray[np.bool_]


class Interval(NamedTuple):
    """From ``start_us`` to ``end_us`` on the trace's clock."""

    start_us: float
    end_us: float


def time_by_part(events: Sequence[TraceEvent]) -> dict[str, float]:
    """Seconds of the trace's window by part; they add up to the length of the window.

    ``events``: those of a trace in Chrome's format, as ``torch.profiler`` exports it.
    """
    complete = [event for event in events if event.get("ph") == "X"]
    window = next(_interval(event) for event in complete if _is_region(event, WINDOW))
    timeline = _Timeline(complete, window)
    has_device = any(event.get("cat") in DEVICE_CATEGORIES for event in complete)
    masks = _device_masks(complete, timeline) if has_device else _host_masks(complete, timeline)
    seconds = dict.fromkeys(PARTS, 0.0)
    is_left = np.ones(len(timeline.durations_s), dtype=bool)
    for part, mask in masks:
        seconds[part] += float(timeline.durations_s[mask & is_left].sum())
        is_left &= ~mask
    seconds[OTHER] += float(timeline.durations_s[is_left].sum())
    return seconds


class _Timeline:
    """The window, cut wherever an event starts or ends."""

    def __init__(self, events: Sequence[TraceEvent], window: Interval):
        ends = np.array([_interval(event) for event in events]).ravel()
        self._edges = np.unique(np.clip(ends, *window))
        self.durations_s = np.diff(self._edges) / 1e6

    def mask(self, intervals: Sequence[Interval]) -> Mask:
        """Which pieces are within one of the intervals."""
        steps = np.zeros(len(self._edges), dtype=np.int64)
        if intervals:
            starts, ends = np.searchsorted(self._edges, np.array(intervals).T)
            last = len(self._edges) - 1
            np.add.at(steps, np.minimum(starts, last), 1)
            np.add.at(steps, np.minimum(ends, last), -1)
        return np.cumsum(steps)[:-1] > 0


def _host_masks(events: Sequence[TraceEvent], timeline: _Timeline) -> list[tuple[str, Mask]]:
    """Parts with their pieces of the timeline; the first that has a piece keeps it."""
    masks = {
        part: timeline.mask([_interval(event) for event in events if _is_region(event, name)])
        for name, part in REGIONS.items()
    }
    computes = timeline.mask([_interval(e) for e in events if e.get("cat") == "cpu_op"])
    communicates = timeline.mask([_interval(e) for e in events if _is_communication(e)])
    backward = masks.pop("backward")
    return [
        *masks.items(),
        ("backward", backward & computes),
        (ALL_REDUCE, communicates),
        ("backward", backward),
    ]


def _device_masks(events: Sequence[TraceEvent], timeline: _Timeline) -> list[tuple[str, Mask]]:
    """As ``_host_masks``, from what runs on the GPU."""
    regions = sorted((_interval(e), REGIONS[e["name"]]) for e in events if _is_region(e, *REGIONS))
    launched_us = {
        event["args"]["correlation"]: event["ts"]
        for event in events
        if event.get("cat") in LAUNCH_CATEGORIES and "correlation" in event.get("args", {})
    }
    running: dict[str, list[Interval]] = {part: [] for part in PARTS}
    for event in events:
        if event.get("cat") in DEVICE_CATEGORIES:
            at_us = launched_us.get(event["args"].get("correlation"))
            part = OTHER if at_us is None else _part_at(regions, at_us)
            running[ALL_REDUCE if _is_communication(event) else part].append(_interval(event))
    masks = [(part, timeline.mask(running[part])) for part in (*DEVICE_ORDER, ALL_REDUCE, OTHER)]
    waits = [interval for interval, part in regions if part == "data"]
    return [*masks, ("data", timeline.mask(waits))]


def _part_at(regions: Sequence[tuple[Interval, str]], at_us: float) -> str:
    """The part that the host was in; parts follow each other."""
    index = int(np.searchsorted([interval.start_us for interval, _ in regions], at_us, "right"))
    if index == 0 or at_us > regions[index - 1][0].end_us:
        return OTHER
    return regions[index - 1][1]


def _is_region(event: TraceEvent, *names: str) -> bool:
    """Whether it is a region on the host; the GPU's streams have copies of them."""
    return event["name"] in names and event.get("cat") == "user_annotation"


def _is_communication(event: TraceEvent) -> bool:
    return str(event["name"]).startswith(COMMUNICATION)


def _interval(event: TraceEvent) -> Interval:
    return Interval(float(event["ts"]), float(event["ts"]) + float(event["dur"]))
