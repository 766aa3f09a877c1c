"""Apply a part of an overlay: python deploy/kubernetes/apply.py OVERLAY foundation | platform.

As kubectl apply -k, but the platform is refused where the namespace lacks what its pods need.
"""

import argparse
import sys

from checks.manifests import at
from external import SECRETS, TLS_SECRET
from image_lock import check_lock
from kubectl import (
    FOLDER,
    build,
    check_accepted,
    check_answers,
    check_namespace,
    overlays,
    run_command,
    send,
)

from service.run.scripts import ScriptParser


def apply(arguments: list[str]) -> None:
    """Build a part, check that it can start, and apply it.

    Raises:
        BadInputError: there is no such overlay, its images have another lock, the cluster does not
            answer or refuses an object, or the namespace lacks a Secret.
    """
    options = _parser().parse_args(arguments)
    documents = build(FOLDER / "overlays" / options.overlay / options.part)
    check_lock(documents)
    if options.part == "foundation":
        check_answers()
    else:
        has_tls = any(TLS_SECRET in at(document, "spec.tls.secretName") for document in documents)
        check_namespace([*SECRETS, TLS_SECRET] if has_tls else SECRETS)
        # Of a foundation, a cluster cannot say so before there is the namespace.
        check_accepted("apply", documents)
    send("apply", documents)


def _parser() -> argparse.ArgumentParser:
    parser = ScriptParser(__doc__)
    parser.add_argument("overlay", choices=overlays())
    parser.add_argument("part", choices=("foundation", "platform"))
    return parser


if __name__ == "__main__":
    run_command(lambda: apply(sys.argv[1:]))
