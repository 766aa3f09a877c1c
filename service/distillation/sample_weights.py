"""EA-KD's weights of samples, by the entropies of both predictions."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from service.distillation.logits import paired_rows


@torch.no_grad()
def entropy_weights(
    teacher_logits: Tensor, student_logits: Tensor, temperature: float, mask: Tensor | None = None
) -> Tensor:
    """Weights H_t (1 + H_s / ln K) / 2 of all valid positions, [P], in [0, ln K].

    H_t and H_s are the entropies of the softmax of logits [N, K, ...] at ``temperature``, in nats;
    positions with ``mask`` [N, ...] False are left out.

    Source: arXiv 2311.13621, eq. 5; the authors' CIFAR code divides by K instead of ln K.

    Raises:
        ValueError: as ``paired_rows``.
    """
    teacher, student = paired_rows(teacher_logits, student_logits, mask)
    share = _entropy(student / temperature) / math.log(teacher.shape[1])
    return _entropy(teacher / temperature) * (1.0 + share) / 2.0


def _entropy(rows: Tensor) -> Tensor:
    log_p = F.log_softmax(rows, dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)
