"""The catalog of published settings: each recipe is a valid spec of networks that exist."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from data_pipeline.encode import encoded
from data_pipeline.writer import BetonWriter
from jobs.distill import main
from service.models.build import build_model
from service.spec.errors import BadInputError
from service.spec.loading import parse_spec
from service.spec.recipes import RECIPES, Files, recipe_spec, unknown_recipe
from service.spec.recipes.pairs import CIFAR100_PAIRS, COMMON_PAIRS, IMAGENET_PAIRS, PAIRS
from service.spec.recipes.results import TOP1
from service.spec.template import format_spec

R8X4 = "cifar100/resnet32x4-resnet8x4"
R20 = "cifar100/resnet56-resnet20"
R18 = "imagenet/resnet34-resnet18"
MV1 = "imagenet/resnet50-mobilenet_v1"
SIDE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """cifar100.beton and imagenet.beton, with one image of each class, and teacher.safetensors."""
    folder = tmp_path_factory.mktemp("recipes")
    image = encoded(1, SIDE, SIDE, np.full((SIDE, SIDE, 3), 90, np.uint8).tobytes())
    for name, num_classes in (("cifar100", 100), ("imagenet", 1000)):
        with BetonWriter(folder / f"{name}.beton", num_classes, page_size=1 << 16) as writer:
            for label in range(num_classes):
                writer.append(image, label)
    save_file({"fc.weight": torch.zeros(100, 1)}, folder / "teacher.safetensors")
    return folder


def spec_of(name, folder):
    """The spec of a recipe, from the text that is printed."""
    recipe = RECIPES[name]
    data = str(folder / f"{recipe.pair.benchmark.name}.beton")
    needs_file = recipe.has_teacher and recipe.pair.weights is None
    weights = str(folder / "teacher.safetensors") if needs_file else None
    spec = recipe_spec(recipe, Files(data, data, weights, folder / "runs"))
    printed = json.loads(format_spec(spec))
    return spec, parse_spec(printed)


@pytest.mark.parametrize("name", [pair.name for pair in PAIRS])
def test_every_recipe_is_a_valid_spec(name, folder):
    recipes = [known for known in RECIPES if known.startswith(f"{name}/")]
    assert recipes
    for known in recipes:
        spec, parsed = spec_of(known, folder)
        recipe = RECIPES[known]
        assert parsed == spec, known
        assert spec.name == known.replace("/", "-")
        assert spec.student.model == recipe.pair.student
        assert spec.losses.needs_teacher == recipe.has_teacher == (spec.teacher is not None)
        # Given as published: never the default, which is DTKD's.
        assert spec.losses.warmup_epochs is not None


@pytest.mark.parametrize(
    ("model", "num_classes"),
    sorted({(m, p.benchmark.num_classes) for p in PAIRS for m in (p.teacher, p.student)}),
)
def test_networks_of_the_pairs_exist(model, num_classes):
    with torch.device("meta"):
        network = build_model(model, num_classes)

    assert list(network.parameters())[-1].shape[0] == num_classes


def test_each_pair_has_the_methods_whose_settings_are_published():
    methods = {pair.name: set() for pair in PAIRS}
    for recipe in RECIPES.values():
        methods[recipe.pair.name].add(recipe.method.name)

    assert all({"none", "kd"} <= methods[pair.name] for pair in PAIRS)
    assert all({"dtkd", "dkd", "gkl", "mlkd", "normkd"} <= methods[p.name] for p in COMMON_PAIRS)
    assert all({"dkd", "ctkd"} <= methods[pair.name] for pair in CIFAR100_PAIRS)
    common = {"dkd", "mlkd", "nkd", "dist", "wttm", "rld", "gkl", "wkd", "normkd", "dtkd", "ls"}
    assert all(common <= methods[pair.name] for pair in IMAGENET_PAIRS)
    assert len(COMMON_PAIRS) == 11
    assert len(IMAGENET_PAIRS) == 2


# From the authors' public configurations and papers, see the recipes' sources.
LITERALS = [
    (f"{R8X4}/dkd", "dkd.beta", 8),
    (f"{R20}/dkd", "dkd.beta", 2),
    (f"{R20}/dkd", "warmup_epochs", 20),
    (f"{R8X4}/kd", "kd.weight", 0.9),
    (f"{R8X4}/kd", "ce.weight", 0.1),
    (f"{R8X4}/kd", "warmup_epochs", 0),
    (f"{R8X4}/dtkd", "dtkd.weight", 3),
    (f"{R20}/dtkd", "dtkd.weight", 1),
    (f"{R20}/dtkd", "kd.weight", 0.5),
    ("cifar100/resnet50-mobilenet_v2/dtkd-norm", "kd.weight", 2),
    ("cifar100/wrn_40_2-shufflenet_v1/dtkd-logsumexp", "dtkd.weight", 2),
    (f"{R8X4}/gkl", "gkl.alpha", 1),
    (f"{R8X4}/gkl", "gkl.beta", 16),
    (f"{R8X4}/gkl", "gkl.gamma", 0.05),
    (f"{R8X4}/ls", "ls.weight", 9),
    ("cifar100/vgg13-vgg8/ls", "ls.temperature", 3),
    (f"{R20}/dkd-ls", "dkd.weight", 18),
    ("cifar100/vgg13-vgg8/ttm", "ttm.temperature", 10),
    (f"{R8X4}/wkd", "wkd.gamma", 600),
    (f"{R20}/crld", "crld.within", 0.5),
    (f"{R20}/abkd", "abkd.weight", 32),
    (f"{R8X4}/ldrld", "ldrld.alpha", 10.5),
    (f"{R8X4}/ea-kd", "entropy_weights.temperature", 3),
    (f"{R18}/kd", "kd.temperature", 1),
    (f"{R18}/dkd", "dkd.beta", 0.5),
    (f"{MV1}/dkd", "dkd.beta", 2),
    (f"{MV1}/dkd", "warmup_epochs", 1),
    (f"{MV1}/gkl", "gkl.alpha", 4),
    (f"{MV1}/gkl", "warmup_epochs", 5),
    (f"{R18}/wttm", "wttm.temperature", 1.25),
    (f"{MV1}/wttm", "wttm.weight", 3.5),
    (f"{R18}/crld", "ce.weight", 2),
    (f"{R18}/ctkd", "ctkd.ramp_epochs", 5),
]


@pytest.mark.parametrize(("name", "path", "published"), LITERALS)
def test_losses_are_the_published_ones(name, path, published):
    value = RECIPES[name].settings.losses
    for part in path.split("."):
        value = value[part]

    assert value == published


@pytest.mark.parametrize(
    ("name", "batch_size", "rate", "num_epochs", "milestones"),
    [
        (f"{R8X4}/kd", 64, 0.05, 240, (150, 180, 210)),
        ("cifar100/resnet32x4-shufflenet_v2/dkd", 64, 0.01, 240, (150, 180, 210)),
        ("cifar100/vgg13-mobilenet_v2/none", 64, 0.01, 240, (150, 180, 210)),
        (f"{R8X4}/mlkd", 64, 0.025, 240, (150, 180, 210)),
        ("cifar100/resnet32x4-shufflenet_v1/mlkd", 64, 0.01, 960, (150, 180, 210)),
        (f"{R8X4}/mlkd-ls", 64, 0.025, 480, (150, 180, 210)),
        (f"{R18}/dkd", 512, 0.2, 100, (30, 60, 90)),
        (f"{R18}/mlkd", 512, 0.1, 100, (30, 60, 90)),
        (f"{MV1}/nkd", 256, 0.1, 100, (30, 60, 90)),
        (f"{R18}/ctkd", 256, 0.1, 120, (30, 60, 90)),
    ],
)
def test_schedules_are_the_published_ones(name, batch_size, rate, num_epochs, milestones, folder):
    content = RECIPES[name].content()

    assert content["training"]["global_batch_size"] == batch_size
    assert content["optimizer"]["learning_rate"] == rate
    assert content["schedule"] == {"num_epochs": num_epochs, "milestones": list(milestones)}


def test_imagenet_takes_published_teachers_and_cifar_a_file(folder):
    spec, _ = spec_of(f"{R18}/dkd", folder)
    assert spec.teacher.weights.source == "torchvision:IMAGENET1K_V1"
    assert spec.teacher.min_top1 == 0.7

    data = str(folder / "imagenet.beton")
    save_file({"fc.weight": torch.zeros(1000, 1)}, folder / "own.safetensors")
    own = Files(data, data, str(folder / "own.safetensors"), folder / "runs", "own")
    spec = recipe_spec(RECIPES[f"{R18}/dkd"], own)
    assert spec.name == "own"
    assert spec.teacher.min_top1 is None


def test_accuracies_are_of_recipes():
    assert TOP1.keys() <= RECIPES.keys()
    assert RECIPES[f"{R8X4}/dkd"].top1 == 76.32
    assert RECIPES[f"{MV1}/wkd"].top1 == 73.17


def test_another_dataset_is_refused(folder):
    data = str(folder / "imagenet.beton")
    with pytest.raises(BadInputError, match="has 1000 classes, cifar100 has 100"):
        recipe_spec(RECIPES[f"{R8X4}/none"], Files(data, data, None, folder / "runs"))


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        (f"{R8X4}/dkdd", f"{R8X4}/dkd"),
        (f"{R8X4}", f"{R8X4}/"),
        ("cifar100/resnet56-resnet200/kd", f"{R20}/kd"),
        ("imagenet/resnet34-resnet18/ttm", f"{R18}/wttm"),
        ("no such thing", "--recipes lists all"),
    ],
)
def test_an_unknown_recipe_gets_the_nearest_names(name, suggested):
    assert suggested in str(unknown_recipe(name))


def run(capsys, *arguments):
    """Exit status and output of distill.py."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        status = exit_.code
    return status, capsys.readouterr()


def test_a_recipe_is_printed_as_a_spec(capsys, folder):
    data = folder / "cifar100.beton"
    files = ["--train", data, "--val", data, "--weights", folder / "teacher.safetensors"]
    options = ["--storage", folder / "runs", "--name", "mine"]
    status, output = run(capsys, "--new", "--recipe", f"{R8X4}/dkd", *files, *options)

    spec = parse_spec(json.loads(output.out))
    assert (status, output.err) == (0, "")
    assert (spec.name, spec.losses.dkd.beta) == ("mine", 8)
    assert spec.checkpoints.storage_path == folder / "runs"


def test_recipes_are_listed_with_a_line_each(capsys):
    status, output = run(capsys, "--recipes")

    header, *lines = output.out.splitlines()
    assert status == 0
    assert header.split()[:2] == ["recipe", "top-1"]
    assert [line.split()[0] for line in lines] == list(RECIPES)
    (line,) = (each for each in lines if each.startswith(f"{R8X4}/dkd "))
    assert "76.32  arXiv 2203.08679" in line


def test_an_unknown_recipe_is_one_line(capsys):
    status, output = run(capsys, "--new", "--recipe", f"{R8X4}/dkdd", "--train", "a", "--val", "b")

    assert status == 2
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    assert f"did you mean {R8X4}/dkd or" in output.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--new", "--recipe", f"{R8X4}/kd"], "--recipe needs --train, --val"),
        (
            ["--new", "--recipe", f"{R8X4}/kd", "--student", "resnet18"],
            "--recipe has its own student; leave out --student",
        ),
        (
            ["--new", "--recipe", f"{R8X4}/kd", "--teacher", "resnet18", "--train", "a"],
            "--recipe has its own teacher; leave out --teacher",
        ),
        (
            ["--new", "--recipe", f"{R8X4}/kd", "--train", "a", "--val", "b"],
            f"--recipe {R8X4}/kd needs --weights, those of a trained resnet32x4",
        ),
        (
            [
                "--new",
                "--recipe",
                f"{R8X4}/none",
                *("--train", "a", "--val", "b", "--weights", "w"),
            ],
            f"--weights is of a teacher, but {R8X4}/none has none",
        ),
        (["spec.json", "--recipe", f"{R8X4}/kd"], "--recipe goes with --new"),
        (["spec.json", "--new", "--recipe", f"{R8X4}/kd"], "--new prints a spec and reads none"),
    ],
)
def test_options_that_do_not_fit_a_recipe_are_refused(arguments, message, capsys):
    status, output = run(capsys, *arguments)

    assert status == 2
    assert message in output.err.splitlines()[-1]
