import itertools
import math
import struct

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.contour import ContourSet
from support.sweep_records import ALPHA, KIND, NAMES, TEMPERATURE, make_records

from service.sweep.analysis import TrialRecord
from service.sweep.pages.pictures import SweepFacts, draw_all, png


def make_facts(records, **changes):
    importances = {TEMPERATURE: 0.6, ALPHA: 0.3, KIND: 0.1}
    log_params = frozenset({TEMPERATURE})
    facts = SweepFacts(records, "held_out/top1", True, log_params, importances, 3)
    return facts._replace(**changes)


@pytest.fixture(scope="module")
def records():
    return make_records()


@pytest.fixture(scope="module")
def figures(records):
    return draw_all(make_facts(records))


def marks(axes, label):
    """The points drawn under a label, as a set of rounded pairs."""
    offsets = [
        tuple(point)
        for collection in axes.collections
        if collection.get_label() == label
        for point in collection.get_offsets()
    ]
    return {(round(float(x), 9), round(float(y), 9)) for x, y in offsets}


def panel(figure, name):
    return next(axes for axes in figure.axes if axes.get_xlabel().startswith(name))


def star(axes):
    line = next(line for line in axes.lines if line.get_marker() == "*")
    return line.get_xdata()[0], line.get_ydata()[0]


def of_state(records, state):
    return [record for record in records if record.state == state]


def test_pictures_are_in_order_and_count_trials_by_state(figures):
    assert list(figures) == NAMES
    for figure in figures.values():
        title = figure.get_suptitle()
        assert "24 settings tried: 6 finished, 12 stopped early, 6 failed" in title


@pytest.mark.parametrize(("path", "scale"), [(TEMPERATURE, "log"), (ALPHA, "linear")])
def test_scored_trials_are_drawn_at_their_value_and_metric(records, figures, path, scale):
    axes = panel(figures["metric_by_parameter"], path)
    assert axes.get_xscale() == scale
    for state, label in (("finished", "finished"), ("stopped", "stopped early")):
        expected = {
            (round(record.params[path], 9), round(record.score, 9))
            for record in of_state(records, state)
        }
        assert marks(axes, label) == expected


def test_time_and_metric_are_drawn_with_the_pareto_front(records):
    """The front is a step line: its metric holds until a slower trial is better."""
    finished = of_state(records, "finished")
    front = sorted(finished, key=lambda record: record.score)[-2:]
    figure = draw_all(make_facts(records, front=front))["metric_by_time"]
    (axes,) = figure.axes

    assert marks(axes, "finished") == {
        (round(record.seconds, 9), round(record.score, 9)) for record in finished
    }
    line = next(line for line in axes.lines if line.get_drawstyle() == "steps-post")
    assert list(zip(*line.get_data(), strict=True)) == [(r.seconds, r.score) for r in front]


def test_time_is_drawn_only_if_it_is_an_objective(figures):
    assert "metric_by_time" not in figures


@pytest.mark.parametrize(("count", "is_warned"), [(24, True), (80, False)])
def test_importances_of_few_trials_come_with_a_warning(count, is_warned):
    figure = draw_all(make_facts(make_records(count)))["importance"]

    assert ("a rough estimate" in figure.axes[0].get_title(loc="right")) == is_warned


def test_failed_trials_are_marked_on_the_bottom_edge(records, figures):
    axes = panel(figures["metric_by_parameter"], TEMPERATURE)
    failed = next(c for c in axes.collections if c.get_label() == "failed")
    values = sorted(record.params[TEMPERATURE] for record in of_state(records, "failed"))
    assert sorted(failed.get_offsets()[:, 0]) == pytest.approx(values)
    low, high = axes.get_ylim()
    pixels = failed.get_offset_transform().transform(failed.get_offsets())
    heights = axes.transAxes.inverted().transform(pixels)[:, 1]
    least = min(record.score for record in records if record.state != "failed")
    assert heights.max() < (least - low) / (high - low)
    assert heights.min() >= 0


def test_categories_are_strips_around_their_labels(records, figures):
    axes = panel(figures["metric_by_parameter"], KIND)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["cosine", "linear", "step"]
    by_metric = {y: x for x, y in marks(axes, "finished") | marks(axes, "stopped early")}
    for record in of_state(records, "finished") + of_state(records, "stopped"):
        position = by_metric[round(record.score, 9)]
        assert labels[round(position)] == record.params[KIND]
        assert abs(position - round(position)) < 0.3


@pytest.mark.parametrize(("maximizes", "choose"), [(True, max), (False, min)])
def test_the_star_is_on_the_best_finished_trial(records, maximizes, choose):
    figures = draw_all(make_facts(records, metric="held_out/loss", maximizes=maximizes))
    best = choose(of_state(records, "finished"), key=lambda record: record.score)
    axes = panel(figures["metric_by_parameter"], ALPHA)
    assert star(axes) == (best.params[ALPHA], best.score)
    assert star(figures["learning_curves"].axes[0]) == best.curve[-1]
    map_axes = figures["temperature_alpha_map"].axes[0]
    assert star(map_axes) == (best.params[TEMPERATURE], best.params[ALPHA])


def test_every_trial_has_one_curve_with_its_points(records, figures):
    axes = figures["learning_curves"].axes[0]
    drawn = [
        [tuple(point) for point in segment]
        for collection in axes.collections
        if isinstance(collection, LineCollection)
        for segment in collection.get_segments()
    ]
    drawn += [
        list(zip(line.get_xdata(), line.get_ydata(), strict=True))
        for line in axes.lines
        if line.get_marker() != "*"
    ]
    assert sorted(drawn) == sorted(list(record.curve) for record in records)
    ends = {(3.0, round(record.score, 9)) for record in of_state(records, "stopped")}
    assert marks(axes, "stopped early") == ends


def test_map_shows_all_trials_and_better_ones_are_darker(records, figures):
    axes = figures["temperature_alpha_map"].axes[0]
    assert axes.get_xscale() == "log"
    for state, label in (("finished", "finished"), ("stopped", "stopped early"), ("failed",) * 2):
        placed = {
            (round(record.params[TEMPERATURE], 9), round(record.params[ALPHA], 9))
            for record in of_state(records, state)
        }
        assert marks(axes, label) == placed
    finished = next(c for c in axes.collections if c.get_label() == "finished")
    brightness = finished.get_facecolors()[:, :3].sum(axis=1)
    scores = [record.score for record in of_state(records, "finished")]
    assert list(np.argsort(-brightness)) == list(np.argsort(scores))


def test_stopped_trials_are_hollow_on_the_map(figures):
    axes = figures["temperature_alpha_map"].axes[0]
    stopped = next(c for c in axes.collections if c.get_label() == "stopped early")
    assert {tuple(face[:3]) for face in stopped.get_facecolors()} == {to_rgba("white")[:3]}


@pytest.mark.parametrize(("num_finished", "is_filled"), [(5, False), (6, True)])
def test_map_has_a_background_with_at_least_six_finished_trials(records, num_finished, is_filled):
    chosen = of_state(records, "finished")[:num_finished] + of_state(records, "stopped")
    axes = draw_all(make_facts(chosen))["temperature_alpha_map"].axes[0]
    assert any(isinstance(c, ContourSet) for c in axes.collections) == is_filled


@pytest.mark.parametrize("alphas", [[0.5] * 8, [0.1 * n for n in range(8)], [0.1, 0.9] * 4])
@pytest.mark.parametrize("scores", [[0.7] * 8, [0.6 + 0.01 * n for n in range(8)]])
def test_map_is_drawn_for_collinear_points_grids_and_equal_scores(alphas, scores):
    records = [
        TrialRecord(n, "finished", {TEMPERATURE: 2.0 * 2 ** (n // 2), ALPHA: alpha}, score, (), 1.0)
        for n, (alpha, score) in enumerate(zip(alphas, scores, strict=True))
    ]
    axes = draw_all(make_facts(records))["temperature_alpha_map"].axes[0]
    assert len(marks(axes, "finished")) == len({tuple(r.params.values()) for r in records})


@pytest.mark.parametrize("missing", [TEMPERATURE, ALPHA])
def test_there_is_no_map_unless_both_parameters_were_searched(records, missing):
    fewer = [
        record._replace(params={p: v for p, v in record.params.items() if p != missing})
        for record in records
    ]
    assert "temperature_alpha_map" not in draw_all(make_facts(fewer))


def test_parallel_lines_pass_every_axis_at_the_trials_value(records, figures):
    axes = figures["parallel_coordinates"].axes[0]
    drawn = sorted(
        tuple(round(float(y), 6) for y in line.get_ydata())
        for line in axes.lines
        if len(line.get_xdata()) == 5
    )
    paths = list(dict.fromkeys(path for record in records for path in record.params))
    columns = [[record.params.get(path) for record in records] for path in paths]
    columns.append([None if record.state == "failed" else record.score for record in records])
    (absent,) = {line[-1] for line in drawn if line[-1] < 0}
    expected = zip(
        *(
            _heights(column, path, absent)
            for column, path in zip(columns, [*paths, ""], strict=True)
        ),
        strict=True,
    )
    assert drawn == sorted(expected)


def _heights(column, path, absent):
    """Heights of the values on an axis, from the minimum at 0 to the maximum at 1."""
    ranks = {"cosine": 0, "linear": 1, "step": 2}
    positions = [ranks.get(value, value) for value in column]
    if path == TEMPERATURE:
        positions = [math.log(value) for value in positions]
    known = [position for position in positions if position is not None]
    low, high = min(known), max(known)
    return [absent if p is None else round((p - low) / (high - low), 6) for p in positions]


def test_importances_are_bars_in_descending_order(figures):
    axes = figures["importance"].axes[0]
    widths = {
        label.get_text(): bar.get_width()
        for label, bar in zip(axes.get_yticklabels(), axes.patches, strict=True)
    }
    assert widths == pytest.approx({TEMPERATURE: 60, ALPHA: 30, KIND: 10})
    assert list(widths) == [KIND, ALPHA, TEMPERATURE]


def test_importances_that_are_nan_are_left_out(records):
    assert "importance" not in draw_all(make_facts(records, importances={ALPHA: math.nan}))


def test_png_is_complete_and_deterministic(records, figures):
    image = png(figures["importance"])
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    assert image.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", image[16:24])
    assert (width, height) == tuple(int(side) for side in figures["importance"].bbox.size * 1.1)
    assert png(draw_all(make_facts(records))["importance"]) == image


def odd_records():
    values = [[1, 2], {"a": "$x$ and $y"}, None, True, "ünï$", 3, 0.5, "long " * 20]
    names = ["a.b.c.list_of_a_very_long_name_indeed", "one", "same.number"]
    return [
        TrialRecord(
            number, "finished", {names[0]: value, names[1]: number, names[2]: 5}, 0.5, (), 1.0
        )
        for number, value in enumerate(values)
    ]


def test_odd_settings_are_drawn_without_a_warning(recwarn):
    failed = [r._replace(state="failed", score=None, curve=()) for r in make_records(4)]
    unmeasured = [r._replace(state="waiting", score=math.nan, curve=()) for r in make_records(3)]
    for records in (failed, unmeasured, make_records(1), odd_records()):
        for figure in draw_all(make_facts(records, importances={})).values():
            figure.draw_without_rendering()
    assert not recwarn.list


def test_no_trials_give_no_pictures():
    assert draw_all(make_facts([], importances={})) == {}


def test_axis_names_do_not_overlap():
    params = {f"section.part.a_rather_long_parameter_{n}": 0.1 * n for n in range(8)}
    records = [
        TrialRecord(n, "finished", {p: v + n for p, v in params.items()}, n / 9, (), 1.0)
        for n in range(3)
    ]
    figure = draw_all(make_facts(records))["parallel_coordinates"]
    figure.draw_without_rendering()
    labels = figure.axes[0].get_xticklabels()
    boxes = [label.get_window_extent() for label in labels]
    assert all(one.x1 <= two.x0 for one, two in itertools.pairwise(boxes))
