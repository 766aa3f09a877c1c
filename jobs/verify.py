"""Find damaged bytes and undecodable images of a dataset: python jobs/verify.py FILE.beton.

The complete file is read: its tables and size are compared with the manifest, its images with their
digests, and the images are decoded. Exit status: 0 the file is intact, 1 it is damaged or not a
.beton, 2 the file does not exist.
"""

import os
import sys

from data_pipeline.beton import BetonError, BetonFile, open_beton
from data_pipeline.manifest import read_manifest
from data_pipeline.verify import Damage, check_tables, find_damage
from service.run.scripts import ScriptParser, run_script
from service.spec.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED
from service.spec.paths import absolute_path, path_remedy
from service.spec.secrets import path_argument


def main(arguments: list[str]) -> int:
    """Verify and return the exit status."""
    parser = ScriptParser(__doc__)
    parser.add_argument("file", type=path_argument, help="the .beton file")
    parser.add_argument(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="number of threads that read and decode (default: one per available CPU)",
    )
    options = parser.parse_args(arguments)
    if not options.file.exists():
        remedy = path_remedy(options.file, "the path of a .beton file")
        print(f"verify: {absolute_path(options.file)} does not exist; {remedy}", file=sys.stderr)
        return EXIT_BAD_INPUT
    try:
        file, manifest = open_beton(options.file), read_manifest(options.file)
    except BetonError as error:
        print(f"verify: {error}", file=sys.stderr)
        return EXIT_FAILED if options.file.is_file() else EXIT_BAD_INPUT
    num_faults = 0
    if manifest is None:
        print(f"{options.file} has no manifest: only the file itself is checked")
    else:
        try:
            check_tables(options.file)
        except BetonError as error:
            num_faults += 1
            print(error)
    if file.digests is None:
        print(f"{options.file} has no digests: its images are only decoded")
    for damage in find_damage(file, options.threads):
        num_faults += 1
        print(_describe(file, damage, manifest["classes"] if manifest else None), flush=True)
    if num_faults:
        print(f"{options.file}: {num_faults} faults; copy or convert it again")
        return EXIT_FAILED
    print(f"{options.file}: {file.num_samples:,} samples, intact")
    return EXIT_DONE


def _describe(file: BetonFile, damage: Damage, classes: list[str] | None) -> str:
    if damage.sample is None:
        return damage.fault
    label = int(file.labels[damage.sample])
    known = classes is not None and 0 <= label < len(classes)
    name = f"class {classes[label]}" if classes is not None and known else f"label {label}"
    return f"sample {damage.sample} ({name}) {damage.fault}"


if __name__ == "__main__":
    run_script(main)
