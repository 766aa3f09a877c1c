"""Speed of converting and loading images, compared with FFCV and torchvision on the same photos.

    python tests/benchmarks/data.py [--photos FOLDER] [--rounds N] [--json FILE]

FOLDER has JPEG photos anywhere below it; the default is foolbox's 20 ImageNet photos. They are
repeated until there are enough for a measurement.
"""

import argparse
import functools
import importlib.util
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from pipelines import (
    NUM_THREADS,
    NondeterministicPipeline,
    ServicePipeline,
    stock_ffcv,
    torchvision_decode_jpeg,
    torchvision_pil,
)
from table import Comparison, add_json_option, compare, report

from data_pipeline.convert import convert
from data_pipeline.encode import Encoding
from data_pipeline.native import library
from data_pipeline.native.self_check import check_decoder
from data_pipeline.selection import Selection
from data_pipeline.sources import open_source
from service.training.distributed import keep_freed_memory

MIN_LOADED, MIN_CONVERTED = 3000, 9000


def main(arguments: list[str]) -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, help="folder with JPEG photos")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; medians are reported")
    add_json_option(parser)
    options = parser.parse_args(arguments)
    # As in a training worker without a GPU; all pipelines benefit.
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as temporary:
        photos, folder = options.photos or default_photos(), Path(temporary)
        loaded = repeated(photos, folder / "loaded", MIN_LOADED)
        converted = repeated(photos, folder / "converted", MIN_CONVERTED)
        beton = folder / "photos.beton"
        convert(open_source(loaded), beton, Encoding(), Selection(), NUM_THREADS)
        dense, dense_beton = dense_photos(loaded, folder / "dense"), folder / "dense.beton"
        convert(open_source(dense), dense_beton, Encoding(), Selection(), NUM_THREADS)
        comparisons = [*loading(loaded, beton), *decoding(beton, dense_beton)]
        comparisons.append(
            Comparison(
                "conversion / FFCV's DatasetWriter",
                lambda: service_conversion(converted, folder),
                lambda: stock_conversion(converted, folder),
                5.0,
            )
        )
        ratios = compare(comparisons, options.rounds, "img/s")
    report(ratios, options.json)
    return 0


def default_photos() -> Path:
    """The folder of the photos that come with foolbox."""
    found = importlib.util.find_spec("foolbox")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("give --photos FOLDER, or install foolbox for its 20 photos")
    return Path(found.submodule_search_locations[0]) / "data"


def repeated(photos: Path, folder: Path, num_images: int) -> Path:
    """A class folder with links to the photos, each repeated, at least ``num_images`` in all."""
    files = sorted(p for p in photos.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise SystemExit(f"{photos} has no JPEG files; give a folder with photos")
    (folder / "photos").mkdir(parents=True)
    for copy in range(-(-num_images // len(files))):
        for file in files:
            (folder / "photos" / f"{copy:03d}_{file.name}").symlink_to(file.resolve())
    return folder


def dense_photos(folder: Path, dense: Path) -> Path:
    """The photos encoded like most of ImageNet: 4.5 bits per pixel, Huffman tables of their own."""
    (dense / "photos").mkdir(parents=True)
    encoded: dict[Path, Path] = {}
    for link in sorted((folder / "photos").iterdir()):
        path, photo = dense / "photos" / link.name, link.resolve()
        if photo in encoded:
            path.symlink_to(encoded[photo])
        else:
            image = Image.open(photo).convert("RGB")
            image.save(path, "JPEG", quality=98, subsampling=0, optimize=True)
            encoded[photo] = path
    return dense


def loading(folder: Path, beton: Path) -> list[Comparison]:
    """Training crops by this project and by others, and the cost of the counter-based RNG."""
    normalized = ServicePipeline(beton, normalized=True)
    pixels = ServicePipeline(beton, normalized=False)
    return [
        Comparison("crops / stock FFCV", normalized, stock_ffcv(beton, normalized=True), 1.5),
        Comparison("crops / torchvision, PIL", normalized, torchvision_pil(folder), 3.5),
        Comparison(
            "crops / torchvision, decode_jpeg", normalized, torchvision_decode_jpeg(folder), 2.5
        ),
        Comparison(
            "time with counter-based RNG / with numba's",
            pixels,
            NondeterministicPipeline(beton),
            1.03,
            is_cost=True,
        ),
        Comparison("uint8 crops / stock FFCV", pixels, stock_ffcv(beton, normalized=False), None),
    ]


def decoding(beton: Path, dense_beton: Path) -> list[Comparison]:
    """What the C library's Huffman decoder gains; the more bits a pixel has, the more."""
    given = ServicePipeline(beton, normalized=True)
    dense = ServicePipeline(dense_beton, normalized=True)
    return [
        Comparison(
            f"crops{name} / with libjpeg's Huffman decoder",
            pipeline,
            functools.partial(with_libjpegs_decoder, pipeline),
            goal,
        )
        for name, pipeline, goal in (("", given, None), (" encoded like ImageNet", dense, 1.1))
    ]


def with_libjpegs_decoder(pipeline: ServicePipeline) -> float:
    """Images per second where the self-check has found that the fast decoder does not agree."""
    logging.disable(logging.WARNING)
    check_decoder(library(), expected=b"")
    try:
        return pipeline()
    finally:
        check_decoder(library())
        logging.disable(logging.NOTSET)


def service_conversion(folder: Path, temporary: Path) -> float:
    """Images per second, JPEGs stored as they are, until all is on the disk."""
    source, path = open_source(folder), removed(temporary / "service.beton")
    start_s = time.perf_counter()
    convert(source, path, Encoding(), Selection(), NUM_THREADS)
    return len(source.labels) / (time.perf_counter() - start_s)


def stock_conversion(folder: Path, temporary: Path) -> float:
    """Images per second of FFCV's writer, configured as in its ImageNet example."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
    from torchvision.datasets import ImageFolder

    dataset, path = ImageFolder(str(folder)), removed(temporary / "stock.beton")
    fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=90), "label": IntField()}
    start_s = time.perf_counter()
    DatasetWriter(str(path), fields, num_workers=NUM_THREADS).from_indexed_dataset(dataset)
    return len(dataset) / (time.perf_counter() - start_s)


def removed(path: Path) -> Path:
    """The path, with no file there and no writes pending."""
    path.unlink(missing_ok=True)
    os.sync()
    return path


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
