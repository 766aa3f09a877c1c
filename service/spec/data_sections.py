"""The sections of a job spec about images: the datasets, and their augmentation."""

from typing import Annotated, Literal

from pydantic import Field

from service.spec.fields import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Count,
    FolderPath,
    Fraction,
    ImageSize,
    Items,
    Location,
    NonNegative,
    Pair,
    Positive,
    Section,
    Share,
    Triple,
)

Split = Literal["val", "held_out"]
"""Which images are evaluated; the group of the metrics' names."""


class Normalization(Section):
    """Per-channel (x - mean) / std of RGB pixels scaled to [0, 1]."""

    mean: Triple[Fraction] = IMAGENET_MEAN
    """Mean of red, green and blue, on the scale 0 to 1."""
    std: Triple[Positive] = IMAGENET_STD
    """Standard deviation of red, green and blue, on the scale 0 to 1."""


class DatasetCache(Section):
    """Copies of datasets on each node's own disk."""

    path: FolderPath
    """Folder on every node's own disk; it is created if it does not exist."""
    limit_bytes: Annotated[int, Field(ge=1)] | None = None
    """Largest size of the folder; the least recently used dataset is evicted first. Absent: the
    disk's size."""


class HeldOut(Section):
    """Images of train that are evaluated in place of val, and not trained on; val is not read.

    For choosing settings: val cannot evaluate what was chosen by its own accuracy.
    """

    num_images: Count
    """Number of images that are held out, each class with its share."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the selection, apart from the run's own."""


class Dataset(Section):
    """Training and validation images in FFCV's format."""

    train: Location
    """The .beton file to train on: a path that every node sees, or s3://bucket/key or
    gs://bucket/key with its manifest beside it."""
    val: Location
    """The .beton file that is evaluated; no gradient ever sees it."""
    num_classes: Annotated[int, Field(ge=2)]
    """Number of classes; labels run from 0 to num_classes - 1."""
    unlabeled: bool = False
    """Whether the images of train have no labels, as convert.py --unlabeled writes them, and the
    student learns from the teacher alone. Labels in the file are ignored; the classes are val's."""
    normalization: Normalization = Normalization()
    """Applied to the student's input, and to the teacher's unless it has its own."""
    cache: DatasetCache | None = None
    """Copy both files to each node's own disk before training. Required for s3:// and gs://; useful
    for a slow mount."""
    held_out: HeldOut | None = None
    """Absent: all of train is trained on, and val is evaluated."""
    max_undecodable: Annotated[int, Field(ge=0)] = 0
    """Images of a file that may fail to decode before the job fails. In training another image
    replaces them, in an evaluation they are left out; the metric data/undecodable counts them."""

    @property
    def labeled_split(self) -> Literal["train", "val"]:
        """The file whose labels are the run's classes, and name them."""
        return "val" if self.unlabeled else "train"

    @property
    def evaluated(self) -> Split:
        """What is evaluated; the group of its metrics' names."""
        return "val" if self.held_out is None else "held_out"


class SizeStage(Section):
    """Another image size from an epoch on."""

    from_epoch: Count
    """Epoch, counted from 0, from which on the size holds."""
    size: ImageSize
    """Side of the training image, in pixels."""


class RandAugment(Section):
    """RandAugment: random operations, Cubuk et al., arXiv 1909.13719."""

    num_ops: Annotated[int, Field(ge=1, le=10)] = 2
    """Operations applied to each image."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """Strength of the operations."""


class ColorJitter(Section):
    """Color jitter: factors are uniform in 1 +- strength, the shift of the hue in +- strength."""

    brightness: Annotated[float, Field(ge=0, le=10)] = 0.4
    """Strength of the change of brightness."""
    contrast: Annotated[float, Field(ge=0, le=10)] = 0.4
    """Strength of the change of contrast."""
    saturation: Annotated[float, Field(ge=0, le=10)] = 0.4
    """Strength of the change of saturation."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest shift of the hue, as a share of the color circle."""


class Erasing(Section):
    """Random erasing of a box, Zhong et al., arXiv 1708.04896."""

    probability: Fraction = 0.25
    """Probability that a box of an image is erased."""
    scale: Pair[Share] = (0.02, 0.33)
    """Minimum and maximum share of the image's area."""
    ratio: Pair[Positive] = (0.3, 3.3)
    """Minimum and maximum height / width of the box."""
    fill: Literal["mean", "noise"] = "mean"
    """mean: the dataset's mean color, which normalization turns into 0. noise: random pixels."""


class Mixing(Section):
    """Mixup and CutMix of pairs of images and their labels, for student and teacher alike."""

    mixup_alpha: NonNegative = 0.0
    """Alpha of the Beta distribution of mixup's shares, arXiv 1710.09412; 0: no mixup."""
    cutmix_alpha: NonNegative = 0.0
    """Alpha of the Beta distribution of CutMix's areas, arXiv 1905.04899; 0: no CutMix. With both,
    each is applied to half of the pairs."""
    probability: Fraction = 1.0
    """Probability that a pair is mixed."""


class StrongView(Section):
    """A second view of each training image; crop and flip are those of the first, drawn anew."""

    rand_augment: RandAugment | None = RandAugment()
    """null: none. These three are applied after the crop, in this order; at least one is needed."""
    color_jitter: ColorJitter | None = None
    """Absent: none."""
    erasing: Erasing | None = None
    """Absent: none."""


class Augmentation(Section):
    """How training images are cropped and augmented; student and teacher get the same pixels."""

    crop: Literal["random_resized", "pad_and_crop"] = "random_resized"
    """random_resized: a box of random area and shape, resized to size (ImageNet's recipe).
    pad_and_crop: zero padding, then a random window of size (CIFAR's recipe; the images must
    all be size x size)."""
    size: ImageSize = 224
    """Side of the training image, in pixels."""
    size_stages: Items[SizeStage] = ()
    """Progressive resolution: later epochs with other sizes, in ascending order of from_epoch."""
    scale: Pair[Share] = (0.08, 1.0)
    """random_resized: minimum and maximum share of the image's area that a crop covers."""
    ratio: Pair[Positive] = (3 / 4, 4 / 3)
    """random_resized: minimum and maximum width / height of a crop."""
    padding: Annotated[int, Field(ge=0, le=64)] = 4
    """pad_and_crop: pixels added on each side."""
    flip_probability: Fraction = 0.5
    """Probability that an image is flipped horizontally."""
    rand_augment: RandAugment | None = None
    """Absent: none. These three are applied after the crop, in this order."""
    color_jitter: ColorJitter | None = None
    """Absent: none."""
    erasing: Erasing | None = None
    """Absent: none."""
    mixing: Mixing | None = None
    """Absent: none. With a strong view, both views of a pair are mixed alike."""
    repeats: Annotated[int, Field(ge=1, le=64)] = 1
    """How often each image of a global batch occurs in it, cropped and augmented anew each time,
    Hoffer et al., arXiv 1901.09335. An epoch has as many images as without, so it sees
    another 1 / repeats of the training set each time. Divides training.global_batch_size."""
    strong: StrongView | None = None
    """A second, strongly augmented view of each training image, for losses that compare views.
    Absent: none."""

    def size_at(self, epoch: int) -> int:
        """Side of the training images in an epoch, counted from 0, in pixels."""
        sizes = [stage.size for stage in self.size_stages if stage.from_epoch <= epoch]
        return sizes[-1] if sizes else self.size

    @property
    def largest_size(self) -> int:
        """Largest side of the training images in any epoch, in pixels."""
        return max([self.size, *(stage.size for stage in self.size_stages)])
