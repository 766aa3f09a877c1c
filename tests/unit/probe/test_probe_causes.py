"""Each cause is found in a teacher that has it, and in no other."""

import math

import pytest
import torch
from support.teacher_logits import (
    confident_logits,
    drawn_labels,
    pairs_of,
    posteriors,
    sample_of,
    smoothed,
)

from service.probe.causes import Context, find_causes
from service.probe.confidence import uniformity_of_others
from service.probe.label_order import misplaced_classes
from service.spec.data_sections import Normalization

K = 10
NORMALIZATIONS = {
    "the dataset's": Normalization(mean=(0.1, 0.2, 0.3)),
    "ImageNet's": Normalization(),
}
CONTEXT = Context(NORMALIZATIONS, [f"class{label}" for label in range(K)], True, range(K), False)
PROBABILITIES = posteriors(4000, K)
LABELS = drawn_labels(PROBABILITIES)
CALIBRATED = PROBABILITIES.log()


def causes_of(logits, labels=LABELS, context=CONTEXT, **parts):
    return list(find_causes(sample_of(logits, labels, **parts), context))


def test_a_calibrated_teacher_has_no_warning():
    assert causes_of(CALIBRATED) == []


@pytest.mark.parametrize("smoothing", [0.1, 0.2])
def test_label_smoothing_is_named_with_its_strength(smoothing):
    (cause,) = causes_of(smoothed(PROBABILITIES, smoothing))
    assert cause.where == "teacher.weights"
    estimate = float(cause.wrong.split("label smoothing of about ")[1].split()[0])
    assert estimate == pytest.approx(smoothing, abs=0.03)


def test_mixup_is_told_by_blended_pairs():
    pairs = pairs_of(1000, K, 0.5, 0.4)
    assert "training with mixup" in causes_of(smoothed(PROBABILITIES, 0.1), pairs=pairs)[0].wrong
    assert causes_of(CALIBRATED, pairs=pairs) == []


def test_other_softness_is_named_without_a_strength():
    (cause,) = causes_of(CALIBRATED / 2)
    assert "CutMix or other strong augmentation" in cause.wrong


def test_of_two_classes_the_other_says_nothing():
    probabilities = posteriors(4000, 2)
    logits, labels = smoothed(probabilities, 0.2), drawn_labels(probabilities)
    (cause,) = causes_of(logits, labels, pairs=pairs_of(10, 2, 1, 1))
    assert "label smoothing of about 0.2" in cause.wrong
    assert "or mixup" in cause.wrong


def test_uniformity_is_1_where_all_others_are_alike():
    logits = torch.tensor([[3.0, 0.0, 0.0, 0.0], [2.0, -1.0, -1.0, -1.0]], dtype=torch.float64)
    assert uniformity_of_others(logits) == pytest.approx(1.0)
    two = torch.tensor([[9.0, 1.0, 1.0, -math.inf]], dtype=torch.float64)
    assert uniformity_of_others(two) == pytest.approx(math.log(2) / math.log(3))


def test_another_order_of_classes_is_named():
    order = torch.tensor([1, 0, *range(2, K)])
    (cause,) = causes_of(CALIBRATED[:, order])
    assert "class0 for class1, class1 for class0;" in cause.wrong
    assert "set teacher.classes to [1, 0, 2, 3, 4, 5, 6, 7, 8, 9], or convert" in cause.remedy
    context = CONTEXT._replace(own_indices=None)
    assert causes_of(CALIBRATED[:, order], context=context)[0].remedy.startswith("convert train")


def test_a_wrong_list_of_classes_is_corrected():
    """Logits 0 and 1 are the teacher's 700 and 300, and label 0 is the teacher's 300."""
    order = torch.tensor([1, 0, *range(2, K)])
    context = CONTEXT._replace(own_indices=[700, 300, *range(2, K)], has_list=True)
    (cause,) = causes_of(CALIBRATED[:, order], context=context)
    assert cause.where == "teacher.classes"
    assert cause.remedy == "check and set it to [300, 700, 2, 3, 4, 5, 6, 7, 8, 9]"


@pytest.mark.parametrize("num_classes", [3, 50])
def test_the_assignment_is_the_permutation(num_classes):
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(num_classes, (4000,), generator=generator)
    order = torch.arange(num_classes).roll(1)
    logits = confident_logits(labels, num_classes, 0.8)[:, order]
    found = misplaced_classes(logits, labels, 0.001)
    assert sorted(found.swapped) == [(i, int(order[i])) for i in range(num_classes)]
    assert (order.argsort() == torch.tensor(found.indices)).all()
    assert found.top1_after == pytest.approx(0.8, abs=0.03)
    assert found.top1_before < 0.25


def test_a_poor_teacher_has_its_classes_in_order():
    """Half of the classes are predicted as one other: an assignment gains, but explains little."""
    labels = torch.arange(4000) % K
    predicted = torch.where(labels < 6, 0, labels)
    logits = torch.nn.functional.one_hot(predicted.roll(3), K).double()
    assert misplaced_classes(logits, labels, 0.001) is None


def test_no_better_than_chance():
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(4000, K, generator=generator, dtype=torch.float64)
    (cause,) = causes_of(logits)
    assert "no better than chance" in cause.wrong
    constant = torch.eye(K, dtype=torch.float64)[[int(LABELS.bincount().argmax())]].expand(4000, K)
    (cause,) = causes_of(constant)
    assert "no better than chance" in cause.wrong


def test_the_better_normalization_is_named_and_set():
    wrong = confident_logits(LABELS, K, 0.5)
    right = {"ImageNet's": confident_logits(LABELS, K, 0.8)}
    (cause,) = causes_of(wrong, renormalized=right)
    assert cause.where == "teacher.normalization"
    assert "with ImageNet's" in cause.wrong
    assert "0.485" in cause.remedy


def test_the_first_of_equally_good_normalizations_is_named():
    right = {name: confident_logits(LABELS, K, 0.8, seed) for seed, name in enumerate(CONTEXT[0])}
    (cause,) = causes_of(confident_logits(LABELS, K, 0.5), renormalized=right)
    assert "with the dataset's" in cause.wrong


def test_a_normalization_that_is_better_by_chance_is_not_named():
    other = {"ImageNet's": confident_logits(LABELS, K, 0.81, seed=4)}
    assert causes_of(confident_logits(LABELS, K, 0.8), renormalized=other) == []


def test_a_gain_from_nothing_to_chance_is_none():
    """Of a teacher with another order of classes, a wrong normalization spreads the predictions."""
    generator = torch.Generator().manual_seed(8)
    spread = {"ImageNet's": torch.randn(4000, K, generator=generator, dtype=torch.float64)}
    rotated = confident_logits(LABELS, K, 0.9).roll(1, dims=1)
    (cause,) = causes_of(rotated, renormalized=spread)
    assert "another order" in cause.wrong


def test_logits_that_are_not_finite_are_counted_and_left_out():
    logits = CALIBRATED.clone()
    logits[:7, 2] = math.nan
    (cause,) = causes_of(logits)
    assert "not finite for 14 of 8,000 images" in cause.wrong
    (cause,) = causes_of(torch.full_like(logits, math.nan))
    assert "8,000 of 8,000" in cause.wrong


def test_a_teacher_that_says_no_more_than_labels():
    sure = 60 * torch.nn.functional.one_hot(LABELS, K).double()
    (cause,) = causes_of(sure)
    assert "say no more than labels" in cause.wrong
    assert "higher temperatures" in cause.remedy
    # At temperature 4, the entropy of logits of 12 and 0 is 47 % of log 10.
    assert causes_of(sure / 5) == []


def test_labels_of_train_are_not_read_where_there_are_none():
    sure = 60 * torch.nn.functional.one_hot(LABELS, K).double()
    sample = sample_of(sure, LABELS)
    sample = sample._replace(train=sample.train._replace(labels=torch.zeros_like(LABELS)))
    assert list(find_causes(sample, CONTEXT)) == []
    (cause,) = find_causes(sample, CONTEXT._replace(has_train_labels=False))
    assert "say no more than labels" in cause.wrong
