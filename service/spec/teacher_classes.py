"""Which of a teacher's classes are those of the dataset: by name, or by index.

Names are compared as ImageNet's wnids first, then as readable names, without regard to case and
with underscores as blanks.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from data_pipeline.sources.image_labels import WNID, human_names, imagenet_names
from service.spec.data_sections import Dataset
from service.spec.errors import BadInputError, Problem
from service.spec.job import JobSpec
from service.spec.networks import Changes, changed_networks, classes_tag, teacher_networks
from service.spec.published_weights import NUM_CLASSES
from service.spec.sections import is_file_source, is_mlflow_source
from service.spec.teacher_sections import Teacher, TeacherNetwork
from service.spec.tensor_info import UnreadableWeightsError
from service.spec.weights_metadata import TORCHVISION, read_card, sizes_of_file

MAX_SHOWN = 3
BY_INDEX = "give a list: the teacher's index of each class of the dataset, in label order"


class KnownClasses(NamedTuple):
    """What is known of a network's own classes without building it.

    ``sizes``: the possible numbers of them, the likely one last. ``names``: as its training data
    had them, by label; ``readable_names``: for people.
    """

    sizes: tuple[int, ...]
    names: tuple[str, ...] | None = None
    readable_names: tuple[str, ...] = ()


def check_class_indices(teacher: Teacher | None, dataset: Dataset) -> Iterator[Problem]:
    """A rule, as those of rules.py: an index, each another one, for every class of the dataset."""
    for path, network in teacher_networks(teacher).items():
        if not isinstance(network.classes, tuple):
            continue
        where, indices, num_wanted = f"{path}.classes", network.classes, dataset.num_classes
        if len(indices) != num_wanted:
            wrong = f"has {len(indices)} indices, but dataset.num_classes is {num_wanted}"
            yield Problem(where, wrong, BY_INDEX)
        elif len(set(indices)) < num_wanted:
            ((repeated, _),) = Counter(indices).most_common(1)
            yield Problem(where, f"has {repeated} more than once", "give each index once")


def resolve_classes(
    teacher: Teacher | None, dataset: Dataset, data_classes: tuple[str, ...] | None
) -> tuple[Changes, list[Problem]]:
    """The indices of the classes of the teacher's networks, and every problem with them.

    Networks that have all classes of the dataset, or weights in MLflow, are left as they are.
    ``data_classes``: names of the dataset's classes by label, if they are known.
    """
    changes: dict[str, dict[str, object]] = {}
    problems: list[Problem] = []
    for path, network in teacher_networks(teacher).items():
        if network.classes is None or is_mlflow_source(network.weights.source):
            continue
        try:
            known = known_classes(network)
        except (UnreadableWeightsError, BadInputError):
            # The rule about weights says why.
            continue
        try:
            changes[path] = resolved(path, network, known, dataset, data_classes)
        except BadInputError as error:
            problems += error.problems
    return changes, problems


def with_resolved_classes(spec: JobSpec, data_classes: tuple[str, ...] | None) -> JobSpec:
    """The spec with all classes of teachers as indices; no weights may be in MLflow any more.

    Raises:
        BadInputError: classes that do not fit.
    """
    changes, problems = resolve_classes(spec.teacher, spec.dataset, data_classes)
    if problems:
        raise BadInputError("spec", problems)
    return spec.model_copy(update=changed_networks(spec.student, spec.teacher, changes))


def classes_tags(spec: JobSpec) -> dict[str, str]:
    """Digests of the indices of the teacher's classes, as tags; ``spec`` has indices.

    What names mean may change where neither the spec nor the weights do.
    """
    return {
        classes_tag(path): hashlib.sha256(json.dumps(network.classes).encode()).hexdigest()
        for path, network in teacher_networks(spec.teacher).items()
        if network.classes is not None
    }


def known_classes(network: TeacherNetwork) -> KnownClasses:
    """The classes of a network whose weights are a file, or torchvision's.

    Raises:
        UnreadableWeightsError: it has no such file.
        BadInputError: the file has several weights, and it is not clear which are meant.
    """
    if network.weights.source.startswith(TORCHVISION):
        return KnownClasses((NUM_CLASSES,), *_imagenet())
    assert is_file_source(network.weights.source)
    if card := read_card(Path(network.weights.source)):
        return classes_of_card(card)
    sizes = sizes_of_file(network.model, network.weights)
    is_by_order = network.weights.match == "order" and sizes != (NUM_CLASSES,)
    if network.num_classes is not None and is_by_order:
        # The last tensor need not be the classifier's, but one of ImageNet's classes is.
        sizes = (network.num_classes,)
    if NUM_CLASSES in (network.num_classes, *sizes[-1:]):
        return KnownClasses(sizes, *_imagenet())
    return KnownClasses(sizes)


def classes_of_card(card: Mapping[str, Any]) -> KnownClasses:
    """The classes that a student's card states (see run/student_card.py)."""
    size = card.get("num_classes")
    sizes = (size,) if isinstance(size, int) else ()
    names, readable = (_texts(card.get(key)) for key in ("classes", "class_names"))
    if names is None and "architecture" not in card and sizes == (NUM_CLASSES,):
        return KnownClasses(sizes, *_imagenet())
    if names is None or sizes != (len(names),):
        return KnownClasses(sizes)
    fits = readable is not None and len(readable) == len(names)
    return KnownClasses(sizes, names, readable if readable and fits else tuple(human_names(names)))


def own_num_classes(path: str, network: TeacherNetwork, known: KnownClasses) -> int:
    """The number of classes of a network's own classifier.

    Raises:
        BadInputError: it is not known, or the spec states another one than the weights.
    """
    stated, sizes, where = network.num_classes, known.sizes, f"{path}.num_classes"
    if stated is None and not sizes:
        wrong = f"is absent, and {network.weights.source} does not say it"
        _refuse(where, wrong, "give the number of classes that the teacher was trained on")
    if stated is not None and sizes and stated not in sizes:
        wrong = f"is {stated}, but {network.weights.source} has {sizes[-1]} classes"
        _refuse(where, wrong, "remove it, or use other weights")
    return stated or sizes[-1]


def resolved(
    path: str,
    network: TeacherNetwork,
    known: KnownClasses,
    dataset: Dataset,
    data_classes: tuple[str, ...] | None,
) -> dict[str, object]:
    """The fields classes, as indices, and num_classes of a network.

    Raises:
        BadInputError: classes that do not fit the dataset or the network, or that are not known.
    """
    num_classes, where = own_num_classes(path, network, known), f"{path}.classes"
    if isinstance(network.classes, tuple):
        largest = max(network.classes, default=0)
        if largest >= num_classes:
            wrong = f"has {largest}, but the teacher has {num_classes} classes"
            _refuse(where, wrong, f"use indices from 0 to {num_classes - 1}")
        return {"classes": network.classes, "num_classes": num_classes}
    data_file = getattr(dataset, dataset.labeled_split)
    if data_classes is None:
        wrong = f'is "by_name", but {data_file} has no manifest that names its classes'
        _refuse(where, wrong, BY_INDEX)
    if len(data_classes) != dataset.num_classes:
        wrong = (
            f'is "by_name", but {data_file} names {len(data_classes)} classes and '
            f"dataset.num_classes is {dataset.num_classes}"
        )
        _refuse(where, wrong, f"set dataset.num_classes, or {BY_INDEX}")
    if known.names is None:
        wrong = f'is "by_name", but {network.weights.source} does not name its classes'
        _refuse(where, wrong, BY_INDEX)
    indices = match_names(where, data_classes, known.names, known.readable_names)
    return {"classes": indices, "num_classes": num_classes}


def indices_of_names(
    wanted: Sequence[str], names: Sequence[str], readable_names: Sequence[str]
) -> list[list[int]]:
    """Every index that each wanted class may have among a teacher's; none where it has no such.

    ``names``, ``readable_names``: see ``KnownClasses``.
    """
    by_name, by_readable_name = _indices_by(names), _indices_by(readable_names)
    found: list[list[int]] = []
    for name in wanted:
        indices = by_name.get(_comparable(name), [])
        if not indices:
            indices = by_readable_name.get(_comparable(human_names([name])[0]), [])
            if WNID.fullmatch(name):
                # Two wnids are two classes, even of one name.
                indices = [index for index in indices if not WNID.fullmatch(names[index])]
        found.append(indices)
    return found


def match_names(
    where: str, wanted: Sequence[str], names: Sequence[str], readable_names: Sequence[str]
) -> tuple[int, ...]:
    """The index of each wanted class among a teacher's.

    ``names``, ``readable_names``: see ``KnownClasses``. ``where``: the field.

    Raises:
        BadInputError: naming classes that the teacher lacks, or that are not told apart.
    """
    found = indices_of_names(wanted, names, readable_names)
    if missing := [name for name, indices in zip(wanted, found, strict=True) if not indices]:
        wrong = f'is "by_name", but the teacher lacks {some_of(missing)} of {len(wanted)} classes'
        _refuse(where, wrong, f"use a teacher of these classes, or {BY_INDEX}")
    shared = defaultdict(list)
    for name, indices in zip(wanted, found, strict=True):
        if len(indices) > 1:
            wrong = f'is "by_name", but the teacher has {len(indices)} classes named {name}'
            _refuse(where, f"{wrong}: {', '.join(map(str, indices))}", BY_INDEX)
        shared[indices[0]].append(name)
    if same := next((group for group in shared.values() if len(group) > 1), None):
        wrong = f'is "by_name", but {" and ".join(same[:MAX_SHOWN])} are one class of the teacher'
        _refuse(where, wrong, BY_INDEX)
    return tuple(indices[0] for indices in found)


def _imagenet() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """ImageNet's wnids and readable names; labels are in the wnids' order."""
    names = sorted(imagenet_names().items())
    return tuple(wnid for wnid, _ in names), tuple(name for _, name in names)


def _texts(value: object) -> tuple[str, ...] | None:
    is_list = isinstance(value, list) and all(isinstance(each, str) for each in value)
    return tuple(value) if isinstance(value, list) and is_list else None


def _indices_by(names: Iterable[str]) -> dict[str, list[int]]:
    indices: defaultdict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        indices[_comparable(name)].append(index)
    return dict(indices)


def _comparable(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def some_of(names: Sequence[str]) -> str:
    """The first few names, how many more there are, and how many in all."""
    shown = ", ".join(names[:MAX_SHOWN])
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return f"{shown}{more}, {len(names)}"


def _refuse(where: str, wrong: str, remedy: str) -> NoReturn:
    raise BadInputError("spec", [Problem(where, wrong, remedy)])
