"""KL divergences between softened predictions, row by row, computed from log-probabilities.

Arguments are logits that are already divided by their temperatures, [P, K]; results are [P], in
nats. A target class is taken out in log space: the logarithm of a sum of softmax values would
saturate to -inf.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def kl_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student))."""
    log_p, log_q = F.log_softmax(teacher, dim=1), F.log_softmax(student, dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def binary_kl(log_p: Tensor, log_not_p: Tensor, log_q: Tensor, log_not_q: Tensor) -> Tensor:
    """KL between two-way distributions, given the logarithms of both of their probabilities."""
    return log_p.exp() * (log_p - log_q) + log_not_p.exp() * (log_not_p - log_not_q)


def log_share_of_class(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """log p_y and log(1 - p_y) of p = softmax(rows), for labels y [P]; both [P]."""
    total = torch.logsumexp(rows, dim=1)
    own = rows.gather(1, labels[:, None])[:, 0]
    others = torch.logsumexp(without_class(rows, labels), dim=1)
    return own - total, others - total


def without_class(rows: Tensor, labels: Tensor) -> Tensor:
    """The rows with -inf for the label's class, which so has the probability 0."""
    return rows.scatter(1, labels[:, None], float("-inf"))


def target_kl(teacher: Tensor, student: Tensor, labels: Tensor) -> Tensor:
    """KL between the distributions of "the label's class" and "another class"."""
    return binary_kl(*log_share_of_class(teacher, labels), *log_share_of_class(student, labels))


def nontarget_kl(teacher: Tensor, student: Tensor, labels: Tensor) -> Tensor:
    """KL between the distributions among the classes other than the label's."""
    is_other = torch.ones_like(teacher, dtype=torch.bool).scatter(1, labels[:, None], False)
    return masked_kl(teacher, student, is_other)


def masked_kl(teacher: Tensor, student: Tensor, is_in: Tensor) -> Tensor:
    """KL between the distributions among the classes of ``is_in`` [P, K]; 0 where none is in."""
    # Rows without any class would be NaN, in the gradient too: they use all classes, times 0.
    is_any = is_in.any(dim=1)
    is_used = is_in | ~is_any[:, None]
    log_p = F.log_softmax(teacher.masked_fill(~is_used, float("-inf")), dim=1)
    log_q = F.log_softmax(student.masked_fill(~is_used, float("-inf")), dim=1)
    differences = torch.where(is_used, log_p - log_q, 0.0)
    return (log_p.exp() * differences).sum(dim=1) * is_any
