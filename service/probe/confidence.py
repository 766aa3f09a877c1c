"""Teachers whose probabilities teach little: too even, or too sure.

A teacher that was trained on hard labels is about as confident as it is often correct, or more (Guo
et al., arXiv 1706.04599). Soft targets bound its confidence from above:

- Label smoothing e has the target (1 - e) y + e / K, so that confidence = (1 - e) accuracy + e / K
  where it is met: e = (accuracy - confidence) / (accuracy - 1 / K). All other classes have the same
  target e / K: their probabilities become alike (Mueller et al., arXiv 1906.02629). CutMix does
  much the same where it cannot be seen in the image.
- Mixup teaches to predict both labels of two blended images (Zhang et al., arXiv 1710.09412). Other
  networks recognize two images rather side by side than blended.
"""

import math
from collections.abc import Iterator

from torch import Tensor

from service.probe.sampling import PairLogits
from service.probe.statistics import (
    SIGNIFICANCE,
    correct_predictions,
    entropies,
    max_probabilities,
    p_value_of_gain,
)
from service.spec.errors import Problem

MIN_GAP, MIN_STANDARD_ERRORS = 0.03, 4.0
"""By how much confidence is below accuracy, at least, and in standard errors."""
UNIFORM = 0.78
"""Share of log(K - 1) that the entropy among the other classes has at least, where they are alike.
Measured on Fashion-MNIST: 0.82 and 0.90 after label smoothing of 0.05 and 0.1, 0.46 after none."""
DARK_TEMPERATURE = 4.0
MIN_DARK_ENTROPY, NEARLY_ALL = 0.05, 0.99
"""Of training crops: entropy as a share of log K, and accuracy."""


def flat_maxima(logits: Tensor, labels: Tensor, pairs: PairLogits) -> Iterator[Problem]:
    """Confidence well below accuracy, of logits [N, K] with labels [N]; and what it comes from."""
    confidence = max_probabilities(logits)
    correct = correct_predictions(logits, labels)
    differences = correct.double() - confidence
    gap = float(differences.mean())
    standard_error = float(differences.std()) / math.sqrt(len(differences))
    if not (gap > MIN_GAP and gap > MIN_STANDARD_ERRORS * standard_error):
        return
    accuracy = float(correct.double().mean())
    num_classes = logits.shape[1]
    smoothing = gap / (accuracy - 1 / num_classes)
    if sees_blends(pairs):
        training = "mixup"
    elif num_classes == 2:
        training = f"label smoothing of about {smoothing:.2f} or mixup"
    elif uniformity_of_others(logits[correct]) >= UNIFORM:
        training = f"label smoothing of about {smoothing:.2f} (or CutMix, or too few steps)"
    else:
        training = "CutMix or other strong augmentation, or with too few steps"
    yield Problem(
        "teacher.weights",
        f"are less confident than correct: the mean maximum probability is "
        f"{float(confidence.mean()):.3f}, top-1 {accuracy:.3f}, as after training with {training}",
        "prefer weights that were trained without; otherwise search lower temperatures in losses",
    )


def sees_blends(pairs: PairLogits) -> bool:
    """Whether both classes of a pair are more often the two best for blended images than for cut.

    Pairs of one class do not count.
    """
    differ = pairs.labels[:, 0] != pairs.labels[:, 1]
    cut, blended = (
        (logits.topk(2, dim=1).indices.sort(dim=1).values == pairs.labels.sort(dim=1).values)
        .all(dim=1)
        .logical_and(differ)
        for logits in (pairs.cut, pairs.blended)
    )
    return p_value_of_gain(cut, blended) < SIGNIFICANCE


def uniformity_of_others(logits: Tensor) -> float:
    """Entropy of the classes that are not predicted, as a share of log(K - 1); 1 if all are alike.

    The median over the more confident half of ``logits`` [N, K], K > 2, whose images resemble no
    other class: there, what other classes have is what the training gave to all of them.
    """
    confidence = max_probabilities(logits)
    chosen = logits[confidence >= confidence.median()]
    others = chosen.scatter(1, chosen.argmax(dim=1, keepdim=True), -math.inf)
    return float(entropies(others, 1.0).median()) / math.log(logits.shape[1] - 1)


def nothing_dark(logits: Tensor, labels: Tensor, *, has_labels: bool) -> Iterator[Problem]:
    """Softened predictions [N, K] of training crops that say no more than their labels [N] do.

    Without labels, it is taken that the predictions are right.
    """
    share = float(entropies(logits, DARK_TEMPERATURE).mean()) / math.log(logits.shape[1])
    accuracy = float(correct_predictions(logits, labels).double().mean()) if has_labels else 1.0
    if accuracy >= NEARLY_ALL and share < MIN_DARK_ENTROPY:
        yield Problem(
            "teacher.weights",
            f"say no more than labels: for training crops, the entropy at temperature "
            f"{DARK_TEMPERATURE:g} is {share:.2%} of log K",
            "search higher temperatures in losses, or use stronger augmentation",
        )
