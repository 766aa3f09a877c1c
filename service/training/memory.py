"""The C library's allocator, told to keep what a training step frees."""

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
KEPT_BYTES = (1 << 31) - 1
STEP_BYTES = 1 << 26


def keep_freed_memory() -> None:
    """Let tensors that come and go with every step reuse the pages of those before them.

    By default each large tensor is mapped afresh, and having its pages cleared costs more than
    filling them.
    """
    mallopt = ctypes.CDLL(None).mallopt
    for option, value in (
        (M_MMAP_MAX, 0),
        (M_TRIM_THRESHOLD, KEPT_BYTES),
        (M_TOP_PAD, STEP_BYTES),
    ):
        mallopt(option, value)
