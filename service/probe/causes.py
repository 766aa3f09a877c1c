"""What makes distillation from a teacher fail, found in its predictions, each with the remedy."""

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from service.distillation.logits import are_valid
from service.probe.confidence import flat_maxima, nothing_dark
from service.probe.label_order import misplaced_classes
from service.probe.normalizations import better_normalization
from service.probe.sampling import LabeledLogits, Sample
from service.probe.statistics import (
    SIGNIFICANCE,
    chance,
    correct_predictions,
    share_of,
)
from service.spec.data_sections import Normalization
from service.spec.errors import Problem

MAX_SHOWN, MAX_LISTED = 3, 100


class Context(NamedTuple):
    """What the causes are named with.

    ``normalizations``: the others that were tried, by name. ``classes``: names by label, or None.
    ``has_train_labels``: whether the labels of training crops mean anything. ``own_indices``
    [K]: of one network, its index of each logit; None for several. ``has_list``: whether they come
    from teacher.classes.
    """

    normalizations: dict[str, Normalization]
    classes: Sequence[str] | None
    has_train_labels: bool
    own_indices: Sequence[int] | None
    has_list: bool


class Explanation(NamedTuple):
    """``top1``: the accuracy (0 to 1) that the teacher would have without the problem."""

    top1: float
    problem: Problem


def without_invalid(predictions: LabeledLogits) -> LabeledLogits:
    """Those whose logits are a prediction, see ``are_valid``."""
    is_valid = are_valid(predictions.logits)
    return LabeledLogits(predictions.logits[is_valid], predictions.labels[is_valid])


def find_causes(sample: Sample, context: Context) -> Iterator[Problem]:
    """Every cause that the sample shows; the ``where`` of each is the field to change.

    A teacher whose input or labels are wrong is not examined further.
    """
    train, evaluated = without_invalid(sample.train), without_invalid(sample.evaluated)
    yield from _not_finite(sample, train, evaluated)
    if not len(evaluated.labels) or not len(train.labels):
        return
    # A wrong input and a wrong order of labels can both seem to explain an accuracy in part.
    explanations = [*_normalization(sample, context), *_label_order(evaluated, context)]
    if explanations:
        yield max(explanations).problem
        return
    if problem := _chance(evaluated):
        yield problem
        return
    yield from flat_maxima(*evaluated, sample.pairs)
    yield from nothing_dark(*train, has_labels=context.has_train_labels)


def _not_finite(
    sample: Sample, train: LabeledLogits, evaluated: LabeledLogits
) -> Iterator[Problem]:
    num_images = len(sample.train.labels) + len(sample.evaluated.labels)
    count = num_images - len(train.labels) - len(evaluated.labels)
    if count:
        yield Problem(
            "teacher.weights.source",
            f"logits are not finite for {count:,} of {num_images:,} images: the run would end "
            "before training",
            "give other weights, or set training.precision to float32 if it is not",
        )


def _normalization(sample: Sample, context: Context) -> Iterator[Explanation]:
    if sample.renormalized is None:
        return
    better = better_normalization(sample.renormalized)
    if better is None:
        return
    num_images = len(sample.renormalized.own.labels)
    problem = Problem(
        "teacher.normalization",
        f"is not the one that the teacher was trained with: with {better.name}, top-1 on the same "
        f"{num_images:,} images is {better.top1_after:.2%} instead of {better.top1_before:.2%}",
        f"set it to {json.dumps(context.normalizations[better.name].model_dump(mode='json'))}",
    )
    yield Explanation(better.top1_after, problem)


def _label_order(evaluated: LabeledLogits, context: Context) -> Iterator[Explanation]:
    found, classes = misplaced_classes(*evaluated, SIGNIFICANCE), context.classes
    if found is None:
        return

    def name(label: int) -> str:
        return classes[label] if classes is not None and label < len(classes) else str(label)

    shown = ", ".join(
        f"{name(predicted)} for {name(label)}" for predicted, label in found.swapped[:MAX_SHOWN]
    )
    more = f" and {len(found.swapped) - MAX_SHOWN:,} more" if len(found.swapped) > MAX_SHOWN else ""
    wrong = (
        f"another order than the dataset: they predict {shown}{more}; with the best assignment of "
        f"classes, top-1 is {found.top1_after:.2%} instead of {found.top1_before:.2%}"
    )
    yield Explanation(found.top1_after, _order_problem(wrong, found.indices, context))


def _order_problem(wrong: str, indices: Sequence[int], context: Context) -> Problem:
    """``indices`` [K]: the logit that stands for each label."""
    own = context.own_indices
    right = [own[index] for index in indices] if own is not None else []
    is_listed = 0 < len(right) <= MAX_LISTED
    if right and context.has_list:
        remedy = f"set it to {right}" if is_listed else "correct the indices of these classes"
        return Problem("teacher.classes", f"are in {wrong}", f"check and {remedy}")
    remedy = f"check and set teacher.classes to {right}, or " if is_listed else ""
    return Problem(
        "teacher.weights",
        f"have their classes in {wrong}",
        f"{remedy}convert train and val with the teacher's order of classes (convert.py --classes)",
    )


def _chance(evaluated: LabeledLogits) -> Problem | None:
    share, by_chance = share_of(correct_predictions(*evaluated)), chance(evaluated.labels)
    if share.low > by_chance:
        return None
    return Problem(
        "teacher.weights",
        f"are no better than chance: top-1 is {share.value:.2%}, and the most frequent class has "
        f"{by_chance:.2%} of the images",
        "give trained weights of this network and these classes; check teacher.normalization and "
        "the sizes in evaluation",
    )
