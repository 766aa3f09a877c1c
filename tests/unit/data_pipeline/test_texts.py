"""Numbers in words."""

import pytest

from data_pipeline.text import format_duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.3, "less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (90, "1.5 minutes"),
        (3599, "60 minutes"),
        (3600, "1 hour"),
        (5400, "1.5 hours"),
        (36_000, "10 hours"),
        (1e7, "2,778 hours"),
    ],
)
def test_durations_have_two_digits(seconds, text):
    assert format_duration(seconds) == text
