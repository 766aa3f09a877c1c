"""What files of weights say about their tensors."""

from typing import NamedTuple

FLOAT_DTYPES = ("float32", "float16", "bfloat16", "float64")
"""Types of weights that a network can be filled with."""

COPY_AGAIN = "copy or make the file again"


class Place(NamedTuple):
    """Where a tensor is in the file of torch.save: in which storage, and how it is cut from it."""

    storage: str
    offset: int
    stride: tuple[int, ...]


class TensorInfo(NamedTuple):
    """``dtype``: as torch names it, or what else the tensor is, such as sparse. ``place``: in files
    of torch.save.
    """

    dtype: str
    shape: tuple[int, ...]
    place: Place | None = None


class UnreadableWeightsError(ValueError):
    """A file of weights that cannot be used; what is wrong, as a predicate, and the remedy."""

    def __init__(self, wrong: str, remedy: str):
        super().__init__(f"{wrong}; {remedy}")
        self.wrong, self.remedy = wrong, remedy
