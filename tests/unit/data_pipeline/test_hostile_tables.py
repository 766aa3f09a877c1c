"""Tables of a .beton that cannot be true are refused when it is opened, by every reader alike."""

import io
import os
import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageFile
from support.image_makers import converted, jpeg_bytes, smooth_image, write_folder

from data_pipeline.batches import UndecodableSampleError, center_crop
from data_pipeline.beton import (
    ALLOCATION,
    FIELD,
    HEADER,
    MODE_JPEG,
    SAMPLE,
    BetonError,
    open_beton,
)
from data_pipeline.encode import (
    EncodedImage,
    Encoding,
    UnreadableImageError,
    encode_image,
    pixel_sums,
)
from data_pipeline.facts import dataset_facts
from data_pipeline.loader import ImageLoader
from data_pipeline.sources import SourceSample
from data_pipeline.verify import check_quickly, find_damage
from jobs import verify

NUM_IMAGES = 6
SAMPLES_START = HEADER.itemsize + 2 * FIELD.itemsize


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """A file with JPEGs and one with raw pixels, six images each."""
    folder = tmp_path_factory.mktemp("intact")
    source = write_folder(folder / "source", num_classes=2, num_per_class=3)
    contents = {}
    for form in ("jpeg", "raw"):
        path = folder / f"{form}.beton"
        converted(source, path, Encoding(form))
        contents[form] = path.read_bytes()
    return contents


class Tables:
    """The tables of a file's bytes; what is assigned to them changes these."""

    def __init__(self, content):
        self.content = bytearray(content)
        self.header = np.frombuffer(self.content, HEADER, 1)
        self.samples = np.frombuffer(self.content, SAMPLE, NUM_IMAGES, SAMPLES_START)
        start = int(self.header["alloc_table_ptr"][0])
        self.allocations = np.frombuffer(self.content, ALLOCATION, NUM_IMAGES, start)

    def set_image(self, name, index, value):
        self.samples["image"][name][index] = value

    def move(self, index, position):
        """Move an image's data in both tables."""
        rows = self.allocations["ptr"] == self.samples["image"]["data_ptr"][index]
        self.allocations["ptr"][rows] = position
        self.set_image("data_ptr", index, position)

    def resize(self, index, size):
        rows = self.allocations["ptr"] == self.samples["image"]["data_ptr"][index]
        self.allocations["size"][rows] = size


def positions(tables):
    return tables.samples["image"]["data_ptr"]


HOSTILE = {
    "offset of 2^64 - 1": (lambda t: t.move(2, 2**64 - 1), "sample 2 has image data outside"),
    "offset that wraps": (lambda t: t.move(1, 2**64 - 100), "sample 1 has image data outside"),
    "size of 2^63": (lambda t: t.resize(3, 2**63), "sample 3 has image data outside"),
    "size of 2^64 - 1": (lambda t: t.resize(3, 2**64 - 1), "sample 3 has image data outside"),
    "size of 0": (lambda t: t.resize(3, 0), "sample 3 has no image data"),
    "data in the tables": (lambda t: t.move(0, SAMPLES_START), "sample 0 has image data outside"),
    "overlap": (lambda t: t.move(4, positions(t)[3] + 1), "samples 3 and 4 overlap"),
    "two positions": (
        lambda t: t.set_image("data_ptr", 5, positions(t)[4]),
        "sample 5 has another position in the allocation table",
    ),
    "width of 0": (lambda t: t.set_image("width", 1, 0), "sample 1 has no pixels"),
    "height of 0": (lambda t: t.set_image("height", 4, 0), "sample 4 has no pixels"),
    "65535 x 65535": (
        lambda t: [t.set_image(side, 2, 65535) for side in ("height", "width")],
        "sample 2 has more than 67,108,864 pixels",
    ),
    "unknown mode": (lambda t: t.set_image("mode", 5, 2), "sample 5 is neither JPEG nor raw"),
    "label of -1": (lambda t: t.samples["label"].put(1, -1), "sample 1 has no label from 0 to"),
    "label of 5e8": (lambda t: t.samples["label"].put(0, 5 * 10**8), "sample 0 has no label"),
    "lowest label": (lambda t: t.samples["label"].put(0, -(2**63)), "sample 0 has no label"),
    "sample named twice": (
        lambda t: t.allocations["sample_id"].put(0, t.allocations["sample_id"][1]),
        "the allocation table does not name each sample once",
    ),
    "sample that is not there": (
        lambda t: t.allocations["sample_id"].put(0, 2**64 - 1),
        "the allocation table does not name each sample once",
    ),
    "page size of 0": (lambda t: t.header["page_size"].put(0, 0), "its page size is 0 bytes"),
    "page size of 2^32 - 1": (
        lambda t: t.header["page_size"].put(0, 2**32 - 1),
        "its page size is 4,294,967,295 bytes, which is not a power of 2",
    ),
    "page smaller than an image": (
        lambda t: t.header["page_size"].put(0, 1),
        "sample 0 is not within one page of 1 bytes",
    ),
    "no sample": (lambda t: t.header["num_samples"].put(0, 0), "is truncated or empty"),
    "2^63 samples": (lambda t: t.header["num_samples"].put(0, 2**63), "is truncated"),
    "2^64 - 1 samples": (lambda t: t.header["num_samples"].put(0, 2**64 - 1), "is truncated"),
    "table at 2^64 - 1": (
        lambda t: t.header["alloc_table_ptr"].put(0, 2**64 - 1),
        "is truncated or empty",
    ),
    "table before the images": (
        lambda t: t.header["alloc_table_ptr"].put(0, SAMPLES_START),
        "the allocation table does not name each sample once",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("form", ["jpeg", "raw"])
def test_tables_that_cannot_be_true(tmp_path, contents, capsys, form, kind):
    change, fault = HOSTILE[kind]
    tables = Tables(contents[form])
    change(tables)
    path = tmp_path / "train.beton"
    path.write_bytes(tables.content)
    for read in (open_beton, check_quickly, lambda path: dataset_facts(str(path))):
        with pytest.raises(BetonError, match=fault) as caught:
            read(path)
        assert str(path) in str(caught.value)
    assert verify.main([str(path), "--threads", "1"]) != 0
    assert fault in "".join(capsys.readouterr())


def test_raw_pixels_of_another_number(tmp_path, contents):
    tables = Tables(contents["raw"])
    tables.samples["image"]["width"][3] -= 1
    path = tmp_path / "train.beton"
    path.write_bytes(tables.content)
    with pytest.raises(BetonError, match="sample 3 has raw pixels whose number of bytes"):
        open_beton(path)


def test_image_of_gigabytes_is_refused(tmp_path, contents):
    tables = Tables(contents["jpeg"])
    last = int(np.argmax(positions(tables)))
    tables.resize(last, 6 * 10**9)
    table = tables.allocations.tobytes()
    start = int(positions(tables)[last]) + 6 * 10**9
    tables.header["alloc_table_ptr"] = start
    path = tmp_path / "train.beton"
    with path.open("wb") as file:
        file.write(tables.content)
        file.seek(start)
        file.write(table)
    with pytest.raises(BetonError, match=f"sample {last} has more than 201,326,592 bytes"):
        open_beton(path)


def find_damage_in_little_memory(path):
    tracemalloc.start()
    try:
        found = [damage.fault for damage in find_damage(open_beton(path), 1)]
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()
    return found


def test_bytes_after_the_end_are_counted_but_not_read(tmp_path, contents):
    path = tmp_path / "train.beton"
    path.write_bytes(contents["raw"])
    os.truncate(path, len(contents["raw"]) + 300_000_000)
    assert find_damage_in_little_memory(path) == ["300,000,000 bytes follow the end of the file"]


def test_gap_of_a_terabyte_is_not_read(tmp_path, contents):
    tables = Tables(contents["raw"])
    table, gap = tables.allocations.tobytes(), 10**12
    start = int(tables.header["alloc_table_ptr"][0])
    tables.header["alloc_table_ptr"] = start + gap
    path = tmp_path / "train.beton"
    with path.open("wb") as file:
        file.write(tables.content[:start])
        file.seek(start + gap)
        file.write(table)
    assert find_damage_in_little_memory(path) == []
    with path.open("r+b") as file:
        file.seek(start + gap // 2)
        file.write(b"\1")
    found = find_damage_in_little_memory(path)
    assert found == [f"byte {start + gap // 2:,}, between samples, has changed"]


def with_size(jpeg, height, width):
    """The JPEG with another size in its frame header, baseline or progressive."""
    at = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2"))
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_of_another_size_than_its_table_is_not_decoded(progressive):
    jpeg = jpeg_bytes(smooth_image(40, 30), progressive=progressive)
    assert pixel_sums(EncodedImage(MODE_JPEG, 40, 30, jpeg, 0, 0)).any()
    for height, width in ((65500, 65500), (31, 40), (30, 41), (0, 40)):
        changed = with_size(jpeg, height, width)
        with pytest.raises(ValueError, match="damaged"):
            pixel_sums(EncodedImage(MODE_JPEG, 40, 30, changed, 0, 0))


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_that_claims_billions_of_pixels_is_not_converted(progressive):
    jpeg = with_size(jpeg_bytes(smooth_image(40, 30), progressive=progressive), 65500, 65500)
    with pytest.raises(ValueError, match=r"huge\.jpg cannot be decoded"):
        encode_image(SourceSample("huge.jpg", jpeg), Encoding())


def test_loader_names_a_sample_whose_jpeg_has_another_size(tmp_path, contents):
    path = tmp_path / "train.beton"
    tables = Tables(contents["jpeg"])
    start, size = int(positions(tables)[2]), int(open_size(tables, 2))
    jpeg = bytes(tables.content[start : start + size])
    tables.content[start : start + size] = with_size(jpeg, 65500, 65500)
    path.write_bytes(tables.content)
    with (
        ImageLoader(open_beton(path), seed=0, num_threads=1) as loader,
        pytest.raises(UndecodableSampleError, match="sample 2 "),
    ):
        list(loader.batches([np.arange(NUM_IMAGES)], center_crop(24, 24)))


def open_size(tables, index):
    rows = tables.allocations["ptr"] == positions(tables)[index]
    return tables.allocations["size"][rows][0]


@pytest.fixture(scope="module")
def large():
    """Files of black images by height, at the limit of pixels and beyond."""
    files = {}
    for height in (2**12, 2**12 + 1):
        for form in ("PNG", "JPEG"):
            stream = io.BytesIO()
            Image.new("L", (2**14, height)).save(stream, form, quality=1)
            files[height, form] = stream.getvalue()
    return files


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_image_at_the_limit_of_pixels_is_converted(large, form):
    image = encode_image(SourceSample("black", large[2**12, form]), Encoding())
    assert (image.height, image.width) == (2**12, 2**14)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_image_beyond_the_limit_is_refused_before_it_is_decoded(large, monkeypatch, form):
    sample = SourceSample("black", large[2**12 + 1, form])
    encodings, remedy = [Encoding(), Encoding("raw")], "--max-side"
    if form == "JPEG":
        assert encode_image(sample, Encoding(max_side=100)).width == 100
    else:
        # Only a JPEG need not be decoded in full.
        encodings, remedy = [*encodings, Encoding(max_side=100)], "make it smaller"
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("is decoded"))
    for encoding in encodings:
        with pytest.raises(UnreadableImageError, match=rf"^black has 16384 x 4097 .* {remedy}"):
            encode_image(sample, encoding)


def test_raw_image_larger_than_a_page_is_refused_before_it_is_decoded(large, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("is decoded"))
    with pytest.raises(UnreadableImageError, match="takes 201,326,592 bytes"):
        encode_image(SourceSample("black", large[2**12, "PNG"]), Encoding("raw"))


def test_image_larger_than_a_page_is_left_out_by_name(tmp_path):
    root = write_folder(tmp_path / "source", num_classes=2, num_per_class=1)
    Image.new("L", (2000, 2000)).save(root / "class0" / "large.png")
    path = tmp_path / "train.beton"
    manifest = converted(root, path, Encoding("raw"), max_undecodable=1)
    assert open_beton(path).num_samples == 2
    (fault,) = manifest["left_out"]
    assert fault.startswith(f"{root}/class0/large.png takes 12,000,000 bytes")
