"""WKD against Sinkhorn's algorithm, sample by sample, without the label's row and column."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from support.logit_cases import (
    build_loss,
    classifier,
    inputs_of,
    random_labels,
    random_logits,
    softmax,
)

from service.distillation.losses.wkd import Transport, class_costs, transport_weight, wkd_loss
from service.spec.losses.wkd import Wkd


def cost_matrix(rows, sharpening):
    cost = np.empty((len(rows), len(rows)))
    for i, x in enumerate(rows):
        for j, y in enumerate(rows):
            cosine = x @ y / math.sqrt((x @ x) * (y @ y))
            cost[i, j] = max(1 - math.exp(-sharpening * (1 - cosine)), 0.0) + 1e-8
    return cost


def sinkhorn_plan(student, teacher, cost, section):
    kernel = np.exp(-cost / section.regularization)
    of_student = np.full(len(student), 1 / len(student))
    for _ in range(section.num_iterations):
        of_teacher = teacher / (kernel.T @ of_student + 1e-8)
        of_student = student / (kernel @ of_teacher + 1e-8)
    return of_student[:, None] * kernel * of_teacher[None, :]


def problems(u, v, labels, cost, section):
    """Marginals of student and teacher, and the costs, of each sample without its label."""
    for teacher, student, y in zip(u, v, labels, strict=True):
        p = softmax(np.delete(teacher, y) / section.temperature)
        q = softmax(np.delete(student, y) / section.temperature)
        yield q, p, np.delete(np.delete(cost, y, axis=0), y, axis=1)


def oracle(u, v, labels, cost, section, gamma):
    p, q = softmax(u), softmax(v)
    found = []
    for index, problem in enumerate(problems(u, v, labels, cost, section)):
        transport = (sinkhorn_plan(*problem, section) * problem[2]).sum()
        y = labels[index]
        found.append(gamma * transport - p[index, y] * math.log(q[index, y]))
    return np.array(found)


def exact_cost(student, teacher, cost):
    size = len(student)
    sums = np.zeros((2 * size, size, size))
    for k in range(size):
        sums[k, k, :] = 1
        sums[size + k, :, k] = 1
    marginals = np.concatenate([student, teacher])
    return linprog(cost.ravel(), A_eq=sums.reshape(2 * size, -1), b_eq=marginals).fun


@pytest.fixture
def cost():
    return class_costs(classifier(9), 1.0).double()


@pytest.fixture
def batch():
    return *random_logits(20, 9), random_labels(20, num_classes=9)


@pytest.mark.parametrize("sharpening", [1.0, 2.0])
def test_costs_equal_their_formula(sharpening):
    rows = classifier(9)
    expected = cost_matrix(rows.double().numpy(), sharpening)
    np.testing.assert_allclose(class_costs(rows, sharpening).numpy(), expected, rtol=1e-6)


def test_costs_of_classes_without_weights_are_finite():
    assert torch.isfinite(class_costs(torch.zeros(3, 4), 1.0)).all()


@pytest.mark.parametrize(
    "section", [Wkd(), Wkd(temperature=8.0, num_iterations=3), Wkd(regularization=0.5)]
)
def test_equals_its_formula(batch, cost, section):
    u, v, labels = batch
    expected = oracle(u.numpy(), v.numpy(), labels.numpy(), cost.numpy(), section, 30.0)
    found = wkd_loss(u, v, labels, cost, section, 30.0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)
    single = wkd_loss(u.float(), v.float(), labels, cost.float(), section, 30.0)
    np.testing.assert_allclose(single.numpy(), expected, rtol=2e-5)


def test_costs_that_are_not_symmetric_are_from_student_to_teacher(batch):
    u, v, labels = batch
    cost = torch.rand(9, 9, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    expected = oracle(u.numpy(), v.numpy(), labels.numpy(), cost.numpy(), Wkd(), 30.0)
    np.testing.assert_allclose(wkd_loss(u, v, labels, cost, Wkd(), 30.0).numpy(), expected)


def test_cost_is_close_to_that_of_the_best_transport():
    section = Wkd(regularization=0.1, num_iterations=1000)
    u, v = random_logits(6, 5)
    labels, cost = random_labels(6, num_classes=5), class_costs(classifier(5), 1.0).double()
    transport = Transport(u, v, labels, cost, section)
    cases = problems(u.numpy(), v.numpy(), labels.numpy(), cost.numpy(), section)
    for found, case in zip(transport.costs().tolist(), cases, strict=True):
        best = exact_cost(*case)
        # Regularization gives up no more than its product with the entropy of four classes.
        assert best - 1e-5 <= found <= best + 0.1 * math.log(4)


def test_marginal_errors_fall_with_iterations(batch, cost):
    u, v, labels = batch
    errors = []
    for num_iterations in (1, 10, 1000):
        transport = Transport(u, v, labels, cost, Wkd(num_iterations=num_iterations))
        teacher, student = transport.marginal_errors()
        errors.append(teacher.mean().item())
        # The last step makes the student's marginal exact, up to the epsilon.
        assert student.max() < 1e-3
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-4


def test_telemetry_equals_the_marginals_of_the_plan(batch, cost):
    u, v, labels = batch
    found = build_loss("wkd", 9).telemetry(inputs_of([u, v, None, None], labels))
    assert found.keys() == {"teacher_marginal_error", "student_marginal_error"}
    cases = problems(u.numpy(), v.numpy(), labels.numpy(), cost.numpy(), Wkd())
    for index, (student, teacher, part) in enumerate(cases):
        plan = sinkhorn_plan(student, teacher, part, Wkd())
        errors = abs(plan.sum(axis=0) - teacher).sum(), abs(plan.sum(axis=1) - student).sum()
        of_row = [column[index].item() for column in found.values()]
        assert of_row == pytest.approx(errors, rel=1e-6, abs=1e-12)


def test_equal_predictions_cost_least(batch, cost):
    u, v, labels = batch
    same = Transport(u, u, labels, cost, Wkd()).costs()
    other = Transport(u, v, labels, cost, Wkd()).costs()
    # Entropy spreads the flow: also between equal predictions, it costs something.
    assert (same > 0).all()
    assert (same < other).all()


def test_order_of_classes_does_not_matter(batch, cost):
    u, v, labels = batch
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    found = wkd_loss(
        u[:, order], v[:, order], torch.argsort(order)[labels], cost[order][:, order], Wkd(), 30.0
    )
    torch.testing.assert_close(found, wkd_loss(u, v, labels, cost, Wkd(), 30.0))


def test_label_has_no_part_in_the_transport(batch, cost):
    u, v, labels = batch
    raised = v + 5.0 * torch.nn.functional.one_hot(labels, 9)
    expected = Transport(u, v, labels, cost, Wkd()).costs()
    torch.testing.assert_close(Transport(u, raised, labels, cost, Wkd()).costs(), expected)


@pytest.mark.parametrize("start", [0, 150])
def test_weight_falls_as_in_the_released_code(start):
    """Its epochs count from 1; the weight is whole up to the one numbered ``start``."""
    section = Wkd(gamma=600.0, decay_from_epoch=start)
    for number in (1, 2, 150, 151, 200, 240):
        expected = 600.0
        if number > start:
            expected *= 0.5 * (1 + math.cos((number - start) / (240 - start) * math.pi))
        assert transport_weight(section, number - 1, 240) == pytest.approx(expected)
    assert transport_weight(section, 239, 240) == 0.0


def test_weight_does_not_fall_if_training_ends_before():
    section = Wkd(decay_from_epoch=5)
    assert [transport_weight(section, epoch, 5) for epoch in range(5)] == [30.0] * 5


def test_loss_reads_epoch_and_classifier(batch, cost):
    u, v, labels = batch
    loss = build_loss("wkd", 9, num_epochs=4)
    assert not loss.state_dict()
    for epoch in range(4):
        expected = wkd_loss(u, v, labels, cost, Wkd(), transport_weight(Wkd(), epoch, 4))
        found = loss(inputs_of([u, v, None, None], labels, epoch=epoch))
        torch.testing.assert_close(found, expected)
