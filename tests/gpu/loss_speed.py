"""The default losses against the released formula in eager PyTorch, and against their bytes."""

from collections.abc import Iterator

from loss import GOALS, NUM_SAMPLES, NUM_SAMPLES_ON_GPU, Case, against_a_copy
from table import Comparison, Ratio, compare

from gpu.bench import Bench

NUM_ROUNDS = 3


def loss_speed(bench: Bench) -> Iterator[Ratio]:
    """As the benchmark ``loss.py``, with fewer rounds."""
    num_samples = 64 if bench.is_small else NUM_SAMPLES
    released = Case(bench.device, num_samples, None)
    comparisons = [
        Comparison(
            f"loss with {rule} / released",
            Case(bench.device, num_samples, rule).rate,
            released.rate,
            None if bench.is_small else goal,
        )
        for rule, goal in GOALS.items()
    ]
    yield from compare(comparisons, 1 if bench.is_small else NUM_ROUNDS, "samples/s")
    if bench.device.type == "cuda":
        for rule in GOALS:
            yield against_a_copy(Case(bench.device, NUM_SAMPLES_ON_GPU, rule), rule)
