"""A source with the classes of another dataset, or with some of its own classes only."""

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from data_pipeline.json_files import parse_json, read_bounded
from data_pipeline.sources.source import Source, SourceError, SourceSample, class_index

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

    In a JSON object without "classes", they are its keys. A line is the name of a class; if each
    line begins with a wnid, or has a tab or a comma, the name ends there.

    Raises:
        SourceError: a file that cannot be read, or has no names, or one of them twice.
    """
    if path.suffix == ".beton":
        path = path.with_name(path.name + ".json")
    try:
        content = read_bounded(path, LIMIT_BYTES, follow_links=True)
        names = (
            _names_in_json(content, path) if path.suffix == ".json" else _names_in_lines(content)
        )
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8 text; give names of classes") from error
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror}); give a file") from error
    except ValueError as error:
        raise SourceError(str(error)) from error
    if not names:
        raise SourceError(f"{path} has no names of classes; give a manifest, a list or lines")
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise SourceError(f"{path} has the class {twice} twice; remove one")
    return names


def _names_in_json(content: bytes, path: Path) -> list[str]:
    """Empty if there are none."""
    value = parse_json(content, path, object)
    if isinstance(value, dict):
        value = value.get("classes", list(value))
    is_list = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return cast(list[str], value) if is_list else []


def _names_in_lines(content: bytes) -> list[str]:
    lines = [line.strip() for line in content.decode("utf-8-sig").splitlines() if line.strip()]
    for name in (r"(n\d{8})\b", "([^\t,]+)[\t,]"):
        matches = [re.match(name, line) for line in lines]
        if None not in matches:
            return [match[1].strip() for match in matches if match]
    return lines


def with_classes(source: Source, classes: Sequence[str], path: Path) -> RelabeledSource:
    """The source with the classes of the list that was read from ``path``, in its order.

    Classes are matched by name; those of a source that has only numbers are indices into the list.

    Raises:
        SourceError: the source has a class that the list does not have.
    """
    numbers = [class_index(name) for name in source.classes]
    if None not in numbers and any(class_index(name) is None for name in classes):
        targets = [number for number in numbers if number is not None]
        if len(set(targets)) < len(targets):
            raise SourceError("the source has a number as a class twice, as 1 and 01; rename one")
        if max(targets) >= len(classes):
            raise SourceError(
                f"{path} has {len(classes)} classes, from 0 on, but the source has the label "
                f"{max(targets)}; give the list of the source's classes"
            )
    else:
        remedy = "rename it, or give a list that has it"
        _check_known(source.classes, classes, str(path), "the source", remedy)
        positions = {name: position for position, name in enumerate(classes)}
        targets = [positions[name] for name in source.classes]
    labels = np.array(targets, np.int64)[source.labels]
    return RelabeledSource(source, np.arange(len(labels)), list(classes), labels)


def only_classes(source: Source, names: Sequence[str], path: Path) -> RelabeledSource:
    """The images of some classes, whose names were read from ``path``; the order of classes stays.

    Raises:
        SourceError: a class that the source does not have, or fewer than two.
    """
    _check_known(names, source.classes, "the source", str(path), "correct or remove it")
    if len(names) < 2:
        raise SourceError(f"{path} has only the class {names[0]}; give two or more")
    chosen = set(names)
    is_kept = np.array([name in chosen for name in source.classes])
    indices = np.flatnonzero(is_kept[source.labels])
    labels = (np.cumsum(is_kept) - 1)[source.labels[indices]]
    classes = [name for name in source.classes if name in chosen]
    return RelabeledSource(source, indices, classes, labels)


def _check_known(
    names: Sequence[str], known: Sequence[str], where: str, other: str, remedy: str
) -> None:
    """Check that all ``names``, those of ``other``, are among the ones ``known`` in ``where``.

    Raises:
        SourceError: with the first of them and what is most like it.
    """
    all_known = set(known)
    unknown = [name for name in names if name not in all_known]
    if unknown:
        more = f" and {len(unknown) - 1:,} more" if len(unknown) > 1 else ""
        close = difflib.get_close_matches(unknown[0], known, 1)
        nearest = f" (is {close[0]} meant?)" if close else f" (it has {known[0]})"
        raise SourceError(
            f"{where} has no class {unknown[0]}{nearest}{more}, as {other} does; {remedy}"
        )
