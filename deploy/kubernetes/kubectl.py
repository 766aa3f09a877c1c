"""Calls kubectl: that of the path, or of the virtual environment if the former is too old."""

import functools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NoReturn

import yaml
from checks.manifests import Document
from external import NAMESPACE, TLS_SECRET

from service.spec.errors import EXIT_BAD_INPUT, EXIT_DONE, BadInputError, Problem

FOLDER = Path(__file__).resolve().parent
Verb = Literal["create", "apply"]
"""create takes what is too large for an annotation, in which apply keeps what it was given."""

MIN_KUSTOMIZE = 5
TIMEOUT_S = 120
LOG_IN = "choose one with kubectl config use-context, and log in"


@functools.cache
def find_kubectl() -> str:
    """Path of a kubectl whose kustomize knows components and replacements as they are used here.

    Raises:
        BadInputError: there is none.
    """
    beside_python = str(Path(sys.executable).parent / "kubectl")
    for candidate in (shutil.which("kubectl"), beside_python):
        if candidate is not None and Path(candidate).exists():
            found = re.search(r"Kustomize Version: v(\d+)", _version(candidate))
            if found and int(found[1]) >= MIN_KUSTOMIZE:
                return candidate
    wrong = f"there is no kubectl with kustomize {MIN_KUSTOMIZE} or newer"
    raise BadInputError("kubectl", [Problem("kubectl", wrong, "run make setup, or install one")])


def _version(program: str) -> str:
    """What it prints; nothing if it is no program, or hangs."""
    command = [program, "version", "--client"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def build(folder: Path) -> list[Document]:
    """The objects of a kustomization.

    Raises:
        BadInputError: there is none, or it does not build.
    """
    if not (folder / "kustomization.yaml").is_file():
        problem = Problem(str(folder), "has no kustomization.yaml", f"give one of {overlays()}")
        raise BadInputError("overlay", [problem])
    built = call("kustomize", str(folder), where=str(folder), remedy="correct the kustomization")
    return list(yaml.safe_load_all(built))


def overlays() -> list[str]:
    """Names of the overlays."""
    return sorted(path.name for path in (FOLDER / "overlays").iterdir())


def exists(kind: str, name: str, namespace: str | None = NAMESPACE) -> bool:
    """Whether the cluster has an object.

    Raises:
        BadInputError: the cluster does not answer, or refuses to say.
    """
    scope = [] if namespace is None else ["--namespace", namespace]
    return bool(
        call("get", kind, name, *scope, "--ignore-not-found", "--output=name", remedy=LOG_IN)
    )


def get(kind: str, name: str) -> Document | None:
    """An object of the namespace; None if it is not there.

    Raises:
        BadInputError: the cluster does not answer, or refuses to say.
    """
    scope = ("--namespace", NAMESPACE, "--ignore-not-found", "--output=json")
    text = call("get", kind, name, *scope, remedy=LOG_IN)
    found: Document | None = json.loads(text) if text else None
    return found


def uid(kind: str, name: str) -> str:
    """What Kubernetes knows an object of the namespace by.

    Raises:
        BadInputError: it is not there, or the cluster does not answer.
    """
    path = "--output=jsonpath={.metadata.uid}"
    return call("get", kind, name, "--namespace", NAMESPACE, path, remedy="run this again")


def check_answers() -> None:
    """Check that there is a cluster.

    Raises:
        BadInputError: it does not answer.
    """
    try:
        call("get", "--raw=/version", "--request-timeout=10s", remedy=LOG_IN)
    except BadInputError as error:
        (problem,) = error.problems
        if problem.where == "cluster":
            problem = problem._replace(wrong=f"does not answer: {problem.wrong}")
        raise BadInputError(problem.where, [problem]) from error


def check_namespace(secrets: Iterable[str]) -> None:
    """Check that there is a namespace with these Secrets.

    Raises:
        BadInputError: naming the first thing that is missing.
    """
    check_answers()
    if not exists("namespace", NAMESPACE, None):
        remedy = "run deploy/kubernetes/apply.py OVERLAY foundation"
        raise BadInputError("cluster", [Problem(f"namespace {NAMESPACE}", "is missing", remedy)])
    for name in secrets:
        if not exists("secret", name):
            remedy = "run deploy/kubernetes/create_secrets.py"
            if name == TLS_SECRET:
                remedy = (
                    f"run kubectl create secret tls {name} -n {NAMESPACE} --cert FILE --key FILE"
                )
            problem = Problem(f"namespace {NAMESPACE}", f"has no Secret {name}", remedy)
            raise BadInputError("cluster", [problem])


def set_owner(kind: str, name: str, owner: Document) -> None:
    """Let Kubernetes delete an object of the namespace with its owner.

    ``owner``: the reference to it, with its uid.

    Raises:
        BadInputError: the cluster refuses it, or does not answer.
    """
    patch = json.dumps({"metadata": {"ownerReferences": [owner]}})
    place = ("--namespace", NAMESPACE, "--type=merge", f"--patch={patch}")
    call("patch", kind, name, *place, remedy="run this again")


def delete_labeled(kinds: Iterable[str], label: str) -> None:
    """Delete all objects of the namespace of these kinds with a label, such as a=b, if any.

    Raises:
        BadInputError: the cluster refuses it, or does not answer.
    """
    arguments = ("delete", ",".join(kinds), f"--selector={label}", "--namespace", NAMESPACE)
    call(*arguments, "--wait=false", remedy=f"run kubectl {' '.join(arguments)}")


def run_command(work: Callable[[], None]) -> NoReturn:
    """Do the work of a script and exit: 0, or 2 after one line for each problem."""
    try:
        work()
    except BadInputError as error:
        for problem in error.problems:
            print(f"deploy: {problem}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    sys.exit(EXIT_DONE)


def check_accepted(verb: Verb, documents: Sequence[Document]) -> None:
    """Let the cluster say whether it would take all of these objects; it keeps none.

    Raises:
        BadInputError: it refuses one.
    """
    _send(documents, verb, "--dry-run=server")


def send(verb: Verb, documents: Sequence[Document]) -> None:
    """Create or apply objects.

    Raises:
        BadInputError: the cluster refuses one.
    """
    print(_send(documents, verb), end="")


def _send(documents: Sequence[Document], *arguments: str) -> str:
    # Through the standard input: no list of processes has them.
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)})
    return call(*arguments, "--filename=-", remedy="correct what it refuses", text=text)


def call(*arguments: str, remedy: str, where: str = "cluster", text: str | None = None) -> str:
    """What kubectl prints for these arguments.

    Raises:
        BadInputError: about ``where``, with the remedy, if it fails or does not answer.
    """
    command = [find_kubectl(), *arguments]
    # With an empty input: it would wait for a user name, and nobody sees that it asks.
    content = text or ""
    try:
        done = subprocess.run(
            command, input=content, text=True, capture_output=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        wrong = f"kubectl {arguments[0]} had no answer in {TIMEOUT_S} s"
    else:
        if done.returncode == 0:
            return done.stdout
        wrong = " ".join(done.stderr.split()) or "does not answer"
    raise BadInputError(where, [Problem(where, wrong, remedy)])
