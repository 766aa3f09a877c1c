"""Create the platform's Secrets, of random values: python deploy/kubernetes/create_secrets.py.

It changes none that exists: Postgres keeps the password of its first start. To print one:
kubectl get secret dtkd-mlflow -n dtkd -o jsonpath='{.data.admin-password}' | base64 -d
"""

import secrets
import sys

from checks.manifests import Document
from external import NAMESPACE, SECRETS
from kubectl import check_namespace, exists, run_command, send

from service.run.scripts import ScriptParser
from service.spec.errors import BadInputError, Problem

# What is no secret.
NAMES = {"runs-username": "runs"}
NUM_BYTES = 32


def create_secrets(arguments: list[str]) -> None:
    """Create those that are missing.

    Raises:
        BadInputError: there is no namespace, or all of the Secrets exist.
    """
    ScriptParser(__doc__).parse_args(arguments)
    check_namespace(())
    present = [name for name in SECRETS if exists("secret", name)]
    if len(present) == len(SECRETS):
        raise BadInputError("cluster", [_exists(name) for name in present])
    send("create", [secret(name) for name in SECRETS if name not in present])


def secret(name: str) -> Document:
    """A Secret with new random values."""
    values = {key: NAMES.get(key) or secrets.token_hex(NUM_BYTES) for key in SECRETS[name]}
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}


def _exists(name: str) -> Problem:
    remedy = "keep it; to change it, see Secrets in deploy/SECURITY.md"
    return Problem(f"Secret {name}", "exists", remedy)


if __name__ == "__main__":
    run_command(lambda: create_secrets(sys.argv[1:]))
