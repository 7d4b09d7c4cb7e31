"""Lengths of time as one says them."""

import pytest

from contrapose.durations import in_words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 seconds"),
        (0.03, "0.03 seconds"),
        (1, "1 second"),
        (3.216, "3.22 seconds"),
        (59.97, "1 minute"),
        (60, "1 minute"),
        (61, "1 minute 1 second"),
        (200, "3 minutes 20 seconds"),
        (300.0, "5 minutes"),
        (3599.6, "1 hour"),
        (7300, "2 hours 2 minutes"),
        (86390, "1 day"),
        (463968, "5 days 9 hours"),
    ],
)
def test_at_most_two_units(seconds, words):
    assert in_words(seconds) == words
