"""What all scripts do: their output may be read by nobody any more, and errors are one line."""

import importlib
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from service.run.scripts import run_script

def main(arguments):
    for number in range(20_000):
        print(number)
    print("to stderr", file=sys.stderr)
    open(arguments[0], "w").write("done")
    return 3

run_script(main)
"""


def run(path, reader):
    """Run PROGRAM, its output read by a command of the shell; its exit status and its stderr."""
    command = [sys.executable, "-c", PROGRAM, str(path)]
    script = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    read = subprocess.run(reader, stdin=script.stdout, capture_output=True, check=True).stdout
    script.stdout.close()
    errors = script.stderr.read().decode()
    script.stderr.close()
    return script.wait(), errors, read.decode()


def test_script_goes_on_where_the_reader_of_its_output_has_ended(tmp_path):
    path = tmp_path / "done"
    assert run(path, ["head", "-n", "2"]) == (3, "to stderr\n", "0\n1\n")
    assert path.read_text() == "done"


def test_all_output_arrives_where_it_is_read(tmp_path):
    status, errors, read = run(tmp_path / "done", ["cat"])
    assert (status, errors) == (3, "to stderr\n")
    assert read.splitlines() == [str(number) for number in range(20_000)]


LATE_SIGNAL = """
import atexit, os, signal
from service.run.scripts import run_script

atexit.register(lambda: os.kill(os.getpid(), signal.SIGTERM))
run_script(lambda arguments: 3)
"""


def test_signal_after_the_end_does_not_change_the_exit_status():
    assert subprocess.run([sys.executable, "-c", LATE_SIGNAL], check=False).returncode == 3


@pytest.mark.parametrize(
    "name", ["distill", "sweep", "compare", "sync", "convert", "verify", "evaluate", "export"]
)
def test_an_error_of_arguments_is_one_line(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"jobs/{name}.py"])
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(f"jobs.{name}").main(["--nonsense"])
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith(f"{name}.py: error: ")
    assert printed.out == ""
