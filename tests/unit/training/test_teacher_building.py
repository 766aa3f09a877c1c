"""The teacher that a spec describes: which logits, of which images, of which networks."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from support.teachers import write_teacher
from support.training_runs import CPU

from service.distillation.ensemble import TeacherEnsemble
from service.distillation.losses.wkd import class_costs
from service.distillation.pixels import FrozenTeacher, PixelNormalizer
from service.models.build import build_model
from service.run.execution import Execution
from service.spec.data_sections import Normalization
from service.spec.loading import parse_spec
from service.spec.losses.wkd import Wkd
from service.training.factory import build_task, build_teacher

CLASSES = (6, 0, 3, 1)
EVALUATION = {"resize_size": 24, "crop_size": 24}


def make_pixels(size=16):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, size, size, 3), dtype=torch.uint8, generator=generator)


def normalized(pixels, normalization=None):
    return PixelNormalizer(normalization or Normalization())(pixels)


@pytest.mark.parametrize("model", ["mobilenet_v3_small", "timm:tf_efficientnet_lite0"])
def test_restricted_logits_are_the_full_ones_indexed(make_content, tmp_path, model):
    torch.manual_seed(0)
    network = build_model(model, 7)
    save_file(network.state_dict(), tmp_path / "t.safetensors")
    section = {"model": model, "weights": {"source": str(tmp_path / "t.safetensors")}}
    spec = parse_spec(
        make_content(teacher={**section, "classes": CLASSES}, augmentation={"size": 16})
    )
    pixels = make_pixels()
    teacher = build_teacher(spec, CPU, Execution.plain(spec))
    with torch.inference_mode():
        full = network.eval()(normalized(pixels).contiguous(memory_format=torch.channels_last))
    assert full.shape == (3, 7)
    torch.testing.assert_close(teacher(pixels), full[:, list(CLASSES)], rtol=1e-4, atol=1e-5)


def test_loss_that_reads_the_classifier_gets_the_rows_of_the_classes(make_content, tmp_path):
    teacher = {**write_teacher(tmp_path / "t.safetensors", 7), "classes": CLASSES}
    content = make_content(teacher=teacher, losses={"wkd": {}, "ce": {}})
    task = build_task(parse_spec(content), CPU, Execution.plain(parse_spec(content)))
    rows = task.teacher.model.fc.weight[list(CLASSES)]
    buffers = task.trainee.objective.buffers()
    (costs,) = [each for each in buffers if each.shape == (4, 4)]
    torch.testing.assert_close(costs, class_costs(rows, Wkd().sharpening))


@pytest.mark.parametrize(
    ("size", "in_training", "in_evaluation"),
    [(None, 24, 24), ("student", 16, 24), (32, 32, 32), (20, 20, 20)],
    ids=str,
)
def test_teacher_sees_the_students_pixels_at_its_own_size(
    make_content, teacher, size, in_training, in_evaluation
):
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    section = {**teacher, "normalization": {"mean": mean, "std": std}}
    section |= {} if size is None else {"size": size}
    spec = parse_spec(make_content(teacher=section, evaluation=EVALUATION))
    built = build_teacher(spec, CPU, Execution.plain(spec))
    seen = []
    built.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for student_size, expected_size in ((16, in_training), (24, in_evaluation)):
        pixels = make_pixels(student_size)
        built(pixels)
        images = seen.pop()
        # Resized first and normalized then, in the other order.
        scaled = F.interpolate(
            pixels.permute(0, 3, 1, 2).double(), size=(expected_size,) * 2, mode="bilinear",
            antialias=True,
        )  # fmt: skip
        expected = scaled / 255 - torch.tensor(mean)[:, None, None]
        expected /= torch.tensor(std)[:, None, None]
        torch.testing.assert_close(images.double(), expected, rtol=1e-4, atol=1e-4)
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_images_of_the_right_size_are_not_touched(make_content, teacher, monkeypatch):
    spec = parse_spec(make_content(teacher=teacher))
    built, pixels = build_teacher(spec, CPU, Execution.plain(spec)), make_pixels()
    monkeypatch.setattr(F, "interpolate", None)
    assert torch.equal(built(pixels), FrozenTeacher(built.model, Normalization())(pixels))


@pytest.mark.parametrize("mean_of", ["logits", "probabilities"])
def test_several_teachers_are_averaged_each_in_its_own_way(
    make_content, teacher, tmp_path, mean_of
):
    own = {"classes": CLASSES, "size": 32, "weight": 3, "normalization": {"std": [1, 1, 1]}}
    other = {**write_teacher(tmp_path / "more.safetensors", 7), **own}
    spec = parse_spec(make_content(teacher={**teacher, "others": [other], "mean_of": mean_of}))
    built, pixels = build_teacher(spec, CPU, Execution.plain(spec)), make_pixels()
    assert isinstance(built, TeacherEnsemble)
    first, second = built.members
    images = F.interpolate(
        normalized(pixels, Normalization(std=(1, 1, 1))), size=(32, 32), mode="bilinear",
        antialias=True,
    )  # fmt: skip
    with torch.inference_mode():
        a = first.model(normalized(pixels)).double()
        b = second.model(images)[:, list(CLASSES)].double()
    expected = (a + 3 * b) / 4
    if mean_of == "probabilities":
        constant = (a.logsumexp(1) + 3 * b.logsumexp(1)) / 4
        expected = ((a.softmax(1) + 3 * b.softmax(1)) / 4).log() + constant[:, None]
    torch.testing.assert_close(built(pixels).double(), expected, rtol=1e-4, atol=1e-4)


def test_one_network_is_no_ensemble(make_content, teacher):
    spec = parse_spec(make_content(teacher=teacher))
    assert isinstance(build_teacher(spec, CPU, Execution.plain(spec)), FrozenTeacher)


BYTES = 4 * 4 * 16 * 16 * 16
"""Of an image in resnet8, whose largest tensors are 16 x 16 x 16: four of them in float32."""


# Of 60 images: all at once; 12 of 13; 7 would be nine parts of unequal sizes, 6 are ten equal ones.
@pytest.mark.parametrize(("num_fitting", "num_at_once"), [(60, 60), (13, 12), (7, 6), (0, 1)])
def test_the_teacher_takes_as_many_images_as_fit(make_content, teacher, num_fitting, num_at_once):
    training = {"max_activation_bytes": max(1, num_fitting * BYTES)}
    spec = parse_spec(make_content(teacher=teacher, training=training))
    built = build_teacher(spec, CPU, Execution.plain(spec), batch_size=60)
    assert built.num_at_once == num_at_once
