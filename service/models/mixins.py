"""Modules that get a class of their own, which leaves a network's names and weights as they are.

A changed class, not a changed method, is kept by copies of the network, which then work on their
own weights.
"""

import copyreg
from collections.abc import Callable
from functools import cache

from torch import nn


class _MixedClass(type):
    """The class of such classes: pickle refers to them by what they are made of."""


@cache
def _mixed_class(mixin: type, kind: type) -> _MixedClass:
    """``kind`` with ``mixin`` in front of it, under its name."""
    return _MixedClass(kind.__name__, (mixin, kind), {})


def _reduced(mixed: _MixedClass) -> tuple[Callable[..., _MixedClass], tuple[type, ...]]:
    return _mixed_class, mixed.__bases__


copyreg.pickle(_MixedClass, _reduced)


def mix_in(module: nn.Module, mixin: type) -> None:
    """Put ``mixin`` in front of the class of ``module``, which can be pickled as before."""
    kind: type = type(module)
    module.__class__ = _mixed_class(mixin, kind)  # type: ignore[assignment]
