"""What a run is: the job spec, one JSON document.

Its sections are in sections.py and the modules that it names.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr

from service.spec.data_sections import Augmentation, Dataset
from service.spec.fields import Name, Section
from service.spec.identity import content_hash
from service.spec.losses import Losses, default_losses
from service.spec.model_options import OptionValues
from service.spec.networks import networks_of
from service.spec.optimization import Optimizer, Schedule, Sgd
from service.spec.sections import (
    Checkpoints,
    Evaluation,
    Resources,
    Student,
    Tracking,
    is_mlflow_source,
)
from service.spec.teacher_cache import Draw, TeacherCache
from service.spec.teacher_sections import Teacher, TeacherNetwork
from service.spec.tracked_checkpoints import TrackedCheckpoints
from service.spec.training_section import Training

TEACHER_CACHE_NAME = ".teacher_cache"
"""Folder of the storage path with the teacher's logits, where a spec names no other."""


class JobSpec(Section):
    """Everything that defines a training run."""

    schema_version: Literal[1] = 1
    """Version of this format."""
    name: Name
    """Name of the run and of its folder in the storage path; letters, digits, . _ and -."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the initial weights, the order of the samples and the augmentation."""
    dataset: Dataset
    augmentation: Augmentation = Augmentation()
    teacher: Teacher | None = None
    """Absent: plain training on the labels."""
    student: Student
    losses: Losses | None = None
    """Absent: DTKD as published (dtkd.weight 3, kd.weight 1, ce.weight 1; without ce if
    dataset.unlabeled) if there is a teacher, cross-entropy alone if there is none."""
    optimizer: Optimizer = Sgd()
    schedule: Schedule = Schedule()
    training: Training = Training()
    resources: Resources = Resources()
    checkpoints: Checkpoints
    evaluation: Evaluation = Evaluation()
    tracking: Tracking = Tracking()

    _folder_name: str | None = PrivateAttr(default=None)

    @property
    def run_path(self) -> Path:
        """The run's folder."""
        return self.checkpoints.storage_path / (self._folder_name or self.name)

    def located_at(self, run_path: Path) -> "JobSpec":
        """The spec of the same run where its folder is ``run_path``, whatever the folder's name."""
        checkpoints = self.checkpoints.model_copy(update={"storage_path": run_path.parent})
        located = self.model_copy(update={"checkpoints": checkpoints})
        located._folder_name = None if run_path.name == self.name else run_path.name
        return located

    @property
    def micro_batch_size(self) -> int:
        """Images per forward pass."""
        if self.training.micro_batch_size is not None:
            return self.training.micro_batch_size
        return self.training.global_batch_size // self.resources.max_workers

    @property
    def image_sizes(self) -> frozenset[int]:
        """Sides of the images that the student gets in training and evaluation, in pixels."""
        stages = (stage.size for stage in self.augmentation.size_stages)
        return frozenset((self.augmentation.size, *stages, self.evaluation.crop_size))

    def networks(self) -> dict[str, Student | TeacherNetwork]:
        """The sections of all networks by path, such as teacher.others.0; the student first."""
        return networks_of(self.student, self.teacher)

    def num_classes_of(self, path: str) -> int:
        """Classes of a network's own classifier."""
        network = self.networks()[path]
        own = network.num_classes if isinstance(network, TeacherNetwork) else None
        return own or self.dataset.num_classes

    def options_of(self, path: str) -> OptionValues:
        """Options of a network; a teacher, which is not trained, has none."""
        network = self.networks()[path]
        return network.options.given if isinstance(network, Student) else {}

    def input_size(self, path: str, student_size: int) -> int:
        """Side in pixels of a network's images where the student's is ``student_size``."""
        network = self.networks()[path]
        if isinstance(network, Student):
            return student_size
        return network.input_size(student_size, self.evaluation.crop_size)

    def image_sizes_of(self, path: str) -> frozenset[int]:
        """Sides of a network's images in training and evaluation, in pixels."""
        return frozenset(self.input_size(path, size) for size in self.image_sizes)

    @property
    def has_mlflow_weights(self) -> bool:
        """Whether weights come from MLflow."""
        weights = (network.weights for network in self.networks().values())
        return any(each is not None and is_mlflow_source(each.source) for each in weights)

    @property
    def num_micro_batches(self) -> int:
        """Forward passes per optimizer step, over all workers."""
        return self.training.global_batch_size // self.micro_batch_size

    @property
    def tracked_checkpoints(self) -> TrackedCheckpoints | None:
        """Which students are logged beside the final one; None for none.

        A run with held-out images is one of many that choose settings: it logs no models.
        """
        return None if self.dataset.held_out is not None else self.tracking.tracked_checkpoints

    def effective_losses(self) -> Losses:
        """The losses in force, defaults resolved."""
        if self.losses is not None:
            return self.losses
        has_labels = not self.dataset.unlabeled
        return default_losses(has_teacher=self.teacher is not None, has_labels=has_labels)

    @property
    def uses_teacher(self) -> bool:
        """Whether a loss in force compares the student with the teacher."""
        return self.teacher is not None and self.effective_losses().needs_teacher

    @property
    def teacher_cache(self) -> TeacherCache | None:
        """How the teacher's logits are stored; None where they are not, or no teacher is used."""
        if self.teacher is None or self.teacher.cache is None or not self.uses_teacher:
            return None
        return self.teacher.cache

    @property
    def teacher_cache_path(self) -> Path:
        """Folder of the teacher's stored logits."""
        own = self.teacher.cache.path if self.teacher and self.teacher.cache else None
        return own or self.checkpoints.storage_path / TEACHER_CACHE_NAME

    @property
    def num_teacher_views(self) -> int:
        """Views of each image that the teacher sees."""
        return 2 if self.effective_losses().compares_strong_view else 1

    def draw_epoch(self, epoch: int) -> int:
        """The epoch whose order, crops and mixing ``epoch`` has, both counted from 0."""
        return epoch if self.teacher_cache is None else self.teacher_cache.draw_epoch(epoch)

    def draw(self, epoch: int) -> Draw:
        """Which images an epoch has."""
        return Draw(self.draw_epoch(epoch), self.augmentation.size_at(epoch))

    def content_hash(self) -> str:
        """SHA-256 of what identifies the run, defaults filled in; 64 hexadecimal digits.

        It leaves out the fields that change no weight (see ``identity``), such as tracking.
        """
        losses = self.effective_losses().without_inactive()
        resolved = self.model_copy(update={"losses": losses})
        return content_hash(resolved.model_dump(mode="json"))
