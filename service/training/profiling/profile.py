"""What a profile says: times of the parts of a step, and of a step as a whole, against limits."""

from collections.abc import Iterator
from typing import NamedTuple

MILLI, GIGA = 1e3, 1e9


class Profile(NamedTuple):
    """Times in seconds, of one worker; a step is one of the optimizer.

    ``parts_s``: of a step under the profiler. ``step_s``: without it. ``resident_step_s``: on a
    batch that is on the device already. ``step_flops``: of the networks, for this worker's images.
    ``peak_flops_per_s``: of large matrix products in the same precision.
    """

    parts_s: dict[str, float]
    step_s: float
    resident_step_s: float
    num_images: int
    num_workers: int
    step_flops: float
    peak_flops_per_s: float
    device: str

    @property
    def mfu(self) -> float:
        """Model FLOPs utilization: share of the peak that the networks' FLOPs reach.

        Source: PaLM, arXiv 2204.02311, appendix B, with a measured peak in place of a nominal one.
        """
        return self.step_flops / self.step_s / self.peak_flops_per_s

    @property
    def gap(self) -> float:
        """How much longer a step takes than on a batch that is there already, as a share."""
        return self.step_s / self.resident_step_s - 1.0

    @property
    def metrics(self) -> dict[str, float]:
        """The same as metrics of MLflow."""
        total_s = sum(self.parts_s.values())
        values = {
            "step_ms": MILLI * self.step_s,
            "resident_step_ms": MILLI * self.resident_step_s,
            "gap_to_resident": self.gap,
            "images_per_s": self.num_workers * self.num_images / self.step_s,
            "mfu": self.mfu,
            "peak_gflops_per_s": self.peak_flops_per_s / GIGA,
            "profiled_step_ms": MILLI * total_s,
        }
        for part, seconds in self.parts_s.items():
            name = part.replace(" ", "_").replace("-", "_")
            values[f"{name}_ms"] = MILLI * seconds
            values[f"{name}_share"] = seconds / total_s
        return {f"profile/{name}": value for name, value in values.items()}


def format_profile(profile: Profile) -> str:
    """The profile as a table for a person."""
    return "\n".join(_lines(profile))


def _lines(profile: Profile) -> Iterator[str]:
    total_s = sum(profile.parts_s.values())
    workers = "1 worker" if profile.num_workers == 1 else f"{profile.num_workers} workers"
    rate = profile.num_workers * profile.num_images / profile.step_s
    yield f"profile of worker 0 of {workers}, {profile.device}"
    yield f"{'part of a step':<16}  {'ms':>9}  {'share':>6}"
    for part, seconds in profile.parts_s.items():
        yield f"{part:<16}  {MILLI * seconds:9.2f}  {seconds / total_s:6.1%}"
    yield f"{'sum, profiled':<16}  {MILLI * total_s:9.2f}  {1:6.1%}"
    yield f"a step without the profiler: {MILLI * profile.step_s:.2f} ms, {rate:,.0f} img/s"
    yield (
        f"the same on a resident batch: {MILLI * profile.resident_step_s:.2f} ms; "
        f"gap {profile.gap:+.1%}"
    )
    yield (
        f"MFU {profile.mfu:.1%}: {profile.step_flops / profile.step_s / GIGA:,.0f} of "
        f"{profile.peak_flops_per_s / GIGA:,.0f} GFLOP/s of large matrix products"
    )
