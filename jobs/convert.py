"""Turn labelled images into a .beton file: python jobs/convert.py SOURCE OUT.beton [options]."""

import argparse
import os
import sys
from pathlib import Path

from data_pipeline.convert import Selection, convert
from data_pipeline.encode import Encoding, UnreadableImageError
from data_pipeline.sources import SourceError, open_source
from service.problems import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED


def main(arguments: list[str]) -> int:
    """Convert and return the exit status."""
    options = _parser().parse_args(arguments)
    encoding = Encoding(options.format, options.quality, options.max_side, options.short_side)
    selection = Selection(options.per_class, options.seed)
    try:
        source = open_source(options.source)
        manifest = convert(source, options.out, encoding, selection, options.processes)
    except (SourceError, UnreadableImageError) as error:
        print(f"convert: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except OSError as error:
        print(f"convert: {error.filename or options.out}: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED
    print(
        f"{options.out}: {manifest['num_samples']:,} images of {len(manifest['classes'])} classes, "
        f"{manifest['num_bytes'] / 1e6:,.1f} MB, sha256 {manifest['sha256']}"
    )
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "source", type=Path, help="folder of <class>/<image>, or *-images-idx3-ubyte[.gz]"
    )
    parser.add_argument("out", type=Path, help="the .beton file to write")
    parser.add_argument(
        "--format",
        choices=("jpeg", "raw"),
        default="jpeg",
        help="store JPEG (the source's own bytes where possible) or raw pixels",
    )
    parser.add_argument(
        "--quality",
        type=_quality,
        default=90,
        help="JPEG quality of images that are re-encoded",
    )
    parser.add_argument(
        "--max-side", type=_positive, help="shrink the longer side to this, in pixels"
    )
    parser.add_argument(
        "--short-side", type=_positive, help="shrink the shorter side to this, in pixels"
    )
    parser.add_argument("--per-class", type=_positive, help="take so many images of each class")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice and of the order")
    parser.add_argument(
        "--processes",
        type=_positive,
        default=len(os.sched_getaffinity(0)),
        help="processes that encode; the file does not depend on it",
    )
    return parser


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
