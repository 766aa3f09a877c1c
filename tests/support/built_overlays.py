"""What the overlays build, once for all tests of a process."""

import copy
import functools

from check import built, rules


@functools.cache
def _built(overlay):
    return built(overlay)


def documents_of(overlay="gpu"):
    """A copy of everything that an overlay puts into a cluster, with a run."""
    return copy.deepcopy(_built(overlay))


def find(documents, kind, name=None):
    """The one object of this kind and, where there are several, name."""
    (found,) = (
        document
        for document in documents
        if document["kind"] == kind and name in (None, document["metadata"]["name"])
    )
    return found


def problems_of_rule(name, documents):
    """What a rule finds, as lines."""
    return [str(problem) for problem in rules(release=False)[name](documents)]
