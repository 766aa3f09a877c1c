"""The networks of the distillation literature are those that its authors trained."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from service.models.build import (
    IMAGENET_NETWORKS,
    build_model,
    build_with_weights,
    load_network,
    num_parameters,
)
from service.models.cifar import NETWORKS
from service.models.weights import file_metadata, save_weights
from service.run.folder import STUDENT_NAME
from service.run.student_card import student_card, write_with_card
from service.spec.loading import parse_spec
from service.spec.model_names import CIFAR_MODELS, IMAGENET_MODELS, model_name_problem
from service.spec.sections import Weights

# Parameters for 100 classes, and for 1,000 classes of ImageNet: counted in the networks of
# RepDistiller (CRD, arXiv 1910.10699) and mdistiller (DKD, arXiv 2203.08679).
NUM_PARAMETERS = {
    "cifar:vgg8": 3_965_028,
    "cifar:vgg13": 9_462_180,
    "cifar:mobilenet_v2": 812_836,
    "cifar:shufflenet_v1": 949_258,
    "cifar:shufflenet_v2": 1_355_528,
    "cifar:resnet50": 23_705_252,
    "imagenet:mobilenet_v1": 4_231_976,
    "cifar:resnet20": 278_324,
    "cifar:resnet56": 861_620,
    "cifar:resnet110": 1_736_564,
    "cifar:resnet8x4": 1_233_540,
    "cifar:resnet32x4": 7_433_860,
    "cifar:wrn_16_2": 703_284,
    "cifar:wrn_40_1": 569_780,
    "cifar:wrn_40_2": 2_255_156,
}
ADDED = list(NUM_PARAMETERS)[:7]
# The first logits that the networks of mdistiller return for the images and weights below.
LOGITS = {
    "cifar:vgg8": [[1.4045187364, 1.3740397713], [1.4332617865, 1.3808354181]],
    "cifar:vgg13": [[1.0135377125, 0.5545162255], [1.0146400786, 0.5589362798]],
    "cifar:mobilenet_v2": [[4.7365896047, -2.9744128953], [3.7778617801, -1.6610103798]],
    "cifar:shufflenet_v1": [[8.2533030815, 12.6073579104], [9.4529185629, 11.0287783824]],
    "cifar:shufflenet_v2": [[0.6519967239, 1.1634567332], [0.7043158600, 1.1198486605]],
    "cifar:resnet50": [[1.6226055889, 2.3191537773], [1.5936970055, 2.3756630494]],
    "imagenet:mobilenet_v1": [[0.7225022963, 1.0547355826], [0.7268533105, 1.0496986695]],
    "cifar:resnet20": [[1.3854486206, 3.0221935127], [1.5017440773, 3.0577534567]],
    "cifar:resnet8x4": [[1.6026526423, 0.9468136164], [1.6023669690, 0.9721496080]],
    "cifar:wrn_16_2": [[3.4477696478, -0.2172947890], [3.4342708698, -0.1760986156]],
    "cifar:wrn_40_2": [[0.6276354875, 1.0538297048], [0.8343717195, 1.3316583329]],
}
IMAGES_STEP, WEIGHTS_STEP = 0.7548776662466927, 0.6180339887498949


def num_classes(name):
    return 1000 if name.startswith("imagenet:") else 100


def image_size(name):
    return 224 if name.startswith("imagenet:") else 32


def spread(shape, step):
    """Values spread over -1 to 1 that need no generator of random numbers."""
    positions = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (positions * step % 1 * 2 - 1).reshape(shape)


def fill_in_order(model):
    for index, tensor in enumerate(model.state_dict().values()):
        values = spread(tensor.shape, WEIGHTS_STEP + 0.01 * index)
        if tensor.ndim > 1:
            tensor.copy_(values * (6 / tensor[0].numel()) ** 0.5)
        elif tensor.ndim == 1:
            tensor.copy_(1 + values / 4)
    return model


def test_tables_have_the_networks_that_specs_may_name():
    assert NETWORKS.keys() == CIFAR_MODELS
    assert IMAGENET_NETWORKS.keys() == IMAGENET_MODELS


@pytest.mark.parametrize("name", NUM_PARAMETERS)
def test_parameter_counts_are_those_of_the_authors_networks(name):
    assert num_parameters(build_model(name, num_classes(name))) == NUM_PARAMETERS[name]


@pytest.mark.parametrize("name", LOGITS)
def test_weights_in_the_authors_order_give_their_logits(name):
    model = fill_in_order(build_model(name, num_classes(name)).double().eval())
    images = spread((2, 3, image_size(name), image_size(name)), IMAGES_STEP)
    with torch.no_grad():
        logits = model(images)
    assert logits.shape == (2, num_classes(name))
    expected = torch.tensor(LOGITS[name], dtype=torch.float64)
    torch.testing.assert_close(logits[:, :2], expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["cifar:vgg8", "cifar:shufflenet_v2"])
def test_files_of_other_programs_are_matched_by_order(name, tmp_path):
    theirs = fill_in_order(build_model(name, 100).eval())
    renamed = {f"module.layer{i}": t for i, t in enumerate(theirs.state_dict().values())}
    torch.save({"model": renamed, "epoch": 240}, tmp_path / "student_best.pth")
    weights = Weights(source=str(tmp_path / "student_best.pth"), match="order")
    ours = build_with_weights("teacher", name, 100, weights).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("name", ADDED)
def test_training_is_finite_and_reaches_every_parameter(name):
    torch.manual_seed(0)
    model = build_model(name, 10)
    logits = model(torch.randn(8, 3, 64, 64))
    F.cross_entropy(logits, torch.arange(8)).backward()
    assert logits.isfinite().all()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", ADDED)
def test_images_of_a_batch_do_not_depend_on_each_other(name):
    torch.manual_seed(0)
    model = fill_in_order(build_model(name, 10).double().eval())
    images = torch.randn(6, 3, 32, 32, dtype=torch.float64)
    order = torch.randperm(6)
    with torch.no_grad():
        logits = model(images)
        permuted = model(images[order].to(memory_format=torch.channels_last))
    assert (logits[0] - logits[1]).abs().max() > 1e-4
    torch.testing.assert_close(permuted, logits[order], rtol=1e-9, atol=1e-9)


def test_vgg_halves_images_of_64_pixels_once_more():
    model = build_model("cifar:vgg8", 10).eval()
    sizes = []
    model.stages[-1].register_forward_hook(
        lambda module, inputs, output: sizes.append(output.shape[-1])
    )
    with torch.no_grad():
        for size in (32, 64):
            model(torch.randn(1, 3, size, size))
    assert sizes == [4, 4]


@pytest.mark.parametrize("name", ["cifar:vgg13", "cifar:mobilenet_v2"])
def test_classifiers_start_near_zero_and_convolutions_wide_enough(name):
    torch.manual_seed(0)
    model = build_model(name, 100)
    assert model.fc.weight.std().item() == pytest.approx(0.01, rel=0.03)
    assert not model.fc.bias.any()
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 1000:
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
            assert module.bias is None or not module.bias.any()


def test_prefix_that_is_missing_is_suggested():
    assert model_name_problem("imagenet:mobilenet_v1") is None
    assert model_name_problem("mobilenet_v1")[1] == "did you mean imagenet:mobilenet_v1?"
    assert model_name_problem("wrn_40_2")[1] == "did you mean cifar:wrn_40_2?"
    assert model_name_problem("imagenet:resnet18") is not None


@pytest.mark.parametrize("name", ["cifar:shufflenet_v1", "imagenet:mobilenet_v1"])
def test_student_files_load_and_name_no_network_of_torchvision(name, make_content, tmp_path):
    model = fill_in_order(build_model(name, 10)).eval()
    save_weights(model.state_dict(), tmp_path / "checkpoint", file_metadata(model))
    spec = parse_spec(make_content(dataset={"num_classes": 10}, student={"model": name}))
    card = student_card(spec, None, tmp_path / "checkpoint")
    write_with_card(tmp_path / "checkpoint", tmp_path / STUDENT_NAME, card)
    loaded = load_network(tmp_path / STUDENT_NAME, name, 10)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
    assert card["architecture"] == name
    assert card["load"].keys() == {"dtkd-service", "pt2"}
