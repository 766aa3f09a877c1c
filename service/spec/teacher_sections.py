"""The sections of a job spec about its teacher: one network, or several with their mean."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from service.spec.data_sections import Normalization
from service.spec.fields import Count, Fraction, ImageSize, Items, Positive, Section
from service.spec.sections import Weights
from service.spec.teacher_cache import TeacherCache


def _classes_kind(value: object) -> str:
    return "indices" if isinstance(value, list | tuple) else "word"


def _size_kind(value: object) -> str:
    return "word" if isinstance(value, str) else "pixels"


Classes = Annotated[
    Annotated[Literal["by_name"], Tag("word")]
    | Annotated[Items[Annotated[int, Field(ge=0)]], Tag("indices")],
    Discriminator(_classes_kind),
]
OwnSize = Annotated[
    Annotated[Literal["student"], Tag("word")] | Annotated[ImageSize, Tag("pixels")],
    Discriminator(_size_kind),
]


class TeacherNetwork(Section):
    """One network of the teacher."""

    model: str
    """torchvision classifier (resnet34), cifar:NAME (cifar:resnet56), imagenet:mobilenet_v1 or
    timm:NAME."""
    weights: Weights
    """The teacher's trained weights."""
    num_classes: Annotated[int, Field(ge=2)] | None = None
    """The teacher's own number of classes: without classes, those of the dataset. Absent: the
    dataset's, or, with classes, what its weights say."""
    classes: Classes | None = None
    """Which of the teacher's classes are the dataset's; its other logits are left out. by_name:
    those with the names, or ImageNet's wnids, of the dataset's classes. A list: the teacher's index
    of each class of the dataset, in label order. Absent: the teacher has the dataset's classes."""
    normalization: Normalization | None = None
    """The normalization that the teacher was trained with; absent: the dataset's."""
    size: OwnSize | None = None
    """Side in pixels of the teacher's images, which are the student's, resized. Absent: the
    student's, but at least evaluation.crop_size, at which it is measured. student: always the
    student's."""
    weight: Positive = 1.0
    """Weight in the mean of several teachers."""

    def input_size(self, student_size: int, crop_size: int) -> int:
        """Side in pixels of its images where the student's is ``student_size``.

        ``crop_size``: that of the evaluation.
        """
        if isinstance(self.size, int):
            return self.size
        return student_size if self.size == "student" else max(student_size, crop_size)


class Teacher(TeacherNetwork):
    """The frozen network, or networks, whose outputs the student learns from."""

    others: Items[TeacherNetwork] = ()
    """More networks: the student learns from the weighted mean of all, this section's included."""
    mean_of: Literal["logits", "probabilities"] = "logits"
    """What is averaged over several networks. probabilities: the logits are then the logarithm of
    the mean, plus the mean of the networks' logsumexp."""
    min_top1: Fraction | None = None
    """Minimum top-1 accuracy (0 to 1) of the teacher, or of the mean, on some val images; below it
    the job is aborted."""
    min_top1_images: Count = 2048
    """Number of val images that min_top1 is measured on."""
    cache: TeacherCache | None = None
    """Absent: the teacher is run on every image of every epoch, and nothing is stored."""
