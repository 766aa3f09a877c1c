"""Keys of specs."""

import pytest

from service.spec.loading import parse_spec
from service.teacher_cache.key import cache_key, weights_digests

EXECUTION = {"precision": "float32", "device": "cpu"}


@pytest.fixture
def make_key(make_content, teacher):
    """A function that returns the key of a spec with other sections than the default."""

    def make(size=16, fingerprint="f" * 64, execution=(), **sections):
        network = {**teacher, "cache": {}, **sections.pop("teacher", {})}
        spec = parse_spec(make_content(teacher=network, **sections))
        return cache_key(
            spec,
            size,
            fingerprint=fingerprint,
            digests=weights_digests(spec),
            execution={**EXECUTION, **dict(execution)},
        )

    return make
