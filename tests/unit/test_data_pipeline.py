"""From source to batch, checked against PIL, numpy and FFCV's own reader."""

import gzip
import io
import json
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipeline import decoders, draws
from data_pipeline.beton import BetonError, open_beton
from data_pipeline.convert import Selection, convert, manifest_path
from data_pipeline.encode import Encoding, UnreadableImageError, encode_image
from data_pipeline.loader import Crop, ImageLoader, UndecodableSampleError, center_crop
from data_pipeline.order import evaluation_batches
from data_pipeline.sources import IdxImages, SourceError, SourceSample, open_source


def smooth_image(width, height, seed=0):
    """A photograph-like image: JPEG keeps it nearly unchanged."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def jpeg_bytes(image, **options):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


@pytest.fixture
def image_folder(tmp_path):
    for label, name in enumerate(("ant", "bee", "cat")):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for index in range(4):
            image = smooth_image(40 + 3 * index, 30 + label, seed=10 * label + index)
            (folder / f"{index}.JPEG").write_bytes(jpeg_bytes(image))
    return tmp_path / "images"


def converted(source_path, path, encoding=None, selection=None, processes=1):
    encoding = encoding or Encoding()
    return convert(open_source(source_path), path, encoding, selection or Selection(), processes)


def test_folder_survives_conversion_byte_for_byte(image_folder, tmp_path):
    path = tmp_path / "out.beton"
    manifest = converted(image_folder, path)
    assert manifest["classes"] == ["ant", "bee", "cat"]
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


def test_stock_ffcv_reads_the_file(image_folder, tmp_path):
    from ffcv.fields.decoders import CenterCropRGBImageDecoder, IntDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor

    path = tmp_path / "out.beton"
    converted(image_folder, path)
    stock = Loader(
        str(path),
        batch_size=4,
        num_workers=1,
        order=OrderOption.SEQUENTIAL,
        pipelines={
            "image": [CenterCropRGBImageDecoder((24, 24), ratio=1.0), ToTensor()],
            "label": [IntDecoder(), ToTensor()],
        },
    )
    images, labels = zip(*((image.clone(), label.clone()) for image, label in stock), strict=True)
    with ImageLoader(open_beton(path), center_crop(24, 24), seed=0, num_threads=2) as loader:
        batches = list(loader.batches(evaluation_batches(12, 5, rank=0, world_size=1)))
    assert torch.equal(torch.cat(images), torch.cat([batch.images for batch in batches]))
    assert torch.equal(torch.cat(labels)[:, 0], torch.cat([batch.labels for batch in batches]))


def test_conversion_does_not_depend_on_the_number_of_processes(image_folder, tmp_path):
    one = converted(image_folder, tmp_path / "one.beton", processes=1)
    two = converted(image_folder, tmp_path / "two.beton", processes=2)
    assert one["sha256"] == two["sha256"]
    assert (tmp_path / "one.beton").read_bytes() == (tmp_path / "two.beton").read_bytes()


def test_unreadable_image_is_named_and_leaves_nothing(image_folder, tmp_path):
    bad = image_folder / "bee" / "2.JPEG"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(UnreadableImageError, match=r"bee/2\.JPEG"):
        converted(image_folder, tmp_path / "out.beton", processes=2)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


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


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P"])
def test_other_colour_modes_become_rgb(mode):
    image = smooth_image(32, 20).convert(mode)
    stream = io.BytesIO()
    image.save(stream, "JPEG" if mode in ("L", "CMYK") else "PNG")
    encoded = encode_image(SourceSample("x", stream.getvalue()), Encoding("raw"))
    expected = np.asarray(Image.open(io.BytesIO(stream.getvalue())).convert("RGB"))
    assert np.array_equal(np.frombuffer(encoded.data, np.uint8).reshape(20, 32, 3), expected)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    grey = (np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024).astype(np.uint16)
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "PNG")
    encoded = encode_image(SourceSample("x", stream.getvalue()), Encoding("raw"))
    found = np.frombuffer(encoded.data, np.uint8).reshape(8, 8, 3)
    assert np.array_equal(found[:, :, 0], (grey // 256).astype(np.uint8))


def test_exif_rotation_is_applied():
    image = smooth_image(32, 20)
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = encode_image(SourceSample("x", jpeg_bytes(image, exif=exif)), Encoding("raw"))
    assert (encoded.width, encoded.height) == (20, 32)


def test_limits_shrink_and_never_enlarge():
    sample = SourceSample("x", jpeg_bytes(smooth_image(80, 40)))
    for encoding, size in (
        (Encoding(max_side=40), (40, 20)),
        (Encoding(short_side=20), (40, 20)),
        (Encoding(max_side=800), (80, 40)),
    ):
        encoded = encode_image(sample, encoding)
        assert (encoded.width, encoded.height) == size
        assert Image.open(io.BytesIO(encoded.data)).size == size


def test_center_crop_agrees_with_antialiased_resizing(image_folder, tmp_path):
    from torchvision.transforms.v2 import functional

    image = smooth_image(90, 60, seed=7)
    path = tmp_path / "one"
    (path / "a").mkdir(parents=True)
    (path / "a" / "0.png").write_bytes(b"")
    image.save(path / "a" / "0.png")
    converted(path, tmp_path / "one.beton", Encoding("raw"))
    file = open_beton(tmp_path / "one.beton")
    with ImageLoader(file, center_crop(32, 28), seed=0, num_threads=1) as loader:
        found = next(loader.batches([np.array([0])])).images[0].numpy().astype(int)
    resized = functional.resize(image, 32, antialias=True)
    expected = np.asarray(functional.center_crop(resized, 28)).astype(int)
    assert np.abs(found - expected).mean() < 2.0


@pytest.fixture
def coordinates_file(tmp_path):
    """One raw image whose pixels name their own place: red is the row, green the column."""
    rows, columns = np.mgrid[0:20, 0:20]
    pixels = np.stack([rows + 1, columns + 1, np.full((20, 20), 200)], axis=2).astype(np.uint8)
    (tmp_path / "images" / "a").mkdir(parents=True)
    for index in range(64):
        Image.fromarray(pixels).save(tmp_path / "images" / "a" / f"{index}.png")
    converted(tmp_path / "images", tmp_path / "c.beton", Encoding("raw"))
    return open_beton(tmp_path / "c.beton")


def test_pad_and_crop_is_a_window_of_the_padded_image(coordinates_file):
    crop = Crop(decoders.PAD_AND_CROP, 20, flip_probability=0.5, padding=3)
    original = np.mgrid[0:20, 0:20].transpose(1, 2, 0) + 1
    padded = np.zeros((26, 26, 2), int)
    padded[3:23, 3:23] = original
    windows = {
        (padded[top : top + 20, left : left + 20].tobytes()): (top, left)
        for top in range(7)
        for left in range(7)
    }
    seen, flipped = set(), 0
    with ImageLoader(coordinates_file, crop, seed=5, num_threads=2) as loader:
        for epoch in range(4):
            for image in next(loader.batches([np.arange(64)], epoch)).images.numpy():
                places = image[:, :, :2].astype(int)
                is_flipped = places.tobytes() not in windows
                flipped += is_flipped
                seen.add(windows[(places[:, ::-1] if is_flipped else places).copy().tobytes()])
    # 256 draws: all but a few of the 49 windows, and about half of the images mirrored.
    assert len(seen) > 42
    assert 96 < flipped < 160


def test_random_boxes_follow_the_recipe():
    areas, aspects = [], []
    for index in range(4000):
        key = np.uint64(draws.sample_key(3, 1, index))
        top, left, height, width = decoders.random_box(
            200, 300, np.array([0.08, 1.0]), np.array([3 / 4, 4 / 3]), key
        )
        assert 0 <= top <= 200 - height
        assert 0 <= left <= 300 - width
        areas.append(height * width / 60000)
        aspects.append(width / height)
    assert 0.07 < min(areas) < 0.1
    # The image is 3:2 and a box at most 4:3, so none covers more than 8/9 of it.
    assert 0.8 < max(areas) <= 8 / 9 + 0.01
    assert min(aspects) > 0.73
    assert max(aspects) < 1.37
    # torchvision's RandomResizedCrop, drawn here as the reference for the mean area.
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    image = torch.empty(3, 200, 300)
    boxes = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    reference = np.mean([box[2] * box[3] / 60000 for box in boxes])
    assert np.mean(areas) == pytest.approx(reference, abs=0.02)


def test_uniform_numbers_are_uniform():
    keys = [np.uint64(draws.sample_key(1, 2, index)) for index in range(20000)]
    numbers = np.array([draws.uniform(key, i % 7) for i, key in enumerate(keys)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    # Chi-squared with 19 degrees of freedom: 43.8 is its 0.999 quantile.
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8


@pytest.mark.parametrize("crop", ["box", "pad"])
def test_pixels_depend_on_seed_epoch_and_sample_alone(coordinates_file, crop):
    kinds = {
        "box": Crop(decoders.RANDOM_RESIZED_CROP, 12, (0.08, 1.0), (0.75, 1.33), 0.5),
        "pad": Crop(decoders.PAD_AND_CROP, 20, flip_probability=0.5, padding=4),
    }

    def images(seed, epoch, num_threads, batch_size):
        with ImageLoader(
            coordinates_file, kinds[crop], seed=seed, num_threads=num_threads
        ) as loader:
            batches = np.split(np.arange(64), 64 // batch_size)
            return torch.cat([batch.images for batch in loader.batches(batches, epoch)])

    reference = images(1, 2, 1, 64)
    assert torch.equal(reference, images(1, 2, 2, 64))
    assert torch.equal(reference, images(1, 2, 3, 8))
    assert not torch.equal(reference, images(1, 3, 1, 64))
    assert not torch.equal(reference, images(2, 2, 1, 64))


def test_zeroed_jpeg_is_an_error_that_names_the_sample(image_folder, tmp_path):
    path = tmp_path / "out.beton"
    converted(image_folder, path)
    file = open_beton(path)
    start = int(file.samples["image"]["data_ptr"][5])
    with path.open("r+b") as stream:
        stream.seek(start)
        stream.write(bytes(int(file.data_sizes[5])))
    with (
        ImageLoader(open_beton(path), center_crop(24, 24), seed=0, num_threads=2) as loader,
        pytest.raises(UndecodableSampleError, match="sample 5"),
    ):
        list(loader.batches(evaluation_batches(12, 4, rank=0, world_size=1)))


def test_leaving_early_leaks_no_thread_and_batches_may_be_kept(coordinates_file):
    before = threading.active_count()
    crop = Crop(decoders.PAD_AND_CROP, 20, padding=2)
    with ImageLoader(coordinates_file, crop, seed=0, num_threads=2) as loader:
        batches = loader.batches([np.arange(8)] * 20)
        first = next(batches)
        kept = first.images.clone()
        for _ in range(5):
            next(batches)
        assert torch.equal(first.images, kept)
        batches.close()
    deadline_s = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert threading.active_count() == before


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
