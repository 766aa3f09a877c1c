"""From source to .beton, checked against PIL, numpy and FFCV's own reader."""

import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.image_makers import converted, jpeg_bytes, noisy_image, smooth_image, write_folder

from data_pipeline.beton import BetonError, open_beton
from data_pipeline.encode import Encoding, UnreadableImageError, encode_image
from data_pipeline.manifest import manifest_path, read_manifest
from data_pipeline.selection import Selection, select
from data_pipeline.sources import IdxImages, SourceError, SourceSample, open_source
from data_pipeline.writer import BetonWriter

ROOT = Path(__file__).parents[3]


@pytest.fixture
def image_folder(tmp_path):
    return write_folder(tmp_path / "images")


def test_folder_survives_conversion_byte_for_byte(image_folder, tmp_path):
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
    # FFCV asks for the fast transform and upsampling, which Pillow does not.
    assert difference.max() == 0 if encoding.format == "raw" else difference.mean() < 4
    assert (
        np.concatenate([label.numpy() for label in labels])[:, 0].tolist() == file.labels.tolist()
    )


def test_conversion_does_not_depend_on_the_number_of_workers(image_folder, tmp_path):
    one = converted(image_folder, tmp_path / "one.beton", workers=1)
    two = converted(image_folder, tmp_path / "two.beton", workers=2)
    assert one == two
    assert (tmp_path / "one.beton").read_bytes() == (tmp_path / "two.beton").read_bytes()


def test_unreadable_image_is_named_and_leaves_nothing(image_folder, tmp_path):
    bad = image_folder / "class1" / "2.JPEG"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(UnreadableImageError, match=r"class1/2\.JPEG"):
        converted(image_folder, tmp_path / "out.beton", workers=2)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_dangling_link_is_named(image_folder, tmp_path):
    (image_folder / "class1" / "9.JPEG").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UnreadableImageError, match=r"class1/9\.JPEG cannot be read"):
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
def test_files_that_are_no_beton(image_folder, tmp_path, damage):
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


def test_up_to_max_bad_unreadable_images_are_left_out_and_listed(image_folder, tmp_path):
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


def test_hold_out_is_stratified_disjoint_and_fixed_by_the_seed(tmp_path):
    source = open_source(write_folder(tmp_path / "images", num_classes=3, num_per_class=8))
    held_out = select(source.labels, source.classes, Selection(seed=3, hold_out=2, part="held out"))
    remaining = select(source.labels, source.classes, Selection(seed=3, hold_out=2))
    assert np.bincount(source.labels[held_out]).tolist() == [2, 2, 2]
    assert sorted([*held_out, *remaining]) == list(range(24))
    few = select(source.labels, source.classes, Selection(per_class=4, seed=3, hold_out=2))
    assert np.bincount(source.labels[few]).tolist() == [4, 4, 4]
    assert not set(few) & set(held_out)
    other = select(source.labels, source.classes, Selection(seed=4, hold_out=2, part="held out"))
    assert set(other) != set(held_out)
    with pytest.raises(ValueError, match=r"class class0 has 8 images.*2 held out and 7 more"):
        select(source.labels, source.classes, Selection(per_class=7, hold_out=2))


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


def test_identity_tells_content_and_order_apart(image_folder, tmp_path):
    first = converted(image_folder, tmp_path / "a.beton")
    again = converted(image_folder, tmp_path / "b.beton")
    other_order = converted(image_folder, tmp_path / "c.beton", selection=Selection(seed=1))
    image = jpeg_bytes(smooth_image(40, 30, seed=77))
    (image_folder / "class0" / "0.JPEG").write_bytes(image)
    other_content = converted(image_folder, tmp_path / "d.beton")
    assert first["fingerprint"] == again["fingerprint"]
    fingerprints = {m["fingerprint"] for m in (first, other_order, other_content)}
    assert len(fingerprints) == 3


def start_conversion(source, path, *options):
    command = [sys.executable, str(ROOT / "jobs" / "convert.py"), str(source), str(path), *options]
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        # What a shell runs in the background ignores Ctrl-C, and so does what that starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_conversion_killed_midway_leaves_nothing_and_can_be_run_again(tmp_path, kind):
    # Large re-encoded images, so that there is a middle to be killed in.
    root = tmp_path / "images" / "a"
    root.mkdir(parents=True)
    noisy_image(1500, 1500).save(root / "0.png", compress_level=0)
    for index in range(1, 100):
        (root / f"{index}.png").symlink_to(root / "0.png")
    path, partial = tmp_path / "out.beton", tmp_path / "out.beton.partial"
    process = start_conversion(tmp_path / "images", path, "--workers", "2")
    deadline_s = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size > 1e6):
        assert time.monotonic() < deadline_s
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(kind)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert not path.exists()
    assert not manifest_path(path).exists()
    if kind != signal.SIGKILL:
        assert not partial.exists()
    manifest = converted(tmp_path / "images", path, Encoding(max_side=40), workers=1)
    assert read_manifest(path) == manifest
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "images", "out.beton", "out.beton.json",
    ]  # fmt: skip


def test_a_conversion_that_fails_at_its_end_leaves_the_old_pair(
    image_folder, tmp_path, monkeypatch
):
    path = tmp_path / "out.beton"
    manifest, data = converted(image_folder, path), path.read_bytes()

    def fail(_):
        raise OSError("the disk is gone")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        converted(image_folder, path, Encoding("raw"))
    assert path.read_bytes() == data
    assert read_manifest(path) == manifest


def test_a_file_never_stands_without_its_manifest(image_folder, tmp_path, monkeypatch):
    path = tmp_path / "out.beton"
    replace = Path.replace

    def replace_and_look(source, target):
        if target == path:
            assert read_manifest(path)["num_samples"] == 12
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", replace_and_look)
    assert converted(image_folder, path)["num_samples"] == open_beton(path).num_samples


def test_two_conversions_to_one_path_do_not_meet(image_folder, tmp_path):
    path = tmp_path / "out.beton"
    with BetonWriter(path, 1) as writer:
        with pytest.raises(ValueError, match="being written by another conversion"):
            converted(image_folder, path)
        writer.append(
            encode_image(SourceSample("x", jpeg_bytes(smooth_image(9, 9))), Encoding()), 0
        )
    assert open_beton(path).num_samples == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_full_disk_is_named_and_leaves_nothing(image_folder, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    noisy_image(2000, 2000).save(image_folder / "class0" / "large.png")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine does not allow mounting")
    try:
        process = start_conversion(image_folder, disk / "out.beton", "--workers", "1")
        _, error = process.communicate(timeout=60)
        assert process.returncode == 1
        assert b"out.beton" in error
        assert b"No space left on device" in error
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


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
def test_options_that_do_not_fit_are_refused_before_the_first_image(
    image_folder, tmp_path, options, message
):
    command = [sys.executable, str(ROOT / "jobs" / "convert.py"), str(image_folder), "out.beton"]
    done = subprocess.run(
        [*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_what_is_no_image_is_called_so_in_words_that_repeat(image_folder, tmp_path):
    (image_folder / "class0" / "empty.jpg").write_bytes(b"")
    (image_folder / "class0" / "text.jpg").write_bytes(b"some text")
    faults = converted(image_folder, tmp_path / "out.beton", max_undecodable=2)["left_out"]
    assert sorted(fault.split("/")[-1] for fault in faults) == [
        "empty.jpg is empty; replace or remove the file",
        "text.jpg is no image; replace or remove the file",
    ]


def test_splits_are_not_taken_for_classes(tmp_path):
    for split in ("train", "val"):
        write_folder(tmp_path / "images" / split, 1, 1)
    with pytest.raises(SourceError, match="holds splits, not classes"):
        open_source(tmp_path / "images")
