"""Logits of teachers that are known: calibrated, smoothed, and trained on blends."""

import math

import torch

from service.probe.sampling import LabeledLogits, PairLogits, Renormalized, Sample


def posteriors(num_images, num_classes, seed=0, sharpness=6.0):
    """Random class probabilities [N, K], more or less sure."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_images, num_classes, generator=generator, dtype=torch.float64)
    scale = sharpness * torch.rand(num_images, 1, generator=generator, dtype=torch.float64)
    return torch.softmax(scale * logits, dim=1)


def drawn_labels(probabilities, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def smoothed(probabilities, smoothing):
    """What a network that meets its smoothed targets predicts."""
    num_classes = probabilities.shape[1]
    return torch.log((1 - smoothing) * probabilities + smoothing / num_classes)


def pairs_of(num_pairs, num_classes, both_when_blended, both_when_cut, seed=2):
    """Pairs of different classes; both are the two best of this share of the pairs."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(num_classes, (num_pairs,), generator=generator)
    labels = torch.stack([first, (first + 1) % num_classes], dim=1)

    def logits(share):
        values = torch.zeros(num_pairs, num_classes, dtype=torch.float64)
        values.scatter_(1, labels[:, :1], 2.0)
        count = round(share * num_pairs)
        values[torch.arange(num_pairs), (first + 2) % num_classes] = 0.5
        values[torch.arange(count), labels[:count, 1]] = 1.0
        return values

    return PairLogits(logits(both_when_blended), logits(both_when_cut), labels)


def sample_of(logits, labels, renormalized=None, pairs=None):
    """A sample whose training crops are the evaluated images."""
    predictions = LabeledLogits(logits, labels)
    pairs = pairs or pairs_of(200, logits.shape[1], 0.2, 0.3)
    compared = Renormalized(predictions, renormalized) if renormalized else None
    return Sample(predictions, predictions, compared, pairs)


def confident_logits(labels, num_classes, accuracy, seed=3):
    """One-hot predictions with this accuracy, as sure as they are right."""
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.rand(len(labels), generator=generator) >= accuracy
    shift = torch.randint(1, num_classes, (len(labels),), generator=generator)
    predicted = torch.where(wrong, (labels + shift) % num_classes, labels)
    margin = math.log(accuracy * (num_classes - 1) / (1 - accuracy))
    return margin * torch.nn.functional.one_hot(predicted, num_classes).double()
