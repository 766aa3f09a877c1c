"""What a probe of a teacher found, as text for a person."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from service.probe.causes import without_invalid
from service.probe.normalizations import better_normalization, least_seen_gain
from service.probe.sampling import LabeledLogits, Renormalized, Sample
from service.probe.statistics import Share, entropies, max_probabilities, share_of
from service.probe.temperatures import HIGH_ENTROPY, LOW_ENTROPY, temperature_ranges
from service.run.report import SPLIT_WORDS
from service.spec.errors import Problem
from service.spec.job import JobSpec
from service.spec.networks import teacher_networks
from service.training.evaluation import is_among_best

TEMPERATURES = (1, 2, 4, 8)


def format_probe(spec: JobSpec, sample: Sample, causes: Sequence[Problem]) -> str:
    """The lines of a probe; ``causes``: warnings, each with the field to change."""
    train = without_invalid(sample.train).logits
    lines = [*_accuracies(spec, sample)]
    if len(train):
        lines += [*_sharpness(train), *_space(spec, train)]
    if sample.renormalized is not None:
        lines += _normalizations(sample.renormalized)
    lines += [f"warning: {cause}" for cause in causes]
    return "\n".join(lines)


def _accuracies(spec: JobSpec, sample: Sample) -> Iterator[str]:
    evaluated, train = sample.evaluated, sample.train
    models = " and ".join(network.model for network in teacher_networks(spec.teacher).values())
    top1, top5 = (_share_among(evaluated, num_best) for num_best in (1, 5))
    yield (
        f"teacher {models} on {evaluated.logits.shape[0]:,} images of "
        f"{SPLIT_WORDS[spec.dataset.evaluated]}: top-1 {_percent(top1)}, top-5 {_percent(top5)}"
    )
    if not spec.dataset.unlabeled:
        share = _share_among(train, 1)
        yield f"agrees with the labels of {share.num_images:,} training crops: {_percent(share)}"


def _normalizations(renormalized: Renormalized) -> Iterator[str]:
    """What could have been found, where nothing was."""
    if better_normalization(renormalized) is None:
        yield (
            f"other normalizations, none of which is better on {len(renormalized.own.labels):,} "
            f"images: {', '.join(renormalized.others)}; a gain of "
            f"{least_seen_gain(renormalized):.2%} would have been seen"
        )


def _share_among(predictions: LabeledLogits, num_best: int) -> Share:
    return share_of(is_among_best(*predictions, num_best))


def _percent(share: Share) -> str:
    return f"{share.value:.2%} ({share.low:.2%} to {share.high:.2%})"


def _sharpness(logits: Tensor) -> Iterator[str]:
    """How sure the teacher is of training crops, at several temperatures."""
    num_classes = logits.shape[1]
    largest = float(torch.mean(logits.amax(dim=1)))
    yield (
        f"on {len(logits):,} training crops: mean largest logit {largest:.2f}, mean maximum "
        f"probability {float(max_probabilities(logits).mean()):.3f}"
    )
    means = [float(entropies(logits, temperature).mean()) for temperature in TEMPERATURES]
    rows = (
        ("temperature", [f"{temperature:g}" for temperature in TEMPERATURES]),
        ("mean entropy, nats", [f"{mean:.3f}" for mean in means]),
        (f"share of log {num_classes}", [f"{mean / math.log(num_classes):.1%}" for mean in means]),
    )
    for name, cells in rows:
        yield f"  {name:<20}" + "".join(f"{cell:>9}" for cell in cells)


def _space(spec: JobSpec, logits: Tensor) -> Iterator[str]:
    """Temperatures for the space of a sweep."""
    span = f"{LOW_ENTROPY:.0%} to {HIGH_ENTROPY:.0%} of log {logits.shape[1]}"
    ranges = list(temperature_ranges(spec.effective_losses(), logits))
    if wide := [one for one in ranges if one.is_wide]:
        yield f"temperatures to search, where the mean entropy is {span}, within 0.5 to 16:"
        yield ",\n".join(f"  {one}" for one in wide)
    for one in ranges:
        if not one.is_wide:
            yield f"no temperatures to search for {one.path}: {one.why_narrow}"
