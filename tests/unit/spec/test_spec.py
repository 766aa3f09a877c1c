"""Specs: defaults, reported problems, and the content hash."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.spec.errors import BadInputError
from service.spec.identity import differing_fields
from service.spec.job import JobSpec
from service.spec.loading import load_spec, parse_spec

ROOT = Path(__file__).parents[3]


def problems_of(content):
    with pytest.raises(BadInputError) as caught:
        parse_spec(content)
    return {problem.where: str(problem) for problem in caught.value.problems}


def test_defaults_are_the_common_recipe(make_content):
    spec = parse_spec(make_content())
    assert spec.optimizer.momentum == 0.9
    assert spec.schedule.decay_factor == 0.1
    assert JobSpec.model_fields["training"].default.global_batch_size == 512
    assert JobSpec.model_fields["schedule"].default.milestones == (30, 60, 90)
    losses = spec.effective_losses()
    assert losses.ce.weight == 1.0
    assert losses.active.keys() == {"ce"}


def test_spec_is_frozen(make_content):
    spec = parse_spec(make_content())
    with pytest.raises(ValidationError):
        spec.seed = 3


@pytest.mark.parametrize(
    ("sections", "where", "word"),
    [
        (
            {"losses": {"ce": {"weight": 0}, "dtkd": {"weight": 0}}},
            "losses",
            "no loss with a positive",
        ),
        ({"losses": {"dtkd": {"weight": 1}}}, "losses.dtkd", "with a teacher, but there is none"),
        (
            {"losses": {"dtkd": {"base_temperature": 0}}},
            "losses.dtkd.base_temperature",
            "greater than 0",
        ),
        ({"optimizer": {"learning_rate": float("nan")}}, "optimizer.learning_rate", "finite"),
        ({"optimizer": {"kind": "adam"}}, "optimizer.kind", "'lars' or 'lamb'"),
        (
            {"optimizer": {"kind": "lars", "momentum": 0, "nesterov": True}},
            "optimizer.nesterov",
            "momentum",
        ),
        ({"optimizer": {"layer_decay": 0.7}}, "optimizer.layer_decay", "vit_*"),
        (
            {"schedule": {"kind": "one_cycle", "warmup_epochs": 1}},
            "schedule.warmup_epochs",
            "rises by itself",
        ),
        ({"optimizer": {"momentum": 0, "nesterov": True}}, "optimizer.nesterov", "momentum"),
        (
            {"training": {"global_batch_size": 65, "micro_batch_size": None}},
            "training.global_batch_size",
            "64 or 66",
        ),
        ({"training": {"micro_batch_size": 24}}, "training.micro_batch_size", "divisor of 64"),
        ({"resources": {"num_workers": 5}}, "resources.num_workers", "4 micro-batches"),
        ({"resources": {"num_workers": [2, 5]}}, "resources.num_workers", "4 micro-batches"),
        ({"resources": {"num_workers": [3, 2]}}, "resources.num_workers", "smaller number first"),
        ({"resources": {"num_workers": [1, 2, 3]}}, "resources.num_workers", "at most 2 entries"),
        ({"resources": {"num_workers": "two"}}, "resources.num_workers", "give an integer"),
        (
            {"resources": {"num_workers": [1, 2]}, "training": {"micro_batch_size": None}},
            "training.micro_batch_size",
            "is a range",
        ),
        ({"training": {"global_batch_size": 512}}, "training.global_batch_size", "256 images"),
        ({"schedule": {"milestones": [2]}}, "schedule.milestones", "2 epochs"),
        ({"schedule": {"milestones": [1, 7]}}, "schedule.milestones", "end at 7 but"),
        ({"schedule": {"warmup_epochs": 2}}, "schedule.warmup_epochs", "shorter"),
        ({"dataset": {"num_classes": 3}}, "dataset.train", "labels 0 to 3"),
        ({"dataset": {"val": "/no/such.beton"}}, "dataset.val", "/no/such.beton"),
        (
            {"augmentation": {"crop": "pad_and_crop", "size": 32}},
            "augmentation.size",
            "has images of 16 pixels; pad_and_crop needs images of exactly that size",
        ),
        ({"augmentation": {"repeats": 5}}, "augmentation.repeats", "divisor"),
        ({"augmentation": {"repeats": 64}}, "augmentation.repeats", "at most half"),
        (
            {"augmentation": {"crop": "random_resized", "scale": [1.0, 0.1]}},
            "augmentation.scale",
            "smaller first",
        ),
        ({"evaluation": {"resize_size": 15}}, "evaluation.crop_size", "more than resize_size"),
        ({"student": {"model": "resnet19"}}, "student.model", "resnet18"),
        ({"student": {"model": "os.system"}}, "student.model", "not a known model"),
        ({"tracking": {"promote": {"alias": "best"}}}, "tracking.promote", "register_as"),
        ({"tracking": {"uri": "file:///x"}}, "tracking.uri", "sqlite"),
        ({"name": "a/b"}, "name", "use 1 to 100 letters, digits"),
        ({"sed": 1}, "sed", "not a field"),
        ({"schema_version": 2}, "schema_version", "1"),
        ({"dataset": {"train": __file__}}, "dataset.train", "not a .beton"),
    ],
)
def test_mistakes_are_named_with_their_field(make_content, sections, where, word):
    problems = problems_of(make_content(**sections))
    assert where in problems
    assert word in problems[where]


@pytest.mark.parametrize(
    ("teacher", "where"),
    [
        ({"num_classes": 7}, "teacher.num_classes"),
        ({"weights": {"source": "/no/such.pth"}}, "teacher.weights.source"),
        ({"weights": {"source": "model.pkl"}}, "teacher.weights.source"),
        ({"weights": {"source": "torchvision:DEFAULT"}}, "teacher.weights.source"),
        ({"weights": {"source": "x.pth", "sha256": "ab"}}, "teacher.weights.sha256"),
        ({"min_top1": 1.5}, "teacher.min_top1"),
    ],
)
def test_mistakes_in_the_teacher(make_content, teacher, where):
    teacher = {"model": "cifar:resnet8", "weights": {"source": "models:/t@x"}, **teacher}
    assert where in problems_of(make_content(teacher=teacher))


def test_all_problems_are_reported_together(make_content):
    problems = problems_of(
        make_content(
            name="",
            student={"model": "nothing"},
            losses={"dtkd": {"weight": -1}},
            training={"global_batch_size": 63, "micro_batch_size": None},
            dataset={"val": "/no/such.beton"},
        )
    )
    assert set(problems) >= {
        "name",
        "student.model",
        "losses.dtkd.weight",
        "training.global_batch_size",
        "dataset.val",
    }


def test_missing_sections_are_named():
    assert set(problems_of({})) == {"name", "dataset", "student", "checkpoints"}


@pytest.mark.parametrize(
    ("text", "word"),
    [('{"name": }', "line 1"), ('{"a": 1, "a": 2}', "twice"), ("[1]", "not an object")],
)
def test_files_that_are_not_specs(tmp_path, text, word):
    path = tmp_path / "spec.json"
    path.write_text(text)
    with pytest.raises(BadInputError, match=word):
        load_spec(path)


def test_hash_depends_on_content_alone(make_content):
    content = make_content()
    reordered = dict(reversed(list(content.items())))
    explicit = {**content, "seed": 0, "schema_version": 1}
    changed = {**content, "seed": 1}
    hashes = [parse_spec(c).content_hash() for c in (content, reordered, explicit, changed)]
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3]
    assert len(hashes[0]) == 64


def test_differing_fields_are_paths(make_content):
    old = parse_spec(make_content())
    new = parse_spec(make_content(seed=1, optimizer={"learning_rate": 0.2}))
    assert differing_fields(old, new) == ["seed", "optimizer.learning_rate"]
    assert differing_fields(old, old) == []


def test_every_field_of_the_schema_is_described():
    schema = JobSpec.model_json_schema()
    for section in schema["$defs"].values():
        for name, field in section.get("properties", {}).items():
            others = [one["$ref"] for one in [field, *field.get("anyOf", ())] if "$ref" in one]
            described = [schema["$defs"][each.rpartition("/")[2]] for each in others]
            assert "description" in field or "const" in field or described, name
            assert all(each["description"] for each in described), name


def test_validate_needs_neither_torch_nor_ray(write_spec):
    code = (
        "import sys; from jobs.distill import main; status = main(sys.argv[1:]); "
        "assert not {'torch', 'ray', 'mlflow'} & set(sys.modules); sys.exit(status)"
    )
    start_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, str(write_spec()), "--validate"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "valid, run run" in done.stdout
    # It takes less than 2 s on an idle machine; a loaded machine is slower.
    assert time.monotonic() - start_s < 10


def test_bad_spec_exits_with_2_and_no_traceback(write_spec):
    done = subprocess.run(
        [sys.executable, "jobs/distill.py", str(write_spec(seed=-1)), "--validate"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "seed: is -1" in done.stderr
    assert "Traceback" not in done.stderr
