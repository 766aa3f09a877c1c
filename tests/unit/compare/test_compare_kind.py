"""Which script a spec is for: the one whose own spec accepts it."""

import pytest

from service.compare.kind import script_of


@pytest.mark.parametrize(
    ("content", "script"),
    [
        ({"name": "a", "student": {}}, "distill"),
        ({"name": "a", "base": {}, "space": {}}, "sweep"),
        ({"name": "a", "base": "job.json", "budget": {}, "concurrency": 2}, "sweep"),
        ({"name": "a", "base": {}, "variants": {}}, "compare"),
        # No variants: the base over seeds, over pairs, or with its losses tuned.
        ({"name": "a", "base": {}, "seeds": [1, 2]}, "compare"),
        ({"name": "a", "base": {}, "pairs": {}}, "compare"),
        ({"name": "a", "base": {}, "tuned": {}}, "compare"),
        ({"name": "a", "base": {}, "base_label": "alone"}, "compare"),
        ([1, 2], "distill"),
        (None, "distill"),
    ],
    ids=str,
)
def test_fields_that_one_kind_has_alone_decide(content, script):
    assert script_of(content) == script
