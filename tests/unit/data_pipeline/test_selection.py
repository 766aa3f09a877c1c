"""Which images of a source a file gets: by seed and name, whatever else is chosen."""

import gzip
import itertools

import numpy as np
import pytest
from support.source_makers import (
    WNIDS,
    image,
    tar_bytes,
    write_files,
    write_tar,
)

from data_pipeline.selection import Selection, select
from data_pipeline.sources import open_source
from data_pipeline.sources.source import name_keys

CLASSES = ["a", "b", "c"]
NAMES = [f"{CLASSES[i % 3]}/{i}.jpg" for i in range(120)]


def chosen(names, selection):
    """The names that are chosen of a source that lists ``names`` in this order."""
    labels = np.array([CLASSES.index(name[0]) for name in names])
    indices = select(labels, name_keys(names), CLASSES, selection)
    assert len(set(indices.tolist())) == len(indices)
    return {names[index] for index in indices}


def num_per_class(names):
    return [sum(name[0] == label for name in names) for label in CLASSES]


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**70])
def test_parts_of_any_two_conversions_overlap_only_where_they_must(seed):
    """Each class has 40 images."""
    for hold_out, per_class, other in itertools.product((1, 7, 20), (None, 1, 20, 33), (0, 3, 7)):
        held_out = chosen(NAMES, Selection(None, seed, hold_out, "held out"))
        assert num_per_class(held_out) == [hold_out] * 3
        if other + (per_class or 1) > 40:
            continue
        remaining = chosen(NAMES, Selection(per_class, seed, other))
        size = 40 - other if per_class is None else per_class
        assert num_per_class(remaining) == [size] * 3
        assert num_per_class(held_out & remaining) == [max(0, hold_out + size - 40)] * 3


def test_larger_parts_contain_smaller_ones():
    for part, field in (("held out", "hold_out"), ("remaining", "per_class")):
        sizes = [chosen(NAMES, Selection(**{field: n}, part=part)) for n in (2, 5, 20, 39)]
        assert sizes[0] < sizes[1] < sizes[2] < sizes[3]


@pytest.mark.parametrize("part", ["held out", "remaining"])
@pytest.mark.parametrize("seed", range(4))
def test_choice_does_not_depend_on_the_order_of_the_source(part, seed):
    selection = Selection(12 if part == "remaining" else None, seed, 9, part)
    shuffled = [NAMES[index] for index in np.random.default_rng(seed).permutation(120)]
    assert chosen(shuffled, selection) == chosen(NAMES, selection)


@pytest.mark.parametrize("seed", range(4))
def test_image_that_is_added_replaces_at_most_one(seed):
    held_out = Selection(None, seed, 9, "held out")
    before = chosen(NAMES, held_out)
    for name in ("a/new.jpg", "b/000.jpg", "c/x/y.png"):
        after = chosen([name, *NAMES], held_out)
        assert after - before <= {name}
        assert len(before - after) <= 1
        # The image that is displaced does not get into a file made before or after.
        assert not before & chosen([name, *NAMES], Selection(31, seed))


def test_other_seeds_choose_others():
    parts = [chosen(NAMES, Selection(None, seed, 10, "held out")) for seed in range(50)]
    counts = [sum(name in part for part in parts) for name in NAMES]
    # Each is chosen in a quarter of 50 parts: 12.5, with a standard deviation of 3.
    assert min(counts) > 0
    assert max(counts) < 28


def contents_of(source, selection):
    indices = select(source.labels, source.keys, source.classes, selection)
    return {source.read(int(index)).image for index in indices}


def test_every_way_to_pack_a_dataset_holds_out_the_same_images(tmp_path):
    names = [f"{wnid}/{wnid}_{n}.JPEG" for wnid in WNIDS for n in range(30)]
    contents = {name: image(name) for name in names}
    inner = {
        f"{wnid}.tar": tar_bytes({n.split("/")[1]: c for n, c in contents.items() if wnid in n[:9]})
        for wnid in WNIDS
    }
    flat = {name.split("/")[1]: content for name, content in contents.items()}
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"{name} {name[:9]}\n" for name in flat))
    sources = [
        open_source(write_files(tmp_path / "folder", contents)),
        open_source(write_tar(tmp_path / "folders.tar", dict(reversed(contents.items())))),
        open_source(write_tar(tmp_path / "below.tar", {f"x/{n}": c for n, c in contents.items()})),
        open_source(write_tar(tmp_path / "train.tar", inner)),
        open_source(write_files(tmp_path / "tars", inner)),
        open_source(write_files(tmp_path / "flat", flat), labels=labels),
        open_source(write_tar(tmp_path / "flat.tar", {f"v/{n}": c for n, c in flat.items()}),
                    labels=labels),
    ]  # fmt: skip
    held_out = [contents_of(source, Selection(None, 5, 10, "held out")) for source in sources]
    assert len(held_out[0]) == 30
    assert all(part == held_out[0] for part in held_out)


def test_shards_hold_out_the_same_images_in_any_order(tmp_path):
    samples = [(f"img{n:03}", n % 2) for n in range(60)]

    def shards(folder, samples, size):
        for start in range(0, 60, size):
            files = {}
            for key, label in samples[start : start + size]:
                files |= {f"{key}.jpg": image(key), f"{key}.cls": str(label).encode()}
            write_files(folder, {f"{start:02}.tar": tar_bytes(files)})
        return open_source(folder)

    sources = shards(tmp_path / "a", samples, 20), shards(tmp_path / "b", samples[::-1], 15)
    first, second = (contents_of(source, Selection(None, 1, 8, "held out")) for source in sources)
    assert len(first) == 16
    assert first == second


def test_images_without_names_are_chosen_by_their_pixels(tmp_path):
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 256, (40, 4, 4), np.uint8), np.arange(40, dtype=np.uint8)
    parts = []
    for name, order in (("a", np.arange(40)), ("b", generator.permutation(40))):
        for kind, array in (("images-idx3", images[order]), ("labels-idx1", labels[order] % 2)):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            path = tmp_path / f"{name}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(head + array.tobytes()))
        source = open_source(tmp_path / f"{name}-images-idx3-ubyte.gz")
        indices = select(
            source.labels, source.keys, source.classes, Selection(None, 0, 6, "held out")
        )
        parts.append({source.images[index].tobytes() for index in indices})
    assert len(parts[0]) == 12
    assert parts[0] == parts[1]
