"""The section of a job spec about storing the teacher's logits, for later runs to read."""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

from pydantic import Discriminator, Tag

from service.spec.fields import Count, FolderPath, Positive, Section

FLOAT16_MAX_ERROR, TOP_K_MAX_ERROR = 0.001, 0.05
CHECKSUM_BYTES = 4


class Draw(NamedTuple):
    """Which images an epoch has: the order, crops and mixing of an epoch, counted from 0, whose own
    they are, in a size in pixels.
    """

    epoch: int
    size: int


class TopLogits(Section):
    """The largest logits of each image, exactly, and the logsumexp of all others.

    The others share their probability uniformly.
    """

    top_k: Count
    """Number of logits that are stored; 8 bytes each, and 4 for the others."""


def _keep_kind(value: object) -> str:
    """Anything but an object is taken as a word, of which the error names those there are."""
    return "section" if isinstance(value, Mapping | TopLogits) else "word"


Keep = Annotated[
    Annotated[Literal["float16"], Tag("word")] | Annotated[TopLogits, Tag("section")],
    Discriminator(_keep_kind),
]


class TeacherCache(Section):
    """The teacher's logits of each training image are stored when they are first computed.

    Later runs with the same teacher, images and seed read them. What is learned from is always the
    stored form, so it makes no difference which run computes them.
    """

    path: FolderPath | None = None
    """Folder of the stored logits, shared by runs: on storage that every node sees, or on the
    nodes' own disks, each with the logits of its own workers. Absent: .teacher_cache in
    checkpoints.storage_path; of a sweep or a comparison, in that of its base."""
    epochs: Count | None = None
    """Epochs of different images: a later epoch repeats the order, crops and mixing of one of
    these, and needs no teacher. Absent: all epochs differ, so a single run gains nothing."""
    keep: Keep = "float16"
    """float16: all logits, 2 bytes each. {"top_k": 50}: the 50 largest and the logsumexp of the
    others; for losses that need no other logit by itself."""
    limit_bytes: Count | None = None
    """Largest size of the folder; what was least recently used is removed first. Absent: the
    disk's size."""
    max_error: Positive | None = None
    """Largest error of the stored form, measured on the run's first batch; above it the teacher is
    run instead. float16: share of a sample's largest absolute logit; absent: 0.001. top_k: mean KL
    in nats, at the losses' temperatures; absent: 0.05."""

    @property
    def error_limit(self) -> float:
        """``max_error``, or its default."""
        if self.max_error is not None:
            return self.max_error
        return FLOAT16_MAX_ERROR if self.keep == "float16" else TOP_K_MAX_ERROR

    def draw_epoch(self, epoch: int) -> int:
        """The epoch whose order, crops and mixing ``epoch`` has, both counted from 0."""
        return epoch if self.epochs is None else epoch % self.epochs

    def view_bytes(self, num_classes: int) -> int:
        """Bytes of the logits of one view of an image."""
        return 2 * num_classes if self.keep == "float16" else 4 + 8 * self.keep.top_k

    def row_bytes(self, num_classes: int, num_views: int) -> int:
        """Bytes of all that is stored about an image in an epoch, with its checksum."""
        return CHECKSUM_BYTES + num_views * self.view_bytes(num_classes)
