"""A source with the classes of another dataset, or with some of its own classes only."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipeline.json_files import read_bounded, read_json
from data_pipeline.sources.source import Source, SourceError, SourceSample

LIMIT_BYTES = 64_000_000


@dataclass(frozen=True)
class RelabeledSource:
    """The images ``indices`` [N] of a source, with other labels [N]."""

    source: Source
    indices: NDArray[np.int64]
    classes: Sequence[str]
    labels: NDArray[np.int64]

    @property
    def keys(self) -> NDArray[np.uint64]:
        """Those of the source."""
        return self.source.keys[self.indices]

    def read(self, index: int) -> SourceSample:
        """The source's image; errors as there."""
        return self.source.read(int(self.indices[index]))


def read_class_list(path: Path) -> list[str]:
    """The classes in a manifest, beside a .beton, in a JSON list, or in the lines of a text file.

    In a JSON object without "classes", they are its keys. In a line, what follows the first space,
    tab or comma is ignored.

    Raises:
        SourceError: a file that cannot be read, or has no names, or one of them twice.
    """
    if path.suffix == ".beton":
        path = path.with_name(path.name + ".json")
    try:
        if path.suffix == ".json":
            content = read_json(path, LIMIT_BYTES, object, follow_links=True)
            if isinstance(content, dict):
                content = content.get("classes", list(content))
            names = content if isinstance(content, list) else []
        else:
            lines = read_bounded(path, LIMIT_BYTES, follow_links=True).decode().splitlines()
            names = [line.replace(",", " ").split()[0] for line in lines if line.strip(" \t,")]
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8 text; give names of classes") from error
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror}); give a file") from error
    except ValueError as error:
        raise SourceError(str(error)) from error
    if not names or not all(isinstance(name, str) for name in names):
        raise SourceError(f"{path} has no names of classes; give a manifest, a list or lines")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SourceError(f"{path} has the class {twice} twice; remove one")
    return names


def with_classes(source: Source, classes: Sequence[str], path: Path) -> RelabeledSource:
    """The source with the classes of the list that was read from ``path``, in its order.

    Classes are matched by name; those of a source that has only numbers are indices into the list.

    Raises:
        SourceError: the source has a class that the list does not have.
    """
    labels = source.labels
    if list(source.classes) != list(classes):
        positions = {name: position for position, name in enumerate(classes)}
        if _are_numbers(source.classes) and not _are_numbers(classes):
            if len(source.classes) > len(classes):
                raise SourceError(
                    f"{path} has {len(classes)} classes, but the source has the label "
                    f"{len(source.classes) - 1}; give the list of the source's classes"
                )
        else:
            _check_known(source.classes, classes, path)
            labels = np.array([positions[name] for name in source.classes], np.int64)[labels]
    return RelabeledSource(source, np.arange(len(labels)), list(classes), labels)


def only_classes(source: Source, names: Sequence[str], path: Path) -> RelabeledSource:
    """The images of some classes, whose names were read from ``path``; the order of classes stays.

    Raises:
        SourceError: a class that the source does not have.
    """
    _check_known(names, source.classes, path)
    chosen = set(names)
    is_kept = np.array([name in chosen for name in source.classes])
    indices = np.flatnonzero(is_kept[source.labels])
    labels = (np.cumsum(is_kept) - 1)[source.labels[indices]]
    classes = [name for name in source.classes if name in chosen]
    return RelabeledSource(source, indices, classes, labels)


def _are_numbers(classes: Sequence[str]) -> bool:
    return list(classes) == [str(label) for label in range(len(classes))]


def _check_known(names: Sequence[str], known: Sequence[str], path: Path) -> None:
    """Check that all names are in ``known``; the classes of one of the two are those of ``path``.

    Raises:
        SourceError: with the first of them and what is most like it.
    """
    all_known = set(known)
    unknown = [name for name in names if name not in all_known]
    if not unknown:
        return
    close = difflib.get_close_matches(unknown[0], known[:2000], 1)
    remedy = f"is {close[0]} meant?" if close else f"such as {known[0]}"
    raise SourceError(
        f"{path}: {len(unknown)} of {len(names)} classes are unknown, the first is "
        f"{unknown[0]}; give classes of the source ({remedy})"
    )
