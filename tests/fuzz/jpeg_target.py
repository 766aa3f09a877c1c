"""JPEGs through the C library under sanitizers, in a process of its own."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from fuzz.jpeg_mutators import frame_size, mutate_jpeg
from fuzz.outcomes import Call
from fuzz.sanitizers import Program, build_program
from fuzz.target import Target
from support.image_makers import jpeg_bytes, noisy_image, smooth_image

WIDTH, HEIGHT = 37, 29
OTHER_SIZE = (HEIGHT, WIDTH)
DAMAGED, NO_MEMORY = -1, -2


class DamagedJpegError(ValueError):
    """The library reports that a JPEG is damaged."""


def jpeg_target(folder: Path) -> Target:
    """JPEGs of all kinds; decoded at the size in their header, and at another one."""
    program = Program(build_program())

    def calls(data: bytes) -> Iterator[Call]:
        for name, size in (("own size", frame_size(data)), ("other size", OTHER_SIZE)):
            if 0 not in size:
                # Starting a process is not what the guard is for.
                program.start()
                decode = partial(_decode, program, data, *size)
                yield Call(name, decode, (DamagedJpegError,), ("JPEG",))

    return Target(folder, _seeds(program), mutate_jpeg, calls)


def _decode(program: Program, data: bytes, height: int, width: int) -> None:
    status = program.decode(data, height, width)
    assert status != NO_MEMORY, f"no memory for {height} x {width} pixels of {len(data)} bytes"
    if status == DAMAGED:
        raise DamagedJpegError("the JPEG is damaged")


def _seeds(program: Program) -> list[bytes]:
    """Each kind of JPEG that libjpeg decodes."""
    image, noise = smooth_image(WIDTH, HEIGHT), noisy_image(WIDTH, HEIGHT)
    baseline = jpeg_bytes(image, subsampling=2)
    return [
        baseline,
        jpeg_bytes(image, subsampling=0),
        jpeg_bytes(noise, subsampling=1, quality=100),
        jpeg_bytes(noise, progressive=True),
        jpeg_bytes(image, progressive=True, subsampling=2),
        jpeg_bytes(image.convert("L")),
        jpeg_bytes(image.convert("L"), progressive=True),
        jpeg_bytes(image.convert("CMYK")),
        jpeg_bytes(noise, restart_marker_blocks=2),
        jpeg_bytes(noise, optimize=True, quality=5),
        program.arithmetic(baseline),
    ]
