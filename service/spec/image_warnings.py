"""Images that are smaller than the crops: enlarging them costs time and adds no detail."""

from collections.abc import Iterator

from data_pipeline.facts import DatasetFacts
from service.spec.job import JobSpec


def small_image_warnings(spec: JobSpec, train: DatasetFacts, val: DatasetFacts) -> list[str]:
    """A line for each crop that is larger than the shorter side of most images of its dataset."""
    dataset = spec.dataset
    crops = [
        *((where, size, dataset.train, train) for where, size in _train_crops(spec)),
        ("evaluation.crop_size", spec.evaluation.crop_size, dataset.val, val),
    ]
    return [
        f"{where} is {size}, but the shorter side of the images in {location} is typically "
        f"{facts.typical_short_side} pixels: they are enlarged"
        for where, size, location, facts in crops
        if facts.typical_short_side < size
    ]


def _train_crops(spec: JobSpec) -> Iterator[tuple[str, int]]:
    yield "augmentation.size", spec.augmentation.size
    for index, stage in enumerate(spec.augmentation.size_stages):
        yield f"augmentation.size_stages.{index}.size", stage.size
