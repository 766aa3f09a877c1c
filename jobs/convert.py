"""Convert images to a .beton file: python jobs/convert.py SOURCE OUT.beton [options].

The manifest is written to OUT.beton.json. Exit status: 0 done, 1 failed, 2 bad input, 130 or 143
interrupted (SIGINT, SIGTERM). A conversion that fails or is interrupted leaves no partial file.
"""

import argparse
import logging
import os
import signal
import sys
import warnings
from pathlib import Path

import numpy as np

from data_pipeline.beton import open_beton
from data_pipeline.convert import Part, convert_parts, refuse_existing
from data_pipeline.encode import Encoding, UnreadableImageError
from data_pipeline.overlap import num_shared
from data_pipeline.selection import Selection
from data_pipeline.sources import Source, SourceError, open_source
from data_pipeline.sources.class_lists import only_classes, read_class_list, with_classes
from data_pipeline.sources.levels import check_classes
from data_pipeline.sources.shards import is_pattern
from data_pipeline.sources.unlabeled import open_unlabeled
from data_pipeline.text import printable
from service.run.scripts import ScriptParser, run_script
from service.spec.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED
from service.spec.paths import absolute_path, output_problem, path_remedy
from service.spec.secrets import path_argument

MAX_SHOWN = 10


def main(arguments: list[str]) -> int:
    """Convert and return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    # What a source skips.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("data_pipeline").setLevel(logging.INFO)
    # Pillow's have no name of a file; an image that it cannot decode is an error here.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    _check_paths(parser, options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if not options.overwrite:
            refuse_existing(path for path in (options.out, options.hold_out_path) if path)
        _convert(options)
    except (SourceError, UnreadableImageError, ValueError) as error:
        # One line for each image; a name need not be UTF-8.
        lines = [printable(line) for line in str(error).split("\n")]
        print("convert: " + "\n".join(lines), file=sys.stderr)
        return EXIT_BAD_INPUT
    except OSError as error:
        name = printable(str(error.filename or options.out))
        print(f"convert: {name}: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print(f"convert: interrupted; no partial file is left at {options.out}", file=sys.stderr)
        return 128 + signal.SIGINT
    return EXIT_DONE


def _check_paths(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Check the paths before the first image is read."""
    if bool(options.hold_out) != bool(options.hold_out_path):
        parser.error("--hold-out and --hold-out-path go together; give both or neither")
    if options.unlabeled and (options.labels or options.hold_out):
        parser.error("--unlabeled takes images without labels; leave out --labels and --hold-out")
    outputs = [path for path in (options.out, options.hold_out_path) if path]
    if len({path.resolve() for path in outputs}) != len(outputs):
        parser.error(f"--hold-out-path is {options.out} like OUT; give another path")
    for path in outputs:
        if path.exists() and not path.is_file():
            parser.error(f"{path} exists and is not a file; give the path of a .beton file")
        if problem := output_problem(str(path), path.absolute()):
            parser.error(str(problem))
    if options.labels and not options.labels.exists():
        remedy = path_remedy(options.labels, "the path of a devkit or a file of labels")
        parser.error(f"--labels: {absolute_path(options.labels)} does not exist; {remedy}")
    if not options.source.exists() and not is_pattern(options.source):
        remedy = path_remedy(options.source, "the path of a folder or file of images")
        parser.error(f"source: {absolute_path(options.source)} does not exist; {remedy}")


def _convert(options: argparse.Namespace) -> None:
    source = _open_source(options)
    seed, hold_out = options.seed, options.hold_out
    parts = [Part(options.out, Selection(options.per_class, seed, hold_out))]
    if hold_out:
        selection = Selection(None, seed, hold_out, part="held out")
        parts.append(Part(options.hold_out_path, selection))
    encoding = Encoding(options.format, options.quality, options.max_side, options.short_side)
    manifests = convert_parts(
        source,
        parts,
        encoding,
        options.workers,
        options.max_undecodable,
        overwrite=options.overwrite,
    )
    for part, manifest in zip(parts, manifests, strict=True):
        for fault in manifest["left_out"]:
            print(f"left out: {fault}")
        images = _counted(manifest["num_samples"], "image", "images")
        classes = _counted(len(manifest["classes"]), "class", "classes")
        labels = "without labels" if options.unlabeled else f"of {classes}"
        print(
            f"{part.path}: {images} {labels}, "
            f"{manifest['num_bytes'] / 1e6:,.1f} MB, fingerprint {manifest['fingerprint']}"
        )
    if hold_out:
        _warn_of_copies(options.out, options.hold_out_path)


def _counted(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"


def _open_source(options: argparse.Namespace) -> Source:
    """The images to convert, with their final classes."""
    if options.unlabeled:
        return open_unlabeled(options.source, split=options.split)
    source: Source = open_source(options.source, labels=options.labels, split=options.split)
    check_classes(options.source, source)
    if options.classes:
        source = with_classes(source, read_class_list(options.classes), options.classes)
        counts = np.bincount(source.labels, minlength=len(source.classes))
        empty = [source.classes[label] for label in np.flatnonzero(counts == 0).tolist()]
        if empty:
            more = " ..." if len(empty) > MAX_SHOWN else ""
            names = ", ".join(map(printable, empty[:MAX_SHOWN]))
            print(f"{len(empty):,} classes of {options.classes} have no image: {names}{more}")
    if options.only_classes:
        num_images = len(source.labels)
        source = only_classes(source, read_class_list(options.only_classes), options.only_classes)
        num_left_out = num_images - len(source.labels)
        print(f"{num_left_out:,} of {num_images:,} images are of classes that are left out")
    return source


def _warn_of_copies(out: Path, hold_out_path: Path) -> None:
    """Print how many held-out images the other file has too: the source has copies of them."""
    file, held_out = open_beton(out), open_beton(hold_out_path)
    assert file.digests is not None
    assert held_out.digests is not None
    count = num_shared(held_out.digests, file.digests)
    if count:
        print(
            f"warning: {count:,} of {held_out.num_samples:,} images of {hold_out_path} are also in "
            f"{out}: the source has copies of them"
        )


def _parser() -> argparse.ArgumentParser:
    parser = ScriptParser(__doc__)
    parser.add_argument(
        "source",
        type=path_argument,
        help="folder of <class>/<image>; ILSVRC2012's train or val tar; a tar of <class>/<image>; "
        "WebDataset shards (folder, or name-{000..127}.tar); torchvision's CIFAR folder; IDX files",
    )
    parser.add_argument("out", type=path_argument, help="the .beton file to write")
    parser.add_argument(
        "--labels",
        type=path_argument,
        help="labels of images that are in one folder or tar, such as ILSVRC2012's val: the "
        "devkit, or a text file with a label, or a file name and a label, in each line",
    )
    _add_class_options(parser)
    parser.add_argument(
        "--split",
        choices=("train", "test"),
        default="train",
        help="part of a source that has both: CIFAR or a folder of IDX files (default: train)",
    )
    _add_storage_options(parser)
    _add_selection_options(parser)
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace OUT and the file of --hold-out-path if they exist (default: refuse)",
    )
    parser.add_argument(
        "--max-undecodable",
        type=_not_negative,
        default=0,
        metavar="N",
        help="leave out and list up to this many images that cannot be decoded (default: 0, which "
        "fails at the first one)",
    )
    parser.add_argument(
        "--workers",
        type=_positive,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="number of threads that encode images; the file does not depend on it (default: one "
        "per available CPU)",
    )
    return parser


def _add_class_options(parser: argparse.ArgumentParser) -> None:
    classes = parser.add_mutually_exclusive_group()
    classes.add_argument(
        "--classes",
        type=path_argument,
        metavar="FILE",
        help="take over the classes of another dataset and their order, so that a label means the "
        "same in both: OTHER.beton, or a file of names; a source's numbers are indices into them",
    )
    classes.add_argument(
        "--only-classes",
        type=path_argument,
        metavar="FILE",
        help="convert only the images of these classes, as for ImageNet-100: a file with a name, "
        "such as a wnid, in each line, or JSON",
    )
    classes.add_argument(
        "--unlabeled",
        action="store_true",
        help="convert all images of a folder, a tar or shards, in whatever folders they are, "
        "without labels, to distill from a teacher alone (dataset.unlabeled of a spec)",
    )


def _add_storage_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        choices=("jpeg", "raw"),
        default="jpeg",
        help="store images as JPEG (the source's own bytes if possible) or as raw pixels "
        "(default: jpeg)",
    )
    parser.add_argument(
        "--quality",
        type=_quality,
        default=90,
        metavar="Q",
        help="JPEG quality, 1 to 100, of images that must be encoded, such as PNGs (default: 90)",
    )
    for option, side in (("--max-side", "longer"), ("--short-side", "shorter")):
        parser.add_argument(
            option,
            type=_positive,
            metavar="PIXELS",
            help=f"shrink images whose {side} side exceeds this (default: no limit)",
        )


def _add_selection_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--per-class",
        type=_positive,
        metavar="N",
        help="number of images of each class in OUT (default: all that are not held out)",
    )
    parser.add_argument(
        "--hold-out",
        type=_not_negative,
        default=0,
        metavar="N",
        help="hold out this many images of each class, to choose settings without val (default: 0)",
    )
    parser.add_argument(
        "--hold-out-path",
        type=path_argument,
        metavar="PATH",
        help="the .beton file to write the held-out images to",
    )
    parser.add_argument(
        "--seed",
        type=_not_negative,
        default=0,
        metavar="N",
        help="seed of the selection and of the order of the images (default: 0)",
    )


def _quality(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 100")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def _not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


if __name__ == "__main__":
    run_script(main)
