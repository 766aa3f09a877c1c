"""The pairs of networks of the distillation literature, and how their students are trained.

CIFAR-100: the recipe of CRD (arXiv 1910.10699), which all later papers follow. ImageNet: that of
torchvision's networks, in the version of DKD (arXiv 2203.08679). A method that differs says so.
"""

from typing import Any, NamedTuple

from service.spec.fields import IMAGENET_MEAN, IMAGENET_STD

Content = dict[str, Any]
"""JSON content of a section of a spec, or of several by name."""


class Benchmark(NamedTuple):
    """A dataset, and what all its recipes have in common: sections of a spec."""

    name: str
    num_classes: int
    sections: Content


CIFAR100 = Benchmark(
    "cifar100",
    100,
    {
        "dataset": {
            "num_classes": 100,
            "normalization": {"mean": [0.5071, 0.4867, 0.4408], "std": [0.2675, 0.2565, 0.2761]},
        },
        "augmentation": {"crop": "pad_and_crop", "size": 32, "padding": 4},
        "optimizer": {"kind": "sgd", "momentum": 0.9, "weight_decay": 5e-4},
        "schedule": {"num_epochs": 240, "milestones": [150, 180, 210]},
        "training": {"global_batch_size": 64, "micro_batch_size": 64},
        "evaluation": {"resize_size": 32, "crop_size": 32},
    },
)
IMAGENET = Benchmark(
    "imagenet",
    1000,
    {
        "dataset": {
            "num_classes": 1000,
            "normalization": {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)},
        },
        "augmentation": {"crop": "random_resized", "size": 224},
        "optimizer": {"kind": "sgd", "momentum": 0.9, "weight_decay": 1e-4},
        "schedule": {"num_epochs": 100, "milestones": [30, 60, 90]},
        # 128 images: the share of each of four GPUs, over which the authors' BatchNorm computes its
        # statistics, and a size that fits one GPU's memory. It also divides a batch of 256.
        "training": {"global_batch_size": 512, "micro_batch_size": 128},
        "evaluation": {"resize_size": 256, "crop_size": 224},
    },
)


class Pair(NamedTuple):
    """A teacher and a student. ``weights``: the teacher's, if they are public and have a name."""

    benchmark: Benchmark
    teacher: str
    student: str
    learning_rate: float
    weights: str | None = None
    min_top1: float | None = None

    @property
    def short_name(self) -> str:
        """Such as resnet56-resnet20."""
        return "-".join(model.rpartition(":")[2] for model in (self.teacher, self.student))

    @property
    def name(self) -> str:
        """Such as cifar100/resnet56-resnet20."""
        return f"{self.benchmark.name}/{self.short_name}"


LIGHT_STUDENTS = ("mobilenet_v2", "shufflenet_v1", "shufflenet_v2")
"""Students that are trained with a fifth of the learning rate (arXiv 1910.10699)."""


def _cifar100(teacher: str, student: str) -> Pair:
    learning_rate = 0.01 if student in LIGHT_STUDENTS else 0.05
    return Pair(CIFAR100, f"cifar:{teacher}", f"cifar:{student}", learning_rate)


# The pairs of CRD, DKD and DTKD.
COMMON_PAIRS = (
    _cifar100("resnet56", "resnet20"),
    _cifar100("resnet110", "resnet32"),
    _cifar100("resnet32x4", "resnet8x4"),
    _cifar100("wrn_40_2", "wrn_16_2"),
    _cifar100("wrn_40_2", "wrn_40_1"),
    _cifar100("vgg13", "vgg8"),
    _cifar100("vgg13", "mobilenet_v2"),
    _cifar100("resnet50", "mobilenet_v2"),
    _cifar100("resnet32x4", "shufflenet_v1"),
    _cifar100("resnet32x4", "shufflenet_v2"),
    _cifar100("wrn_40_2", "shufflenet_v1"),
)
# Those that arXiv 2403.01427 adds.
FURTHER_PAIRS = (
    _cifar100("resnet110", "resnet20"),
    _cifar100("resnet32x4", "wrn_16_2"),
    _cifar100("resnet32x4", "wrn_40_2"),
    _cifar100("wrn_40_2", "resnet8x4"),
    _cifar100("wrn_40_2", "mobilenet_v2"),
)
CIFAR100_PAIRS = COMMON_PAIRS + FURTHER_PAIRS

PUBLISHED_WEIGHTS = "torchvision:IMAGENET1K_V1"
# The teachers have 73.31 and 76.13 %; min_top1 notices wrong labels or pixels.
IMAGENET_PAIRS = (
    Pair(IMAGENET, "resnet34", "resnet18", 0.2, PUBLISHED_WEIGHTS, 0.7),
    Pair(IMAGENET, "resnet50", "imagenet:mobilenet_v1", 0.2, PUBLISHED_WEIGHTS, 0.73),
)

PAIRS = CIFAR100_PAIRS + IMAGENET_PAIRS
