"""Weights as torchvision publishes them give what torchvision gives, and survive being saved.

The published files are made here, under the names by which torchvision finds them.
"""

import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models import get_model, get_model_weights, vision_transformer

from data_pipeline.files import sha256_of
from service.build import build_job
from service.models.build import (
    build_model,
    build_on_meta_device,
    build_with_weights,
    load_network,
)
from service.models.weights import file_metadata, fill, save_weights
from service.run.folder import STUDENT_NAME
from service.run.progress import Progress
from service.run.student_card import student_card, write_with_card
from service.spec import published_weights
from service.spec.loading import parse_spec
from service.spec.model_names import CIFAR_MODELS, IMAGENET_MODELS, TORCHVISION_MODELS
from service.spec.network_variants import Variant
from service.spec.sections import Weights
from service.spec.weights_metadata import stated_variant
from service.training.checkpoint import (
    Snapshot,
    cpu_state_dict,
    load_checkpoint,
    save_checkpoint,
)

ALL_NAMES = [
    *sorted(TORCHVISION_MODELS),
    *(f"cifar:{name}" for name in sorted(CIFAR_MODELS)),
    *(f"imagenet:{name}" for name in sorted(IMAGENET_MODELS)),
]
TIMM_NAMES = ["timm:tf_efficientnet_lite0", "timm:vit_tiny_patch16_224", "timm:densenet121"]


@pytest.mark.parametrize("name", [*ALL_NAMES, *TIMM_NAMES])
def test_every_network_is_filled_with_its_tensors_alone(name):
    """As from a file, without the versions of its modules; it keeps the tensors it has."""
    model = build_on_meta_device(name, 10)
    before = {key: id(tensor) for key, tensor in model.named_parameters()}
    fill(model, dict(model.state_dict()))
    assert {key: id(tensor) for key, tensor in model.named_parameters()} == before


@pytest.fixture
def small_vits(monkeypatch):
    """torchvision's ViTs with one narrow layer; how they load weights is unchanged."""
    build = vision_transformer._vision_transformer
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8}
    monkeypatch.setattr(
        vision_transformer, "_vision_transformer", lambda **given: build(**{**given, **sizes})
    )


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """A function that puts a state dict where torch.hub has downloaded files; returns its path."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def put(name, enum, state, is_zip):
        url = get_model_weights(name)[enum].url
        path = tmp_path / "torch" / "hub" / "checkpoints" / Path(url).name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path, _use_new_zipfile_serialization=is_zip)
        return path

    return put


def old_names(name, state):
    """A state dict with the names that the published file has."""
    if name.startswith("densenet"):
        pattern, new = r"(denselayer\d+\.(?:norm|relu|conv))([12])\.", r"\1.\2."
        return {re.sub(pattern, new, key): t for key, t in state.items() if "num_b" not in key}
    if name.startswith("vit"):
        pairs = (("mlp.0.", "mlp.linear_1."), ("mlp.3.", "mlp.linear_2."))
        for new, old in pairs:
            state = {key.replace(new, old): tensor for key, tensor in state.items()}
    return state


def first_version(model):
    """An MNASNet as its first version was: the stem is not scaled with the width."""
    version = OrderedDict()
    version._metadata = {"": {"version": 1}}
    model.load_state_dict(version, strict=False)
    return model


PUBLISHED = [
    ("densenet121", "IMAGENET1K_V1", False, 32, Variant()),
    ("googlenet", "IMAGENET1K_V1", False, 32, Variant(transform_input=True)),
    ("inception_v3", "IMAGENET1K_V1", True, 75, Variant(transform_input=True)),
    ("vit_b_32", "IMAGENET1K_V1", True, 224, Variant()),
    ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", True, 384, Variant(image_size=384)),
    ("mnasnet0_75", "IMAGENET1K_V1", True, 32, Variant()),
    ("mnasnet0_5", "IMAGENET1K_V1", True, 32, Variant(has_first_stem=True)),
]


@pytest.fixture
def quick_init(monkeypatch):
    """Normal instead of truncated normal numbers, which take most of a test's time."""
    monkeypatch.setattr(
        nn.init, "trunc_normal_", lambda tensor, **_: nn.init.normal_(tensor, std=0.05)
    )


@pytest.fixture
def published(publish, small_vits, quick_init):
    """A function that publishes random weights and returns the file, and torchvision's network."""

    def make(name, enum, is_zip, variant):
        torch.manual_seed(3)
        options = {"image_size": variant.image_size} if variant.image_size else {}
        if variant.transform_input:
            options = {"aux_logits": True, "init_weights": False}
        original = get_model(name, weights=None, **options)
        if variant.has_first_stem:
            original = first_version(original)
        for buffer in original.buffers():
            if buffer.is_floating_point():
                buffer.add_(torch.rand_like(buffer))
        path = publish(name, enum, old_names(name, original.state_dict()), is_zip)
        return path, get_model(name, weights=enum)

    return make


def logits(model, size):
    torch.manual_seed(5)
    with torch.no_grad():
        return model.eval()(torch.randn(2, 3, size, size))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "enum", "is_zip", "size", "variant"), PUBLISHED)
def test_published_weights_give_torchvisions_logits(name, enum, is_zip, size, variant, published):
    _, theirs = published(name, enum, is_zip, variant)
    ours = build_with_weights("teacher", name, 1000, Weights(source=f"torchvision:{enum}"))
    assert torch.equal(logits(ours, size), logits(theirs, size))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "enum", "is_zip", "size", "variant"),
    [case for case in PUBLISHED if case[0] in ("googlenet", "vit_b_16", "mnasnet0_5")],
)
def test_variants_of_networks_survive_being_saved(
    name, enum, is_zip, size, variant, published, make_content, tmp_path, monkeypatch
):
    path, theirs = published(name, enum, is_zip, variant)
    expected = logits(theirs, size)
    # A copy of the file is known by its digest, which torchvision's names of files begin with.
    begin = sha256_of(path)[:8]
    monkeypatch.setattr(published_weights, "TRANSFORMED_INPUT", {name: begin})
    copy = Weights(source=str(path.rename(tmp_path / "copy.pth.tar")))
    ours = build_with_weights("teacher", name, 1000, copy)
    assert torch.equal(logits(ours, size), expected)

    student = tmp_path / STUDENT_NAME
    save_weights(cpu_state_dict(ours), tmp_path / "checkpoint", file_metadata(ours))
    spec = parse_spec(make_content(dataset={"num_classes": 1000}, student={"model": name}))
    card = student_card(spec, None, tmp_path / "checkpoint")
    write_with_card(tmp_path / "checkpoint", student, card)
    assert torch.equal(logits(load_network(student, name, 1000), size), expected)
    # --plan knows which variant it is without loading it.
    assert stated_variant(name, Weights(source=str(student))) == variant
    monkeypatch.chdir(tmp_path)
    for needs in ("dtkd-service", "torchvision"):
        names = {}
        exec(card["load"][needs], names)
        assert torch.equal(logits(names["model"], size), expected)


def test_weights_that_a_job_fetches_keep_their_variant(published, make_content):
    published("googlenet", "IMAGENET1K_V1", False, Variant(transform_input=True))
    teacher = {"model": "googlenet", "weights": {"source": "torchvision:IMAGENET1K_V1"}}
    spec = parse_spec(make_content(dataset={"num_classes": 1000}, teacher=teacher))
    spec.run_path.mkdir(parents=True)
    stored = build_job(spec).spec.teacher.weights
    assert build_with_weights("teacher", "googlenet", 1000, stored).transform_input


def test_transform_of_published_weights_can_be_switched_off(published):
    source = "torchvision:IMAGENET1K_V1"
    published("googlenet", "IMAGENET1K_V1", False, Variant(transform_input=True))
    for given, is_expected in ((None, True), (True, True), (False, False)):
        weights = Weights(source=source, transform_input=given)
        network = build_with_weights("teacher", "googlenet", 1000, weights)
        assert network.transform_input == is_expected
    published("mnasnet0_75", "IMAGENET1K_V1", True, Variant())
    assert stated_variant("mnasnet0_75", Weights(source=source)) == Variant()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_checkpoint_of_a_network_that_asks_for_its_version(tmp_path):
    """Student, EMA and optimizer; the optimizer's tensors are still the network's."""
    networks = [first_version(build_model("mnasnet0_5", 4)) for _ in range(2)]
    averages = [AveragedModel(network) for network in networks]
    optimizers = [torch.optim.SGD(network.parameters(), 0.1) for network in networks]
    student, ema = cpu_state_dict(networks[0]), cpu_state_dict(averages[0].module)
    ema["layers.0.weight"] += 1
    snapshot = Snapshot(student, ema, optimizers[0].state_dict(), [], Progress())
    save_checkpoint(tmp_path / "checkpoint", "hash", snapshot)
    load_checkpoint(tmp_path / "checkpoint", networks[1], averages[1], optimizers[1])
    for model, expected in ((networks[1], student), (averages[1].module, ema)):
        assert all(torch.equal(t, expected[name]) for name, t in model.state_dict().items())
    held = {id(tensor) for group in optimizers[1].param_groups for tensor in group["params"]}
    assert held == {id(tensor) for tensor in networks[1].parameters()}


def test_transform_of_other_files_is_a_field(tmp_path, quick_init):
    """Nothing in such a file says whether its network was trained with it."""
    path = tmp_path / "weights.pth"
    torch.manual_seed(0)
    torch.save(build_model("googlenet", 4).state_dict(), path)
    for transform in (None, False):
        weights = Weights(source=str(path), transform_input=transform)
        assert stated_variant("googlenet", weights) == Variant()
    weights = Weights(source=str(path), transform_input=True)
    assert build_with_weights("teacher", "googlenet", 4, weights).transform_input
    assert stated_variant("googlenet", weights) == Variant(transform_input=True)
