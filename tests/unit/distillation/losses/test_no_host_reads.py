"""On a GPU a read on the host waits for all that was launched: no loss may have one in a step."""

import pytest
import torch
from support.host_reads import host_reads
from support.logit_cases import build_loss, inputs_of, random_labels, random_logits

from service.distillation.losses import LOSSES
from service.distillation.losses.base import Context
from service.distillation.objective import Objective
from service.spec.losses import Losses

NUM_SAMPLES, NUM_CLASSES = 4, 12


def make_inputs(targets):
    views = random_logits(NUM_SAMPLES, NUM_CLASSES, count=4)
    # Losses of float64 are not fused.
    u, v, strong_u, strong_v = (view.float() for view in views)
    return inputs_of((u, v.requires_grad_(), strong_u, strong_v.requires_grad_()), targets)


def labels():
    return random_labels(NUM_SAMPLES, num_classes=NUM_CLASSES)


def mixed_targets():
    shares = torch.rand(NUM_SAMPLES, 1, generator=torch.Generator().manual_seed(1))
    first, second = (torch.eye(NUM_CLASSES)[one] for one in (labels(), labels().roll(1)))
    return shares * first + (1 - shares) * second


@pytest.mark.parametrize("targets", [labels(), mixed_targets()], ids=["labels", "mixed"])
@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_reads_a_tensor_forward_or_backward(name, targets):
    loss, inputs = build_loss(name, NUM_CLASSES), make_inputs(targets)
    if inputs.has_mixed_targets and loss.section.needs_labels and not loss.takes_mixed_targets:
        inputs = inputs.labeled(labels())
    with host_reads() as reads:
        loss(inputs).mean().backward()
    assert reads == []
    assert torch.isfinite(inputs.student.grad).all()


SETTINGS = [
    *({"dtkd": {"sharpness": rule}} for rule in ("max", "norm", "logsumexp")),
    {"dtkd": {"standardize": True}, "kd": {"standardize": True}},
    {"kd": {"temperature": {"kind": "teacher_max"}}},
    {"dkd": {}, "nckd": {}, "entropy_weights": {}},
    {"gkl": {"weights_of": "class_means"}, "ctkd": {}},
]


@pytest.mark.parametrize("targets", [labels(), mixed_targets()], ids=["labels", "mixed"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_no_objective_reads_a_tensor_forward_or_backward(settings, targets):
    losses = Losses.model_validate({"ce": {}, "kd": {}, **settings})
    objective = Objective(losses, Context(NUM_CLASSES, 10)).train()
    inputs = make_inputs(targets)
    with host_reads() as reads:
        objective(inputs).total.backward()
    assert reads == []
    assert torch.isfinite(inputs.student.grad).all()
