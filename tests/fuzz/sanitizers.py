"""Builds and runs the program that decodes inputs with the C library under sanitizers."""

import hashlib
import os
import subprocess
import tomllib
from pathlib import Path
from typing import Self

from data_pipeline.native.self_check import HEIGHT, JPEG, WIDTH

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("decode_inputs.c")
BUILD_PATH = ROOT / "build" / "fuzz"
# AddressSanitizer finds what is read or written past its memory, the other what C does not define.
FLAGS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wno-psabi")
ADDRESS_OPTIONS = {
    "max_allocation_size_mb": 1024,
    "allocator_may_return_null": 1,
    "hard_rss_limit_mb": 1024,
    # Of the limit above, by default a quarter may be memory that was freed.
    "quarantine_size_mb": 16,
    "detect_leaks": 0,
    "abort_on_error": 1,
}
"""``detect_leaks``: the program itself finds what is not freed, after each input."""
FAULT_MARKS = ("ERROR", "runtime error", "rss limit exhausted")


class SanitizerError(AssertionError):
    """The program ended: a sanitizer, or the program itself, found a fault."""


def build_program() -> Path:
    """The program, compiled from the library's sources as pyproject.toml lists them.

    Raises:
        subprocess.CalledProcessError: it does not compile.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    module = project["tool"]["setuptools"]["ext-modules"][0]
    sources = [PROGRAM, *(ROOT / source for source in module["sources"])]
    options = [flag for flag in module["extra-compile-args"] if not flag.startswith("-O")]
    libraries = [f"-l{name}" for name in module["libraries"]]
    command = ["gcc", *options, *FLAGS, *map(str, sources), *libraries]
    headers = [ROOT / header for header in module["depends"]]
    content = b"".join(path.read_bytes() for path in [*sources, *headers])
    digest = hashlib.sha256(repr(command).encode() + content).hexdigest()[:16]
    path = BUILD_PATH / f"decode_inputs-{digest}"
    if not path.exists():
        BUILD_PATH.mkdir(parents=True, exist_ok=True)
        partial_path = path.with_name(f"{path.name}.{os.getpid()}")
        subprocess.run([*command, "-o", str(partial_path)], check=True)
        partial_path.rename(path)
    return path


class Program:
    """A running program; after a fault it is started again by the next input."""

    def __init__(self, path: Path):
        self._path = path
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, also one that hangs."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def start(self) -> None:
        """Start a process unless one is running."""
        if self._process is None:
            options = ":".join(f"{name}={value}" for name, value in ADDRESS_OPTIONS.items())
            self._process = subprocess.Popen(
                [self._path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "ASAN_OPTIONS": options, "UBSAN_OPTIONS": "print_stacktrace=1"},
            )
            self.decode(JPEG, HEIGHT, WIDTH)

    def decode(self, data: bytes, height: int, width: int) -> int:
        """The status of a full decode: see decode_inputs.c.

        Raises:
            SanitizerError: with the first line of the report.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        answer = b""
        try:
            self._process.stdin.write(b"%d %d %d\n" % (len(data), height, width) + data)
            self._process.stdin.flush()
            answer = self._process.stdout.read(1)
        except BrokenPipeError:
            pass
        except BaseException:
            # Such as a time limit: the answer would be taken for that of the next input.
            self.close()
            raise
        if answer:
            return int.from_bytes(answer, "little", signed=True)
        process, self._process = self._process, None
        report = process.communicate()[1].decode(errors="replace")
        raise SanitizerError(_summary(report) or f"exit status {process.returncode}")

    def arithmetic(self, data: bytes) -> bytes:
        """A baseline JPEG with arithmetic coding instead of Huffman's."""
        command = [self._path, "arithmetic"]
        return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


def _summary(report: str) -> str:
    """What was found, and in which line of the library."""
    lines = report.splitlines()
    fault = next((line for line in lines if any(mark in line for mark in FAULT_MARKS)), "")
    place = next((line.split()[-1] for line in lines if "data_pipeline/native" in line), "")
    return f"{fault.split('==')[-1].strip()} {place}".strip()[:300]
