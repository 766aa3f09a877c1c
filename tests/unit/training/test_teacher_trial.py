"""The teacher's form predicts what the teacher itself does, or is not used."""

import copy

import pytest
import torch
from torch import nn

from service.distillation.ensemble import TeacherEnsemble
from service.distillation.pixels import FrozenTeacher
from service.distillation.task import autocast
from service.models.build import build_model
from service.models.last_layer import keep_last_layer_in_float32
from service.run.execution import TeacherForm
from service.spec.data_sections import Normalization
from service.training import teacher_forms, teacher_trial
from service.training.teacher_forms import CastNetwork, members_of, take_form
from service.training.teacher_trial import TeacherTrial

SIZE, BATCH_SIZE = 16, 8


def make_teacher(seed=0):
    torch.manual_seed(seed)
    model = build_model("cifar:resnet8", 5)
    keep_last_layer_in_float32(model, SIZE)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
    return FrozenTeacher(model, Normalization())


def make_pixels(count, size=SIZE):
    generator = torch.Generator().manual_seed(1)
    shape = (count, size, size, 3)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("is_cast", [False, True])
def test_folded_teacher_has_the_logits_of_the_plain_one(precision, is_cast):
    teacher = make_teacher()
    plain, pixels = copy.deepcopy(teacher), make_pixels(BATCH_SIZE)
    take_form(teacher, TeacherForm("folded", is_cast, precision), BATCH_SIZE, print)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in teacher.modules())
    with autocast(pixels.device, torch.bfloat16 if precision == "bfloat16" else None):
        logits = teacher(pixels)
    assert logits.dtype == torch.float32
    scale = plain(pixels).abs().max()
    tolerance = 1e-5 if precision == "float32" else 0.02
    assert (logits - plain(pixels)).abs().max() <= tolerance * scale
    is_cast_network = isinstance(teacher.model, CastNetwork)
    assert is_cast_network == (is_cast and precision == "bfloat16")
    if is_cast_network:
        dtypes = [parameter.dtype for parameter in teacher.model.parameters()]
        assert set(dtypes[:-2]) == {torch.bfloat16}
        assert set(dtypes[-2:]) == {torch.float32}


@pytest.mark.parametrize("count", [3, 8, 21])
def test_form_that_agrees_is_used(count):
    messages = []
    ensemble = TeacherEnsemble([make_teacher(), make_teacher(1)], [1, 2], "probabilities")
    trial = TeacherTrial(ensemble, "float32", BATCH_SIZE, SIZE, messages.append)
    form = trial.fastest_eager()
    assert form == TeacherForm("folded")
    assert trial.agrees(form, make_pixels(count, SIZE + 4))
    assert messages == [
        "the teacher folded, in float32, predicts what it does itself for 100.0% of val"
    ]


def test_form_that_differs_is_not_used_with_one_warning(monkeypatch):
    """As one whose network is too sensitive for 16 bits: here, it is another network."""
    messages, other = [], make_teacher(seed=5)
    trial = TeacherTrial(make_teacher(), "bfloat16", BATCH_SIZE, SIZE, messages.append)
    monkeypatch.setattr(trial, "_formed", lambda _: other)
    plain, pixels = make_teacher(), make_pixels(40)
    with autocast(pixels.device, torch.bfloat16):
        found = other(pixels).argmax(1)
    agreement = (plain(pixels).argmax(1) == found).double().mean()
    assert agreement < 0.99
    assert not trial.agrees(TeacherForm("folded", True, "bfloat16"), pixels)
    (message,) = messages
    assert message.startswith("warning: the teacher folded, in bfloat16,")
    assert f"only {agreement:.1%} of 40 images of val: it is used unfolded" in message


def test_teacher_without_anything_to_fold_stays_plain():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 5))
    teacher = FrozenTeacher(model, Normalization())
    trial = TeacherTrial(teacher, "float32", BATCH_SIZE, SIZE, print)
    assert trial.fastest_eager() == TeacherForm()
    assert members_of(teacher) == [teacher]


def test_teacher_is_compiled_once_to_be_timed_and_compared(monkeypatch):
    networks = []

    class Compiled(nn.Module):
        is_usable = True

        def __init__(self, network, *_):
            super().__init__()
            self.network = network
            networks.append(network)

        def forward(self, images):
            return self.network(images)

    monkeypatch.setattr(teacher_forms, "CompiledNetwork", Compiled)
    times_s = {"eager": 2.0, "compiled": 1.0}
    monkeypatch.setattr(
        teacher_trial,
        "median_times_s",
        lambda passes, _: [run() for run in passes.values()] and times_s,
    )
    trial = TeacherTrial(make_teacher(), "float32", BATCH_SIZE, SIZE, print)
    form = trial.compiled_if_faster(trial.fastest_eager())
    assert form == TeacherForm("compiled")
    assert trial.agrees(form, make_pixels(BATCH_SIZE))
    assert len(networks) == 1
