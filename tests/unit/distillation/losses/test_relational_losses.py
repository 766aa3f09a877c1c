"""What dist, mlkd, gkl, wkd and crld have in common: shapes, masks, precision and limits."""

import itertools

import pytest
import torch
from support.logit_cases import (
    EXTREMES,
    build_loss,
    extreme_logits,
    inputs_of,
    random_labels,
    random_logits,
)

NUM_CLASSES = 7
SETTINGS = [
    ("dist", {"temperature": 2.0}),
    ("mlkd", {"temperatures": [1.0, 3.0]}),
    ("mlkd", {"temperatures": [2.0], "standardize": True}),
    ("gkl", {"temperature": 2.0}),
    ("gkl", {"weights_of": "samples", "gamma": 0.3, "weights_temperature": 2.0}),
    ("wkd", {}),
    ("crld", {"weak_confidence": 0.5}),
]
every_loss = pytest.mark.parametrize(("name", "settings"), SETTINGS)


@pytest.fixture
def views():
    return random_logits(6, NUM_CLASSES, count=4, seed=3)


@pytest.fixture
def labels():
    return random_labels(6, num_classes=NUM_CLASSES)


@every_loss
def test_gradient_equals_finite_differences(name, settings, views, labels):
    loss = build_loss(name, NUM_CLASSES, **settings).eval()

    def of_students(v, strong_v):
        return loss(inputs_of([views[0], v, views[2], strong_v], labels)).sum()

    students = [view.clone().requires_grad_() for view in views[1::2]]
    assert torch.autograd.gradcheck(of_students, students)


@every_loss
def test_no_gradient_reaches_the_teacher(name, settings, views, labels):
    for view in views:
        view.requires_grad_()
    build_loss(name, NUM_CLASSES, **settings)(inputs_of(views, labels)).sum().backward()
    assert views[0].grad is None
    assert views[2].grad is None
    assert views[1].grad.abs().sum() > 0


@every_loss
def test_offsets_of_a_sample_do_not_matter(name, settings, views, labels):
    loss = build_loss(name, NUM_CLASSES, **settings)
    moved = [view + 7.0 * torch.arange(6.0, dtype=view.dtype)[:, None] for view in views]
    found = loss(inputs_of(moved, labels))
    torch.testing.assert_close(found, loss(inputs_of(views, labels)))


@every_loss
def test_order_of_samples_does_not_matter(name, settings, views, labels):
    loss = build_loss(name, NUM_CLASSES, **settings)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    expected = loss(inputs_of(views, labels))
    found = loss(inputs_of([view[order] for view in views], labels[order]))
    torch.testing.assert_close(found, expected[order] if expected.ndim else expected)


@every_loss
def test_one_position_is_as_no_dimension_of_positions(name, settings, views, labels):
    loss = build_loss(name, NUM_CLASSES, **settings)
    rows = [view.float() for view in views]
    pixels = [row[:, :, None, None] for row in rows]
    found = loss(inputs_of(pixels, labels[:, None, None]))
    assert torch.equal(found, loss(inputs_of(rows, labels)))


@every_loss
def test_valid_positions_are_one_batch(name, settings):
    views = [view.float() for view in random_logits(2, NUM_CLASSES, 3, 4, count=4)]
    mask = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1)) < 0.6
    labels = random_labels(2, 3, 4, num_classes=NUM_CLASSES)
    flat = [view.movedim(1, -1)[mask] for view in views]
    loss = build_loss(name, NUM_CLASSES, **settings)
    # No class, as the label of what is to be ignored.
    marked = torch.where(mask, labels, 255)
    found = loss(inputs_of(views, marked, mask))
    assert torch.equal(found, loss(inputs_of(flat, labels[mask])))
    assert found.shape in ((), (int(mask.sum()),))


@every_loss
def test_positions_that_do_not_count_have_no_gradient(name, settings):
    views = random_logits(2, NUM_CLASSES, 3, count=4)
    mask = torch.tensor([[True, False, True], [False, True, True]])
    views[1].requires_grad_()
    labels = random_labels(2, 3, num_classes=NUM_CLASSES)
    build_loss(name, NUM_CLASSES, **settings)(inputs_of(views, labels, mask)).sum().backward()
    sizes = views[1].grad.abs().sum(dim=1)
    assert torch.equal(sizes > 0, mask) or name == "crld"
    assert not (sizes > 0)[~mask].any()


@every_loss
def test_half_precision_is_computed_in_float32_under_autocast(name, settings, views, labels):
    """Half-precision logits are exact in float32: so is the loss, whatever autocast is on."""
    halves = [view.bfloat16() for view in views]
    loss = build_loss(name, NUM_CLASSES, **settings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(inputs_of(halves, labels))
    assert found.dtype == torch.float32
    expected = loss(inputs_of([half.double() for half in halves], labels))
    torch.testing.assert_close(found.double(), expected, rtol=3e-5, atol=1e-5)


@every_loss
@pytest.mark.parametrize(("batch", "num_classes"), [(1, 2), (4, 2), (1, 5), (4, 5)])
def test_loss_and_gradient_are_finite_for_extreme_logits(name, settings, batch, num_classes):
    loss = build_loss(name, num_classes, **settings)
    for seed, kinds in enumerate(itertools.product(EXTREMES, EXTREMES)):
        views = [
            extreme_logits(kinds[index % 2], batch, num_classes, seed + 100 * index)
            for index in range(4)
        ]
        students = [views[1].requires_grad_(), views[3].requires_grad_()]
        labels = random_labels(batch, num_classes=num_classes, seed=seed)
        found = loss(inputs_of(views, labels)).sum()
        assert torch.isfinite(found), kinds
        found.backward()
        for student in students:
            assert student.grad is None or torch.isfinite(student.grad).all(), kinds


@every_loss
def test_telemetry_has_one_value_for_each_valid_position(name, settings):
    views = random_logits(2, NUM_CLASSES, 3, count=4)
    mask = torch.tensor([[True, False, True], [False, True, True]])
    inputs = inputs_of(views, random_labels(2, 3, num_classes=NUM_CLASSES), mask)
    for column in build_loss(name, NUM_CLASSES, **settings).telemetry(inputs).values():
        assert column.shape == (4,)
        assert not column.requires_grad
