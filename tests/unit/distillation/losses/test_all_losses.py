"""What all losses of the table have in common, with the default settings of their sections."""

import itertools

import pytest
import torch

from service.distillation.losses import LOSSES
from service.distillation.losses.base import Context, LossInputs
from service.distillation.objective import Objective
from service.distillation.sample_weights import entropy_weights
from service.spec.losses import Losses

NUM_SAMPLES, HEIGHT, WIDTH = 5, 2, 3
# Not changed by adding a number to all logits of a sample: what they compare are probabilities. The
# largest logit of DTKD is no such thing.
SHIFTED = [name for name in LOSSES if name != "dtkd"]

all_losses = pytest.mark.parametrize("name", LOSSES)


def section_of(name):
    return getattr(Losses.model_validate({name: {}}), name)


def num_classes_of(name, at_least=9):
    """The smallest number of classes, not below ``at_least``, that the section allows."""
    return max(at_least, getattr(section_of(name), "top_k", 0) + 1)


def build(name, num_classes, order=slice(None)):
    """A loss in its first state; ``order`` permutes the classes of the teacher's classifier."""
    generator = torch.Generator().manual_seed(7)
    classifier = torch.randn(num_classes, 6, generator=generator)[order]
    return LOSSES[name](section_of(name), Context(num_classes, 240, classifier=classifier))


def random_inputs(num_classes, *positions, seed=0, dtype=torch.float32):
    """Logits of two views and labels, for samples with the given dimensions of positions."""
    generator = torch.Generator().manual_seed(seed)
    shape = (NUM_SAMPLES, num_classes, *positions)
    u, v, strong_u, strong_v = (
        (scale * torch.randn(shape, generator=generator)).to(dtype) for scale in (4, 1.5, 3, 1)
    )
    labels = torch.randint(num_classes, (NUM_SAMPLES, *positions), generator=generator)
    return {"u": u, "v": v, "strong_u": strong_u, "strong_v": strong_v, "labels": labels}


def loss_inputs(tensors, mask=None):
    return LossInputs(
        student_logits=tensors["v"],
        targets=tensors["labels"],
        epoch=3,
        teacher_logits=tensors["u"],
        strong_student_logits=tensors["strong_v"],
        strong_teacher_logits=tensors["strong_u"],
        mask=mask,
    )


def losses_and_gradients(name, tensors, mask=None):
    """Losses [P], or a scalar, and the gradients of their sum to both views of the student."""
    views = {key: tensors[key].clone().requires_grad_() for key in ("v", "strong_v")}
    loss = build(name, tensors["v"].shape[1])
    found = loss(loss_inputs({**tensors, **views}, mask))
    total = found.sum()
    gradients = torch.autograd.grad(
        total, list(views.values()), allow_unused=True, materialize_grads=True
    )
    return found.detach(), gradients


def flattened(values):
    """Values [N, K, ...] as rows [P, K], and labels [N, ...] as [P]."""
    return values.flatten() if values.dtype == torch.long else values.movedim(1, -1).flatten(0, -2)


@all_losses
def test_positions_are_as_rows_of_a_larger_batch(name):
    tensors = random_inputs(num_classes_of(name), HEIGHT, WIDTH)
    rows = {key: flattened(value) for key, value in tensors.items()}
    found, gradients = losses_and_gradients(name, tensors)
    expected, row_gradients = losses_and_gradients(name, rows)
    assert found.shape in {torch.Size([]), torch.Size([NUM_SAMPLES * HEIGHT * WIDTH])}
    torch.testing.assert_close(found, expected)
    for gradient, row_gradient in zip(gradients, row_gradients, strict=True):
        torch.testing.assert_close(flattened(gradient), row_gradient)


@all_losses
def test_one_position_per_sample_is_bitwise_the_same_as_none(name):
    tensors = random_inputs(num_classes_of(name))
    images = {key: value[..., None, None] for key, value in tensors.items()}
    found, gradients = losses_and_gradients(name, images)
    expected, row_gradients = losses_and_gradients(name, tensors)
    assert torch.equal(found, expected)
    for gradient, row_gradient in zip(gradients, row_gradients, strict=True):
        assert torch.equal(gradient[..., 0, 0], row_gradient)


@all_losses
def test_masked_positions_are_left_out(name):
    """Whatever their logits are."""
    tensors = random_inputs(num_classes_of(name), HEIGHT, WIDTH)
    mask = torch.rand(NUM_SAMPLES, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) < 0.6
    rows = {key: flattened(value)[mask.flatten()] for key, value in tensors.items()}
    expected, row_gradients = losses_and_gradients(name, rows)
    for key in ("u", "v", "strong_u", "strong_v"):
        tensors[key].movedim(1, -1)[~mask] = torch.nan
    found, gradients = losses_and_gradients(name, tensors, mask)
    torch.testing.assert_close(found, expected)
    for gradient, row_gradient in zip(gradients, row_gradients, strict=True):
        torch.testing.assert_close(gradient.movedim(1, -1)[mask], row_gradient)
        assert (gradient.movedim(1, -1)[~mask] == 0).all()


@all_losses
def test_samples_affect_each_other_where_the_section_says_so_and_nowhere_else(name):
    tensors = random_inputs(num_classes_of(name))
    found, _ = losses_and_gradients(name, tensors)
    samples = [
        {key: value[index : index + 1] for key, value in tensors.items()}
        for index in range(NUM_SAMPLES)
    ]
    alone = torch.stack([losses_and_gradients(name, one)[0].mean() for one in samples])
    expected = alone if found.ndim else alone.mean()
    is_same = torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert is_same != section_of(name).couples_samples


def extreme_rows(num_classes):
    """Logits of one sample each: saturated, tied, huge, tiny, and combinations."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(num_classes, generator=generator)
    first, last = torch.zeros(num_classes), torch.zeros(num_classes)
    first[0], last[-1] = 1.0, 1.0
    return [
        *(scale * noise for scale in (1e6, 30.0, 1e-6, 1e-30)),
        *(scale * part for scale in (1e6, 200.0, -1e6) for part in (first, last)),
        *(torch.full((num_classes,), value) for value in (0.0, 5.0, 1e6, -1e6)),
        noise.abs().clamp_max(0.1),  # A tie of the largest logits.
    ]


@all_losses
@pytest.mark.parametrize("at_least", [2, 9])
def test_extreme_logits_have_finite_losses_and_gradients(name, at_least):
    """Each pair of extremes, with the teacher's best and its worst class as the label."""
    num_classes = num_classes_of(name, at_least)
    pairs = list(itertools.product(extreme_rows(num_classes), repeat=2))
    u, v = (torch.stack(rows).repeat(2, 1) for rows in zip(*pairs, strict=True))
    best, worst = u.chunk(2)
    labels = torch.cat([best.argmax(dim=1), worst.argmin(dim=1)])
    tensors = {"u": u, "v": v, "strong_u": u.flip(1), "strong_v": v.flip(1), "labels": labels}
    found, gradients = losses_and_gradients(name, tensors)
    assert torch.isfinite(found).all()
    for gradient in gradients:
        assert torch.isfinite(gradient).all()


@all_losses
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, dtype):
    tensors = random_inputs(num_classes_of(name), dtype=dtype)
    found, gradients = losses_and_gradients(name, tensors)
    wider = {key: value.float() if key != "labels" else value for key, value in tensors.items()}
    expected, _ = losses_and_gradients(name, wider)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert all(gradient.dtype == dtype for gradient in gradients)


@all_losses
def test_the_student_alone_gets_a_gradient(name):
    tensors = random_inputs(num_classes_of(name))
    leaves = {
        key: value.requires_grad_() if key != "labels" else value for key, value in tensors.items()
    }
    build(name, num_classes_of(name))(loss_inputs(leaves)).sum().backward()
    assert leaves["u"].grad is None
    assert leaves["strong_u"].grad is None
    assert leaves["v"].grad.abs().sum() > 0


@all_losses
def test_order_of_classes_does_not_matter(name):
    num_classes = num_classes_of(name)
    order = torch.randperm(num_classes, generator=torch.Generator().manual_seed(4))
    tensors = random_inputs(num_classes, dtype=torch.float64)
    permuted = {key: value[:, order] for key, value in tensors.items() if key != "labels"}
    permuted["labels"] = order.argsort()[tensors["labels"]]
    expected = build(name, num_classes)(loss_inputs(tensors))
    found = build(name, num_classes, order)(loss_inputs(permuted))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", SHIFTED)
def test_a_number_added_to_all_logits_of_a_sample_does_not_matter(name):
    tensors = random_inputs(num_classes_of(name), dtype=torch.float64)
    shift = torch.linspace(-5.0, 9.0, NUM_SAMPLES, dtype=torch.float64)[:, None]
    shifted = {key: value + shift for key, value in tensors.items() if key != "labels"}
    found, _ = losses_and_gradients(name, {**shifted, "labels": tensors["labels"]})
    expected, _ = losses_and_gradients(name, tensors)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@all_losses
def test_nothing_is_read_from_the_device(name):
    """Without a mask: tensors of the device "meta" have shapes, but no values to read."""
    num_classes = num_classes_of(name)
    tensors = random_inputs(num_classes)
    expected, _ = losses_and_gradients(name, tensors)
    loss = build(name, num_classes).to("meta")
    found = loss(loss_inputs({key: value.to("meta") for key, value in tensors.items()}))
    assert found.shape == expected.shape


@all_losses
def test_telemetry_has_a_finite_number_per_valid_position(name):
    tensors = random_inputs(num_classes_of(name), HEIGHT, WIDTH)
    tensors["v"].requires_grad_()
    mask = torch.ones(NUM_SAMPLES, HEIGHT, WIDTH, dtype=torch.bool)
    mask[0, 1] = False
    inputs = loss_inputs(tensors, mask).detached()
    columns = build(name, num_classes_of(name)).telemetry(inputs)
    for values in columns.values():
        assert values.shape == (NUM_SAMPLES * HEIGHT * WIDTH - WIDTH,)
        assert torch.isfinite(values).all()
        assert not values.requires_grad


@all_losses
def test_with_a_teacher_every_sample_can_be_weighted(name):
    """Which losses of a micro-batch as a whole cannot, unless they are in each sample's."""
    num_classes = num_classes_of(name)
    tensors = random_inputs(num_classes)
    values = build(name, num_classes)(loss_inputs(tensors))
    if not section_of(name).needs_teacher:
        assert values.ndim == 0
        return
    assert values.shape == (NUM_SAMPLES,)
    context = Context(num_classes, 10, classifier=torch.eye(num_classes))
    losses = Losses.model_validate({name: {"weight": 2}, "entropy_weights": {}, "warmup_epochs": 0})
    found = Objective(losses, context)(loss_inputs(tensors)).total
    again = Objective(losses, context).losses[name](loss_inputs(tensors))
    weights = entropy_weights(tensors["u"], tensors["v"], temperature=3.0)
    torch.testing.assert_close(found, 2.0 * (weights * again).mean())
