"""A model is found by each kind of source, with its weights and how its images are prepared."""

import argparse
import hashlib

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from support.finished_runs import write_finished_run
from timm.data import create_transform
from torchvision.models import (
    ResNet18_Weights,
    ResNet50_Weights,
    SqueezeNet1_1_Weights,
    resnet18,
    squeezenet1_1,
)

from service.evaluate.options import ModelOptions, add_model_options, model_options
from service.evaluate.preprocessing import published
from service.evaluate.source import find_model
from service.models.build import build_model
from service.run.folder import STUDENT_NAME
from service.run.student_card import student_card, write_classes, write_with_card
from service.spec.errors import BadInputError

SIZES = {"resize": 36, "crop": 32, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}


@pytest.fixture
def find(tmp_path):
    """A function that finds a model; keyword arguments are options."""

    def of(source, **options):
        return find_model(str(source), ModelOptions(**options), None, tmp_path)

    return of


@pytest.fixture
def run(make_content):
    """The spec of a finished run with random weights and named classes."""
    spec = write_finished_run(make_content(evaluation={"resize_size": 20, "crop_size": 16}))
    write_classes(spec.run_path, ("n01440764", "dog", "cow", "hen"))
    return spec


@pytest.fixture
def foreign(tmp_path):
    """A file of weights that says nothing about itself, and its network."""
    torch.manual_seed(5)
    network = build_model("cifar:resnet8", 7).eval()
    save_file(network.state_dict(), tmp_path / "foreign.safetensors")
    return tmp_path / "foreign.safetensors", network


def assert_same_logits(found, network, size):
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(found.network(images), network(images))


def refusals(call):
    with pytest.raises(BadInputError) as error:
        call()
    return [str(problem) for problem in error.value.problems]


def test_a_run_says_everything_itself(find, run):
    found = find(run.run_path)
    network = build_model("cifar:tiny_cnn", 4).eval()
    network.load_state_dict(load_file(run.run_path / STUDENT_NAME))
    assert_same_logits(found, network, 16)
    assert found.classes == ("n01440764", "dog", "cow", "hen")
    assert found.class_names == ("tench", "dog", "cow", "hen")
    assert found.preprocessing == (20, 16, run.dataset.normalization)
    assert found.origin == "run run (last step)"
    assert not found.network.training


def test_options_replace_what_a_run_says(find, run):
    found = find(run.run_path, crop=20, mean=(0.0, 0.5, 1.0))
    assert found.preprocessing[:2] == (20, 20)
    assert found.preprocessing.normalization.mean == (0.0, 0.5, 1.0)
    assert found.preprocessing.normalization.std == run.dataset.normalization.std
    assert found.preprocessing_origin == "the run's spec but for --crop, --mean"


def test_an_unfinished_or_damaged_run_is_refused(find, run):
    (run.run_path / STUDENT_NAME).write_bytes(b"\x20\0\0\0\0\0\0\0{}")
    (only,) = refusals(lambda: find(run.run_path))
    assert only.startswith("MODEL: ")
    (run.run_path / STUDENT_NAME).unlink()
    assert "damaged: it has no student.safetensors" in refusals(lambda: find(run.run_path))[0]
    (run.run_path / "result.json").unlink()
    assert "has not finished; submit its spec again" in refusals(lambda: find(run.run_path))[0]
    assert "has no run in it" in refusals(lambda: find(run.run_path.parent))[0]


def test_a_students_file_says_everything_itself(find, run, tmp_path):
    weights_path = run.run_path / STUDENT_NAME
    card = student_card(run, ("a", "b", "c", "d"), weights_path)
    write_with_card(weights_path, tmp_path / "own.safetensors", card)
    found = find(tmp_path / "own.safetensors")
    assert_same_logits(found, find(run.run_path).network, 16)
    assert found.architecture == "cifar:tiny_cnn"
    assert found.classes == ("a", "b", "c", "d")
    assert found.preprocessing == (20, 16, run.dataset.normalization)
    wrong = refusals(lambda: find(tmp_path / "own.safetensors", architecture="resnet18"))
    assert wrong == [
        "--architecture: is resnet18, but own.safetensors is of cifar:tiny_cnn; remove it"
    ]


def test_a_foreign_file_needs_what_it_does_not_say(find, foreign):
    path, network = foreign
    assert "--architecture: is absent" in refusals(lambda: find(path))[0]
    missing = refusals(lambda: find(path, architecture="cifar:resnet8"))
    assert [text.split(":")[0] for text in missing] == ["--resize", "--crop", "--mean", "--std"]
    found = find(path, architecture="cifar:resnet8", **SIZES)
    assert_same_logits(found, network, 32)
    assert found.num_classes == 7
    assert found.classes is None
    assert found.preprocessing.normalization.std == (0.4, 0.5, 0.6)


def test_wrong_options_are_refused_by_their_names(find, foreign):
    path, _ = foreign
    options = {"architecture": "cifar:resnet8", **SIZES}
    assert "has 7 classes" in refusals(lambda: find(path, **options, num_classes=9))[0]
    assert refusals(lambda: find(path, **{**options, "crop": 37}))[0].startswith("--crop: is 37")
    assert refusals(lambda: find(path, **options, key="ema"))[0].startswith("--key: is 'ema'")
    other = refusals(lambda: find(path, **{**options, "architecture": "cifar:resnet20"}))
    assert other[0].startswith("MODEL: ")
    assert "did you mean resnet1" in refusals(lambda: find("resnet19"))[0]
    assert "torchvision publishes none" in refusals(lambda: find("cifar:resnet8"))[0]
    assert "no server is given" in refusals(lambda: find("models:/r18@champion"))[0]


def test_a_name_of_torchvision_has_its_published_preprocessing(find, tmp_path):
    """As the enum's own transforms state it; ImageNet's classes are known."""
    torch.manual_seed(2)
    network = resnet18().eval()
    torch.save(network.state_dict(), tmp_path / "r18.pth")
    found = find("resnet18", weights=str(tmp_path / "r18.pth"))
    assert_same_logits(found, network, 64)
    transforms = ResNet18_Weights.DEFAULT.transforms()
    assert found.preprocessing[:2] == (transforms.resize_size[0], transforms.crop_size[0])
    assert found.preprocessing.normalization.mean == tuple(transforms.mean)
    assert found.classes[:2] == ("n01440764", "n01443537")
    assert found.class_names[0] == ResNet18_Weights.DEFAULT.meta["categories"][0]


def test_a_name_alone_means_the_published_weights(find, tmp_path, monkeypatch):
    """As torch.hub keeps them; unknown ones, and options about tensors, are refused."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    enum = SqueezeNet1_1_Weights.DEFAULT
    path = tmp_path / "hub" / "checkpoints" / enum.url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    torch.manual_seed(2)
    network = squeezenet1_1().eval()
    torch.save(network.state_dict(), path)
    for options in ({}, {"weights": f"torchvision:{enum.name}"}):
        found = find("squeezenet1_1", **options)
        assert_same_logits(found, network, 64)
        assert found.preprocessing.crop_size == enum.transforms().crop_size[0]
        assert found.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    unknown = refusals(lambda: find("squeezenet1_1", weights="torchvision:IMAGENET1K_V9"))
    assert unknown[0].startswith("--weights: is 'torchvision:IMAGENET1K_V9', but squeezenet1_1 has")
    needless = refusals(lambda: find("squeezenet1_1", match="order"))
    assert needless == ["--match: is set, but MODEL is the published squeezenet1_1; remove it"]


def test_remedies_name_options(find, tmp_path, monkeypatch):
    torch.manual_seed(2)
    weights = {f"x.{name.replace('conv', 'c')}": x for name, x in resnet18().state_dict().items()}
    torch.save(weights, tmp_path / "r.pth")
    (text,) = refusals(lambda: find("resnet18", weights=str(tmp_path / "r.pth")))
    assert text.startswith("--weights: ")
    assert "or give --rename OLD=NEW for the parts of names that differ, or --match order" in text
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def unreachable(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    (text,) = refusals(lambda: find("squeezenet1_1"))
    assert text.endswith("cannot be downloaded (no route); give --weights FILE")


def test_published_weights_are_told_by_their_digest():
    """ResNet-50's second version is evaluated at another size than its first."""
    for enum in ResNet50_Weights:
        digest = enum.url.rpartition("-")[2].removesuffix(".pth") + 56 * "0"
        stated = published("resnet50", 1000, "any.pth", digest)
        assert stated.preprocessing.resize_size == enum.transforms().resize_size[0]
        assert stated.origin == f"torchvision's {enum.name}"
    assert published("resnet50", 10, "any.pth", digest) is None


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet50", "vit_tiny_patch16_224"])
def test_a_name_of_timm_has_its_own_preprocessing(name):
    model = timm.create_model(name)
    config = timm.data.resolve_model_data_config(model, use_test_size=True)
    stated = published(f"timm:{name}", 1000, "any.pth", "")
    resize, crop, *_ = create_transform(**config).transforms
    assert stated.preprocessing[:2] == (resize.size, crop.size[0])
    assert stated.preprocessing.normalization.mean == config["mean"]
    assert stated.interpolation == config["interpolation"]


def test_options_of_a_teacher_have_its_prefix():
    parser = argparse.ArgumentParser()
    add_model_options(parser, "MODEL")
    add_model_options(parser, "--teacher", "--teacher-")
    given = ["--crop", "32", "--teacher-std", "1", ".5", ".25", "--teacher-rename", "a.b=c"]
    namespace = parser.parse_args(given)
    own, teacher = (
        model_options(namespace, "MODEL"),
        model_options(namespace, "--teacher", "--teacher-"),
    )
    assert own == ModelOptions(crop=32)
    assert teacher.std == (1.0, 0.5, 0.25)
    assert teacher.rename == (("a.b", "c"),)
    assert teacher.where("num_classes") == "--teacher-num-classes"


@pytest.mark.parametrize("given", [["--crop", "7"], ["--std", "0", "1", "1"], ["--rename", "a"]])
def test_options_out_of_range_are_refused(given, capsys):
    parser = argparse.ArgumentParser()
    add_model_options(parser, "MODEL")
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(given)
    assert f"argument {given[0]}: is " in capsys.readouterr().err
