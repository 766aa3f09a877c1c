"""Labels of ILSVRC2012's val images, from its devkit."""

import io
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipeline.sources.image_labels import ImageLabels, check_number
from data_pipeline.sources.source import SourceError

GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
META = "meta.mat"
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar")


def is_devkit(path: Path) -> bool:
    """Whether labels at this path must be a devkit: a folder or a tar."""
    return path.is_dir() or path.name.lower().endswith(ARCHIVE_SUFFIXES)


def read_devkit(path: Path, images: Sequence[str], source: Path) -> ImageLabels:
    """Labels of ``images``, the names of ``source``'s files in alphabetical order.

    The classes are all leaves of the devkit's tree, by wnid.

    Raises:
        SourceError: a path that is not a devkit, a damaged devkit, or a number of labels that is
            not the number of images.
    """
    files = _folder_files(path) if path.is_dir() else _archive_files(path)
    if files.keys() != {GROUND_TRUTH, META}:
        raise SourceError(
            f"{path} lacks data/{GROUND_TRUTH} or data/{META}; give ILSVRC2012_devkit_t12"
        )
    try:
        wnids = _wnids_by_id(files[META])
        labeled = [wnids[int(line)] for line in files[GROUND_TRUTH].split()]
    # What scipy raises for damaged files is not documented.
    except Exception as error:
        raise SourceError(
            f"{path} cannot be understood ({error!r}); give ILSVRC2012_devkit_t12 as published"
        ) from error
    check_number(path, len(labeled), source, len(images))
    classes = sorted(wnids.values())
    positions = {wnid: position for position, wnid in enumerate(classes)}
    return ImageLabels(classes, np.array([positions[wnid] for wnid in labeled], np.int64))


def _folder_files(path: Path) -> dict[str, bytes]:
    """The devkit's files, from its folder, the folder's parent or its data folder."""
    for folder in (path / "data", path / "ILSVRC2012_devkit_t12" / "data", path):
        if (folder / META).is_file():
            files = [folder / name for name in (GROUND_TRUTH, META)]
            return {file.name: file.read_bytes() for file in files if file.is_file()}
    return {}


def _archive_files(path: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                content = archive.extractfile(member) if member.isreg() else None
                if content and name in (GROUND_TRUTH, META) and folder.endswith("data"):
                    files[name] = content.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise SourceError(f"{path} is damaged or not a tar; copy the devkit again") from error
    return files


def _wnids_by_id(meta: bytes) -> dict[int, str]:
    """Wnids of the leaves of the tree of synsets, by id; its inner nodes have no images."""
    # Imported here: it takes as long to import as a spec to check, and most data has no devkit.
    from scipy.io import loadmat

    synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
    fields = (synsets[name] for name in ("ILSVRC2012_ID", "WNID", "num_children"))
    return {
        int(number): str(wnid)
        for number, wnid, num_children in zip(*fields, strict=True)
        if int(num_children) == 0
    }
