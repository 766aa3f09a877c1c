"""Whether the pinned images have the packages of this tree: of which lock they were built."""

import hashlib
from collections.abc import Iterator

from checks.manifests import Document, label
from kubectl import FOLDER

from service.spec.errors import BadInputError, Problem

LOCK = FOLDER.parent / "requirements" / "runtime.txt"
LOCK_LABEL = "dtkd-service.lock-sha256"
"""Of an image: the digest of the lock that it was built with."""
LOCK_ANNOTATION = "dtkd-service/lock-sha256"
"""Of a Ray cluster: that of its images, recorded by make pin-images."""
OTHER_LOCK = "was built with another deploy/requirements/runtime.txt"


def lock_digest() -> str:
    """SHA-256 of this tree's lock, in hexadecimal."""
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()


def images_have_the_lock(documents: list[Document]) -> Iterator[Problem]:
    """A Ray cluster's image has this tree's lock, where make pin-images has recorded its own."""
    for document in documents:
        if document["kind"] == "RayCluster":
            recorded = document["metadata"].get("annotations", {}).get(LOCK_ANNOTATION)
            if recorded not in (None, lock_digest()):
                wrong = f"the pinned image of {label(document)} {OTHER_LOCK}"
                remedy = "check out the revision of the image, or build it and run make pin-images"
                yield Problem("components/images", wrong, remedy)


def check_lock(documents: list[Document]) -> None:
    """Check the images of an overlay's platform.

    Raises:
        BadInputError: one was built with another lock.
    """
    if problems := list(images_have_the_lock(documents)):
        raise BadInputError("images", problems)
