"""A spec is checked against its datasets before anything starts."""

import json

import pytest
from support.image_makers import converted, write_folder

from data_pipeline.beton import open_beton
from data_pipeline.manifest import manifest_path
from service.spec.errors import BadInputError
from service.spec.loading import parse_spec


def problems_of(content):
    with pytest.raises(BadInputError) as caught:
        parse_spec(content)
    return {problem.where: str(problem) for problem in caught.value.problems}


@pytest.fixture
def make_image_content(make_content, tmp_path):
    """A spec over converted JPEGs of 4 classes; sections as for make_content."""
    for split in ("train", "val"):
        converted(write_folder(tmp_path / split, 4, 20), tmp_path / f"{split}.beton")

    def make(dataset=(), **sections):
        files = {split: str(tmp_path / f"{split}.beton") for split in ("train", "val")}
        augmentation = {"crop": "random_resized", "size": 12, **sections.pop("augmentation", {})}
        return make_content(
            dataset={**files, **dict(dataset)}, augmentation=augmentation, **sections
        )

    return make


def test_good_files_pass(make_image_content):
    assert parse_spec(make_image_content()).dataset.num_classes == 4


def test_other_classes_in_val_are_named(make_image_content, tmp_path):
    (tmp_path / "val" / "class2").rename(tmp_path / "val" / "other")
    converted(tmp_path / "val", tmp_path / "val.beton")
    found = problems_of(make_image_content())
    assert "class 2 is class2 in train and class3 in val" in found["dataset.val"]


def test_file_that_differs_from_its_manifest_is_refused(make_image_content, tmp_path):
    path = tmp_path / "train.beton"
    manifest = json.loads(manifest_path(path).read_text())
    manifest["num_per_class"] = [0, 40, 20, 20]
    manifest_path(path).write_text(json.dumps(manifest))
    assert "its manifest describes" in problems_of(make_image_content())["dataset.train"]


def test_damaged_sample_is_refused_unless_max_undecodable_allows_it(make_image_content, tmp_path):
    path = tmp_path / "train.beton"
    with path.open("r+b") as file:
        file.seek(int(open_beton(path).samples["image"]["data_ptr"][0]))
        file.write(bytes(100))
    assert "sample 0 is not" in problems_of(make_image_content())["dataset.train"]
    assert parse_spec(make_image_content(dataset={"max_undecodable": 1})).dataset.max_undecodable


@pytest.mark.parametrize(
    ("sections", "where", "words"),
    [
        ({"dataset": {"train": "s3://bucket/a.beton"}}, "dataset.cache", "is absent"),
        (
            {"dataset": {"cache": {"path": "c", "limit_bytes": 99}}},
            "dataset.cache.limit_bytes",
            "99",
        ),
        ({"dataset": {"cache": {"path": __file__}}}, "dataset.cache.path", "is a file"),
        (
            {"augmentation": {"size_stages": [{"from_epoch": 2, "size": 16}]}},
            "augmentation.size_stages",
            "before the training ends",
        ),
        (
            {
                "augmentation": {
                    "size_stages": [
                        {"from_epoch": 1, "size": 16},
                        {"from_epoch": 1, "size": 20},
                    ]
                }
            },
            "augmentation.size_stages",
            "ascending",
        ),
        ({"augmentation": {"mixing": {}}}, "augmentation.mixing", "mixup_alpha"),
        (
            {
                "augmentation": {"mixing": {"mixup_alpha": 1}},
                "training": {"global_batch_size": 10, "micro_batch_size": 5},
            },
            "augmentation.mixing",
            "even",
        ),
        (
            {"augmentation": {"erasing": {"scale": [0.5, 0.1]}}},
            "augmentation.erasing.scale",
            "smaller first",
        ),
        (
            {"augmentation": {"strong": {"erasing": {"scale": [0.5, 0.1]}}}},
            "augmentation.strong.erasing.scale",
            "smaller first",
        ),
        (
            {"augmentation": {"strong": {"rand_augment": None}}},
            "augmentation.strong",
            "neither rand_augment nor color_jitter nor erasing",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_mistakes_about_images_are_named(make_image_content, monkeypatch, sections, where, words):
    # Nothing listens there: an unreachable store must neither hide other problems nor take long.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    found = problems_of(make_image_content(**sections))
    assert words in found[where]


def test_held_out_images_must_leave_some_of_each_class(make_content):
    content = make_content(dataset={"held_out": {"num_images": 253}})

    with pytest.raises(BadInputError, match=r"dataset.held_out.num_images: 253 images of 256 .*"):
        parse_spec(content)


def test_held_out_images_are_not_available_for_batches(make_content):
    content = make_content(
        dataset={"held_out": {"num_images": 200}},
        training={"global_batch_size": 64, "micro_batch_size": 16},
    )

    with pytest.raises(BadInputError, match="has 56 images to train on"):
        parse_spec(content)
