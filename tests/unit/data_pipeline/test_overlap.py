"""Numbers of shared images, against comparisons of the images' bytes one by one."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.image_makers import converted, jpeg_bytes, smooth_image

from data_pipeline.beton import open_beton
from data_pipeline.encode import Encoding
from data_pipeline.overlap import num_shared

ROOT = Path(__file__).parents[3]


def write(root, numbers):
    """JPEGs and PNGs of ``numbers``, under names that do not show them."""
    for place, number in enumerate(numbers):
        picture = smooth_image(40 + number % 7, 30, seed=number)
        content = jpeg_bytes(picture)
        if number % 3 == 0:
            stream = io.BytesIO()
            picture.save(stream, "PNG")
            content = stream.getvalue()
        folder = root / f"class{place % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{place}.jpg").write_bytes(content)
    return root


def shared_by_source(root, other):
    """How many files below ``root`` have the bytes of a file below ``other``."""
    known = [path.read_bytes() for path in other.rglob("*.jpg")]
    return sum(path.read_bytes() in known for path in root.rglob("*.jpg"))


def shared_by_stored_bytes(path, other):
    stored, known = stored_bytes(path), stored_bytes(other)
    return sum(content in known for content in stored)


def stored_bytes(path):
    file, data = open_beton(path), path.read_bytes()
    rows = file.storage(np.arange(file.num_samples))
    return [data[position : position + size] for _, _, _, position, size in rows]


def counted(path, other):
    return num_shared(open_beton(path).digests, open_beton(other).digests)


@pytest.mark.parametrize("seed", range(6))
def test_count_is_that_of_equal_files_under_any_name(tmp_path, seed):
    generator = np.random.default_rng(seed)
    # With repetitions: copies count as often as they occur.
    train = write(tmp_path / "train", generator.integers(0, 60, 40).tolist())
    val = write(tmp_path / "val", generator.integers(40, 80, 30).tolist())
    converted(train, tmp_path / "train.beton")
    converted(val, tmp_path / "val.beton")
    for one, other in (("val", "train"), ("train", "val"), ("val", "val")):
        count = counted(tmp_path / f"{one}.beton", tmp_path / f"{other}.beton")
        assert count == shared_by_source(tmp_path / one, tmp_path / other)
        files = (tmp_path / f"{one}.beton", tmp_path / f"{other}.beton")
        assert count == shared_by_stored_bytes(*files)


@pytest.mark.parametrize("encoding", [Encoding("raw"), Encoding(max_side=20), Encoding(quality=50)])
def test_images_that_are_stored_in_another_way_are_found(tmp_path, encoding):
    train, val = write(tmp_path / "train", range(12)), write(tmp_path / "val", range(8, 20))
    converted(train, tmp_path / "train.beton")
    converted(val, tmp_path / "val.beton", encoding)
    assert shared_by_stored_bytes(tmp_path / "val.beton", tmp_path / "train.beton") < 4
    assert counted(tmp_path / "val.beton", tmp_path / "train.beton") == 4


def test_files_of_other_formats_with_the_same_pixels_are_found_where_these_are_stored(tmp_path):
    for suffix, kind in (("png", "PNG"), ("bmp", "BMP")):
        (tmp_path / kind / "a").mkdir(parents=True)
        for index in range(3):
            smooth_image(20, 20, seed=index).save(tmp_path / kind / "a" / f"{index}.{suffix}")
        converted(tmp_path / kind, tmp_path / f"{kind}.beton")
    assert counted(tmp_path / "PNG.beton", tmp_path / "BMP.beton") == 3


def test_images_that_another_program_saved_again_are_others(tmp_path):
    train = write(tmp_path / "train", [1, 2, 4])
    for path in train.rglob("*.jpg"):
        again = tmp_path / "again" / path.relative_to(train)
        again.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(again, quality=80)
    for name in ("train", "again"):
        converted(tmp_path / name, tmp_path / f"{name}.beton")
    assert counted(tmp_path / "again.beton", tmp_path / "train.beton") == 0


def test_no_images_share_nothing(tmp_path):
    converted(write(tmp_path / "train", range(4)), tmp_path / "train.beton")
    digests = open_beton(tmp_path / "train.beton").digests
    assert num_shared(digests[:0], digests) == num_shared(digests, digests[:0]) == 0


def test_conversion_warns_of_held_out_images_of_which_the_source_has_copies(tmp_path):
    # Every image twice, once in each class.
    source = write(tmp_path / "images", [n // 2 for n in range(40)])
    command = [sys.executable, ROOT / "jobs" / "convert.py", source, "out.beton"]
    command += ["--hold-out", "5", "--hold-out-path", "held.beton"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    held_out = tmp_path / "held.beton"
    count = shared_by_stored_bytes(held_out, tmp_path / "out.beton")
    assert count > 0
    assert f"warning: {count} of 10 images of held.beton are also in out.beton" in done.stdout
