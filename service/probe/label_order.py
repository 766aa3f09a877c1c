"""Whether a teacher has the dataset's classes in another order."""

from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from service.probe.statistics import p_value_of_gain

MIN_PRECISION = 0.5
"""Share of the reassigned predictions that must be right: a poor teacher, whose predictions are
spread over several labels, gains from an assignment too."""


class MisplacedClasses(NamedTuple):
    """``swapped``: predicted classes and the labels that they stand for, the most frequent first.

    ``indices`` [K]: the predicted class that stands for each label.
    ``top1_before``, ``top1_after``: of the images on which the assignment is judged, 0 to 1.
    """

    swapped: list[tuple[int, int]]
    indices: tuple[int, ...]
    top1_before: float
    top1_after: float


def misplaced_classes(
    logits: Tensor, labels: Tensor, significance: float
) -> MisplacedClasses | None:
    """The classes that are in another place than the labels'; None if none are, or too few.

    The best one-to-one assignment of predicted classes to labels is found on one half of the images
    and judged on the other. ``logits`` [N, K], ``labels`` [N] in an order that is random.
    ``significance``: largest p-value of the gain.
    """
    num_classes, half = logits.shape[1], len(labels) // 2
    predicted = logits.argmax(dim=1)
    confusion = _confusion(predicted[:half], labels[:half], num_classes)
    # On ties, and for classes that half of the images do not have, a class is its own.
    preference = confusion.double() + 0.5 * torch.eye(num_classes)
    rows, columns = linear_sum_assignment(preference.numpy(), maximize=True)
    assigned = torch.empty(num_classes, dtype=torch.int64)
    assigned[torch.from_numpy(rows)] = torch.from_numpy(columns)

    seen, truth = predicted[half:], labels[half:]
    before, after = seen == truth, assigned[seen] == truth
    is_reassigned = assigned[seen] != seen
    num_right = int((after & is_reassigned).sum())
    if num_right <= MIN_PRECISION * int(is_reassigned.sum()):
        return None
    if p_value_of_gain(before, after) >= significance:
        return None
    counts = _confusion(seen, truth, num_classes)
    swapped = [
        (index, int(assigned[index]))
        for index in range(num_classes)
        if counts[index, assigned[index]] > counts[index, index]
    ]
    swapped.sort(key=lambda pair: -int(counts[pair]))
    means = (float(correct.double().mean()) for correct in (before, after))
    return MisplacedClasses(swapped, tuple(assigned.argsort().tolist()), *means)


def _confusion(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """How many images of each label [column] are predicted as each class [row], [K, K]."""
    cells = torch.bincount(predicted * num_classes + labels, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)
