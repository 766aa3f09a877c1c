"""Damage anywhere in a file is found and named; intact files pass."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from support.image_makers import converted, write_folder

from data_pipeline.beton import BetonError, open_beton
from data_pipeline.encode import encoded
from data_pipeline.manifest import manifest_path
from data_pipeline.verify import check_quickly, check_samples, find_damage
from data_pipeline.writer import BetonWriter

ROOT = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path):
    converted(write_folder(tmp_path / "images"), tmp_path / "out.beton")
    return tmp_path / "out.beton"


def flip_byte(path, offset):
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x40]))


def run_verify(path):
    command = [sys.executable, str(ROOT / "jobs" / "verify.py"), str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_intact_file_passes(path):
    check_quickly(path)
    check_samples(path, 2)
    assert list(find_damage(open_beton(path), 2)) == []
    done = run_verify(path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "12 samples, intact" in done.stdout


def test_any_flipped_byte_is_found(path):
    """Bytes of the header and the tables, and others spread over samples and gaps."""
    file = open_beton(path)
    size, data_start = path.stat().st_size, int(file.samples["image"]["data_ptr"].min())
    tables_end = 24 + 2 * 1041 + file.samples.nbytes + 8 + 4 * 12
    # The page size and the descriptors' unused bytes are part of the tables too.
    offsets = [*range(0, 24), *range(24, tables_end, 61), *range(tables_end - 200, tables_end)]
    offsets += np.linspace(tables_end, size - 1, 300).astype(int).tolist()
    offsets += [data_start + distance for distance in range(0, 6000, 97)]
    for offset in offsets:
        flip_byte(path, offset)
        found = run_checks(path)
        flip_byte(path, offset)
        assert found, f"byte {offset} of {size}"
    assert not run_checks(path)


def run_checks(path):
    try:
        check_quickly(path)
        return list(find_damage(open_beton(path), 1))
    except BetonError as error:
        return [error]


def test_damaged_sample_is_named_with_its_class(path):
    file = open_beton(path)
    flip_byte(path, int(file.samples["image"]["data_ptr"][7]) + 100)
    with pytest.raises(BetonError, match="sample 7 is not what was converted"):
        check_samples(path, 2)
    done = run_verify(path)
    assert done.returncode == 1
    assert f"sample 7 (class class{file.labels[7]})" in done.stdout


def test_undecodable_sample_is_named_though_its_digest_is_right(tmp_path):
    with BetonWriter(tmp_path / "out.beton", 2) as writer:
        writer.append(encoded(1, 2, 2, bytes(12)), 0)
        writer.append(encoded(0, 20, 20, b"not a JPEG"), 1)
    damages = list(find_damage(open_beton(tmp_path / "out.beton"), 1))
    assert [damage.sample for damage in damages] == [1]
    done = run_verify(tmp_path / "out.beton")
    assert done.returncode == 1
    assert "sample 1 (label 1) cannot be decoded" in done.stdout


@pytest.mark.parametrize("kept", [10, 3000, 0.5, -30])
def test_truncated_file_is_refused(path, kept):
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))] if isinstance(kept, float) else data[:kept])
    done = run_verify(path)
    assert done.returncode == 1
    assert "out.beton" in done.stderr
    assert "truncated" in done.stderr
    with pytest.raises(BetonError, match="truncated"):
        check_quickly(path)


def test_threads_of_a_check_end_with_it_also_where_its_error_is_kept(path):
    flip_byte(path, int(open_beton(path).samples["image"]["data_ptr"][0]) + 20)
    before = threading.active_count()
    with pytest.raises(BetonError, match="sample 0 ") as kept:
        check_samples(path, 2)
    assert threading.active_count() == before
    assert kept.value is not None


def test_file_that_grew_is_refused(path):
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(BetonError, match="bytes, its manifest says"):
        check_quickly(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "is not a manifest"),
        ("[]", "is not a manifest"),
        ('{"format": 1}', "is not a manifest of format 4"),
    ],
)
def test_files_that_are_not_manifests(path, text, expected):
    manifest_path(path).write_text(text)
    with pytest.raises(BetonError, match=expected):
        check_quickly(path)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("fingerprint", [None, 5, "", "../" * 20, "g" * 64]),
        ("num_samples", [0, -1, 1.5, True, "12", [12], None, 13]),
        ("num_bytes", [0, -1, 1e3, False, "1", {}]),
        ("classes", ["abc", {"a": 1}, [1, 2], [["a"]], [], None]),
        ("class_names", ["abc", [1, 2], {}]),
        ("num_per_class", [5, [], [-1, 13], [6.0, 6.0], ["6", "6"], [12], {"a": 6}, [6, 7]]),
        ("height_px", [8, [], [0, 8], [8, 7], [8.5, 9], ["8", "9"], [1, 2, 3, 4]]),
        ("short_side_px", [None, [3], [3, 2, 1]]),
        ("pixels", [[], {}, {"mean": [0.5] * 3}, {"mean": [0.5] * 3, "std": [0.5, None, 0.5]}]),
        ("left_out", ["none", [5]]),
    ],
)
def test_manifest_with_a_field_of_another_type_is_refused(path, field, values):
    manifest = json.loads(manifest_path(path).read_text())
    for value in values:
        manifest_path(path).write_text(json.dumps({**manifest, field: value}))
        with pytest.raises(
            BetonError, match=r"out\.beton\.json is damaged: .*; convert out\.beton"
        ):
            check_quickly(path)
    manifest_path(path).write_text(json.dumps(manifest))
    check_quickly(path)


def test_another_files_manifest_is_refused(path):
    manifest = json.loads(manifest_path(path).read_text())
    manifest["fingerprint"] = "0" * 64
    manifest_path(path).write_text(json.dumps(manifest))
    with pytest.raises(BetonError, match="not the file that its manifest describes"):
        check_quickly(path)


def test_file_of_ffcvs_writer_has_no_digests_and_is_decoded(tmp_path):
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    class Images:
        def __len__(self):
            return 5

        def __getitem__(self, index):
            return np.full((12, 10, 3), 40 * index, np.uint8), index

    path = tmp_path / "stock.beton"
    fields = {"image": RGBImageField(write_mode="jpg"), "label": IntField()}
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(Images())
    file = open_beton(path)
    assert sorted(file.labels) == [0, 1, 2, 3, 4]
    assert file.digests is None
    done = run_verify(path)
    assert done.returncode == 0
    assert "no digests" in done.stdout
    with path.open("r+b") as stream:
        stream.seek(int(file.samples["image"]["data_ptr"][2]))
        stream.write(bytes(int(file.data_sizes[2])))
    assert [damage.sample for damage in find_damage(file, 1)] == [2]


def test_quick_check_reads_tables_and_only_some_samples(tmp_path):
    converted(write_folder(tmp_path / "images", 1, 200), tmp_path / "out.beton")
    path = tmp_path / "out.beton"
    starts = open_beton(path).samples["image"]["data_ptr"]
    flip_byte(path, int(starts[1]) + 50)
    check_quickly(path)
    with pytest.raises(BetonError, match="sample 1 "):
        check_samples(path, 1)
    flip_byte(path, int(starts[199]) + 50)
    with pytest.raises(BetonError, match="sample 199 "):
        check_quickly(path)
