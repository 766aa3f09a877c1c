"""Creates what a run needs in a cluster, all of it or nothing."""

import secrets

from checks.manifests import Document, pods
from checks.references import references_of
from external import CLUSTER_CONFIG_MAPS, NAMESPACE
from kubectl import check_accepted, delete_labeled, exists, send, set_owner, uid

from service.spec.errors import BadInputError, Problem

SUBMISSION_LABEL = "dtkd-submission"
# Which part of an overlay has what pods of runs mount.
PART_OF = {"ConfigMap": "platform", "PersistentVolumeClaim": "foundation"}


def check_creatable(documents: list[Document], overlay: str) -> None:
    """Check that what the pods mount is there, and that nothing is there that is to be created.

    ``documents``: the last is the RayJob.

    Raises:
        BadInputError: naming all that is missing, or that exists.
    """
    *parts, job = documents
    name = job["metadata"]["name"]
    if exists("rayjob", name):
        remedy = f"run kubectl delete rayjob {name} -n {NAMESPACE}; the run then resumes"
        raise BadInputError("cluster", [Problem(f"rayjob {name}", "exists", remedy)])
    problems = []
    for kind, mounted in sorted(_mounted(documents)):
        if not exists(kind.lower(), mounted):
            remedy = f"run deploy/kubernetes/apply.py {overlay} {PART_OF[kind]}"
            problems.append(Problem(f"namespace {NAMESPACE}", f"has no {kind} {mounted}", remedy))
    for part in parts:
        kind, part_name = part["kind"].lower(), part["metadata"]["name"]
        if exists(kind, part_name):
            wrong = "exists, of a RayJob that is gone"
            remedy = f"wait a minute, or run kubectl delete {kind} {part_name} -n {NAMESPACE}"
            problems.append(Problem(f"{kind} {part_name}", wrong, remedy))
    if problems:
        raise BadInputError("cluster", problems)


def _mounted(documents: list[Document]) -> set[tuple[str, str]]:
    """(kind, name) of ConfigMaps and claims that the pods of the objects mount from elsewhere."""
    own = {(document["kind"], document["metadata"]["name"]) for document in documents}
    found = {(kind, name) for pod in pods(documents) for kind, name, _ in references_of(pod)}
    known = own | {("ConfigMap", name) for name in CLUSTER_CONFIG_MAPS}
    return {(kind, name) for kind, name in found - known if kind in PART_OF}


def create(documents: list[Document]) -> None:
    """Create what a run needs, all or nothing; what belongs to the RayJob is deleted with it.

    Raises:
        BadInputError: the cluster refuses a part of it.
    """
    submission = f"{SUBMISSION_LABEL}={secrets.token_hex(8)}"
    labeled = [_with_label(document, *submission.split("=")) for document in documents]
    check_accepted("create", labeled)
    *parts, job = labeled
    name = job["metadata"]["name"]
    try:
        for document in labeled:
            send("create", [document])
        owner = {"apiVersion": job["apiVersion"], "kind": job["kind"], "name": name}
        for part in parts:
            part_name = part["metadata"]["name"]
            set_owner(part["kind"].lower(), part_name, {**owner, "uid": uid("rayjob", name)})
    except BaseException as error:
        # By the label, which nothing else has: whether a call without an answer worked is unknown.
        _remove(documents, submission, error)
        raise


def _with_label(document: Document, key: str, value: str) -> Document:
    metadata = document["metadata"]
    labels = {**metadata["labels"], key: value}
    return {**document, "metadata": {**metadata, "labels": labels}}


def _remove(documents: list[Document], submission: str, reason: BaseException) -> None:
    """Remove what was created of a submission.

    Raises:
        BadInputError: it cannot be removed; with what ``reason`` says, if it is one.
    """
    kinds = [document["kind"].lower() for document in reversed(documents)]
    try:
        delete_labeled(kinds, submission)
    except BadInputError as error:
        problems = reason.problems if isinstance(reason, BadInputError) else ()
        raise BadInputError("cluster", [*problems, *error.problems]) from error
