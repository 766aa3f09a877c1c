"""The networks of a job, by the dotted paths of their sections: student, teacher, teacher.others.0.

Whatever is true of each network, such as that its weights fit, is asked of all of these.
"""

from collections.abc import Mapping

from service.spec.data_sections import Dataset
from service.spec.fields import Section
from service.spec.sections import Student
from service.spec.teacher_sections import Teacher, TeacherNetwork

STUDENT, TEACHER = "student", "teacher"

Changes = Mapping[str, Mapping[str, object]]
"""New values of fields, by the path of the network and the name of the field."""


def networks_of(
    student: Student | None, teacher: Teacher | None
) -> dict[str, Student | TeacherNetwork]:
    """The sections of all networks by path, the student first."""
    of_student: dict[str, Student | TeacherNetwork] = {} if student is None else {STUDENT: student}
    return {**of_student, **teacher_networks(teacher)}


def teacher_networks(teacher: Teacher | None) -> dict[str, TeacherNetwork]:
    """The sections of the teacher's networks by path."""
    if teacher is None:
        return {}
    others = {f"{TEACHER}.others.{index}": other for index, other in enumerate(teacher.others)}
    return {TEACHER: teacher, **others}


def required_num_classes(network: Student | TeacherNetwork, dataset: Dataset | None) -> int | None:
    """The number of classes that a network's weights must have; None if that is not known."""
    has_own_classes = isinstance(network, TeacherNetwork) and network.classes is not None
    return dataset.num_classes if dataset and not has_own_classes else None


def changed_networks(
    student: Student | None, teacher: Teacher | None, changes: Changes
) -> dict[str, Section]:
    """The sections student and teacher, as far as they are there, with changed networks."""
    changed: dict[str, Section] = {}
    if student is not None:
        changed[STUDENT] = student.model_copy(update=changes.get(STUDENT, {}))
    if teacher is not None:
        update = dict(changes.get(TEACHER, {}))
        if teacher.others:
            update["others"] = tuple(
                other.model_copy(update=changes.get(f"{TEACHER}.others.{index}", {}))
                for index, other in enumerate(teacher.others)
            )
        changed[TEACHER] = teacher.model_copy(update=update)
    return changed


def weights_tag(path: str) -> str:
    """The tag with the SHA-256 digest of a network's weights, such as teacher_others_0_sha256."""
    return f"{path.replace('.', '_')}_sha256"


def classes_tag(path: str) -> str:
    """The tag with the SHA-256 digest of which classes of a teacher's network are used."""
    return f"{path.replace('.', '_')}_classes_sha256"


def field_of_tag(tag: str) -> str:
    """The field that a tag of ``weights_tag`` or ``classes_tag`` is about."""
    path = tag.removesuffix("_sha256").replace("_", ".")
    return path if path.endswith(".classes") else f"{path}.weights.source"
