"""The spec that --new prints for a user's data, and the reference of its fields."""

import json

import pytest
from support.image_makers import converted, write_folder

from jobs.distill import main
from service.compare.spec import CompareSpec
from service.spec.job import JobSpec
from service.spec.loading import parse_spec
from service.spec.reference import fields_of, format_fields, json_schema
from service.sweep.spec import SweepSpec


def new(capsys, *arguments):
    status = main(["--new", *map(str, arguments)])
    return status, capsys.readouterr()


@pytest.fixture
def photos(tmp_path):
    """A dataset of two classes with images of several sizes, with its manifest."""
    path = tmp_path / "photos.beton"
    converted(write_folder(tmp_path / "photos"), path)
    return path


def test_new_spec_for_small_images_is_valid_and_complete(capsys, data_folder, tmp_path):
    train, val = data_folder / "train.beton", data_folder / "val.beton"
    status, output = new(
        capsys, "--train", train, "--val", val, "--student", "cifar:tiny_cnn", "--storage", tmp_path
    )

    content = json.loads(output.out)
    spec = parse_spec(content)
    assert status == 0
    assert spec.dataset.num_classes == 4
    assert (spec.augmentation.crop, spec.augmentation.size) == ("pad_and_crop", 16)
    assert spec.training.global_batch_size * 10 <= 256
    # Every section is written, and every field that has a value.
    assert set(content) >= {"seed", "augmentation", "optimizer", "schedule", "resources"}
    # Left out, so that num_epochs can be changed alone.
    assert "milestones" not in content["schedule"]
    assert spec.schedule.milestones == (30, 60, 90)


def test_new_spec_takes_classes_and_normalization_from_the_manifest(capsys, photos, tmp_path):
    status, output = new(
        capsys, "--train", photos, "--val", photos, "--student", "resnet18", "--storage", tmp_path
    )

    manifest = json.loads((photos.parent / f"{photos.name}.json").read_text())
    content = json.loads(output.out)
    assert status == 0
    assert content["dataset"]["num_classes"] == len(manifest["classes"])
    assert content["dataset"]["normalization"]["mean"] == manifest["pixels"]["mean"]
    assert content["dataset"]["normalization"]["std"] == manifest["pixels"]["std"]


def test_new_spec_with_a_teacher_distills_from_it(capsys, data_folder, teacher, tmp_path):
    train = data_folder / "train.beton"
    models = ["--student", "cifar:tiny_cnn", "--teacher", teacher["model"]]
    weights = ["--weights", teacher["weights"]["source"], "--storage", tmp_path]
    status, output = new(capsys, "--train", train, "--val", train, *models, *weights)

    spec = parse_spec(json.loads(output.out))
    assert status == 0
    assert spec.name == "tiny_cnn-from-resnet8"
    assert spec.losses.dtkd.weight == 3.0


def test_new_spec_of_missing_data_names_the_option(capsys, tmp_path):
    missing = tmp_path / "no.beton"
    status, output = new(capsys, "--train", missing, "--val", missing, "--student", "resnet18")

    assert status == 2
    assert "--train" in output.err
    assert str(missing) in output.err
    assert output.out == ""


def test_new_spec_needs_its_options(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--new", "--train", "t.beton"])

    assert caught.value.code == 2
    assert "--val, --student" in capsys.readouterr().err


@pytest.mark.parametrize("model", [JobSpec, SweepSpec, CompareSpec])
def test_every_field_is_described(model):
    entries = {entry.path: entry for entry in fields_of(model)}

    assert all(entry.description for entry in entries.values())
    assert len(entries) == len(list(fields_of(model)))


def test_reference_shows_defaults_and_alternatives():
    entries = {entry.path: entry.default for entry in fields_of(JobSpec)}

    assert entries["name"] == "required"
    assert entries["schedule.num_epochs"] == "100"
    assert entries["optimizer[sgd].learning_rate"] == "0.2"
    assert entries["optimizer[adamw].weight_decay"] == "0.05"
    assert entries["augmentation.size_stages[].size"] == "required"


@pytest.mark.parametrize("model", [JobSpec, SweepSpec, CompareSpec])
def test_reference_is_a_table_with_defaults_and_units(model):
    header, rule, *lines = format_fields(model).splitlines()

    starts = [0] + [at + 2 for at in range(len(rule) - 1) if rule[at : at + 2] == "  "]
    assert [header[start:].split()[0] for start in starts] == [
        "field",
        "default",
        "unit",
        "meaning",
    ]
    assert max(map(len, lines)) <= len(rule)
    # Of each field, the cells are on the line of its name and on those that follow.
    cells = [
        [line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
        for line in lines
    ]
    words = " ".join(cell for row in cells for cell in row)
    for entry in fields_of(model):
        assert entry.path.rpartition(".")[2] in words
    for row in cells:
        if row[0].endswith(("_s", "_bytes")):
            assert row[2] == row[0].rpartition("_")[2]


def test_reference_of_a_sweep_does_not_repeat_the_jobs_fields():
    paths = {entry.path for entry in fields_of(SweepSpec)}

    assert {"base", "space.<key>.log", "held_out.num_images"} <= paths
    assert not any(path.startswith("base.") for path in paths)


def test_schema_is_json_with_descriptions():
    schema = json.loads(json_schema(JobSpec))

    assert schema["properties"]["name"]["description"]
    assert {"Losses", "Dtkd", "Kd"} <= schema["$defs"].keys()


@pytest.mark.parametrize("arguments", [["spec.json", "--new"], ["spec.json", "--name", "other"]])
def test_options_that_do_not_apply_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    assert "--new" in capsys.readouterr().err
