"""Run a spec as a RayJob: python deploy/kubernetes/submit.py SPEC.json --overlay gpu [--dry-run].

The spec is that of a job, a sweep or a comparison. Submitted again after its RayJob was deleted,
it resumes. Exit status: 0 submitted, 2 bad input, of which nothing is created.
"""

import argparse
import re
import sys

import yaml
from creation import check_creatable, create
from external import SECRETS
from image_lock import check_lock
from kubectl import FOLDER, build, check_namespace, overlays, run_command
from rayjob import HOUR_S, Options, render, standing_cluster
from run_spec import read_run

from service.run.scripts import ScriptParser
from service.spec.errors import BadInputError, Problem, shown
from service.spec.secrets import path_argument

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class ManifestDumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes manifests as people do: texts of several lines as they are, no references."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML's interface
        """Whether equal objects are written out each time."""
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """A text, as a block where it has several lines."""
        style = "|" if "\n" in data else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


ManifestDumper.add_representer(str, ManifestDumper.represent_str)


def submit(arguments: list[str]) -> None:
    """Check everything, then create, or print, what a run needs.

    Raises:
        BadInputError: the spec, the overlay, the image or the namespace does not fit.
    """
    options = _parser().parse_args(arguments)
    run = read_run(options.spec, options.name)
    platform = build(FOLDER / "overlays" / options.overlay / "platform")
    check_lock(platform)
    chosen = Options(
        options.deadline_hours * HOUR_S, options.retries, options.queue, options.confirm
    )
    if options.confirm and run.script != "sweep":
        raise BadInputError("arguments", [Problem("--confirm", "goes with a sweep", "remove it")])
    documents = render(standing_cluster(platform), run, chosen)
    if options.dry_run:
        print(yaml.dump_all(documents, Dumper=ManifestDumper, sort_keys=False), end="")
        return
    check_namespace(SECRETS)
    check_creatable(documents, options.overlay)
    create(documents)


def _parser() -> argparse.ArgumentParser:
    parser = ScriptParser(__doc__)
    parser.add_argument("spec", type=path_argument, help="the JSON spec")
    parser.add_argument("--overlay", required=True, choices=overlays(), help="which cluster")
    parser.add_argument("--name", help="name of the RayJob, where that of the spec cannot be used")
    parser.add_argument(
        "--deadline-hours", type=_count, default=168, metavar="N", help="end it then; default: 168"
    )
    parser.add_argument(
        "--retries", type=int, choices=range(11), default=3, help="new clusters; default: 3"
    )
    parser.add_argument(
        "--queue", type=_dns_label, metavar="NAME", help="wait in this queue of Kueue"
    )
    parser.add_argument(
        "--confirm", type=_count, default=0, metavar="N", help="of a sweep: as in jobs/sweep.py"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the objects; no cluster")
    return parser


def _dns_label(text: str) -> str:
    if not DNS_LABEL.fullmatch(text):
        wrong = f"{shown(text)} is no DNS label: give 1 to 63 lower-case letters, digits and -"
        raise argparse.ArgumentTypeError(wrong)
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 to 10000")
    return int(text)


if __name__ == "__main__":
    run_command(lambda: submit(sys.argv[1:]))
