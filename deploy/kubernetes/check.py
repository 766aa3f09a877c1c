"""Build every overlay, and check what is built: python deploy/kubernetes/check.py [--crds FOLDER].

The schemas are those of Kubernetes and, with --crds, of KubeRay's CustomResourceDefinitions; the
rules are in checks/. With --release every image must have a digest, and this tree's lock. Exit
status: 0, or 2 with a line for each problem.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from checks import network, objects, pods, references, schemas
from checks.manifests import Document
from image_lock import images_have_the_lock
from kubectl import FOLDER, build, overlays, run_command
from rayjob import HOUR_S, Options, render, standing_cluster
from run_spec import read_run

from service.run.scripts import ScriptParser
from service.spec.errors import BadInputError, Problem

Rule = Callable[[list[Document]], Iterator[Problem]]
EXAMPLES = FOLDER / "examples"
LOADER = FOLDER / "loader"
# Which example fits the workers of which overlay.
EXAMPLE_OF = {"one-machine": "one-machine", "cpu": "cpu", "gpu": "gpu", "spot": "gpu"}


def rules(*, release: bool) -> Mapping[str, Rule]:
    """All rules by name."""
    found: list[Rule] = [
        references.names_exist,
        references.volumes_match,
        references.services_answer,
        pods.pods_are_restricted,
        pods.resources_are_set,
        pods.probes_are_set,
        pods.ends_leave_time,
        pods.data_is_read_only,
        pods.tokens_are_not_mounted,
        network.all_is_denied,
        network.policies_select_pods,
        network.rules_name_ports,
        network.ports_are_open,
        network.both_ends_agree,
        objects.namespace_is_restricted,
        objects.settings_are_filled,
        objects.secrets_are_referred_to,
        objects.budgets_can_be_met,
        objects.kuberay_accepts,
    ]
    if release:
        found.append(images_have_the_lock)
    named = {rule.__name__: rule for rule in found}
    return {**named, "images_are_fixed": partial(pods.images_are_fixed, release=release)}


def built(overlay: str) -> list[Document]:
    """Everything that an overlay puts into a cluster: both of its parts, a run, and the loader."""
    folder = FOLDER / "overlays" / overlay
    platform = build(folder / "platform")
    run = read_run(EXAMPLES / f"{EXAMPLE_OF[overlay]}.json")
    options = Options(deadline_s=HOUR_S, num_retries=3)
    job = render(standing_cluster(platform), run, options)
    return [*build(folder / "foundation"), *platform, *job, *build(LOADER)]


def check(arguments: list[str]) -> None:
    """Check all overlays and print what was checked.

    Raises:
        BadInputError: with every problem.
    """
    options = _parser().parse_args(arguments)
    documents = {overlay: built(overlay) for overlay in overlays()}
    chosen = rules(release=options.release)
    problems = [
        problem._replace(where=f"{overlay}, {problem.where}")
        for overlay, content in documents.items()
        for rule in chosen.values()
        for problem in rule(content)
    ]
    everything = [document for content in documents.values() for document in content]
    problems += schemas.kubernetes_problems(everything)
    ray = "KubeRay's skipped: give its CustomResourceDefinitions with CRDS=FOLDER"
    if options.crds is not None:
        problems += schemas.ray_problems(everything, schemas.ray_validators(options.crds))
        ray = f"KubeRay's CustomResourceDefinitions of {options.crds}"
    if problems:
        raise BadInputError("deploy/kubernetes", problems)
    print(f"{len(documents)} overlays, {len(everything)} objects, {len(chosen)} rules: no problem")
    print(f"schemas: Kubernetes {schemas.KUBERNETES_VERSION}; {ray}")


def _parser() -> argparse.ArgumentParser:
    parser = ScriptParser(__doc__)
    parser.add_argument("--crds", type=Path, metavar="FOLDER", help="with ray.io_rayjobs.yaml")
    parser.add_argument("--release", action="store_true", help="every image must have a digest")
    return parser


if __name__ == "__main__":
    run_command(lambda: check(sys.argv[1:]))
