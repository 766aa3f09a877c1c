"""Folders of Ray's files on a node are removed, also those of jobs that were killed."""

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "deploy" / "slurm"))

import node_folder as module
from node_folder import node_folder

HOLD = """
import sys, time
sys.path.insert(0, sys.argv[1])
import pathlib, node_folder
node_folder.PARENT = pathlib.Path(sys.argv[2])
with node_folder.node_folder() as folder:
    print(folder, flush=True)
    time.sleep(1000)
"""


def test_folders_of_killed_jobs_are_removed_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PARENT", tmp_path)
    (tmp_path / "other").mkdir()
    command = [sys.executable, "-c", HOLD, str(Path(module.__file__).parent), str(tmp_path)]
    holders = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        killed, running = (Path(holder.stdout.readline().strip()) for holder in holders)
        holders[0].kill()
        holders[0].wait()
        with node_folder() as folder:
            assert folder.stat().st_mode & 0o777 == 0o700
            assert set(tmp_path.iterdir()) == {tmp_path / "other", running, folder}
        assert set(tmp_path.iterdir()) == {tmp_path / "other", running}
        assert not killed.exists()
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()
