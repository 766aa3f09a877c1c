"""How logits are stored: as float16, or as the largest and the logsumexp of the others.

Everything here stays on the device of the logits.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from service.spec.teacher_cache import TeacherCache

FLOAT_BYTES = 4


class Float16Logits:
    """All logits in float16: 11 significant bits, up to 65,504."""

    def encode(self, logits: Tensor) -> Tensor:
        """Logits [B, K] as bytes [B, 2 K], uint8."""
        return logits.to(torch.float16).contiguous().view(torch.uint8)

    def decode(self, stored: Tensor) -> Tensor:
        """Logits [B, K], float32, of the bytes [B, 2 K]."""
        return stored.view(torch.float16).float()

    def error(self, logits: Tensor, temperatures: Sequence[float]) -> Tensor:  # noqa: ARG002 - of top-k
        """Largest error of what is stored of logits [B, K], as a share of a sample's largest
        absolute logit; a scalar.
        """
        return self.mismatch(self.encode(logits), logits).amax()

    def mismatch(self, stored: Tensor, logits: Tensor) -> Tensor:
        """Largest difference between stored bytes and logits [B, K], as a share of the largest
        absolute logit; [B].
        """
        return _differences(self.decode(stored), logits).amax(dim=1) / _scale(logits)


class TopLogitsFormat:
    """The k largest of K logits in float32, and the logsumexp of the others.

    The largest logit and the logsumexp of all are exact to float32 rounding. The others are taken
    to be equal: each has the logarithm of an equal share of their sum of exponentials.
    """

    def __init__(self, top_k: int, num_classes: int):
        self._top_k, self._num_classes = top_k, num_classes

    def encode(self, logits: Tensor) -> Tensor:
        """Logits [B, K] as bytes [B, 4 + 8 k], uint8."""
        top, classes = logits.float().topk(self._top_k, dim=1)
        parts = [self._rest(logits, classes), top, classes.int()]
        return torch.cat([part.contiguous().view(torch.uint8) for part in parts], dim=1)

    def decode(self, stored: Tensor) -> Tensor:
        """Logits [B, K], float32, of the bytes [B, 4 + 8 k]."""
        rest, top, classes = self._parts(stored)
        others = rest - math.log(self._num_classes - self._top_k)
        return others.repeat(1, self._num_classes).scatter(1, classes, top)

    def error(self, logits: Tensor, temperatures: Sequence[float]) -> Tensor:
        """Mean KL in nats from predictions of logits [B, K] to those of what is stored of them.

        A scalar: the largest over the softmax temperatures.
        """
        stored = self.decode(self.encode(logits))
        divergences = [_mean_kl(logits.float() / t, stored / t) for t in temperatures]
        return torch.stack(divergences).amax()

    def mismatch(self, stored: Tensor, logits: Tensor) -> Tensor:
        """Largest difference between stored bytes and what they would be for logits [B, K], as a
        share of the largest absolute logit; [B].

        The classes are those that are stored: two of nearly equal logits may change places.
        """
        rest, top, classes = self._parts(stored)
        known = torch.cat([rest, top], dim=1)
        expected = torch.cat([self._rest(logits, classes), logits.float().gather(1, classes)], 1)
        return _differences(known, expected).amax(dim=1) / _scale(logits)

    def _rest(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Logsumexp over all classes but these, [B, 1]."""
        others = logits.float().scatter(1, classes, -math.inf)
        return torch.logsumexp(others, dim=1, keepdim=True)

    def _parts(self, stored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logsumexp of the others [B, 1], largest logits [B, k] and their classes [B, k]."""
        widths = [FLOAT_BYTES, *[FLOAT_BYTES * self._top_k] * 2]
        rest, top, classes = torch.split(stored, widths, dim=1)
        # Damaged bytes are no classes; what is decoded of them is thrown away.
        indices = classes.view(torch.int32).long().clamp(0, self._num_classes - 1)
        return rest.view(torch.float32), top.view(torch.float32), indices


Format = Float16Logits | TopLogitsFormat


def format_of(cache: TeacherCache, num_classes: int) -> Format:
    """The format that a spec asks for."""
    if cache.keep == "float16":
        return Float16Logits()
    return TopLogitsFormat(cache.keep.top_k, num_classes)


def _differences(stored: Tensor, logits: Tensor) -> Tensor:
    """Absolute differences, 0 also between equal infinities, and where both are not numbers."""
    logits = logits.float()
    is_equal = (stored == logits) | (stored.isnan() & logits.isnan())
    return torch.where(is_equal, 0.0, (stored - logits).abs())


def _scale(logits: Tensor) -> Tensor:
    """The largest finite absolute logit of each sample, [B]."""
    finite = torch.where(torch.isfinite(logits), logits.float().abs(), 0.0)
    return finite.amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny)


def _mean_kl(logits: Tensor, others: Tensor) -> Tensor:
    log_p, log_q = torch.log_softmax(logits, dim=1), torch.log_softmax(others, dim=1)
    terms = torch.where(log_p == log_q, 0.0, log_p.exp() * (log_p - log_q))
    return terms.sum(dim=1).mean()
