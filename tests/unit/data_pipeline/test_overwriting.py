"""Conversions replace an existing file only with --overwrite."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.image_makers import converted, write_folder

from data_pipeline.beton import open_beton
from data_pipeline.convert import Part, convert_parts
from data_pipeline.encode import Encoding
from data_pipeline.manifest import manifest_path, read_manifest
from data_pipeline.selection import Selection, select
from data_pipeline.sources import open_source

ROOT = Path(__file__).parents[3]
HOLD_OUT = ["--hold-out", "2", "--hold-out-path", "held.beton"]


def run(folder, source, *options):
    command = [sys.executable, ROOT / "jobs" / "convert.py", source, "out.beton", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def contents(folder):
    """Every file of the folder itself, with the time of its last change."""
    paths = [path for path in folder.iterdir() if path.is_file() or path.is_symlink()]
    return {
        path.name: (path.lstat().st_mtime_ns, path.read_bytes() if path.exists() else None)
        for path in paths
    }


@pytest.mark.parametrize("existing", ["out.beton", "held.beton"])
@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_existing_file_is_refused_in_one_line_before_the_source_is_read(tmp_path, existing, kind):
    if kind == "file":
        (tmp_path / existing).write_bytes(b"a month of work")
    else:
        (tmp_path / existing).symlink_to(tmp_path / "nowhere")
    # Reading it would be an error.
    (tmp_path / "no-images").mkdir()
    before = contents(tmp_path)
    done = run(tmp_path, "no-images", *HOLD_OUT)
    assert done.returncode == 2
    message = f"convert: {existing} exists; give another path, or --overwrite to replace it\n"
    assert done.stderr == message
    assert done.stdout == ""
    assert contents(tmp_path) == before


def test_overwrite_replaces_both_files(image_folder, tmp_path):
    assert run(tmp_path, image_folder, *HOLD_OUT).returncode == 0
    before = contents(tmp_path)
    done = run(tmp_path, image_folder, *HOLD_OUT, "--overwrite", "--seed", "1")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path).keys() == before.keys()
    for name, number in (("out.beton", 6), ("held.beton", 6)):
        assert read_manifest(tmp_path / name)["selection"]["seed"] == 1
        assert open_beton(tmp_path / name).num_samples == number


def damage_a_held_out_image(root):
    source = open_source(root)
    held_out = Selection(None, 0, 2, "held out")
    index = select(source.labels, source.keys, source.classes, held_out)[-1]
    path = Path(source.read(int(index)).name)
    data = path.read_bytes()
    path.write_bytes(data[:200])
    return path, data


def test_failure_in_the_held_out_part_leaves_neither_file_and_can_be_repeated(
    image_folder, tmp_path
):
    path, data = damage_a_held_out_image(image_folder)
    done = run(tmp_path, image_folder, *HOLD_OUT)
    assert done.returncode == 2
    assert path.name in done.stderr
    assert contents(tmp_path) == {}
    path.write_bytes(data)
    done = run(tmp_path, image_folder, *HOLD_OUT)
    assert done.returncode == 0, done.stderr
    assert {"out.beton", "held.beton"} <= contents(tmp_path).keys()


def test_failure_in_the_held_out_part_replaces_neither_file(image_folder, tmp_path):
    assert run(tmp_path, image_folder, *HOLD_OUT).returncode == 0
    before = contents(tmp_path)
    damage_a_held_out_image(image_folder)
    assert run(tmp_path, image_folder, *HOLD_OUT, "--overwrite").returncode == 2
    assert contents(tmp_path) == before


def test_what_a_killed_conversion_may_leave_does_not_block_the_next_one(image_folder, tmp_path):
    # Killed between its manifest and the renaming of its file.
    manifest_path(tmp_path / "out.beton").write_text("{}")
    (tmp_path / "out.beton.partial").write_bytes(b"x" * 1000)
    done = run(tmp_path, image_folder)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path).keys() == {"out.beton", "out.beton.json"}
    assert read_manifest(tmp_path / "out.beton")["num_samples"] == 12


def test_file_that_appears_while_the_source_is_opened_is_kept(image_folder, tmp_path):
    source = open_source(image_folder)
    path = tmp_path / "out.beton"
    converted(image_folder, path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"out\.beton exists"):
        convert_parts(source, [Part(path, Selection())], Encoding("raw"), 1, overwrite=False)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("seed", [0, 7])
def test_files_with_and_without_a_held_out_part_share_no_held_out_image(tmp_path, seed):
    source = write_folder(tmp_path / "images", num_classes=4, num_per_class=12)
    options = ["--seed", str(seed)]
    assert run(tmp_path, source, "--per-class", "6", *HOLD_OUT, *options).returncode == 0
    (tmp_path / "out.beton").rename(tmp_path / "first.beton")
    assert run(tmp_path, source, "--per-class", "10", *options).returncode == 0
    stored = {}
    for name in ("first", "held", "out"):
        file, data = open_beton(tmp_path / f"{name}.beton"), (tmp_path / f"{name}.beton")
        content, rows = data.read_bytes(), file.storage(np.arange(file.num_samples))
        stored[name] = {content[p : p + size] for _, _, _, p, size in rows}
    assert [len(stored[name]) for name in ("first", "held", "out")] == [24, 8, 40]
    assert not stored["held"] & stored["out"]
    assert not stored["held"] & stored["first"]
    assert stored["first"] < stored["out"]
