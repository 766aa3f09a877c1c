"""Rules about the augmentation of training images; see ``rules`` for how they are called."""

from collections.abc import Iterator

from service.spec.data_sections import Augmentation, StrongView
from service.spec.errors import Problem
from service.spec.optimization import Schedule
from service.spec.training_section import Training


def check_augmentation(
    augmentation: Augmentation, schedule: Schedule | None = None
) -> Iterator[Problem]:
    """Ranges in order; stages that can be reached; a mixture, and a strong view, of something."""
    for name, (low, high) in _ranges(augmentation):
        if low > high:
            yield Problem(f"augmentation.{name}", f"is ({low}, {high})", "give the smaller first")
    yield from _check_size_stages(augmentation, schedule)
    yield from _check_strong_view(augmentation.strong)
    mixing = augmentation.mixing
    if mixing and mixing.mixup_alpha == mixing.cutmix_alpha == 0:
        yield Problem(
            "augmentation.mixing",
            "has mixup_alpha and cutmix_alpha 0",
            "give at least one, such as 0.2 or 1, or leave mixing out",
        )


def check_repeats(augmentation: Augmentation, training: Training) -> Iterator[Problem]:
    """A global batch has each image equally often, and at least two images, which may be mixed."""
    batch, repeats = training.global_batch_size, augmentation.repeats
    if batch % repeats or (repeats > 1 and batch < 2 * repeats):
        yield Problem(
            "augmentation.repeats",
            f"is {repeats}, but a global batch has {batch} images",
            "use a divisor of training.global_batch_size, at most half of it",
        )


def _ranges(augmentation: Augmentation) -> Iterator[tuple[str, tuple[float, float]]]:
    """Each (minimum, maximum), and the path of its field below augmentation."""
    yield "scale", augmentation.scale
    yield "ratio", augmentation.ratio
    for prefix, view in (("", augmentation), ("strong.", augmentation.strong)):
        if view and view.erasing:
            yield f"{prefix}erasing.scale", view.erasing.scale
            yield f"{prefix}erasing.ratio", view.erasing.ratio


def _check_strong_view(strong: StrongView | None) -> Iterator[Problem]:
    if strong and not (strong.rand_augment or strong.color_jitter or strong.erasing):
        yield Problem(
            "augmentation.strong",
            "has neither rand_augment nor color_jitter nor erasing",
            "give at least one, such as rand_augment {}, or leave strong out",
        )


def _check_size_stages(augmentation: Augmentation, schedule: Schedule | None) -> Iterator[Problem]:
    stages = augmentation.size_stages
    if stages and augmentation.crop == "pad_and_crop":
        yield Problem(
            "augmentation.size_stages",
            "are given with crop pad_and_crop, whose size is the images' own",
            "use random_resized, or leave size_stages out",
        )
    epochs = [stage.from_epoch for stage in stages]
    if epochs != sorted(set(epochs)):
        yield Problem(
            "augmentation.size_stages",
            f"start at epochs {epochs}",
            "give them in ascending order, each once",
        )
    if epochs and schedule and epochs[-1] >= schedule.num_epochs:
        yield Problem(
            "augmentation.size_stages",
            f"start at epoch {epochs[-1]}, after the last of {schedule.num_epochs}",
            "start every stage before the training ends",
        )
