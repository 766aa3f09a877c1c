"""Models have the published sizes; weights load only where they fit, and never run code."""

import hashlib

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from service.models.build import (
    build_model,
    build_on_meta_device,
    build_with_weights,
    check_image_sizes,
    num_parameters,
)
from service.spec.errors import BadInputError
from service.spec.model_names import CIFAR_MODELS, TORCHVISION_MODELS, model_name_problem
from service.spec.sections import Weights


def test_allow_list_is_torchvisions_classifiers():
    assert set(torchvision.models.list_models(module=torchvision.models)) == TORCHVISION_MODELS


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        # Tian et al., CRD, arXiv 1910.10699, for 100 classes.
        ("resnet20", 0.28),
        ("resnet56", 0.86),
        ("resnet110", 1.74),
        ("wrn_40_1", 0.57),
        ("wrn_40_2", 2.26),
        ("wrn_16_2", 0.70),
        ("resnet8x4", 1.23),
        ("resnet32x4", 7.43),
    ],
)
def test_parameter_counts_are_the_published_ones(name, millions):
    assert num_parameters(build_model(f"cifar:{name}", 100)) / 1e6 == pytest.approx(
        millions, rel=0.03
    )


@pytest.mark.parametrize("name", sorted(CIFAR_MODELS))
def test_every_cifar_model_returns_logits(name):
    logits = build_model(f"cifar:{name}", 7).eval()(torch.zeros(2, 3, 32, 32))
    assert logits.shape == (2, 7)


def test_unknown_names_are_refused():
    assert model_name_problem("resnet18") is None
    assert model_name_problem("timm:tf_efficientnet_lite0") is None
    assert model_name_problem("torchvision.models.resnet18") is not None
    with pytest.raises(BadInputError, match="no model 'nonsense'"):
        build_model("timm:nonsense", 10)


@pytest.fixture
def resnet8():
    torch.manual_seed(0)
    return build_model("cifar:resnet8", 5)


def load(weights, num_classes=5):
    return build_with_weights("teacher", "cifar:resnet8", num_classes, weights)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_are_loaded_bit_for_bit(resnet8, tmp_path, suffix):
    path = tmp_path / f"weights.{suffix}"
    save = save_file if suffix == "safetensors" else torch.save
    save(resnet8.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    loaded = load(Weights(source=str(path), sha256=digest))
    for name, tensor in resnet8.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_pinned_digest_is_enforced(resnet8, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(resnet8.state_dict(), path)
    with pytest.raises(BadInputError, match=r"teacher.weights.sha256: .* has digest"):
        load(Weights(source=str(path), sha256="0" * 64))


@pytest.mark.parametrize("is_zip", [True, False])
def test_pickled_code_is_not_executed(tmp_path, is_zip):
    class Malicious:
        def __reduce__(self):
            return (open, (str(tmp_path / "created"), "w"))

    path = tmp_path / "weights.pth"
    torch.save({"model": Malicious()}, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(BadInputError, match=r"no tensors by name \(but an object .* _?io.open\)"):
        load(Weights(source=str(path)))
    assert not (tmp_path / "created").exists()


def test_shapes_and_names_are_checked(resnet8, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(resnet8.state_dict(), path)
    with pytest.raises(BadInputError, match=r"fc\.(weight|bias) is \[5"):
        load(Weights(source=str(path)), num_classes=6)
    state = resnet8.state_dict()
    state["other"] = state.pop("fc.bias")
    save_file(state, path)
    with pytest.raises(BadInputError, match=r"lacks fc.bias and has unknown other"):
        load(Weights(source=str(path)))


def test_matching_by_order_ignores_names_but_not_shapes(resnet8, tmp_path):
    path = tmp_path / "weights.pth"
    renamed = {f"layer{i}": t for i, t in enumerate(resnet8.state_dict().values())}
    torch.save(renamed, path)
    loaded = load(Weights(source=str(path), match="order"))
    assert torch.equal(loaded.fc.weight, resnet8.fc.weight)
    renamed["layer0"] = renamed["layer0"].flatten()
    torch.save(renamed, path)
    with pytest.raises(BadInputError, match=r"layer0 is \[432\]"):
        load(Weights(source=str(path), match="order"))


def test_image_sizes_that_a_model_cannot_take_are_refused():
    def check(name, sizes):
        check_image_sizes("student", name, build_on_meta_device(name, 10), 10, sizes)

    check("resnet18", (32, 224))
    check("vit_b_16", (224,))
    check("regnet_y_400mf", (64,))
    with pytest.raises(BadInputError, match=r"student\.model: vit_b_16 cannot take .* 28 x 28"):
        check("vit_b_16", (28, 224))


def test_unknown_torchvision_weights_are_listed():
    with pytest.raises(BadInputError, match="IMAGENET1K_V1"):
        build_with_weights("teacher", "resnet18", 1000, Weights(source="torchvision:V9"))
