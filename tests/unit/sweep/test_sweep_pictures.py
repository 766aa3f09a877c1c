import math
from html import unescape

import numpy as np
import pytest
from support.sweep_records import KIND, TEMPERATURE, WEIGHT, make_records

from service.sweep.analysis import TrialRecord
from service.sweep.pictures import SweepPictures

SHARES = {WEIGHT: 0.3, TEMPERATURE: 0.6, KIND: 0.1}


@pytest.fixture(scope="module")
def records():
    return make_records()


def pictures_of(records, metric="held_out/top1", maximizes=True):
    return SweepPictures(records, metric, maximizes, {TEMPERATURE})


@pytest.fixture(scope="module")
def pictures(records):
    return pictures_of(records)


def named(figure, name):
    return next(trace for trace in figure.data if trace.name and trace.name.startswith(name))


def points(figure, name):
    """The points drawn under a name, as a set of rounded pairs."""
    pairs = [
        pair
        for trace in figure.data
        if trace.name == name
        for pair in zip(trace.x, trace.y, strict=True)
    ]
    return {(round(float(x), 9), round(float(y), 9)) for x, y in pairs}


def hover_texts(figure):
    return {text for trace in figure.data for text in np.atleast_1d(trace.hovertext).tolist()}


def of_state(records, state):
    return [record for record in records if record.state == state]


def all_figures(pictures):
    front = sorted(of_state(pictures.records, "finished"), key=lambda record: record.seconds)[:1]
    figures = [pictures.by_parameter(path) for path in pictures.paths]
    figures += [pictures.by_time(front), pictures.parallel_coordinates()]
    figures += [pictures.learning_curves(), pictures.importances(SHARES, 3)]
    if (figure := pictures.temperature_map()) is not None:
        figures.append(figure)
    return figures


def test_every_title_counts_the_trials_by_state(pictures):
    for figure in all_figures(pictures):
        assert (
            "24 settings tried: 6 finished, 12 stopped early, 6 failed" in figure.layout.title.text
        )


def test_hovering_over_a_trial_shows_its_settings(records, pictures):
    for figure in (pictures.by_parameter(WEIGHT), pictures.parallel_coordinates()):
        texts = hover_texts(figure)
        for record in records:
            (text,) = (text for text in texts if text.startswith(f"trial {record.number},"))
            lines = unescape(text).split("<br>")
            assert f"{WEIGHT}: {record.params[WEIGHT]:.6g}" in lines
            assert f"{KIND}: {record.params[KIND]}" in lines
        shown = {(trace.hoverinfo, trace.hovertemplate) for trace in figure.data}
        assert shown == {("text", None)}, "a template does not know a text that is stored once"


@pytest.mark.parametrize(("path", "scale"), [(TEMPERATURE, "log"), (WEIGHT, None)])
def test_scored_trials_are_drawn_at_their_value_and_metric(records, pictures, path, scale):
    figure = pictures.by_parameter(path)
    assert figure.layout.xaxis.type == scale
    for state, name in (("finished", "finished"), ("stopped", "stopped early")):
        expected = {
            (round(record.params[path], 9), round(record.score, 9))
            for record in of_state(records, state)
        }
        assert points(figure, name) == expected


def test_states_are_told_apart(pictures):
    figure = pictures.by_parameter(WEIGHT)
    looks = {
        (named(figure, name).marker.symbol, named(figure, name).marker.color)
        for name in ("finished", "stopped early", "failed", "best")
    }
    assert len(looks) == 4
    assert len({symbol for symbol, _ in looks}) == 4


def test_failed_trials_are_below_all_scores(records, pictures):
    drawn = points(pictures.by_parameter(TEMPERATURE), "failed")
    values = {round(record.params[TEMPERATURE], 9) for record in of_state(records, "failed")}
    assert {x for x, _ in drawn} == values
    least = min(record.score for record in records if record.state != "failed")
    assert max(y for _, y in drawn) < least


def test_categories_are_strips_around_their_labels(records, pictures):
    figure = pictures.by_parameter(KIND)
    labels = dict(zip(figure.layout.xaxis.tickvals, figure.layout.xaxis.ticktext, strict=True))
    assert sorted(labels.values()) == ["cosine", "linear", "step"]
    by_metric = {y: x for x, y in points(figure, "finished") | points(figure, "stopped early")}
    for record in of_state(records, "finished") + of_state(records, "stopped"):
        position = by_metric[round(record.score, 9)]
        assert labels[round(position)] == record.params[KIND]
        assert abs(position - round(position)) < 0.3


def test_number_of_trials_that_used_a_parameter_is_said(records, pictures):
    path = "schedule.step_epochs"
    num_users = sum(path in record.params for record in records)
    title = pictures.by_parameter(path).layout.xaxis.title.text
    assert f"used by {num_users} trials" in title


def test_time_and_metric_are_drawn_with_the_pareto_front(records, pictures):
    """The front is a step line: its metric holds until a slower trial is better."""
    finished = of_state(records, "finished")
    front = sorted(finished, key=lambda record: record.score)[-2:]
    figure = pictures.by_time(front)

    assert points(figure, "finished") == {
        (round(record.seconds, 9), round(record.score, 9)) for record in finished
    }
    line = named(figure, "Pareto front")
    assert line.line.shape == "hv"
    assert list(zip(line.x, line.y, strict=True)) == [(r.seconds, r.score) for r in front]


@pytest.mark.parametrize(("count", "is_warned"), [(24, True), (80, False)])
def test_importances_of_few_trials_come_with_a_warning(count, is_warned):
    figure = pictures_of(make_records(count)).importances(SHARES, 3)
    num_compared = count * 3 // 4
    warning = f"(a rough estimate, from {num_compared} trials only)"
    text = figure.layout.title.text.replace("<br>", " ")
    assert (warning in text) == is_warned
    assert "after 3 epochs" in text


def test_importances_are_bars_with_the_largest_on_top(pictures):
    (bars,) = pictures.importances(SHARES, 3).data
    assert dict(zip(bars.y, bars.x, strict=True)) == SHARES
    assert list(bars.y) == [KIND, WEIGHT, TEMPERATURE]


@pytest.mark.parametrize(("maximizes", "choose"), [(True, max), (False, min)])
def test_the_star_is_on_the_best_finished_trial(records, maximizes, choose):
    pictures = pictures_of(records, "held_out/loss", maximizes)
    best = choose(of_state(records, "finished"), key=lambda record: record.score)
    name = f"best (trial {best.number})"

    def star(figure):
        return list(zip(named(figure, name).x, named(figure, name).y, strict=True))

    assert star(pictures.by_parameter(WEIGHT)) == [(best.params[WEIGHT], best.score)]
    assert star(pictures.learning_curves()) == [best.curve[-1]]
    assert star(pictures.temperature_map()) == [(best.params[TEMPERATURE], best.params[WEIGHT])]


def test_every_trial_has_one_curve_with_its_points(records, pictures):
    lines = [trace for trace in pictures.learning_curves().data if trace.mode != "markers"]
    drawn = [list(zip(line.x, line.y, strict=True)) for line in lines]
    assert sorted(drawn) == sorted(list(record.curve) for record in records)
    ends = {tuple(record.curve[-1]) for record in of_state(records, "stopped")}
    assert {(trace.x[-1], trace.y[-1]) for trace in lines if trace.name == "stopped early"} == ends


def test_map_shows_all_trials_and_better_ones_are_darker(records, pictures):
    figure = pictures.temperature_map()
    assert figure.layout.xaxis.type == "log"
    for state, name in (("finished", "finished"), ("stopped", "stopped early"), ("failed",) * 2):
        placed = {
            (round(record.params[TEMPERATURE], 9), round(record.params[WEIGHT], 9))
            for record in of_state(records, state)
        }
        assert points(figure, name) == placed
    scores = {record.params[WEIGHT]: record.score for record in of_state(records, "finished")}
    trace = named(figure, "finished")
    assert [scores[y] for y in trace.y] == list(trace.marker.color)
    colors = [color for _, color in figure.layout.coloraxis.colorscale]
    brightness = [sum(map(int, color[4:-1].split(","))) for color in colors]
    assert brightness == sorted(brightness, reverse=True)


def test_colors_cover_the_finished_trials_without_the_worst_tenth(records, pictures):
    scores = [record.score for record in of_state(records, "finished")]
    colors = pictures.temperature_map().layout.coloraxis
    assert (colors.cmin, colors.cmax) == (pytest.approx(np.quantile(scores, 0.1)), max(scores))
    colors = pictures_of(records, "held_out/loss", False).temperature_map().layout.coloraxis
    assert (colors.cmin, colors.cmax) == (min(scores), pytest.approx(np.quantile(scores, 0.9)))


@pytest.mark.parametrize(("num_finished", "is_filled"), [(5, False), (6, True)])
def test_map_has_a_background_with_at_least_six_finished_trials(records, num_finished, is_filled):
    chosen = of_state(records, "finished")[:num_finished] + of_state(records, "stopped")
    figure = pictures_of(chosen).temperature_map()
    assert any(trace.type == "contour" for trace in figure.data) == is_filled


def test_background_of_a_plane_is_that_plane():
    """Scores that are linear in log temperature and weight, on a regular grid."""
    records = [
        TrialRecord(4 * i + j, "finished", {TEMPERATURE: 2.0**i, WEIGHT: j / 3}, i + j, (), 1.0)
        for i in range(4)
        for j in range(4)
    ]
    figure = pictures_of(records, "held_out/loss").temperature_map()
    contour = next(trace for trace in figure.data if trace.type == "contour")
    expected = np.log2(contour.x)[None, :] + 3 * np.array(contour.y)[:, None]
    assert np.abs(np.array(contour.z) - expected)[1:-1, 1:-1].max() < 0.2


@pytest.mark.parametrize("weights", [[0.5] * 8, [0.1 * n for n in range(8)], [0.1, 0.9] * 4])
@pytest.mark.parametrize("scores", [[0.7] * 8, [0.6 + 0.01 * n for n in range(8)]])
def test_map_is_drawn_for_collinear_points_grids_and_equal_scores(weights, scores):
    records = [
        TrialRecord(
            n, "finished", {TEMPERATURE: 2.0 * 2 ** (n // 2), WEIGHT: weight}, score, (), 1.0
        )
        for n, (weight, score) in enumerate(zip(weights, scores, strict=True))
    ]
    figure = pictures_of(records).temperature_map()
    drawn = points(figure, "finished")
    assert len(drawn) == len({tuple(record.params.values()) for record in records})


@pytest.mark.parametrize("missing", [TEMPERATURE, WEIGHT])
def test_there_is_no_map_unless_both_parameters_were_searched(records, missing):
    fewer = [
        record._replace(params={p: v for p, v in record.params.items() if p != missing})
        for record in records
    ]
    assert pictures_of(fewer).temperature_map() is None


def test_parallel_lines_pass_every_axis_at_the_trials_value(records, pictures):
    figure = pictures.parallel_coordinates()
    drawn = {
        int(line.hovertext.split(",")[0].split()[1]): [round(float(y), 6) for y in line.y]
        for line in figure.data
    }
    paths = list(dict.fromkeys(path for record in records for path in record.params))
    columns = [[record.params.get(path) for record in records] for path in paths]
    columns.append([None if record.state == "failed" else record.score for record in records])
    absent = min(y for heights in drawn.values() for y in heights)
    assert absent < 0
    heights = [
        _heights(column, path, absent) for column, path in zip(columns, [*paths, ""], strict=True)
    ]
    expected = zip(*heights, strict=True)
    assert drawn == {r.number: list(line) for r, line in zip(records, expected, strict=True)}


def _heights(column, path, absent):
    """Heights of the values on an axis, from the minimum at 0 to the maximum at 1."""
    ranks = {"cosine": 0, "linear": 1, "step": 2}
    positions = [ranks.get(value, value) for value in column]
    if path == TEMPERATURE:
        positions = [math.log(value) for value in positions]
    known = [position for position in positions if position is not None]
    low, high = min(known), max(known)
    return [absent if p is None else round((p - low) / (high - low), 6) for p in positions]


def test_best_line_is_the_widest_and_failed_ones_are_dotted(pictures):
    figure = pictures.parallel_coordinates()
    widths = {trace.name: trace.line.width for trace in figure.data if trace.line.dash is None}
    assert max(widths, key=widths.get).startswith("best (trial ")
    assert widths["finished"] > widths["stopped early or running"]
    assert named(figure, "failed").line.dash == "dot"
    legend = [trace.name for trace in figure.data if trace.showlegend]
    assert len(legend) == len(set(legend)) == 4


def odd_records():
    values = [[1, 2], {"a": "<b>x</b> & y"}, None, True, "ünï$", 3, 0.5, "long " * 20]
    names = ["a.b.c.list_of_a_very_long_name_indeed", "one", "same.number"]
    return [
        TrialRecord(
            number, "finished", {names[0]: value, names[1]: number, names[2]: 5}, 0.5, (), 1.0
        )
        for number, value in enumerate(values)
    ]


def test_odd_settings_are_drawn_without_a_warning(recwarn):
    failed = [r._replace(state="failed", score=None, curve=()) for r in make_records(4)]
    curve = ((1, math.nan),)
    unmeasured = [r._replace(state="waiting", score=math.nan, curve=curve) for r in make_records(3)]
    for records in (failed, unmeasured, make_records(1), odd_records()):
        pictures = pictures_of(records)
        figures = [pictures.by_parameter(path) for path in pictures.paths]
        for figure in [*figures, pictures.parallel_coordinates(), pictures.temperature_map()]:
            assert figure is None or figure.to_json()
    assert not recwarn.list


def test_texts_of_settings_are_not_read_as_tags():
    figure = pictures_of(odd_records()).by_parameter("a.b.c.list_of_a_very_long_name_indeed")
    texts = hover_texts(figure)
    assert not any("<b>" in text for text in [*texts, *figure.layout.xaxis.ticktext])
    assert any("&lt;b&gt;" in text for text in texts)


def test_many_points_need_no_webgl():
    records = make_records(300)
    curves = [r._replace(curve=tuple((e, 0.5) for e in range(9))) for r in records]
    pictures = pictures_of(curves)
    for figure in (pictures.learning_curves(), pictures.by_parameter(WEIGHT)):
        assert {trace.type for trace in figure.data} == {"scatter"}


def test_choices_that_are_sections_are_told_apart():
    values = [{"kind": "sgd", "learning_rate": rate} for rate in (0.1, 0.2)]
    records = [
        TrialRecord(n, "finished", {"optimizer": value}, 0.5, ((1, 0.5),), 1.0)
        for n, value in enumerate(values)
    ]
    labels = pictures_of(records).by_parameter("optimizer").layout.xaxis.ticktext
    assert len({*labels}) == 2


def test_curves_without_a_finite_value_are_not_drawn():
    records = [r._replace(curve=((1, math.nan),), score=math.nan) for r in make_records(3)]
    assert pictures_of(records).learning_curves() is None
