"""Conversions that fail or are killed leave no partial output."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.image_makers import converted, jpeg_bytes, noisy_image, smooth_image

from data_pipeline.beton import open_beton
from data_pipeline.encode import Encoding, encode_image
from data_pipeline.manifest import manifest_path, read_manifest
from data_pipeline.sources import SourceSample
from data_pipeline.writer import BetonWriter

ROOT = Path(__file__).parents[3]


def start_conversion(source, path, *options):
    command = [sys.executable, str(ROOT / "jobs" / "convert.py"), str(source), str(path), *options]
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        # Background processes of a shell ignore SIGINT, and so do their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_conversion_killed_midway_leaves_no_dataset_and_can_be_repeated(tmp_path, kind):
    # Re-encoding large images takes long enough to be killed midway.
    noisy_image(1500, 1500).save(tmp_path / "large.png", compress_level=0)
    for label in "ab":
        folder = tmp_path / "images" / label
        folder.mkdir(parents=True)
        for index in range(50):
            (folder / f"{index}.png").symlink_to(tmp_path / "large.png")
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
        "images", "large.png", "out.beton", "out.beton.json",
    ]  # fmt: skip


def test_conversion_that_fails_at_its_end_keeps_the_old_file_and_manifest(
    image_folder, tmp_path, monkeypatch
):
    path = tmp_path / "out.beton"
    manifest, data = converted(image_folder, path), path.read_bytes()

    def fail(_):
        raise OSError("the disk failed")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="the disk failed"):
        converted(image_folder, path, Encoding("raw"))
    assert path.read_bytes() == data
    assert read_manifest(path) == manifest


def test_file_is_never_without_its_manifest(image_folder, tmp_path, monkeypatch):
    path = tmp_path / "out.beton"
    replace = Path.replace

    def check_and_replace(source, target):
        if target == path:
            assert read_manifest(path)["num_samples"] == 12
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", check_and_replace)
    assert converted(image_folder, path)["num_samples"] == open_beton(path).num_samples


def test_second_conversion_to_a_path_is_refused(image_folder, tmp_path):
    path = tmp_path / "out.beton"
    with BetonWriter(path, 1) as writer:
        with pytest.raises(ValueError, match="being written by another conversion"):
            converted(image_folder, path)
        writer.append(
            encode_image(SourceSample("x", jpeg_bytes(smooth_image(9, 9))), Encoding()), 0
        )
    assert open_beton(path).num_samples == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_full_disk_is_named_and_leaves_no_files(image_folder, tmp_path):
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
