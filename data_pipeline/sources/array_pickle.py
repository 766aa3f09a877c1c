"""Loads pickles of arrays and plain values, and rejects those that could run code."""

import codecs
import pickle
from pathlib import Path

import numpy as np

from data_pipeline.sources.source import SourceError

# Looked up in numpy, since the functions are in a private module that was renamed once.
_RECONSTRUCT = np.zeros(1).__reduce__()[0]
_FROM_BUFFER = np.zeros(1).__reduce_ex__(5)[0]
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROM_BUFFER,
    # Old protocols write bytes as text to be encoded.
    ("_codecs", "encode"): codecs.encode,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        """Allow only the functions that build arrays and bytes."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return _ALLOWED[module, name]


def load_arrays(path: Path) -> object:
    """The content of a pickle of arrays, strings, lists and dicts; Python 2's strings as latin-1.

    Raises:
        SourceError: a pickle that is damaged or contains anything else.
    """
    try:
        with path.open("rb") as file:
            return _ArrayUnpickler(file, encoding="latin1").load()
    # A damaged pickle can raise anything.
    except Exception as error:
        raise SourceError(
            f"{path} cannot be unpickled ({error}); extract the archive again"
        ) from error
