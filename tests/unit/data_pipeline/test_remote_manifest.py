"""The manifest at a location: every failure to read it is an error with a remedy."""

import json
import threading
from pathlib import Path

import pytest

from data_pipeline import facts
from data_pipeline.files import is_remote
from data_pipeline.manifest import FORMAT
from data_pipeline.staging import StagingError, read_manifest_at, remote_manifest
from data_pipeline.staging.remote import RemoteFile


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, r"train\.beton\.json does not exist"),
        ("{", "is not JSON"),
        ("[]", "not a JSON object"),
        ('{"num_bytes": 5}', 'lacks "fingerprint"'),
        (
            '{"fingerprint": "../../../../../../../../etc/passwd", "num_bytes": 5}',
            "fingerprint is not a digest",
        ),
        (json.dumps({"fingerprint": "a" * 64}), 'lacks "num_bytes"'),
        (json.dumps({"fingerprint": "a" * 64, "num_bytes": 0}), "num_bytes is not a positive"),
        (json.dumps({"fingerprint": "a" * 64, "num_bytes": True}), "num_bytes is not a positive"),
    ],
)
def test_unusable_manifest_is_an_error(tmp_path, text, expected):
    location = str(tmp_path / "train.beton")
    if text is not None:
        Path(location + ".json").write_text(text)
    with pytest.raises(StagingError, match=rf"{expected}.*; "):
        read_manifest_at(location)


@pytest.mark.parametrize("change", [{"format": 3}, {"short_side_px": [8]}, {"classes": None}])
def test_manifest_of_another_version_says_nothing_about_a_dataset(tmp_path, monkeypatch, change):
    """Of a file in an object store, whose manifest is all that is read of it."""
    manifest = {
        "format": FORMAT, "fingerprint": "a" * 64, "num_samples": 12, "num_bytes": 500,
        "classes": ["a", "b"], "num_per_class": [8, 4], "height_px": [8, 9], "width_px": [7, 9],
        "short_side_px": [7, 8, 9],
    }  # fmt: skip
    location = str(tmp_path / "train.beton")
    monkeypatch.setattr(facts, "is_remote", lambda location: True)
    Path(location + ".json").write_text(json.dumps(manifest))
    assert facts.dataset_facts(location).num_per_label == (8, 4)
    Path(location + ".json").write_text(json.dumps(manifest | change))
    with pytest.raises(StagingError, match=r"train\.beton\.json is .*; "):
        facts.dataset_facts(location)


@pytest.mark.parametrize("location", ["train.tar", "ftp://host/train.beton", "s3://train.beton"])
def test_location_of_another_form_is_an_error(location):
    with pytest.raises(StagingError, match=f"{location}.*; "):
        read_manifest_at(location)


def test_dead_mount_is_an_error_after_the_time_limit(monkeypatch):
    hangs = threading.Event()
    monkeypatch.setattr(remote_manifest, "ANSWER_LIMIT_S", 0.1)
    monkeypatch.setattr(RemoteFile, "read", lambda file, limit_bytes: hangs.wait(30))
    with pytest.raises(StagingError, match=r"no answer within 0\.1 s; check the network"):
        read_manifest_at("/mnt/share/train.beton")
    hangs.set()


def test_is_remote():
    assert [is_remote(location) for location in ("s3://b/k", "gs://b/k", "/s3/x", "s3:/b")] == [
        True,
        True,
        False,
        False,
    ]
