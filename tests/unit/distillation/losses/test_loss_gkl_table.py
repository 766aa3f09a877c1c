"""GKL's table of class means: epochs, workers, mixed labels and what is saved."""

import numpy as np
import pytest
import torch
from support.gkl_oracle import oracle
from support.logit_cases import build_loss, inputs_of, random_labels, random_logits, softmax

from service.spec.losses.gkl import Gkl

NUM_CLASSES = 5
TEMPERATURE = 4.0


def build():
    return build_loss("gkl", NUM_CLASSES, weights_temperature=TEMPERATURE)


def class_means(u, labels):
    """Mean prediction for each label, written out; uniform for labels without samples."""
    predictions = softmax(u.double().numpy() / TEMPERATURE)
    rows = []
    for label in range(NUM_CLASSES):
        own = [row for row, y in zip(predictions, labels.tolist(), strict=True) if y == label]
        rows.append(np.mean(own, axis=0) if own else np.full(NUM_CLASSES, 1 / NUM_CLASSES))
    return np.array(rows)


def epoch_of(u, v, labels, loss, num_batches=3, weight_in_sums=1):
    """Losses of an epoch's micro-batches."""
    parts = (torch.chunk(values, num_batches) for values in (u, v, labels))
    return [
        loss(inputs_of([teacher, student, None, None], target, weight_in_sums=weight_in_sums))
        for teacher, student, target in zip(*parts, strict=True)
    ]


def data(num_samples=30, seed=0):
    """One label has no samples."""
    u, v = random_logits(num_samples, NUM_CLASSES, seed=seed)
    return u, v, random_labels(num_samples, num_classes=NUM_CLASSES - 1, seed=seed)


def expected_loss(u, v, labels, table):
    return oracle(u.numpy(), v.numpy(), table[labels.numpy()], Gkl())


def test_an_epoch_uses_the_means_of_the_epoch_before():
    loss = build()
    uniform = np.full((NUM_CLASSES, NUM_CLASSES), 1 / NUM_CLASSES)
    u, v, labels = data(seed=0)
    (found,) = epoch_of(u, v, labels, loss, num_batches=1)
    assert found.mean().item() == pytest.approx(expected_loss(u, v, labels, uniform), rel=1e-6)
    loss.end_epoch()
    table = class_means(u, labels)
    np.testing.assert_allclose(loss.class_means.numpy(), table, rtol=1e-6)

    u, v, labels = data(seed=1)
    for index, found in enumerate(epoch_of(u, v, labels, loss)):
        part = slice(10 * index, 10 * index + 10)
        expected = expected_loss(u[part], v[part], labels[part], table)
        assert found.mean().item() == pytest.approx(expected, rel=1e-6)
    loss.end_epoch()
    np.testing.assert_allclose(loss.class_means.numpy(), class_means(u, labels), rtol=1e-6)


def test_label_without_samples_has_uniform_means():
    loss = build()
    epoch_of(*data(), loss)
    loss.end_epoch()
    torch.testing.assert_close(loss.class_means[-1], torch.full((NUM_CLASSES,), 0.2))
    # Also if it had samples in the epoch before.
    loss.end_epoch()
    torch.testing.assert_close(loss.class_means, torch.full((NUM_CLASSES, NUM_CLASSES), 0.2))


@pytest.mark.parametrize("num_workers", [2, 3])
def test_workers_find_the_table_of_one_worker(num_workers):
    u, v, labels = data()
    single = build()
    epoch_of(u, v, labels, single)
    workers = [build() for _ in range(num_workers)]
    for rank, worker in enumerate(workers):
        part = slice(rank, None, num_workers)
        epoch_of(u[part], v[part], labels[part], worker, weight_in_sums=num_workers)
    for sums in zip(*(worker.running_sums() for worker in workers), strict=True):
        mean = torch.stack(sums).mean(dim=0)
        for own in sums:
            own.copy_(mean)
    for loss in (single, *workers):
        loss.end_epoch()
        torch.testing.assert_close(loss.class_means, single.class_means, rtol=0, atol=1e-6)


def test_a_batch_that_fills_a_place_does_not_count():
    loss = build()
    epoch_of(*data(), loss, weight_in_sums=0)
    assert loss.sums.abs().max() == 0


def test_evaluation_does_not_count():
    loss = build().eval()
    epoch_of(*data(), loss)
    assert loss.sums.abs().max() == 0


def test_table_is_saved_and_sums_are_not():
    loss = build()
    u, v, labels = data()
    epoch_of(u, v, labels, loss)
    loss.end_epoch()
    state = loss.state_dict()
    assert state.keys() == {"class_means"}
    restored = build()
    restored.load_state_dict(state)
    (expected,) = epoch_of(u, v, labels, loss, num_batches=1)
    assert torch.equal(epoch_of(u, v, labels, restored, num_batches=1)[0], expected)


def test_table_exists_only_where_it_is_used():
    loss = build_loss("gkl", NUM_CLASSES, weights_of="samples")
    epoch_of(*data(), loss)
    loss.end_epoch()
    assert loss.running_sums() == []
    assert not loss.state_dict()


def test_mixed_labels_count_as_they_are_mixed():
    u, v, labels = data()
    others = random_labels(30, num_classes=NUM_CLASSES, seed=7)
    share = torch.rand(30, 1, generator=torch.Generator().manual_seed(3))
    one_hot = [torch.nn.functional.one_hot(y, NUM_CLASSES) for y in (labels, others)]
    mixed = share * one_hot[0] + (1 - share) * one_hot[1]
    loss = build()
    loss.class_means.copy_(torch.tensor(class_means(u, labels)))
    found = loss(inputs_of([u, v, None, None], mixed))
    shares = mixed.double().numpy() @ class_means(u, labels)
    assert found.mean().item() == pytest.approx(
        oracle(u.numpy(), v.numpy(), shares, Gkl()), rel=1e-6
    )
    expected = mixed.double().numpy().T @ softmax(u.numpy() / TEMPERATURE)
    np.testing.assert_allclose(loss.sums.numpy(), expected, rtol=1e-5)


def test_labels_as_distributions_are_the_labels():
    u, v, labels = data()
    one_hot = torch.nn.functional.one_hot(labels, NUM_CLASSES).float()
    of_labels, of_distributions = build(), build()
    for _ in range(2):
        expected = of_labels(inputs_of([u, v, None, None], labels))
        assert torch.equal(of_distributions(inputs_of([u, v, None, None], one_hot)), expected)
        of_labels.end_epoch()
        of_distributions.end_epoch()


def test_all_valid_positions_count():
    u, v = random_logits(2, NUM_CLASSES, 3, 4)
    labels = random_labels(2, 3, 4, num_classes=NUM_CLASSES)
    mask = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1)) < 0.6
    loss = build()
    loss(inputs_of([u, v, None, None], labels, mask))
    loss.end_epoch()
    expected = class_means(u.movedim(1, -1)[mask], labels[mask])
    np.testing.assert_allclose(loss.class_means.numpy(), expected, rtol=1e-6)


def test_predictions_that_are_not_numbers_do_not_count():
    u, v, labels = data()
    loss, expected = build(), build()
    epoch_of(u[1:], v[1:], labels[1:], expected, num_batches=1)
    u[0, 2] = float("nan")
    epoch_of(u, v, labels, loss, num_batches=1)
    torch.testing.assert_close(loss.sums, expected.sums)
