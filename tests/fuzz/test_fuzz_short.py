"""A few inputs for each target; ``make fuzz`` runs as many as wanted."""

import struct

import pytest
from fuzz.campaign import Summary, run_input, table
from fuzz.guards import Guard
from fuzz.sanitizers import Program, build_program
from fuzz.targets import TARGETS

SEED = 1
NUM_INPUTS = 120
# Of decode_inputs.c: measured, but not decoded to memory.
TOO_LARGE = 1


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_are_accepted_or_refused(name, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "files"
    folder.mkdir()
    monkeypatch.chdir(folder)
    target, guard = TARGETS[name](folder), Guard(folder)
    summary = Summary(name, tmp_path / "failures")
    for index in range(NUM_INPUTS):
        data = target.input(name, SEED, index)
        summary.add(data, run_input(target, data, guard))
    assert not summary.failures, table([summary])
    # Otherwise all inputs might be refused for a reason that has nothing to do with them.
    assert summary.num_by_kind["accepted"] >= 1


def test_sums_of_differences_that_exceed_32_bits():
    """A gray JPEG of 76,800 blocks, each of which adds 32,767 to the one before."""
    height, width = 2048, 2400
    frame = struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\1\x11\0"
    # In both tables the code 0: a difference of 15 bits, then the end of the block.
    tables = [
        b"\0\x14" + kind + b"\1" + bytes(15) + symbol
        for kind, symbol in ((b"\0", b"\x0f"), (b"\x10", b"\0"))
    ]
    bits = ("0" + 15 * "1" + "0") * (height * width // 64)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    data = b"\xff\xd8\xff\xdb\0\x43\0" + b"\1" * 64 + b"\xff\xc0" + frame
    data += b"".join(b"\xff\xc4" + table for table in tables)
    data += b"\xff\xda\0\x08\1\1\0\0\x3f\0" + scan + b"\xff\xd9"
    with Program(build_program()) as program:
        program.start()
        assert program.decode(data, height, width) == TOO_LARGE
