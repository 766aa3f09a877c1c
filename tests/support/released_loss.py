"""The default losses as the literature releases them, in eager PyTorch."""

import torch.nn.functional as F
from torch import Tensor

BASE_TEMPERATURE = 4.0


def released_loss(teacher: Tensor, student: Tensor, labels: Tensor) -> Tensor:
    """3 DTKD + KD + CE of logits [N, K]; a scalar.

    Source: DTKD, arXiv 2404.12711, eq. 5 and 6, with the largest logits as in its code.
    """
    largest_t, largest_s = (one.amax(dim=1, keepdim=True) for one in (teacher, student))
    scale = 2 * BASE_TEMPERATURE / (largest_t + largest_s)
    dtkd = _softened_kl(teacher, student, scale * largest_t, scale * largest_s)
    kd = _softened_kl(teacher, student, BASE_TEMPERATURE, BASE_TEMPERATURE)
    return 3 * dtkd + kd + F.cross_entropy(student, labels)


def _softened_kl(
    teacher: Tensor, student: Tensor, of_teacher: Tensor | float, of_student: Tensor | float
) -> Tensor:
    log_probabilities = F.log_softmax(student / of_student, dim=1)
    targets = F.softmax(teacher / of_teacher, dim=1)
    each = F.kl_div(log_probabilities, targets, reduction="none").sum(dim=1, keepdim=True)
    return (each * of_teacher * of_student).mean()
