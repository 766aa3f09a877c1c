"""Series are the journal's values at their epochs, and fewer of them where there are many."""

import math

import numpy as np

from service.pages.series import binned, thinned, timeline
from service.run.journal import Event


def event(kind, step, epoch, **values):
    return Event(kind, step, epoch, 0, values)


def test_long_series_are_averaged_within_bins():
    epochs = np.linspace(0.0, 6.0, 6001)[:-1]
    series = tuple(zip(epochs.tolist(), (2 * epochs).tolist(), strict=True))
    shifted = tuple((epoch, value + 1) for epoch, value in series)
    found = np.array(binned([series, shifted, ((1.0, math.nan),)], 6, 60))
    assert found.shape == (60, 2)
    np.testing.assert_allclose(found[:, 1], 2 * found[:, 0] + 0.5, atol=1e-9)
    assert binned([((6.0, 1.0),)], 6, 60) == ((6.0, 1.0),)


def test_short_series_stay_as_they_are():
    series = tuple((float(n), math.sin(n)) for n in range(300))
    assert thinned(series) == series


def test_thinned_series_have_the_means_of_neighbors_and_the_last_point():
    series = tuple((float(n), float(n % 2)) for n in range(10_001))
    found = thinned(series, 101)
    assert len(found) == 101
    expected = [(100 * n + 49.5, 0.5) for n in range(100)]
    np.testing.assert_allclose(found[:-1], expected, rtol=1e-12)
    assert found[-1] == (10_000.0, 0.0)


def test_events_are_placed_by_epochs_once_one_is_done():
    events = [
        event("teacher", 0, 0, top1=0.9),
        event("interval", 5, 0, loss=3.0),
        event("interval", 10, 0, loss=2.0),
        event("evaluation", 10, 1, top1=0.5),
        event("interval", 15, 1, loss=math.nan),
        event("interval", 20, 1, loss=1.0, other=7.0),
    ]
    axis = timeline(events)
    assert axis.unit == "epoch"
    assert axis.series(events, "interval", "loss") == ((0.5, 3.0), (1.0, 2.0), (2.0, 1.0))
    assert axis.series(events, "interval", "other") == ((2.0, 7.0),)
    assert axis.series(events, "evaluation", "top1") == ((1.0, 0.5),)
    assert axis.series(events, "evaluation", "loss") == ()


def test_events_are_placed_by_steps_before():
    events = [event("teacher", 0, 0), event("interval", 5, 0, loss=3.0)]
    axis = timeline(events)
    assert axis.unit == "optimizer step"
    assert axis.series(events, "interval", "loss") == ((5.0, 3.0),)
