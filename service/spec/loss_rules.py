"""Rules about the losses of a spec: they have what they need, and use what is there for them."""

from collections.abc import Iterator

from service.spec.data_sections import Augmentation, Dataset
from service.spec.errors import Problem
from service.spec.losses import Losses
from service.spec.optimization import Schedule
from service.spec.teacher_sections import Teacher
from service.spec.training_section import Training


def check_losses(losses: Losses | None, teacher: Teacher | None) -> Iterator[Problem]:
    """A total that trains something, and a teacher where a loss needs one."""
    if losses is None:
        return
    active = losses.active
    if not active:
        yield Problem(
            "losses",
            "has no loss with a positive weight",
            'name one, such as {"ce": {}, "dtkd": {}}, or leave losses out',
        )
    compared = [name for name, section in active.items() if section.needs_teacher]
    if teacher is None and compared:
        yield Problem(
            f"losses.{compared[0]}",
            "compares the student with a teacher, but there is none",
            "add teacher, or leave it out",
        )
    readers = [name for name in compared if active[name].needs_classifier]
    if teacher is not None and teacher.others and readers:
        yield Problem(
            f"losses.{readers[0]}",
            "reads the classifier of the teacher, but there are several (teacher.others)",
            "leave out this loss, or teacher.others",
        )
    if losses.entropy_weights is not None and not compared:
        yield Problem(
            "losses.entropy_weights",
            "weights samples of losses with a teacher, but there is none with a positive weight",
            "add such a loss, or leave it out",
        )


def check_coupled_samples(losses: Losses | None, training: Training) -> Iterator[Problem]:
    """A loss that couples samples sees the micro-batch, whatever the number of workers."""
    size = training.micro_batch_size
    if losses is None or (size is not None and size > 1):
        return
    for name, section in losses.active.items():
        if section.couples_samples:
            yield Problem(
                "training.micro_batch_size",
                f"is {'not set' if size is None else size}, but losses.{name} compares the samples "
                "of a micro-batch",
                "set it, to 2 or more: the loss then does not depend on the number of workers",
            )


def check_label_smoothing(
    losses: Losses | None, training: Training, dataset: Dataset | None = None
) -> Iterator[Problem]:
    """Label smoothing is that of the cross-entropy."""
    if training.label_smoothing == 0:
        return
    is_unlabeled = dataset is not None and dataset.unlabeled
    has_ce = not is_unlabeled if losses is None else "ce" in losses.active
    if not has_ce:
        yield Problem(
            "training.label_smoothing",
            f"is {training.label_smoothing:g}, but losses has no ce, to which alone it applies",
            "remove it" if is_unlabeled else "add losses.ce, or remove it",
        )


def check_unlabeled(
    dataset: Dataset, teacher: Teacher | None, losses: Losses | None
) -> Iterator[Problem]:
    """Without labels there is a teacher to learn from, and nothing that needs labels."""
    if not dataset.unlabeled:
        return
    if teacher is None:
        yield Problem(
            "teacher",
            "is absent, but the images of train have no labels (dataset.unlabeled)",
            "add the teacher that the student learns from, or train on labeled images",
        )
    for name, section in losses.active.items() if losses is not None else ():
        if section.needs_labels:
            yield Problem(
                f"losses.{name}",
                "needs labels, but the images of train have none (dataset.unlabeled)",
                "leave it out; without losses, dtkd and kd are used",
            )
    if dataset.held_out is not None:
        yield Problem(
            "dataset.held_out",
            "holds out images of train to evaluate them, but these have no labels "
            "(dataset.unlabeled)",
            "leave it out; to search settings, train on labeled images",
        )


def check_views(losses: Losses | None, augmentation: Augmentation) -> Iterator[Problem]:
    """A strong view where a loss compares two, and only there."""
    active = losses.active if losses is not None else {}
    users = [name for name, section in active.items() if section.needs_strong_view]
    if users and augmentation.strong is None:
        yield Problem(
            "augmentation.strong",
            f"is absent, but losses.{users[0]} needs a second view of each image",
            'add it, for example {"rand_augment": {}}',
        )
    if augmentation.strong is not None and not users:
        yield Problem(
            "augmentation.strong",
            "is given, but no loss uses a second view",
            "remove it, or add losses.mlkd, losses.crld or losses.ce.views = both",
        )


def check_loss_settings(
    losses: Losses | None, schedule: Schedule, dataset: Dataset
) -> Iterator[Problem]:
    """Settings that fit the number of epochs and of classes."""
    if losses is None:
        return
    num_epochs = schedule.num_epochs
    warmup_epochs = losses.warmup_epochs
    if warmup_epochs is not None and warmup_epochs > num_epochs:
        yield Problem(
            "losses.warmup_epochs",
            f"is {warmup_epochs:g}, more than schedule.num_epochs = {num_epochs}",
            "use at most that, or leave it out: it is then a twelfth of the epochs, at most 20",
        )
    for name, section in losses.active.items():
        for problem in section.problems(num_epochs, dataset.num_classes):
            yield problem._replace(where=f"losses.{name}.{problem.where}")
