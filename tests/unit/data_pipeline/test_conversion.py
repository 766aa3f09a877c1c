"""From source to .beton, checked against PIL, numpy and FFCV's own reader."""

import gzip
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.image_makers import converted, jpeg_bytes, noisy_image, smooth_image, write_folder

from data_pipeline.beton import BetonError, open_beton
from data_pipeline.encode import Encoding, UnreadableImageError
from data_pipeline.manifest import manifest_path
from data_pipeline.selection import Selection, select
from data_pipeline.sources import IdxImages, SourceError, open_source

ROOT = Path(__file__).parents[3]


def test_images_of_a_folder_are_stored_byte_for_byte(image_folder, tmp_path):
    path = tmp_path / "out.beton"
    manifest = converted(image_folder, path)
    assert manifest["classes"] == ["class0", "class1", "class2"]
    assert manifest["num_per_class"] == [4, 4, 4]
    file, data = open_beton(path), path.read_bytes()
    stored = {
        data[int(start) : int(start + np.uint64(size))]: label
        for start, size, label in zip(
            file.samples["image"]["data_ptr"], file.data_sizes, file.labels, strict=True
        )
    }
    for label, name in enumerate(manifest["classes"]):
        for image_path in (image_folder / name).iterdir():
            assert stored[image_path.read_bytes()] == label


@pytest.mark.parametrize("encoding", [Encoding(), Encoding("raw"), Encoding(max_side=20)])
def test_stock_ffcv_reads_the_file(tmp_path, encoding):
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor

    for label in range(2):
        folder = tmp_path / "images" / f"class{label}"
        folder.mkdir(parents=True)
        for index in range(3):
            image = smooth_image(32, 24, seed=10 * label + index)
            # A gray JPEG keeps its bytes like the others.
            image = image.convert("L") if index == 2 else image
            (folder / f"{index}.jpg").write_bytes(jpeg_bytes(image))
    path = tmp_path / "out.beton"
    converted(tmp_path / "images", path, encoding)
    stock = Loader(
        str(path),
        batch_size=3,
        num_workers=1,
        order=OrderOption.SEQUENTIAL,
        pipelines={
            "image": [SimpleRGBImageDecoder(), ToTensor()],
            "label": [IntDecoder(), ToTensor()],
        },
    )
    images, labels = zip(*((image.clone(), label.clone()) for image, label in stock), strict=True)
    file, data = open_beton(path), path.read_bytes()
    expected = []
    for mode, height, width, position, size in file.storage(np.arange(6)):
        stored = data[position : position + size]
        if mode == 1:
            expected.append(np.frombuffer(stored, np.uint8).reshape(height, width, 3))
        else:
            expected.append(np.asarray(Image.open(io.BytesIO(stored)).convert("RGB")))
    difference = np.abs(np.concatenate([image.numpy() for image in images]) - np.float32(expected))
    # FFCV uses libjpeg's fast DCT and upsampling; Pillow does not.
    assert difference.max() == 0 if encoding.format == "raw" else difference.mean() < 4
    assert (
        np.concatenate([label.numpy() for label in labels])[:, 0].tolist() == file.labels.tolist()
    )


def test_conversion_does_not_depend_on_the_number_of_workers(image_folder, tmp_path):
    one = converted(image_folder, tmp_path / "one.beton", workers=1)
    two = converted(image_folder, tmp_path / "two.beton", workers=2)
    assert one == two
    assert (tmp_path / "one.beton").read_bytes() == (tmp_path / "two.beton").read_bytes()


def test_unreadable_image_is_named_and_leaves_no_files(image_folder, tmp_path):
    bad = image_folder / "class1" / "2.JPEG"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(UnreadableImageError, match=r"class1/2\.JPEG"):
        converted(image_folder, tmp_path / "out.beton", workers=2)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_dangling_link_is_named(image_folder, tmp_path):
    (image_folder / "class1" / "9.JPEG").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"class1/9\.JPEG is not a regular file"):
        converted(image_folder, tmp_path / "out.beton")


def test_raw_pixels_of_an_idx_source(tmp_path):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (6, 5, 4), dtype=np.uint8)
    labels = np.array([0, 1, 2, 0, 1, 2], dtype=np.uint8)
    head = b"\x00\x00\x08\x03" + np.array(images.shape, ">u4").tobytes()
    source = tmp_path / "t-images-idx3-ubyte.gz"
    source.write_bytes(gzip.compress(head + images.tobytes()))
    label_head = b"\x00\x00\x08\x01" + np.array([6], ">u4").tobytes()
    (tmp_path / "t-labels-idx1-ubyte.gz").write_bytes(gzip.compress(label_head + labels.tobytes()))
    manifest = converted(source, tmp_path / "out.beton", Encoding("raw"), Selection(1, seed=3))
    assert manifest["num_per_class"] == [1, 1, 1]
    assert json.loads(manifest_path(tmp_path / "out.beton").read_text()) == manifest
    file = open_beton(tmp_path / "out.beton")
    data = (tmp_path / "out.beton").read_bytes()
    for sample, label in zip(file.samples["image"], file.labels, strict=True):
        start = int(sample["data_ptr"])
        stored = np.frombuffer(data, np.uint8, 60, start).reshape(5, 4, 3)
        candidates = images[labels == label]
        assert any(np.array_equal(stored, np.stack([c] * 3, axis=2)) for c in candidates)
    (tmp_path / "t-labels-idx1-ubyte.gz").write_bytes(b"no gzip")
    with pytest.raises(SourceError, match="t-labels"):
        IdxImages.open(source)


@pytest.mark.parametrize("damage", ["truncated", "other", "missing"])
def test_files_that_are_not_beton(image_folder, tmp_path, damage):
    path = tmp_path / "out.beton"
    converted(image_folder, path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-50])
    elif damage == "other":
        path.write_bytes(b"PNG" * 1000)
    else:
        path.unlink()
    with pytest.raises(BetonError, match=r"out\.beton"):
        open_beton(path)


def test_up_to_max_undecodable_images_are_left_out_and_listed(image_folder, tmp_path):
    for name in ("class0/1.JPEG", "class2/3.JPEG"):
        (image_folder / name).write_bytes(b"not an image")
    with pytest.raises(UnreadableImageError, match="class"):
        converted(image_folder, tmp_path / "out.beton", max_undecodable=1)
    manifest = converted(image_folder, tmp_path / "out.beton", max_undecodable=2, workers=2)
    assert manifest["num_per_class"] == [3, 4, 3]
    assert sorted(re.findall(r"class\d/\d", " ".join(manifest["left_out"]))) == [
        "class0/1",
        "class2/3",
    ]
    file, data = open_beton(tmp_path / "out.beton"), (tmp_path / "out.beton").read_bytes()
    stored = {data[p : p + n] for _, _, _, p, n in file.storage(np.arange(10))}
    assert stored == {
        path.read_bytes() for path in image_folder.rglob("*.JPEG") if path.stat().st_size > 20
    }


def test_class_with_too_few_images_is_named(tmp_path):
    source = open_source(write_folder(tmp_path / "images", num_classes=3, num_per_class=8))
    with pytest.raises(ValueError, match=r"class class0 has 8 images.*2 held out and 7 more"):
        select(source.labels, source.keys, source.classes, Selection(per_class=7, hold_out=2))


@pytest.mark.parametrize("form", ["jpeg", "raw"])
def test_equal_pixels_have_no_deviation(tmp_path, form):
    """Rounding of large means would make the variance negative."""
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (333, 777), (201, 77, 253)).save(tmp_path / "images" / name / "0.png")
    manifest = converted(tmp_path / "images", tmp_path / "out.beton", Encoding(form, max_side=99))
    assert max(manifest["pixels"]["std"]) == 0


def test_manifest_describes_the_file(tmp_path):
    root = tmp_path / "images"
    for wnid in ("n01440764", "n02009912"):
        (root / wnid).mkdir(parents=True)
        for index in range(3):
            image = noisy_image(20 + index, 30, seed=index)
            image.save(root / wnid / f"{index}.png")
    manifest = converted(root, tmp_path / "out.beton", Encoding("raw"))
    assert manifest["class_names"] == ["tench", "American egret"]
    assert (manifest["height_px"], manifest["width_px"]) == ([30, 30], [20, 22])
    assert manifest["short_side_px"] == [20, 21, 22]
    pixels = np.concatenate(
        [np.asarray(Image.open(path)).reshape(-1, 3) for path in root.rglob("*.png")]
    )
    np.testing.assert_allclose(manifest["pixels"]["mean"], pixels.mean(axis=0) / 255, atol=1e-5)
    np.testing.assert_allclose(manifest["pixels"]["std"], pixels.std(axis=0) / 255, atol=1e-5)
    assert manifest["pixels"]["num_images"] == 6


def test_fingerprint_depends_on_content_and_order(image_folder, tmp_path):
    first = converted(image_folder, tmp_path / "a.beton")
    again = converted(image_folder, tmp_path / "b.beton")
    other_order = converted(image_folder, tmp_path / "c.beton", selection=Selection(seed=1))
    image = jpeg_bytes(smooth_image(40, 30, seed=77))
    (image_folder / "class0" / "0.JPEG").write_bytes(image)
    other_content = converted(image_folder, tmp_path / "d.beton")
    assert first["fingerprint"] == again["fingerprint"]
    fingerprints = {m["fingerprint"] for m in (first, other_order, other_content)}
    assert len(fingerprints) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hold-out", "1"], "go together"),
        (["--hold-out-path", "x.beton"], "go together"),
        (["--hold-out", "1", "--hold-out-path", "out.beton"], "give another path"),
        (["--seed", "-1"], "negative"),
        (["--quality", "0"], "between 1 and 100"),
    ],
)
def test_invalid_options_are_refused_before_the_first_image(
    image_folder, tmp_path, options, message
):
    command = [sys.executable, str(ROOT / "jobs" / "convert.py"), str(image_folder), "out.beton"]
    done = subprocess.run(
        [*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_file_that_is_not_an_image_has_a_repeatable_message(image_folder, tmp_path):
    (image_folder / "class0" / "empty.jpg").write_bytes(b"")
    (image_folder / "class0" / "text.jpg").write_bytes(b"some text")
    problems = converted(image_folder, tmp_path / "out.beton", max_undecodable=2)["left_out"]
    assert sorted(problem.split("/")[-1] for problem in problems) == [
        "empty.jpg is empty; replace or remove the file",
        "text.jpg is not an image; replace or remove the file",
    ]


def test_folders_of_splits_are_not_taken_for_classes(tmp_path):
    for split in ("train", "val"):
        write_folder(tmp_path / "images" / split, 1, 1)
    with pytest.raises(SourceError, match="holds train, val, not classes"):
        open_source(tmp_path / "images")
