"""How fast images are converted and loaded, beside FFCV and torchvision, on the same photos.

    python tests/benchmarks/data.py [--photos FOLDER] [--rounds N] [--json FILE]

FOLDER holds JPEG photos anywhere below it; without it, foolbox's 20 ImageNet photos are used. They
are repeated until there are enough of them for a measurement.
"""

import argparse
import importlib.util
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipelines import (
    NUM_THREADS,
    OurPipeline,
    WithoutDeterminism,
    stock_ffcv,
    torchvision_decode_jpeg,
    torchvision_pil,
)
from table import at_least, at_most, for_information, median_rates, show, write_json

from data_pipeline.convert import convert
from data_pipeline.encode import Encoding
from data_pipeline.selection import Selection
from data_pipeline.sources import open_source
from service.training.memory import keep_freed_memory

MIN_IMAGES = 3000


def main(arguments: list[str]) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, help="folder with JPEG photos")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; medians are reported")
    parser.add_argument("--json", type=Path, help="file for the ratios")
    options = parser.parse_args(arguments)
    # As a training worker without a GPU does, and to the benefit of all that is measured.
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as temporary:
        folder = repeated(options.photos or default_photos(), Path(temporary) / "photos")
        beton = Path(temporary) / "photos.beton"
        convert(open_source(folder), beton, Encoding(), Selection(), NUM_THREADS)
        rates = median_rates(measures(folder, beton, Path(temporary)), options.rounds)
    ratios = compare(rates)
    show(rates, ratios, "img/s")
    if options.json:
        write_json(options.json, ratios)
    return 0


def default_photos() -> Path:
    """The folder of the photos that come with foolbox."""
    found = importlib.util.find_spec("foolbox")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("give --photos FOLDER, or install foolbox for its 20 photos")
    return Path(found.submodule_search_locations[0]) / "data"


def repeated(photos: Path, folder: Path) -> Path:
    """A class folder with links to the photos, over and over."""
    files = sorted(p for p in photos.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise SystemExit(f"{photos} has no JPEG files; give a folder with photos")
    (folder / "photos").mkdir(parents=True)
    for copy in range(-(-MIN_IMAGES // len(files))):
        for file in files:
            (folder / "photos" / f"{copy:03d}_{file.name}").symlink_to(file.resolve())
    return folder


def measures(folder: Path, beton: Path, temporary: Path) -> dict[str, Callable[[], float]]:
    """What is measured, by name."""
    return {
        "load: this project, normalised": OurPipeline(beton, normalized=True),
        "load: stock FFCV, normalised": stock_ffcv(beton, normalized=True),
        "load: torchvision, PIL": torchvision_pil(folder),
        "load: torchvision, decode_jpeg": torchvision_decode_jpeg(folder),
        "load: this project, uint8": OurPipeline(beton, normalized=False),
        "load: stock FFCV, uint8": stock_ffcv(beton, normalized=False),
        "load: without determinism, uint8": WithoutDeterminism(beton),
        "convert: this project": lambda: our_conversion(folder, temporary),
        "convert: FFCV's DatasetWriter": lambda: stock_conversion(folder, temporary),
    }


def our_conversion(folder: Path, temporary: Path) -> float:
    """Images per second with pass-through, start of the processes included."""
    source = open_source(folder)
    start_s = time.perf_counter()
    convert(source, temporary / "ours.beton", Encoding(), Selection(), NUM_THREADS)
    return len(source.labels) / (time.perf_counter() - start_s)


def stock_conversion(folder: Path, temporary: Path) -> float:
    """Images per second of FFCV's writer as its ImageNet example sets it up."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(str(folder))
    fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=90), "label": IntField()}
    path = temporary / "stock.beton"
    start_s = time.perf_counter()
    DatasetWriter(str(path), fields, num_workers=NUM_THREADS).from_indexed_dataset(dataset)
    elapsed_s = time.perf_counter() - start_s
    shutil.rmtree(path, ignore_errors=True)
    return len(dataset) / elapsed_s


def compare(rates: dict[str, float]) -> list:
    """The ratios that were promised, and two that explain them."""
    ours = rates["load: this project, normalised"]
    exact, free = rates["load: this project, uint8"], rates["load: without determinism, uint8"]
    conversion = rates["convert: this project"] / rates["convert: FFCV's DatasetWriter"]
    return [
        at_least("crops / stock FFCV", ours / rates["load: stock FFCV, normalised"], 1.5),
        at_least("crops / torchvision, PIL", ours / rates["load: torchvision, PIL"], 3.5),
        at_least(
            "crops / torchvision, decode_jpeg", ours / rates["load: torchvision, decode_jpeg"], 2.5
        ),
        at_least("conversion / FFCV's DatasetWriter", conversion, 5.0),
        at_most("time with determinism / without", free / exact, 1.03),
        for_information("uint8 crops / stock FFCV", exact / rates["load: stock FFCV, uint8"]),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
