"""The C library that decodes and resizes images; its sources are in this folder.

Compiled code calls it through LLVM's symbol table (see ``decoders``), Python through ``library``.
"""

import ctypes
import functools
from pathlib import Path

from data_pipeline.native.self_check import check_decoder


def library_path() -> Path:
    """Path of the compiled library.

    Raises:
        ImportError: it was not built.
    """
    found = sorted(Path(__file__).parent.glob("_pixels*.so"))
    if not found:
        raise ImportError(
            "data_pipeline's C library is not built; install libjpeg62-turbo-dev and a C compiler, "
            "then pip install -e ."
        )
    return found[0]


@functools.cache
def library() -> ctypes.CDLL:
    """The library for calls from Python, which release the GIL; checks its decoder once.

    Raises:
        ImportError: it was not built.
    """
    found = ctypes.CDLL(str(library_path()))
    check_decoder(found)
    return found
