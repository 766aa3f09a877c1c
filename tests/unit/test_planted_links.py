"""Links and FIFOs where files are written are refused or replaced, and never followed."""

import os

import pytest
import torch

from data_pipeline import files
from data_pipeline.files import atomic_path, open_regular, remove_partials, write_atomically
from data_pipeline.writer import BetonWriter
from service.cluster.crashes import record_crash
from service.run.claim import claim_run_folder
from service.run.durations import recorded_submission
from service.run.folder import write_spec
from service.run.journal import JOURNAL_NAME, Journal
from service.run.progress import Progress
from service.spec.errors import BadInputError
from service.spec.loading import parse_spec
from service.training import checkpoint
from service.training.checkpoint import Snapshot, is_intact, save_checkpoint


@pytest.fixture
def victim(tmp_path):
    """A file of somebody else, which must stay as it is."""
    path = tmp_path / "victim"
    path.write_text("kept")
    yield path
    assert path.read_text() == "kept"


def test_link_at_a_fixed_temporary_name_is_not_followed(tmp_path, victim):
    (tmp_path / ".file.partial").symlink_to(victim)
    (tmp_path / "file").symlink_to(victim)
    write_atomically(tmp_path / "file", "new")
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


def test_temporary_names_differ_and_one_that_exists_is_not_opened(tmp_path, victim, monkeypatch):
    names = set()
    for _ in range(3):
        with atomic_path(tmp_path / "file") as path:
            names.add(path.name)
    assert len(names) == 3
    monkeypatch.setattr(files.secrets, "token_hex", lambda num_bytes: "0" * 2 * num_bytes)
    (tmp_path / f".file.{'0' * 16}.partial").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "file", "new")


@pytest.mark.parametrize("mode", ["rb", "r+b", "ab", "a+", "w"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "fifo"])
def test_only_regular_files_are_opened(tmp_path, victim, kind, mode):
    path = tmp_path / "file"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(victim if kind == "link" else tmp_path / "missing")
    expected = "is a FIFO" if kind == "fifo" else "is a symbolic link"
    with pytest.raises(OSError, match=f"file {expected}"):
        open_regular(path, mode)
    assert not (tmp_path / "missing").exists()


def test_leftovers_of_killed_processes_are_removed_when_a_folder_is_claimed(make_content):
    spec = parse_spec(make_content())
    trial = spec.run_path / "trials" / "trial-0000"
    trial.mkdir(parents=True)
    write_spec(spec)
    kept = [spec.run_path / ".file.partial", spec.run_path / ".lock", trial / "journal.jsonl"]
    left = [files.partial_name(folder / "status.json") for folder in (spec.run_path, trial)]
    for path in (*kept, *left):
        path.write_text("half")
    with claim_run_folder(spec):
        assert [path.exists() for path in (*kept, *left)] == [True] * 3 + [False] * 2


def test_only_leftovers_of_one_name_are_removed(tmp_path):
    (tmp_path / "folder").mkdir()
    own, other, below = map(
        files.partial_name, (tmp_path / "a.json", tmp_path / "b.json", tmp_path / "folder/a.json")
    )
    for path in (own, other, below):
        path.touch()
    remove_partials(tmp_path, "a.json")
    assert [path.exists() for path in (own, other, below)] == [False, True, True]


def test_conversion_does_not_write_through_its_partial_name(tmp_path, victim):
    (tmp_path / "out.beton.partial").symlink_to(victim)
    with (
        pytest.raises(OSError, match=r"out\.beton\.partial is a symbolic link"),
        BetonWriter(tmp_path / "out.beton", 1),
    ):
        pass


def test_files_of_a_run_that_are_appended_to(make_content, victim):
    spec = parse_spec(make_content())
    spec.run_path.mkdir(parents=True)
    for name in (JOURNAL_NAME, "submissions.jsonl", "crash_rank0.txt", ".lock"):
        (spec.run_path / name).symlink_to(victim)
    with pytest.raises(BadInputError, match="is a symbolic link"):
        Journal(spec.run_path / JOURNAL_NAME, limit_bytes=10**6).note("text")
    with recorded_submission(spec.run_path), record_crash(spec.run_path, 0):
        pass
    with pytest.raises(BadInputError, match=r"\.lock is a symbolic link"), claim_run_folder(spec):
        pass


@pytest.mark.parametrize("is_dangling", [False, True])
def test_link_in_place_of_a_checkpoint_is_replaced(tmp_path, is_dangling):
    folder, run_path = tmp_path / "folder", tmp_path / "run"
    run_path.mkdir()
    if not is_dangling:
        folder.mkdir()
        (folder / "kept").touch()
    path = run_path / checkpoint.checkpoint_name(1)
    path.symlink_to(folder)
    weights = {"a": torch.zeros(3)}
    save_checkpoint(path, "hash", Snapshot(weights, None, {}, [], Progress(step=1)))
    assert is_intact(path)
    assert not path.is_symlink()
    link = run_path / checkpoint.checkpoint_name(2)
    link.symlink_to(folder)
    checkpoint.remove_checkpoint(link)
    assert list(run_path.iterdir()) == [path]
    assert is_dangling or (folder / "kept").exists()
