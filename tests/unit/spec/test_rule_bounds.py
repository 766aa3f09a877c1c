"""Each rule of a spec at its bound: what is just allowed, and what is just not."""

import pytest

from service.spec.errors import BadInputError
from service.spec.loading import parse_spec


def problems_of(content):
    try:
        parse_spec(content)
    except BadInputError as error:
        return {problem.where for problem in error.problems}
    return set()


STAGES = [{"from_epoch": 1, "size": 24}]
RESIZED = {"crop": "random_resized", "size": 16}
MIXUP = {"mixup_alpha": 0.2}
BOTH = {"ce": {"views": "both"}}
ERASED = {"rand_augment": None, "erasing": {}}
JITTERED = {"rand_augment": None, "color_jitter": {}}


@pytest.mark.parametrize(
    ("sections", "where"),
    [
        ({"schedule": {"num_epochs": 4, "milestones": [1, 3]}}, None),
        ({"schedule": {"num_epochs": 4, "milestones": [1, 4]}}, "schedule.milestones"),
        ({"schedule": {"num_epochs": 4, "milestones": [2, 1]}}, "schedule.milestones"),
        ({"schedule": {"num_epochs": 4, "milestones": [1, 1]}}, "schedule.milestones"),
        ({"schedule": {"num_epochs": 4, "milestones": []}}, None),
        (
            {"schedule": {"kind": "cosine", "num_epochs": 4, "milestones": [9]}},
            "schedule.milestones",
        ),
        ({"schedule": {"num_epochs": 4, "milestones": [], "warmup_epochs": 3.9}}, None),
        (
            {"schedule": {"num_epochs": 4, "milestones": [], "warmup_epochs": 4}},
            "schedule.warmup_epochs",
        ),
        ({"optimizer": {"momentum": 0.1, "nesterov": True}}, None),
        ({"optimizer": {"momentum": 0, "nesterov": False}}, None),
        ({"optimizer": {"kind": "adamw"}}, None),
        ({"resources": {"num_workers": 4}}, None),
        ({"resources": {"num_workers": [2, 2]}}, None),
        ({"resources": {"num_workers": [4, 4]}}, None),
        ({"resources": {"num_workers": 4}, "training": {"micro_batch_size": None}}, None),
        ({"training": {"micro_batch_size": 64}, "resources": {"num_workers": 1}}, None),
        ({"training": {"global_batch_size": 256, "micro_batch_size": 64}}, None),
        (
            {"training": {"global_batch_size": 64, "micro_batch_size": 64}},
            "resources.num_workers",
        ),
        ({"augmentation": {**RESIZED, "scale": [0.5, 0.5], "ratio": [1.0, 1.0]}}, None),
        ({"augmentation": {**RESIZED, "ratio": [1.0, 0.9]}}, "augmentation.ratio"),
        ({"augmentation": {"erasing": {"scale": [0.3, 0.2]}}}, "augmentation.erasing.scale"),
        ({"augmentation": {"erasing": {"ratio": [0.3, 0.2]}}}, "augmentation.erasing.ratio"),
        ({"augmentation": {"erasing": {}}}, None),
        ({"augmentation": {"strong": {}}, "losses": BOTH}, None),
        ({"augmentation": {"strong": ERASED}, "losses": BOTH}, None),
        ({"augmentation": {"strong": JITTERED}, "losses": BOTH}, None),
        (
            {"augmentation": {"strong": {"rand_augment": None}}, "losses": BOTH},
            "augmentation.strong",
        ),
        (
            {"augmentation": {"strong": {"erasing": {"ratio": [0.3, 0.2]}}}, "losses": BOTH},
            "augmentation.strong.erasing.ratio",
        ),
        ({"augmentation": {**RESIZED, "size_stages": STAGES}}, None),
        ({"augmentation": {"size_stages": STAGES}}, "augmentation.size_stages"),
        (
            {"augmentation": {**RESIZED, "size_stages": [{"from_epoch": 2, "size": 24}]}},
            "augmentation.size_stages",
        ),
        (
            {"augmentation": {**RESIZED, "size_stages": [*STAGES, *STAGES]}},
            "augmentation.size_stages",
        ),
        ({"augmentation": {"mixing": {}}}, "augmentation.mixing"),
        ({"augmentation": {"mixing": MIXUP}}, None),
        ({"augmentation": {"mixing": {"cutmix_alpha": 1.0}}}, None),
        (
            {
                "augmentation": {"mixing": MIXUP},
                "training": {"global_batch_size": 60, "micro_batch_size": 15},
            },
            "augmentation.mixing",
        ),
        ({"training": {"global_batch_size": 60, "micro_batch_size": 15}}, None),
        (
            {
                "augmentation": {"mixing": MIXUP},
                "training": {"global_batch_size": 62, "micro_batch_size": None},
            },
            "augmentation.mixing",
        ),
        (
            {
                "augmentation": {"mixing": MIXUP},
                "training": {"global_batch_size": 64, "micro_batch_size": None},
            },
            None,
        ),
        ({"evaluation": {"resize_size": 16, "crop_size": 16}}, None),
        ({"evaluation": {"resize_size": 16, "crop_size": 17}}, "evaluation.crop_size"),
        ({"tracking": {"register_as": "m", "promote": {"alias": "best"}}}, None),
        ({"tracking": {"register_as": "m"}}, None),
        ({"tracking": {"uri": "https://mlflow.example"}}, None),
        ({"tracking": {"uri": "ftp://mlflow.example"}}, "tracking.uri"),
        ({"tracking": {"experiment": ""}}, "tracking.experiment"),
        ({"tracking": {"register_as": "a/b"}}, "tracking.register_as"),
        (
            {"tracking": {"register_as": "m", "promote": {"alias": "latest"}}},
            "tracking.promote.alias",
        ),
        ({"losses": {"ce": {}, "dtkd": {"weight": 0}, "kd": {"weight": 0}}}, None),
        ({"losses": {"ce": {"weight": 0}, "kd": {"weight": 0.1}}}, "losses.kd"),
    ],
)
def test_rules_at_their_bounds(make_content, sections, where):
    assert problems_of(make_content(**sections)) == ({where} if where else set())


@pytest.mark.parametrize(
    ("weights", "where"),
    [
        ({"dtkd": 1, "kd": 0, "ce": 0}, None),
        ({"dtkd": 0, "kd": 1, "ce": 0}, None),
        ({"dtkd": 0, "kd": 0, "ce": 1}, None),
        ({"dtkd": 0, "kd": 0, "ce": 0}, "losses"),
    ],
)
def test_one_loss_has_a_weight(make_content, teacher, weights, where):
    losses = {name: {"weight": weight} for name, weight in weights.items()}
    assert problems_of(make_content(teacher=teacher, losses=losses)) == (
        {where} if where else set()
    )


@pytest.mark.parametrize(("num_classes", "is_right"), [(4, True), (5, False), (None, True)])
def test_classes_of_the_teacher_are_those_of_the_dataset(
    make_content, teacher, num_classes, is_right
):
    content = make_content(teacher={**teacher, "num_classes": num_classes})
    assert problems_of(content) == (set() if is_right else {"teacher.num_classes"})


@pytest.mark.parametrize("name", ["dataset", "schedule", "augmentation", "training", "resources"])
def test_an_invalid_section_hides_no_other_problem(make_content, teacher, name):
    content = make_content(teacher=teacher, evaluation={"resize_size": 16, "crop_size": 17})
    content["student"] = {"model": "resnet19"}
    content[name] = {**content[name], "no_such_field": 1}
    wheres = problems_of(content)
    assert {f"{name}.no_such_field", "evaluation.crop_size", "student.model"} <= wheres
    assert not any(where.startswith("teacher") for where in wheres)


def test_storage_must_be_a_folder_that_can_be_written(make_content, tmp_path):
    file = tmp_path / "file"
    file.touch()
    for path, is_right in ((tmp_path, True), (tmp_path / "new" / "er", True), (file, False)):
        content = make_content(checkpoints={"storage_path": str(path)})
        assert problems_of(content) == (set() if is_right else {"checkpoints.storage_path"})
    content = make_content(checkpoints={"storage_path": str(file / "below")})
    assert problems_of(content) == {"checkpoints.storage_path"}
