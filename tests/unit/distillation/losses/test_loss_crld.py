"""CRLD against its formula, sample by sample."""

import numpy as np
import pytest
import torch
from support.logit_cases import build_loss, inputs_of, kl, random_labels, random_logits, softmax

from service.distillation.losses.crld import crld_loss, is_sure
from service.spec.losses.crld import Crld


def oracle(views, section):
    losses = []
    for u, v, strong_u, strong_v in zip(*views, strict=True):

        def kd(student, teacher):
            t = section.temperature
            return t**2 * kl(softmax(teacher / t), softmax(student / t))

        loss = 0.0
        if softmax(u).max() >= section.weak_confidence:
            loss += section.within * (kd(v, u) + kd(strong_v, strong_u))
        if softmax(strong_u).max() >= section.strong_confidence:
            loss += section.across * (kd(strong_v, u) + kd(v, strong_u))
        losses.append(loss)
    return np.array(losses)


@pytest.mark.parametrize(
    "section",
    [
        Crld(),
        Crld(within=0.7, across=1.3, temperature=1.0, weak_confidence=0.8, strong_confidence=0.8),
        Crld(weak_confidence=0.0, strong_confidence=1.0),
    ],
)
def test_equals_its_formula(section):
    views = random_logits(40, 6, count=4)
    expected = oracle([view.numpy() for view in views], section)
    np.testing.assert_allclose(crld_loss(*views, section).numpy(), expected, rtol=1e-10, atol=1e-12)
    single = crld_loss(*(view.float() for view in views), section)
    np.testing.assert_allclose(single.numpy(), expected, rtol=2e-5, atol=1e-5)


def test_some_samples_are_masked_and_some_are_not():
    """Otherwise the oracle would not check the masks."""
    u, _, strong_u, _ = random_logits(40, 6, count=4)
    for shares in (is_sure(u, 0.9), is_sure(u, 0.8), is_sure(strong_u, 0.8)):
        assert 0.1 < shares.float().mean() < 0.9


def test_confidence_itself_is_enough():
    logits = torch.tensor([[0.0, 0.0], [0.0, 1e-3]])
    assert is_sure(logits, 0.5).tolist() == [True, True]
    assert is_sure(logits, 0.5001).tolist() == [False, True]
    assert is_sure(torch.tensor([[200.0, 0.0]]), 1.0).tolist() == [True]


def test_unsure_teacher_gives_no_gradient():
    views = [view.requires_grad_() for view in random_logits(3, 4, count=4, scales=(0.1, 1.0))]
    crld_loss(*views, Crld(weak_confidence=0.9, strong_confidence=0.9)).sum().backward()
    assert views[1].grad.abs().max() == 0
    assert views[3].grad.abs().max() == 0


def test_order_of_classes_does_not_matter():
    views = random_logits(8, 5, count=4)
    order = torch.tensor([4, 2, 0, 1, 3])
    found = crld_loss(*(view[:, order] for view in views), Crld())
    torch.testing.assert_close(found, crld_loss(*views, Crld()))


def test_telemetry_is_the_share_of_samples_that_count():
    views = random_logits(40, 6, count=4)
    loss = build_loss("crld", 6, weak_confidence=0.8, strong_confidence=0.7)
    found = loss.telemetry(inputs_of(views, random_labels(40, num_classes=6)))
    assert found.keys() == {"weak_mask_share", "strong_mask_share"}
    weak, strong = (softmax(views[index].numpy()).max(axis=1) for index in (0, 2))
    assert found["weak_mask_share"].tolist() == (weak >= 0.8).tolist()
    assert found["strong_mask_share"].tolist() == (strong >= 0.7).tolist()
